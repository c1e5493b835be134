"""Categorical Q-learning, C51 (Bellemare et al. 2017).

The return of an action is a distribution over K fixed atoms; Q is its mean.

    loss = KL(projection of R + discount Z'(s', a*) || Z(s, a))        a* = argmax_a Q'(s', a), with --double of Q

Deviations from the paper:
1. Those of `dqn.py`.
2. The loss is the divergence, the cross entropy without the constant entropy of its target: the same gradient, and a
   priority that is 0 where nothing is left to learn (as Hessel et al. 2018 have it).

A return beyond the atoms counts as the outermost one: `--v-min` and `--v-max` have to hold what an environment gives.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from a2c_ppo_acktr.algo.q_learning import ATARI, GRID, QLearning, QLearningConfig
from a2c_ppo_acktr.distributional import categorical_projection
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.utils import UsageError


class Categorical:
    """Logits of K fixed atoms; see `q_learning.TemporalDifference`.

    Args:
        support: `[K]` the atoms, evenly spaced.
    """

    def __init__(self, support: Tensor) -> None:
        self.support, self.num_outputs = support, len(support)

    def values(self, outputs: Tensor) -> Tensor:
        """See `TemporalDifference`: the mean of the atoms."""
        return outputs.softmax(-1) @ self.support

    def losses(
        self, outputs: Tensor, next_outputs: Tensor, returns: Tensor, discounts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See the module's docstring; windows are sampled by the divergence."""
        target = categorical_projection(next_outputs.softmax(-1), returns, discounts, self.support)
        log_target = target.clamp(min=1e-30).log()  # what has no mass counts nothing
        divergences = (target * (log_target - outputs.log_softmax(-1))).sum(1)
        return divergences, divergences.clamp(min=0.0)


@dataclass
class C51Config(QLearningConfig):
    """Flags of C51; the support for vector observations is CleanRL's, the learning rate our own."""

    lr: float = flag(1e-3, "learning rate of Adam", low=0, high=1e6)
    num_atoms: int = flag(101, "atoms of a distribution of returns", low=2, high=10_000)
    v_min: float = flag(-100.0, "lowest atom", low=-1e9, high=1e9)
    v_max: float = flag(100.0, "highest atom", low=-1e9, high=1e9)

    def check(self, num_steps: int, num_processes: int) -> None:
        """See `AlgorithmConfig`."""
        super().check(num_steps, num_processes)
        if self.v_min >= self.v_max:
            raise UsageError(f"--v-min {self.v_min}: expected less than --v-max {self.v_max}")

    def temporal_difference(self, device: torch.device) -> "Categorical":
        """See `QLearningConfig`."""
        return Categorical(torch.linspace(self.v_min, self.v_max, self.num_atoms, device=device))


PAPER = {
    "lr": 2.5e-4,
    "eps": 0.01 / 32,
    "num_atoms": 51,
    "v_min": -10.0,
    "v_max": 10.0,
}
"""Bellemare et al. 2017; the support is for rewards clipped to -1, 0 and 1."""
UNCLIPPED = GRID | {"num_atoms": 51, "v_min": -100.0, "v_max": 100.0}
"""Obando-Ceron & Castro 2021 for MinAtar, whose rewards are as they are."""


class C51(QLearning):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = C51Config
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {"image": ATARI | PAPER, "grid": UNCLIPPED}
