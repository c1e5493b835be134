"""Networks that act: the actor-critic policy."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import Tensor, nn

from a2c_ppo_acktr.arrays import flat_indices
from a2c_ppo_acktr.distributions import Distribution, make_head
from a2c_ppo_acktr.interfaces import ACTION_MASK, Tree
from a2c_ppo_acktr.model.auxiliary import AuxiliaryHeads, Head
from a2c_ppo_acktr.model.bases import BaseOutput, Layers, check_base


class PolicyOutput(NamedTuple):
    """All that a policy makes of observations; `[...]` stands for the axes of `masks`."""

    value: Tensor
    """[...]"""
    distribution: Distribution
    """Of actions."""
    carry: Tensor
    """[N, carry_size]"""
    features: Tensor
    """[..., F], what the action head reads."""
    layers: Layers


class Evaluation(NamedTuple):
    """What a policy says of actions that were taken, with its graph; `[...]` stands for the axes of `masks`."""

    value: Tensor
    """[...]"""
    log_prob: Tensor
    """[...]"""
    entropy: Tensor
    """[...]"""
    distribution: Distribution
    """That the actions are judged by."""
    predictions: dict[str, Tensor]
    """Of the auxiliary heads, by label."""


class Policy(nn.Module):
    """Actor and critic: a base that reads observations and a head for the action space.

    Args:
        observation_space: images are `[C, H, W]`.
        action_space: Discrete, MultiDiscrete, MultiBinary or one-dimensional Box.
        base: the body, built for `observation_space`.
        heads: auxiliary tasks.
        base_name: what the user calls the base.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        base: Any,
        *,
        heads: Sequence[Head] = (),
        base_name: str | None = None,
    ) -> None:
        super().__init__()
        layers = check_base(base, base_name or type(base).__name__, observation_space)
        self.base = base
        self.head = make_head(action_space, self.base.output_size)
        self.auxiliary = AuxiliaryHeads(heads, layers)
        self.frozen: Tensor | None = None

    @property
    def carry_size(self) -> int:
        """H, the size of one environment's recurrent state; 0 for feed-forward policies."""
        return self.base.carry_size

    def freeze(self, names: set[str]) -> None:
        """Keep parameters as they are: learners set their gradients to zero, which moves neither Adam nor RMSprop."""
        self.frozen = flat_indices(self, names)

    def forward(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree]) -> PolicyOutput:
        """Read observations; shapes as in `bases.Base`."""
        value, features, carry, layers = BaseOutput(*self.base(obs, carry, masks))
        distribution = self.head(features, signals[ACTION_MASK]) if ACTION_MASK in signals else self.head(features)
        return PolicyOutput(value, distribution, carry, features, layers)

    def act(
        self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], *, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Choose actions: value `[N]`, action `[N, ...]`, its log-probability `[N]`, next carry `[N, H]`.

        Actions carry no gradient.
        """
        output = self(obs, carry, masks, signals)
        action = output.distribution.mode() if deterministic else output.distribution.sample()
        return output.value, action, output.distribution.log_prob(action), output.carry

    def inspect(
        self,
        obs: Tree,
        carry: Tensor,
        masks: Tensor,
        signals: dict[str, Tree],
        *,
        deterministic: bool,
        override: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, dict[str, Tree]]:
        """`act`, for analysis: action, next carry, and all that was computed by the names of `evaluate`'s result.

        `override` gets the chosen actions and gives those that are taken.
        """
        output = self(obs, carry, masks, signals)
        distribution = output.distribution
        action = override(distribution.mode() if deterministic else distribution.sample())
        found = {
            "values": output.value,
            "action_log_probs": distribution.log_prob(action),
            "action_probs": distribution.describe(),
            "actor_features": output.features,
            "activations": output.layers.by_depth(),
            "auxiliary_preds": self.auxiliary.describe(output.layers),
        }
        return action, output.carry, found

    def get_value(self, obs: Tree, carry: Tensor, masks: Tensor) -> Tensor:
        """V(obs): `[N]`, without gradient."""
        with torch.no_grad():
            return self.base(obs, carry, masks)[0]

    def evaluate_actions(
        self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], actions: Tensor
    ) -> Evaluation:
        """What the policy says of `actions` that were taken after `obs`."""
        value, distribution, _, _, layers = self(obs, carry, masks, signals)
        log_prob, entropy = distribution.log_prob(actions), distribution.entropy()
        return Evaluation(value, log_prob, entropy, distribution, self.auxiliary(layers))
