"""Twin delayed deep deterministic policy gradient, TD3 (Fujimoto et al. 2018).

    Z'      = min_k Q'_k(s', a')        a' = clip(mu'(s') + clip(noise, -c, c), -1, 1)
    policy  = mean of -Q_1(s, mu(s)), every --policy-delay steps of the critics

mu' and Q' follow mu and Q. Training acts by mu(s) and normal noise, an evaluation by mu(s).

Defaults are those of the authors' code today; `--preset paper` has the paper's, which its curves were made with.

Deviations:
1. The critics' losses are halved squares: the same steps of Adam.
2. Noise is in units of half the action's range, as there; bounds that are not symmetric are stretched first.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from a2c_ppo_acktr.algo.off_policy_actor_critic import OffPolicyActorCritic, OffPolicyActorCriticConfig
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.actors import DeterministicActor
from a2c_ppo_acktr.storage.replay import Transitions


@dataclass
class TD3Config(OffPolicyActorCriticConfig):
    """Flags of TD3."""

    learning_starts: int = flag(
        25_000, "steps of random actions, and observations in the replay, before the first gradient step", low=1
    )
    target_update_interval: int = flag(2, "gradient steps between moves of the target networks", low=1)
    policy_delay: int = flag(2, "gradient steps of the critics per step of the actor", low=1)
    exploration_noise: float = flag(0.1, "deviation of the noise on actions in training", low=0)
    target_noise: float = flag(0.2, "deviation of the noise on the actions of targets", low=0)
    target_noise_clip: float = flag(0.5, "bound of that noise", low=0)


class TD3(OffPolicyActorCritic):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = TD3Config
    config: TD3Config
    actor: DeterministicActor

    def __init__(self, spaces: EnvSpaces, config: TD3Config, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.target_actor = self.follow(self.actor, self.actor_parameters)

    def make_actor(self, num_features: int) -> DeterministicActor:
        """See `OffPolicyActorCritic`."""
        return DeterministicActor(num_features, self.actions.size, self.config.hidden_size)

    def choose(self, features: Tensor, explore: bool) -> Tensor:
        """See `OffPolicyActorCritic`."""
        actions = self.actor(features)
        if not explore:
            return actions
        return (actions + self.config.exploration_noise * torch.randn_like(actions)).clamp(-1.0, 1.0)

    def next_outputs(self, batch: Transitions) -> tuple[Tensor, float]:
        """See the module's docstring."""
        features, config = self.target.encode(batch.next_obs), self.config
        actions = self.target_actor(features)
        noise = (config.target_noise * torch.randn_like(actions)).clamp(
            -config.target_noise_clip, config.target_noise_clip
        )
        return self.pool(self.target(features, (actions + noise).clamp(-1.0, 1.0))), 0.0

    def policy_loss(self, features: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """See the module's docstring."""
        loss = -self.td.values(self.critics(features, self.actor(features))[0]).mean()
        return loss, {"losses/policy_loss": loss}
