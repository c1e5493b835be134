"""Soft actor-critic (Haarnoja et al. 2018, 2019), and its discrete form (Christodoulou 2019).

    Z'      = min_k Q'_k(s', a')        bonus = -alpha log pi(a' | s')        a' ~ pi(s')
    policy  = mean of alpha log pi(a | s) - min_k Q_k(s, a)                   a ~ pi(s), with its graph
    alpha   = mean of log alpha (H - target)                                  H = -log pi(a | s)

Of Discrete actions all are weighed by their probability, in the three places, instead of drawing one.

The policy is tanh of a normal variable whose mean and deviation are the network's; an evaluation plays tanh of the
mean. Densities, and so the target entropy -dim(A), are those of actions within [-1, 1].

Deviations from the papers:
1. The critics' losses are halved squares, summed over the critics.
2. The temperature learns by the derivative with respect to log alpha of log alpha (H - target), without a factor alpha,
   as in the authors' first code and in Stable-Baselines3.
3. With --n-step n, entropies of the steps in between are left out.
4. The target entropy of A Discrete actions is --target-entropy-ratio log A. Christodoulou's .98 cannot be reached by a
   policy that prefers one of two actions by more than .58.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.algo.off_policy_actor_critic import OffPolicyActorCritic, OffPolicyActorCriticConfig
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.actors import CategoricalActor, GaussianActor
from a2c_ppo_acktr.model.unit_actions import UnitActions
from a2c_ppo_acktr.optim.adam import Adam
from a2c_ppo_acktr.storage.replay import Transitions


@dataclass
class SACConfig(OffPolicyActorCriticConfig):
    """Flags of SAC."""

    temperature: float = flag(1.0, "weight alpha of the entropy, at first where it learns", low=1e-8, high=1e6)
    fixed_temperature: bool = flag(False, "leave the temperature as it is")
    temperature_lr: float | None = flag(None, "learning rate of the temperature (default: --lr)", low=0, high=1e6)
    target_entropy: float | None = flag(None, "entropy that the temperature aims at (default: minus the action's size)")
    target_entropy_ratio: float = flag(
        0.5, "that of Discrete actions, as a share of the largest there is", low=0, high=1
    )
    policy_value: str = flag("min", "which of the critics' values the actor climbs", choices=("min", "mean"))

    def without_effect(self) -> dict[str, str]:
        """See `AlgorithmConfig`."""
        reasons = super().without_effect()
        if self.fixed_temperature:
            names = ("temperature_lr", "target_entropy", "target_entropy_ratio")
            reasons |= dict.fromkeys(names, "has no effect with --fixed-temperature")
        return reasons


class SAC(OffPolicyActorCritic):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = SACConfig
    config: SACConfig
    actor: GaussianActor | CategoricalActor

    def __init__(self, spaces: EnvSpaces, config: SACConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.log_alpha = nn.Parameter(torch.tensor([math.log(config.temperature)], device=device))
        self.log_alpha.grad = torch.zeros_like(self.log_alpha)
        lr = config.lr if config.temperature_lr is None else config.temperature_lr
        self.temperature_optimizer = Adam(self.log_alpha, lr=lr, eps=config.eps)
        self.rates[self.temperature_optimizer] = lr
        self.target_entropy = self._target_entropy()

    def _target_entropy(self) -> float:
        if self.config.target_entropy is not None:
            return self.config.target_entropy
        if self.discrete:
            return self.config.target_entropy_ratio * math.log(self.actions.num_choices)
        return -float(self.actions.size)

    def actions_of(self, spaces: EnvSpaces) -> UnitActions:
        """See `OffPolicyActorCritic`."""
        return UnitActions(spaces, self.device)

    def make_actor(self, num_features: int) -> nn.Module:
        """See `OffPolicyActorCritic`."""
        if self.discrete:
            return CategoricalActor(num_features, self.actions.num_choices, self.config.hidden_size)
        return GaussianActor(num_features, self.actions.size, self.config.hidden_size)

    def choose(self, features: Tensor, explore: bool) -> Tensor:
        """See `OffPolicyActorCritic`."""
        return self.actor.choose(features, explore)

    def next_outputs(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        """See the module's docstring."""
        actions, chances, log_probs = self.actor.outcomes(self.critics.encode(batch.next_obs))
        outputs = self.pool(self.target(self.target.encode(batch.next_obs), actions))
        if self.discrete:
            outputs = (chances * outputs).sum(-1, keepdim=True)
        return outputs, -self.log_alpha.exp() * (chances * log_probs).sum(-1)

    def policy_loss(self, features: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """See the module's docstring: of policy and temperature."""
        actions, chances, log_probs = self.actor.outcomes(features)
        outputs = self.critics(features, actions)
        values = outputs if self.discrete else self.td.values(outputs).unsqueeze(-1)
        values = values.amin(0) if self.config.policy_value == "min" else values.mean(0)
        alpha, entropy = self.log_alpha.exp(), -(chances * log_probs).sum(-1)
        policy_loss = ((chances * (alpha.detach() * log_probs - values)).sum(-1)).mean()
        metrics = {"losses/policy_loss": policy_loss, "losses/entropy": entropy.mean(), "charts/temperature": alpha}
        if self.config.fixed_temperature:
            return policy_loss, metrics
        return policy_loss + (self.log_alpha * (entropy.detach() - self.target_entropy)).mean(), metrics

    def moved_by_policy_loss(self) -> list[nn.Parameter]:
        """See `OffPolicyActorCritic`."""
        return [*super().moved_by_policy_loss(), *([] if self.config.fixed_temperature else [self.log_alpha])]

    def improve(self, features: Tensor) -> dict[str, Any]:
        """See `OffPolicyActorCritic`: a step of the temperature, too."""
        self.log_alpha.grad = torch.zeros_like(self.log_alpha)
        metrics = super().improve(features)
        if not self.config.fixed_temperature:
            self.temperature_optimizer.step()
        return metrics
