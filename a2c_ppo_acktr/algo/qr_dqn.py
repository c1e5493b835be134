"""Q-learning by quantile regression, QR-DQN (Dabney et al. 2018).

The return of an action is described by K quantiles, theta_i at tau_i = (i + 1/2) / K; Q is their mean.

    loss = sum_i mean_j rho_{tau_i}(R + discount theta'_j(s', a*) - theta_i(s, a))      a* = argmax_a Q'(s', a)

rho is the Huber loss, steeper on one side of 0 than on the other.

Deviations from the paper: those of `dqn.py`. `--prioritized`, of which the paper does not speak, goes by the loss.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from a2c_ppo_acktr.algo.dqn import ATARI, DQN, GRID, DQNConfig
from a2c_ppo_acktr.arrays import arrays, count
from a2c_ppo_acktr.distributional import quantile_huber_loss
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces, Tree
from a2c_ppo_acktr.model.q_network import Losses
from a2c_ppo_acktr.storage.replay import Transitions


@dataclass
class QRDQNConfig(DQNConfig):
    """Flags of QR-DQN."""

    num_quantiles: int = flag(10, "quantiles of a distribution of returns", low=1)
    kappa: float = flag(1.0, "error at which the loss turns from square to linear", low=1e-6)


PAPER = {
    "lr": 5e-5,
    "eps": 0.01 / 32,
    "num_quantiles": 200,
}


class QRDQN(DQN):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config: ClassVar[type] = QRDQNConfig
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {"image": ATARI | PAPER, "grid": GRID | PAPER}

    def __init__(self, spaces: EnvSpaces, config: QRDQNConfig, device: torch.device) -> None:
        self.num_outputs = config.num_quantiles
        super().__init__(spaces, config, device)
        _, (self.fractions,) = arrays((torch.arange(self.num_outputs, device=device) + 0.5) / self.num_outputs)

    def values(self, network: Any, obs: Tree) -> Any:
        """See `DQN`: the mean of the quantiles."""
        return network.outputs(obs).mean(-1)

    def loss(self, batch: Transitions) -> Losses:
        """See the module's docstring."""
        xp, (actions, returns, discounts) = arrays(batch.actions, batch.returns, batch.discounts)
        rows = count(actions)
        outputs, backward = self.policy.evaluate(batch.obs)
        next_outputs = self.target.outputs(batch.next_obs)
        next_values = self.values(self.policy, batch.next_obs) if self.config.double else next_outputs.mean(-1)
        targets = returns[:, None] + discounts[:, None] * next_outputs[rows, next_values.argmax(1)]
        quantiles, slopes = outputs[rows, actions], xp.zeros_like(outputs)
        losses, slopes[rows, actions] = quantile_huber_loss(quantiles, targets, self.fractions, self.config.kappa)
        return Losses(losses, slopes, losses, quantiles.mean(1), backward)
