"""Q-learning by quantile regression, QR-DQN (Dabney et al. 2018).

The return of an action is described by K quantiles, theta_i at tau_i = (i + 1/2) / K; Q is their mean.

    loss = sum_i mean_j rho_{tau_i}(R + discount theta'_j(s', a*) - theta_i(s, a))      a* = argmax_a Q'(s', a)

rho is the Huber loss, steeper on one side of 0 than on the other.

Deviations from the paper: those of `dqn.py`. `--prioritized`, of which the paper does not speak, goes by the loss.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from a2c_ppo_acktr.algo.q_learning import ATARI, GRID, QLearning, QLearningConfig
from a2c_ppo_acktr.distributional import quantile_huber_loss
from a2c_ppo_acktr.flags import flag


class Quantiles:
    """K quantiles; see `q_learning.TemporalDifference`.

    Args:
        fractions: `[K]`, the tau of each, or `[B, K]` for each window.
        kappa: where the loss turns from square to linear.
    """

    def __init__(self, fractions: Tensor, kappa: float) -> None:
        self.fractions, self.kappa, self.num_outputs = fractions, kappa, fractions.shape[-1]

    def values(self, outputs: Tensor) -> Tensor:
        """See `TemporalDifference`: the mean of the quantiles."""
        return outputs.mean(-1)

    def losses(
        self, outputs: Tensor, next_outputs: Tensor, returns: Tensor, discounts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See the module's docstring; windows are sampled by their losses."""
        targets = returns[:, None] + discounts[:, None] * next_outputs
        losses = quantile_huber_loss(outputs, targets, self.fractions, self.kappa)
        return losses, losses


def even_fractions(num: int) -> Tensor:
    """`[K]` the middles of K equal parts of 0 to 1."""
    return (torch.arange(num) + 0.5) / num


@dataclass
class QRDQNConfig(QLearningConfig):
    """Flags of QR-DQN; the defaults here are for vector observations (RL Zoo's for CartPole)."""

    num_quantiles: int = flag(10, "quantiles of a distribution of returns", low=1, high=10_000)
    kappa: float = flag(1.0, "error at which the loss turns from square to linear", low=1e-6)

    def temporal_difference(self, device: torch.device) -> "Quantiles":
        """See `QLearningConfig`."""
        return Quantiles(even_fractions(self.num_quantiles).to(device), self.kappa)


PAPER = {
    "lr": 5e-5,
    "eps": 0.01 / 32,
    "num_quantiles": 200,
}
"""Dabney et al. 2018."""


class QRDQN(QLearning):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = QRDQNConfig
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {
        "image": ATARI | PAPER,
        "grid": GRID | {"num_quantiles": 51},
    }
