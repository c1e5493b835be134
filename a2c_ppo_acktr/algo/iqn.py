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
from torch import Tensor

from a2c_ppo_acktr.algo.dqn import ATARI, DQN, GRID, DQNConfig
from a2c_ppo_acktr.arrays import arrays, count
from a2c_ppo_acktr.distributional import quantile_huber_loss
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces, Tree
from a2c_ppo_acktr.model.layers import MLP, RELU
from a2c_ppo_acktr.model.q_network import Losses, QNetwork
from a2c_ppo_acktr.storage.replay import Transitions

NUM_COSINES = 64


@dataclass
class IQNConfig(DQNConfig):
    """Flags of IQN."""

    lr: float = flag(1e-3, "learning rate of Adam", low=0)
    hidden_size: list[int] = flag([128, 128], "widths of the fully connected layers", low=1)
    num_fractions: int = flag(8, "sampled quantiles of the return that learn, N", low=1)
    num_target_fractions: int = flag(8, "sampled quantiles of the target, N'", low=1)
    num_acting_fractions: int = flag(8, "quantiles whose mean is a value, K", low=1)
    kappa: float = flag(1.0, "error at which the loss turns from square to linear", low=1e-6)


PAPER = {
    "lr": 5e-5,
    "eps": 0.01 / 32,
    "num_fractions": 64,
    "num_target_fractions": 64,
    "num_acting_fractions": 32,
}


class ImplicitNetwork(QNetwork):
    """A `QNetwork` that is asked for fractions; arguments as there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.embedding = MLP(NUM_COSINES, self.feature_size, activation=RELU)
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi * torch.arange(NUM_COSINES), persistent=False)

    def quantiles(self, obs: Tree, fractions: Tensor) -> Tensor:
        """Quantiles `[B, N, A]` at `fractions: [B, N]`, or `[N]` for all rows."""
        embedded = self.embedding((fractions.unsqueeze(-1) * self.frequencies).cos())
        return self.head(self.features(obs).unsqueeze(1) * embedded).squeeze(-1)


class IQN(DQN):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config: ClassVar[type] = IQNConfig
    Network: ClassVar[type[QNetwork]] = ImplicitNetwork
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {"image": ATARI | PAPER, "grid": GRID | PAPER}

    def __init__(self, spaces: EnvSpaces, config: IQNConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        count = config.num_acting_fractions
        self.even_fractions = (torch.arange(count, device=device) + 0.5) / count

    def values(self, network: Any, obs: Tree) -> Any:
        """See `DQN`: the mean of K quantiles."""
        with torch.no_grad():
            return arrays(network.quantiles(obs, self.even_fractions).mean(1))[1][0]

    def loss(self, batch: Transitions) -> Losses:
        """See the module's docstring."""
        config, size = self.config, len(batch.actions)
        xp, (actions, returns, discounts) = arrays(batch.actions, batch.returns, batch.discounts)
        rows = count(actions)
        own = torch.rand(size, config.num_fractions, device=self.device)
        other = torch.rand(size, config.num_target_fractions, device=self.device)
        outputs, backward = self.policy.by_autograd(self.policy.quantiles(batch.obs, own))
        best = self.values(self.policy if config.double else self.target, batch.next_obs).argmax(1)
        with torch.no_grad():
            _, (fractions, next_outputs) = arrays(own, self.target.quantiles(batch.next_obs, other))
        targets = returns[:, None] + discounts[:, None] * next_outputs[rows, :, best]
        quantiles, slopes = outputs[rows, :, actions], xp.zeros_like(outputs)
        losses, slopes[rows, :, actions] = quantile_huber_loss(quantiles, targets, fractions, config.kappa)
        return Losses(losses, slopes, losses, quantiles.mean(1), backward)
