"""CrossQ (Bhatt et al. 2024): soft actor-critic without target networks, by batch renormalization.

    Z'      = min_k Q_k(s', a')        a' ~ pi(s'), with the actor's running statistics

Q_k(s, a) and Q_k(s', a') are computed in one pass over both, so that each is normalized by the statistics of both.
Actor and critics normalize before every layer (`model/batch_renorm.py`); in the actor's loss the critics use their
running statistics. Adam has beta_1 = .5, and the actor takes every third step. All else is `sac.py`'s.

Deviations:
1. Critics are 256 units wide; the paper's 2048 cost 23 times as much on a CPU.
2. Those of `sac.py`; actions are continuous.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.algo.sac import SAC, SACConfig
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.actors import GaussianActor
from a2c_ppo_acktr.model.critics import Critics
from a2c_ppo_acktr.model.unit_actions import UnitActions
from a2c_ppo_acktr.storage.replay import Transitions


@dataclass
class CrossQConfig(SACConfig):
    """Flags of CrossQ."""

    lr: float = flag(1e-3, "learning rate of Adam for the critics, and for all else by default", low=0, high=1e6)
    learning_starts: int = flag(
        5_000, "steps of random actions, and observations in the replay, before the first gradient step", low=1
    )
    policy_delay: int = flag(3, "gradient steps of the critics per step of the actor", low=1)
    adam_beta1: float = flag(0.5, "decay of Adam's first moment, for actor and critics", low=0, high=0.9999)

    def without_effect(self) -> dict[str, str]:
        """See `AlgorithmConfig`."""
        names = ("tau", "target_update_interval")
        return super().without_effect() | dict.fromkeys(names, "has no effect on crossq, which has no target networks")


class CrossQ(SAC):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = CrossQConfig
    config: CrossQConfig

    def __init__(self, spaces: EnvSpaces, config: CrossQConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.critics.eval()
        self.actor.eval()
        for optimizer in (self.optimizer, self.actor_optimizer):
            for group in optimizer.param_groups:
                group["betas"] = (config.adam_beta1, group["betas"][1])

    def actions_of(self, spaces: EnvSpaces) -> UnitActions:
        """See `OffPolicyActorCritic`."""
        return super().actions_of(spaces).continuous("CrossQ")

    def make_critics(self, **settings: Any) -> Critics:
        """See `OffPolicyActorCritic`."""
        return super().make_critics(batch_renorm=True, **settings)

    def make_target(self) -> Critics:
        """None of their own."""
        return self.critics

    def make_actor(self, num_features: int) -> nn.Module:
        """See `OffPolicyActorCritic`."""
        return GaussianActor(num_features, self.actions.size, self.config.hidden_size, batch_renorm=True)

    def judge(self, batch: Transitions) -> tuple[Tensor, Tensor, Tensor]:
        """See the module's docstring."""
        features, next_features = self.critics.encode(batch.obs), self.critics.encode(batch.next_obs)
        with torch.no_grad():
            next_actions, log_probs = self.actor(next_features).sample()
        self.critics.train()
        both = self.critics(torch.cat([features, next_features]), torch.cat([batch.actions, next_actions]))
        self.critics.eval()
        outputs, next_outputs = both.chunk(2, 1)
        return outputs, self.pool(next_outputs.detach()), -self.log_alpha.detach().exp() * log_probs

    def policy_loss(self, features: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """See `SAC`."""
        self.actor.train()
        found = super().policy_loss(features)
        self.actor.eval()
        return found
