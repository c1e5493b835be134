"""Actors of learners from a replay: networks from features to actions, or to their distribution."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.distributions.discrete import Categorical
from a2c_ppo_acktr.distributions.squashed import TanhGaussian
from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.model.batch_renorm import BatchRenorm
from a2c_ppo_acktr.model.layers import MLP

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of the log standard deviation of `TanhGaussian` (Haarnoja et al. 2018)."""
INSIDE = 1.0 - 1e-6
"""The largest action whose density is described: further out float32 no longer tells which u it came from."""


class Outcomes(NamedTuple):
    """What a policy may do: one action that was drawn, or all that there are, with their graph."""

    actions: Tensor | None
    """[B, A] the one; None where they are all."""
    chances: Tensor
    """[B, n] of each: 1 of the one that was drawn."""
    log_probs: Tensor
    """[B, n]"""


class _Actor(nn.Module):
    """ReLU layers and a linear one, which begin as those of `torch.nn`.

    Args:
        num_features: F.
        num_outputs: of the linear layer.
        hidden_size: widths of the layers.
        batch_renorm: `BatchRenorm` before each layer.
    """

    def __init__(
        self, num_features: int, num_outputs: int, hidden_size: Sequence[int], *, batch_renorm: bool = False
    ) -> None:
        super().__init__()

        def make_layer(size_in: int, size_out: int) -> nn.Module:
            linear = nn.Linear(size_in, size_out)
            return nn.Sequential(BatchRenorm(size_in), linear) if batch_renorm else linear

        self.body = MLP(num_features, *hidden_size, activation=nn.ReLU, make_layer=make_layer)
        self.head = make_layer(hidden_size[-1], num_outputs)

    def layers(self, features: Tensor) -> list[Tensor]:
        """What every layer gives, input side first, each `[B, width]`."""
        return self.body.layers(features)


class DeterministicActor(_Actor):
    """Features `[B, F]` to actions `[B, A]` within [-1, 1]."""

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return torch.tanh(self.head(self.body(features)))

    def describe(self, features: Tensor, actions: Tensor) -> tuple[Tree, Tensor]:
        """What is known of the policy: `mean` and `std`; and log densities `[B]`, which there are none of."""
        mean = self(features)
        return {"mean": mean, "std": torch.zeros_like(mean)}, torch.full_like(mean[:, 0], torch.nan)


class GaussianActor(_Actor):
    """Features `[B, F]` to `TanhGaussian`, whose deviation depends on them too.

    Args:
        num_features: F.
        num_actions: A.
        hidden_size: widths of the layers.
        settings: of every actor.
    """

    def __init__(self, num_features: int, num_actions: int, hidden_size: Sequence[int], **settings: Any) -> None:
        super().__init__(num_features, 2 * num_actions, hidden_size, **settings)

    def forward(self, features: Tensor) -> TanhGaussian:
        """See the class."""
        mean, log_std = self.head(self.body(features)).chunk(2, -1)
        return TanhGaussian(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX))

    def outcomes(self, features: Tensor) -> Outcomes:
        """One action, drawn."""
        actions, log_probs = self(features).sample()
        return Outcomes(actions, torch.ones_like(log_probs).unsqueeze(-1), log_probs.unsqueeze(-1))

    def choose(self, features: Tensor, explore: bool) -> Tensor:
        """Actions `[B, A]`: drawn, or tanh of the mean."""
        distribution = self(features)
        return distribution.sample()[0] if explore else distribution.mode()

    def describe(self, features: Tensor, actions: Tensor) -> tuple[Tree, Tensor]:
        """The distribution before tanh, as of `TanhGaussian.describe`, and log densities `[B]` of actions `[B, A]`."""
        distribution = self(features)
        return distribution.describe(), distribution.log_prob_of(torch.atanh(actions.clamp(-INSIDE, INSIDE)))


class CategoricalActor(_Actor):
    """Features `[B, F]` to `Categorical`."""

    def forward(self, features: Tensor) -> Categorical:
        """See the class."""
        return Categorical(self.head(self.body(features)))

    def outcomes(self, features: Tensor) -> Outcomes:
        """All of them."""
        log_probs = self(features).log_probs
        return Outcomes(None, log_probs.exp(), log_probs)

    def choose(self, features: Tensor, explore: bool) -> Tensor:
        """Actions `[B]`: drawn, or the most probable."""
        distribution = self(features)
        return distribution.sample() if explore else distribution.mode()

    def describe(self, features: Tensor, actions: Tensor) -> tuple[Tree, Tensor]:
        """Probabilities `[B, A]`, and log probabilities `[B]` of actions `[B]`."""
        distribution = self(features)
        return distribution.describe(), distribution.log_prob(actions)
