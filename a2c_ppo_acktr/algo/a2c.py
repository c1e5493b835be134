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

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from a2c_ppo_acktr.algo.base import ActorCriticConfig, Algorithm, make_optimizer, make_policy
from a2c_ppo_acktr.arrays import arrays, clip_grad_norm
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces, Evaluation
from a2c_ppo_acktr.returns import explained_variance, normalize
from a2c_ppo_acktr.storage import Batch, RolloutStorage


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


class A2C(Algorithm):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config: ClassVar[type] = A2CConfig
    config: A2CLossConfig

    def __init__(self, spaces: EnvSpaces, config: A2CLossConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.policy = make_policy(spaces, config).to(device)
        self.parameters = self.policy.flatten()
        self.optimizer = self.make_optimizer()
        self.gradient = self.recorded(self._gradient)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """What moves the parameters."""
        config = self.config
        assert isinstance(config, A2CConfig)
        return make_optimizer(config.optimizer, self.parameters, lr=config.lr, eps=config.eps, alpha=config.alpha)

    @np.errstate(over="ignore", invalid="ignore")  # `Run` reports what is not finite
    def update(self, storage: RolloutStorage) -> dict[str, Any]:
        """One step on the rollout."""
        self.prepare(storage)
        metrics = self.gradient(storage.whole(recurrent=self.policy.carry_size > 0))
        return {
            **metrics,
            **self.step(),
            "losses/explained_variance": explained_variance(storage.values, storage.returns),
            "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def evaluate(self, batch: Batch) -> Evaluation:
        """What the policy says of the batch now."""
        return self.policy.evaluate_actions(batch.obs, batch.carry, batch.masks, batch.signals, batch.actions)

    def _gradient(self, batch: Batch) -> dict[str, Any]:
        """Set the gradient of the batch's loss, clipped; returns metrics."""
        config, new = self.config, self.evaluate(batch)
        slopes, metrics = self.loss(new, batch)
        auxiliary_loss, auxiliary_metrics = self.policy.auxiliary.losses(
            new.predictions, batch.targets, config.auxiliary_loss_coef
        )
        new.backward(*slopes, auxiliary_loss)
        grad_norm = clip_grad_norm(self.parameters, config.max_grad_norm)
        return metrics | auxiliary_metrics | {"losses/grad_norm": grad_norm}

    def step(self) -> dict[str, Any]:
        """Move the parameters; returns metrics."""
        self.optimizer.step()
        return {}

    def loss(self, new: Evaluation, batch: Batch) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
        """Derivatives of the loss by value, log-probability and entropy, and its metrics."""
        config = self.config
        xp, (returns, advantages) = arrays(batch.returns, batch.advantages)
        assert new.value.shape == new.log_prob.shape == advantages.shape
        if config.norm_adv:
            advantages = normalize(advantages)
        error, mean = new.value - returns, 1.0 / math.prod(advantages.shape)
        slopes = (
            2.0 * config.value_loss_coef * mean * error,
            -mean * advantages,
            xp.full_like(new.entropy, -config.entropy_coef * mean),
        )
        metrics = {
            "losses/value_loss": (error * error).mean(),
            "losses/policy_loss": -(advantages * new.log_prob).mean(),
            "losses/entropy": new.entropy.mean(),
        }
        return slopes, metrics
