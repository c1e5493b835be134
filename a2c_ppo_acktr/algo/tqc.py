"""Truncated quantile critics, TQC (Kuznetsov et al. 2020): soft actor-critic whose critics give distributions.

Each of K critics describes the return by M quantiles.

    Z'      = the K M quantiles of all critics at s', a', in order, without the K d largest
    policy  = mean of alpha log pi(a | s) - the mean of all quantiles at s, a

The loss of each critic is quantile regression against what is left of Z' (see `qr_dqn.py`); all else is `sac.py`'s.

Defaults are those of sb3-contrib: 2 critics of 25 quantiles and 256 units, d = 2. The paper has 5 critics of 512 units
in three layers, and d by the environment (Hopper 5, HalfCheetah 0, else 2).

Deviations: those of `sac.py`; actions are continuous.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from a2c_ppo_acktr.algo.qr_dqn import Quantiles, even_fractions
from a2c_ppo_acktr.algo.sac import SAC, SACConfig
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.unit_actions import UnitActions
from a2c_ppo_acktr.utils import UsageError


@dataclass
class TQCConfig(SACConfig):
    """Flags of TQC."""

    num_quantiles: int = flag(25, "quantiles of each critic", low=1, high=10_000)
    num_dropped: int = flag(2, "quantiles per critic that are left out, the largest of all", low=0)
    policy_value: str = flag("mean", "which of the critics' values the actor climbs", choices=("min", "mean"))

    def check(self, num_steps: int, num_processes: int) -> None:
        """See `AlgorithmConfig`."""
        super().check(num_steps, num_processes)
        if self.num_dropped >= self.num_quantiles:
            raise UsageError(
                f"--num-dropped {self.num_dropped}: expected less than --num-quantiles {self.num_quantiles}"
            )

    def temporal_difference(self, device: torch.device) -> Quantiles:
        """See `OffPolicyActorCriticConfig`."""
        return Quantiles(even_fractions(self.num_quantiles).to(device), kappa=1.0)


class TQC(SAC):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = TQCConfig
    config: TQCConfig

    def actions_of(self, spaces: EnvSpaces) -> UnitActions:
        """See `OffPolicyActorCritic`."""
        return super().actions_of(spaces).continuous("TQC")

    def pool(self, outputs: Tensor) -> Tensor:
        """See the module's docstring: `[B, K (M - d)]` of `[K, B, M]`."""
        everything = outputs.transpose(0, 1).flatten(1).sort(1).values
        return everything[:, : everything.shape[1] - len(outputs) * self.config.num_dropped]
