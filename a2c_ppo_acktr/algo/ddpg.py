"""Deep deterministic policy gradient, DDPG (Lillicrap et al. 2016).

    Z'      = Q'(s', mu'(s'))
    policy  = mean of -Q(s, mu(s))

mu' and Q' follow mu and Q. Training acts by mu(s) and noise: normal, or with --noise ou an Ornstein-Uhlenbeck process
of each environment, which begins at 0 with every episode:

    x' = x - theta x + sigma N(0, 1)        theta = .15

Defaults are Fujimoto et al. 2018's ("our DDPG": 256 units, one rate, noise of .1); `--preset paper` has Lillicrap's.

Deviations from Lillicrap et al.:
1. Actions are read by the critic's first layer, not its second; last layers begin as the others do.
2. No batch normalization; the critic's weight decay (--critic-weight-decay) is 0 by default.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from a2c_ppo_acktr.algo.off_policy_actor_critic import OffPolicyActorCritic, OffPolicyActorCriticConfig
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import Decision, EnvSpaces, Tree
from a2c_ppo_acktr.model.actors import DeterministicActor
from a2c_ppo_acktr.storage.replay import Transitions

THETA = 0.15
"""How fast an Ornstein-Uhlenbeck process returns to 0 (Lillicrap et al. 2016, appendix)."""


@dataclass
class DDPGConfig(OffPolicyActorCriticConfig):
    """Flags of DDPG."""

    num_critics: int = flag(1, "critics; the first one leads the actor", low=1, high=1_000)
    noise: str = flag("normal", "on actions in training: independent, or a process", choices=("normal", "ou"))
    exploration_noise: float = flag(0.1, "its deviation, or the process's sigma (0.2 in the paper)", low=0)
    critic_weight_decay: float = flag(0.0, "weight decay of the critic (0.01 in the paper)", low=0)


class DDPG(OffPolicyActorCritic):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = DDPGConfig
    config: DDPGConfig
    actor: DeterministicActor

    def __init__(self, spaces: EnvSpaces, config: DDPGConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        (group,) = self.optimizer.param_groups
        group["weight_decay"] = config.critic_weight_decay
        self.target_actor = self.follow(self.actor, self.actor_parameters)

    def make_actor(self, num_features: int) -> DeterministicActor:
        """See `OffPolicyActorCritic`."""
        return DeterministicActor(num_features, self.actions.size, self.config.hidden_size)

    def choose(self, features: Tensor, explore: bool) -> Tensor:
        """See `OffPolicyActorCritic`."""
        actions = self.actor(features)
        if not explore or self.config.noise == "ou":
            return actions
        return (actions + self.config.exploration_noise * torch.randn_like(actions)).clamp(-1.0, 1.0)

    def initial_carry(self, num_envs: int) -> Tensor:
        """See `Algorithm`: where the noise stands."""
        return torch.zeros(num_envs, self.actions.size if self.config.noise == "ou" else 0, device=self.device)

    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """See `OffPolicyActorCritic`."""
        decision = super().act(obs, carry, masks, signals, explore)
        if not (explore and self.config.noise == "ou"):
            return decision
        carry = (1.0 - THETA) * carry * masks.unsqueeze(-1)
        carry = carry + self.config.exploration_noise * torch.randn_like(carry)
        actions = (self.actions.within_unit(decision.action) + carry).clamp(-1.0, 1.0)
        return Decision(self.actions.stretched(actions), carry, {})

    def next_outputs(self, batch: Transitions) -> tuple[Tensor, float]:
        """See the module's docstring."""
        features = self.target.encode(batch.next_obs)
        return self.pool(self.target(features, self.target_actor(features))), 0.0

    def policy_loss(self, features: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """See the module's docstring."""
        loss = -self.td.values(self.critics(features, self.actor(features))[0]).mean()
        return loss, {"losses/policy_loss": loss}
