"""Proximal policy optimization (Schulman et al. 2017), clipped surrogate.

    ratio  = pi(a) / pi_old(a)
    policy = -mean(min(ratio A, clip(ratio, 1 - c, 1 + c) A))
    value  = 0.5 mean(max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2))
    loss   = policy + value_loss_coef * value - entropy_coef * H

Several epochs of minibatches over each rollout; Adam. A = R - V_old, normalized over the whole rollout.

Deviations from the paper:
1. The value function is clipped as the policy is (OpenAI Baselines; `--no-clip-value-loss` switches it off).
2. The value loss carries 1/2 beside `value_loss_coef`, as upstream: 0.25 of a squared error at the default.
3. Gradients are clipped by global norm 0.5.

Metrics are means over the minibatches that were run:
    losses/approx_kl  mean((ratio - 1) - log ratio), the low-variance estimate of KL(old || new) of Schulman (2020)
    losses/clipfrac   share of samples whose ratio left [1 - c, 1 + c]
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.algo.base import ActorCriticConfig, Algorithm, make_optimizer, make_policy
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces, Evaluation
from a2c_ppo_acktr.returns import explained_variance, normalize
from a2c_ppo_acktr.storage import Batch, RolloutStorage
from a2c_ppo_acktr.utils import UsageError, arrays, clip_grad_norm, linear_decay


@dataclass
class PPOConfig(ActorCriticConfig):
    """Flags of PPO."""

    ppo_epoch: int = flag(4, "passes over each rollout", low=1)
    num_mini_batch: int = flag(32, "minibatches per pass", low=1)
    clip_param: float = flag(0.2, "clip range c of the ratio and of the value", low=0)
    use_linear_clip_decay: bool = flag(False, "decay the clip range to 0 over --num-env-steps")
    clip_value_loss: bool = flag(True, "clip the value function as the policy is")
    norm_adv_per_minibatch: bool = flag(False, "normalize advantages in each minibatch, not over the rollout")
    target_kl: float | None = flag(
        None, "end the update before a step whose minibatch shows approx_kl above 1.5 times this", low=0
    )
    optimizer: str = flag("adam", "adam (upstream) or rmsprop", choices=("adam", "rmsprop"))

    def check(self, num_steps: int, num_processes: int) -> None:
        """See `ActorCriticConfig`."""
        super().check(num_steps, num_processes)
        if self.recurrent_policy and self.num_mini_batch > num_processes:
            raise UsageError(
                f"--num-mini-batch {self.num_mini_batch} with --recurrent-policy: a minibatch is of whole "
                f"environments, so {num_processes} processes allow {num_processes} at most"
            )
        if self.num_mini_batch > num_steps * num_processes:
            raise UsageError(
                f"--num-mini-batch {self.num_mini_batch}: {num_steps} steps of {num_processes} processes "
                f"are {num_steps * num_processes} samples, so that many at most"
            )

    def without_effect(self) -> dict[str, str]:
        """See `ActorCriticConfig`."""
        alpha = {} if self.optimizer == "rmsprop" else {"alpha": f"has no effect with --optimizer {self.optimizer}"}
        return super().without_effect() | alpha


class PPO(Algorithm):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = PPOConfig
    config: PPOConfig

    def __init__(self, spaces: EnvSpaces, config: PPOConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.policy = make_policy(spaces, config).to(device)
        self.parameters = self.policy.flatten()
        self.optimizer = make_optimizer(
            config.optimizer, self.parameters, lr=config.lr, eps=config.eps, alpha=config.alpha
        )
        self.clip_range = config.clip_param

    def schedule(self, env_steps: int, total: int) -> None:
        """Set what depends on progress: the learning rate and the clip range."""
        super().schedule(env_steps, total)
        if self.config.use_linear_clip_decay:
            self.clip_range = linear_decay(self.config.clip_param, env_steps, total)

    @np.errstate(over="ignore", invalid="ignore")  # `Run` reports what is not finite
    def update(self, storage: RolloutStorage) -> dict[str, Any]:
        """`ppo_epoch` passes over the rollout, fewer where `target_kl` says so."""
        config, policy = self.config, self.policy
        storage.compute_returns(policy.get_value, **config.return_settings())
        if not config.norm_adv_per_minibatch:
            storage.advantages = normalize(storage.advantages)
        metrics = self._epochs(storage) | {
            "losses/explained_variance": explained_variance(storage.values, storage.returns),
            "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        return metrics | ({"charts/clip_range": self.clip_range} if config.use_linear_clip_decay else {})

    def _epochs(self, storage: RolloutStorage) -> dict[str, Any]:
        """Run the minibatches; returns the means of their metrics."""
        config, policy, count = self.config, self.policy, 0
        sums: dict[str, Any] = {}
        for _ in range(config.ppo_epoch):
            for batch in storage.minibatches(config.num_mini_batch, recurrent=policy.carry_size > 0):
                new = policy.evaluate_actions(batch.obs, batch.carry, batch.masks, batch.signals, batch.actions)
                slopes, metrics = self.loss(new, batch)
                auxiliary_loss, auxiliary_metrics = policy.auxiliary.losses(
                    new.predictions, batch.targets, config.auxiliary_loss_coef
                )
                over = config.target_kl is not None and metrics["losses/approx_kl"] > 1.5 * config.target_kl
                grad_norm = 0.0 if over else self._step(new, slopes, auxiliary_loss)
                metrics |= auxiliary_metrics | {"losses/grad_norm": grad_norm}
                count, sums = count + 1, {tag: sums.get(tag, 0.0) + value for tag, value in metrics.items()}
                if over:
                    return {tag: total / count for tag, total in sums.items()}
        return {tag: total / count for tag, total in sums.items()}

    def _step(self, new: Evaluation, slopes: tuple[Any, Any, Any], auxiliary_loss: Tensor | None) -> Any:
        """One step down the gradient; returns its norm before clipping."""
        new.backward(*slopes, auxiliary_loss)
        grad_norm = clip_grad_norm(self.parameters, self.config.max_grad_norm)
        self.optimizer.step()
        return grad_norm

    def loss(self, new: Evaluation, batch: Batch) -> tuple[tuple[Any, Any, Any], dict[str, Any]]:
        """Derivatives of a minibatch's loss by value, log-probability and entropy, and its metrics.

        By hand, since autograd over vectors this short costs as much as the networks.
        """
        config, c = self.config, self.clip_range
        tensors = batch.values, batch.log_probs, batch.returns, batch.advantages
        xp, (old_value, old_log_prob, returns, advantages) = arrays(*tensors)
        assert new.value.shape == new.log_prob.shape == advantages.shape
        mean = 1.0 / math.prod(advantages.shape)
        if config.norm_adv_per_minibatch:
            advantages = normalize(advantages)

        log_ratio = new.log_prob - old_log_prob
        ratio = xp.exp(log_ratio)
        clipped = xp.clip(ratio, 1.0 - c, 1.0 + c)
        gain, clipped_gain = ratio * advantages, clipped * advantages
        surrogate = xp.minimum(gain, clipped_gain)
        to_log_prob = xp.where(gain > clipped_gain, 0.0, -mean * gain)  # d ratio / d log pi = ratio

        error = new.value - returns
        squared, to_value = error * error, config.value_loss_coef * mean * error
        if config.clip_value_loss:
            change = new.value - old_value
            within = xp.clip(change, -c, c)
            clipped_squared = (old_value + within - returns) ** 2
            to_value = xp.where((change != within) & (clipped_squared > squared), 0.0, to_value)
            squared = xp.maximum(squared, clipped_squared)

        metrics = {
            "losses/value_loss": 0.5 * squared.mean(),
            "losses/policy_loss": -surrogate.mean(),
            "losses/entropy": new.entropy.mean(),
            "losses/approx_kl": (ratio - 1.0 - log_ratio).mean(),
            "losses/clipfrac": (clipped != ratio).mean(dtype=advantages.dtype),
        }
        return (to_value, to_log_prob, xp.full_like(new.entropy, -config.entropy_coef * mean)), metrics
