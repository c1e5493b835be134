"""Implicit quantile networks, IQN (Dabney et al. 2018b).

The network gives the quantile of the return at any fraction tau; Q is the mean over sampled fractions.

    Z_tau(s, a) = head(features(s) * relu(linear(cos(pi i tau), i = 0 .. 63)))
    loss        = sum_i mean_j rho_{tau_i}(R + discount Z'_{tau'_j}(s', a*) - Z_{tau_i}(s, a))

with rho as in `qr_dqn.py`, N random fractions tau, N' random fractions tau', and a* = argmax_a Q'(s', a).

Deviations from the paper:
1. Those of `dqn.py`.
2. Q is the mean at K even fractions instead of K random ones: the same observation gives the same action.
3. `--prioritized`, of which the paper does not speak, goes by the loss.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn

from a2c_ppo_acktr.algo.q_learning import ATARI, GRID, QLearning, QLearningConfig, TDLoss, td_metrics
from a2c_ppo_acktr.algo.qr_dqn import Quantiles, even_fractions
from a2c_ppo_acktr.flags import WIDEST, flag
from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.model.layers import MLP
from a2c_ppo_acktr.model.q_network import QNetwork
from a2c_ppo_acktr.storage.replay import Transitions

NUM_COSINES = 64


@dataclass
class IQNConfig(QLearningConfig):
    """Flags of IQN; the rate, widths and numbers of quantiles for vector observations are our own."""

    lr: float = flag(1e-3, "learning rate of Adam", low=0, high=1e6)
    hidden_size: list[int] = flag([128, 128], "widths of the fully connected layers", low=1, high=WIDEST)
    num_fractions: int = flag(8, "sampled quantiles of the return that learn, N", low=1, high=10_000)
    num_target_fractions: int = flag(8, "sampled quantiles of the target, N'", low=1, high=10_000)
    num_acting_fractions: int = flag(8, "quantiles whose mean is a value, K", low=1, high=10_000)
    kappa: float = flag(1.0, "error at which the loss turns from square to linear", low=1e-6)

    def temporal_difference(self, device: torch.device) -> Quantiles:
        """See `QLearningConfig`: what acting reads."""
        return Quantiles(even_fractions(self.num_acting_fractions).to(device), self.kappa)


PAPER = {
    "lr": 5e-5,
    "eps": 0.01 / 32,
    "num_fractions": 64,
    "num_target_fractions": 64,
    "num_acting_fractions": 32,
}
"""Dabney et al. 2018b."""
FRACTIONS = dict.fromkeys(("num_fractions", "num_target_fractions", "num_acting_fractions"), 32)
"""Obando-Ceron & Castro 2021 for MinAtar."""


class ImplicitNetwork(QNetwork):
    """A `QNetwork` that gives quantiles at any fractions; arguments as there.

    `num_outputs` are those that it gives where none are asked for, at even fractions.
    """

    frequencies: Tensor
    even_fractions: Tensor

    def __init__(self, space: spaces.Space, num_actions: int, num_outputs: int, **kwargs: Any) -> None:
        super().__init__(space, num_actions, 1, **kwargs)
        self.embedding = MLP(NUM_COSINES, self.feature_size, activation=nn.ReLU)
        self.register_buffer("frequencies", math.pi * torch.arange(NUM_COSINES), persistent=False)
        self.register_buffer("even_fractions", even_fractions(num_outputs), persistent=False)

    def quantiles(self, obs: Tree, fractions: Tensor) -> Tensor:
        """Quantiles `[B, A, N]` at `fractions: [B, N]`."""
        return self._quantiles(self.features(obs), fractions)

    def head(self, features: Tensor) -> Tensor:
        """`[B, A, K]`, the quantiles at even fractions."""
        return self._quantiles(features, self.even_fractions)

    def _quantiles(self, features: Tensor, fractions: Tensor) -> Tensor:
        embedded = self.embedding((fractions.unsqueeze(-1) * self.frequencies).cos())
        return super().head(features.unsqueeze(1) * embedded).squeeze(-1).transpose(1, 2)


class IQN(QLearning):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = IQNConfig
    Network: ClassVar[type[QNetwork]] = ImplicitNetwork
    config: IQNConfig
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {"image": ATARI | PAPER, "grid": GRID | FRACTIONS}

    def loss(self, batch: Transitions) -> TDLoss:
        """See the module's docstring."""
        config, size = self.config, len(batch.actions)
        rows = torch.arange(size, device=self.device)
        fractions = torch.rand(size, config.num_fractions, device=self.device)
        other = torch.rand(size, config.num_target_fractions, device=self.device)
        with torch.no_grad():
            judged = (self.policy if config.double else self.target)(batch.next_obs)
            best = self.td.values(judged).argmax(1)
            next_quantiles = self.target.quantiles(batch.next_obs, other)[rows, best]
        quantiles = self.policy.quantiles(batch.obs, fractions)[rows, batch.actions]
        td = Quantiles(fractions, config.kappa)
        losses, priorities = td.losses(quantiles, next_quantiles, batch.returns, batch.discounts)
        loss = (batch.weights * losses).mean()
        return TDLoss(loss, td_metrics(loss, priorities, td.values(quantiles)), priorities)
