"""Categorical Q-learning, C51 (Bellemare et al. 2017).

The return of an action is a distribution over K fixed atoms; Q is its mean.

    loss = KL(projection of R + discount Z'(s', a*) || Z(s, a))        a* = argmax_a Q'(s', a), with --double of Q

Deviations from the paper:
1. Those of `dqn.py`.
2. The loss is the divergence, the cross entropy without the constant entropy of its target: the same gradient, and a
   priority that is 0 where nothing is left to learn (as Hessel et al. 2018 have it).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from a2c_ppo_acktr.algo.dqn import ATARI, DQN, GRID, DQNConfig
from a2c_ppo_acktr.arrays import arrays, count
from a2c_ppo_acktr.distributional import categorical_projection
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces, Tree
from a2c_ppo_acktr.model.q_network import Losses
from a2c_ppo_acktr.storage.replay import Transitions
from a2c_ppo_acktr.utils import UsageError


@dataclass
class C51Config(DQNConfig):
    """Flags of C51."""

    lr: float = flag(1e-3, "learning rate of Adam", low=0)
    num_atoms: int = flag(101, "atoms of a distribution of returns", low=2)
    v_min: float = flag(-100.0, "lowest atom")
    v_max: float = flag(100.0, "highest atom")

    def check(self, num_steps: int, num_processes: int) -> None:
        """See `DQNConfig`."""
        super().check(num_steps, num_processes)
        if self.v_min >= self.v_max:
            raise UsageError(f"--v-min {self.v_min}: expected less than --v-max {self.v_max}")


PAPER = {
    "lr": 2.5e-4,
    "eps": 0.01 / 32,
    "num_atoms": 51,
    "v_min": -10.0,
    "v_max": 10.0,
}


class C51(DQN):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config: ClassVar[type] = C51Config
    defaults_by_kind: ClassVar[dict[str, dict[str, Any]]] = {"image": ATARI | PAPER, "grid": GRID | PAPER}

    def __init__(self, spaces: EnvSpaces, config: C51Config, device: torch.device) -> None:
        self.num_outputs = config.num_atoms
        super().__init__(spaces, config, device)
        atoms = torch.linspace(config.v_min, config.v_max, config.num_atoms, device=device)
        _, (self.support,) = arrays(atoms)

    def values(self, network: Any, obs: Tree) -> Any:
        """See `DQN`: the mean of the atoms."""
        return _log_softmax(network.outputs(obs))[1] @ self.support

    def loss(self, batch: Transitions) -> Losses:
        """See the module's docstring; the derivative by the logits is Z - projection."""
        xp, (actions, returns, discounts) = arrays(batch.actions, batch.returns, batch.discounts)
        rows = count(actions)
        outputs, backward = self.policy.evaluate(batch.obs)
        log_probs, probs = _log_softmax(outputs[rows, actions])
        _, next_probs = _log_softmax(self.target.outputs(batch.next_obs))
        next_values = next_probs @ self.support
        best = (self.values(self.policy, batch.next_obs) if self.config.double else next_values).argmax(1)
        target = categorical_projection(next_probs[rows, best], returns, discounts, self.support)
        slopes = xp.zeros_like(outputs)
        slopes[rows, actions] = probs - target
        log_target = xp.log(target.clip(min=1e-30))  # what has no mass counts nothing
        losses = (target * (log_target - log_probs)).sum(1).clip(min=0.0)
        return Losses(losses, slopes, losses, probs @ self.support, backward)


def _log_softmax(logits: Any) -> tuple[Any, Any]:
    """Logarithms of probabilities and probabilities, over the last axis."""
    log_probs = torch.as_tensor(logits).log_softmax(-1)
    _, both = arrays(log_probs, log_probs.exp())
    return both[0], both[1]
