"""Advantage actor-critic (Mnih et al. 2016, synchronous).

    loss = value_loss_coef * mean((R - V)^2) - mean(A.detach() log pi(a)) - entropy_coef * H
    A    = R - V, with R the n-step return, or what `--returns` picks (see `returns.py`)

One gradient step on the whole rollout of T steps in N environments; RMSprop. The step is on-policy, so
`--returns v-trace` gives the n-step return.

Deviations from the paper:
1. Synchronous: one learner, N environments in step (as OpenAI Baselines and upstream).
2. Gradients are clipped by global norm 0.5.
3. The value loss has no factor 1/2; `--value-loss-coef 0.5` supplies it.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from a2c_ppo_acktr.algo.actor_critic import ActorCritic, ActorCriticConfig
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.model.policy import Evaluation
from a2c_ppo_acktr.optim import make_optimizer
from a2c_ppo_acktr.returns import explained_variance, normalize
from a2c_ppo_acktr.storage.rollout import Batch, RolloutStorage


@dataclass
class A2CLossConfig(ActorCriticConfig):
    """Flags of A2C's losses."""

    norm_adv: bool = flag(False, "normalize advantages over the rollout")


@dataclass
class A2CConfig(A2CLossConfig):
    """Flags of A2C."""

    optimizer: str = flag("rmsprop", "rmsprop (upstream) or adam", choices=("rmsprop", "adam"))

    def without_effect(self) -> dict[str, str]:
        """See `ActorCriticConfig`."""
        alpha = {} if self.optimizer == "rmsprop" else {"alpha": f"has no effect with --optimizer {self.optimizer}"}
        return super().without_effect() | alpha


def a2c_loss(config: A2CLossConfig, new: Evaluation, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the module's docstring, and its metrics."""
    assert new.value.shape == new.log_prob.shape == batch.advantages.shape
    advantages = normalize(batch.advantages) if config.norm_adv else batch.advantages
    value_loss = (new.value - batch.returns).square().mean()
    policy_loss = -(advantages * new.log_prob).mean()
    entropy = new.entropy.mean()
    loss = config.value_loss_coef * value_loss + policy_loss - config.entropy_coef * entropy
    return loss, {"losses/value_loss": value_loss, "losses/policy_loss": policy_loss, "losses/entropy": entropy}


class A2C(ActorCritic):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = A2CConfig
    is_upstreams: ClassVar[bool] = True
    config: A2CConfig

    def __init__(self, spaces: EnvSpaces, config: A2CConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        settings = {"lr": config.lr, "eps": config.eps, "alpha": config.alpha}
        self.optimizer = make_optimizer(config.optimizer, self.parameters, **settings)
        self.set_gradient = self.gradient_of(self.loss)

    def loss(self, new: Evaluation, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See the module's docstring."""
        return a2c_loss(self.config, new, batch)

    def update(self, storage: RolloutStorage) -> dict[str, Any]:
        """One step on the rollout."""
        self.prepare(storage)
        metrics = self.set_gradient(storage.whole(recurrent=self.policy.carry_size > 0))
        self.optimizer.step()
        return metrics | {
            "losses/explained_variance": explained_variance(storage.values, storage.returns),
            "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
        }
