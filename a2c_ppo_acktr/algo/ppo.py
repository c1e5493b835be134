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

from dataclasses import dataclass

import torch
from torch import Tensor

from a2c_ppo_acktr.algo.base import ActorCriticConfig, Algorithm, flag, make_optimizer, make_policy
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.returns import explained_variance
from a2c_ppo_acktr.storage import Batch, RolloutStorage
from a2c_ppo_acktr.utils import UsageError, clip_grad_norm, flatten_parameters

METRICS = ("value_loss", "policy_loss", "entropy", "approx_kl", "clipfrac", "grad_norm")


@dataclass
class PPOConfig(ActorCriticConfig):
    """Flags of PPO."""

    ppo_epoch: int = flag(4, "passes over each rollout", low=1)
    num_mini_batch: int = flag(32, "minibatches per pass", low=1)
    clip_param: float = flag(0.2, "clip range c of the ratio and of the value", low=0)
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


def normalize(advantages: Tensor) -> Tensor:
    """Mean 0 and deviation 1; a single advantage, which has no deviation, becomes 0."""
    return (advantages - advantages.mean()) / (advantages.std(correction=min(1, advantages.numel() - 1)) + 1e-5)


class PPO(Algorithm):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = PPOConfig
    config: PPOConfig

    def __init__(self, spaces: EnvSpaces, config: PPOConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.policy = make_policy(spaces, config).to(device)
        self.parameters = flatten_parameters(self.policy)
        self.optimizer = make_optimizer(
            config.optimizer, self.parameters, lr=config.lr, eps=config.eps, alpha=config.alpha
        )

    def update(self, storage: RolloutStorage) -> dict[str, Tensor | float]:
        """`ppo_epoch` passes over the rollout, fewer where `target_kl` says so."""
        config, policy = self.config, self.policy
        with torch.no_grad():
            storage.compute_returns(
                policy.get_value,
                gamma=config.gamma,
                gae_lambda=config.gae_lambda if config.use_gae else None,
                use_proper_time_limits=config.use_proper_time_limits,
            )
        if not config.norm_adv_per_minibatch:
            storage.advantages = normalize(storage.advantages)
        metrics = self._epochs(storage)
        return {f"losses/{name}": metric for name, metric in zip(METRICS, metrics, strict=True)} | {
            "losses/explained_variance": explained_variance(storage.values, storage.returns),
            "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _epochs(self, storage: RolloutStorage) -> Tensor:
        """Run the minibatches; returns the means of `METRICS` over those whose gradient was computed."""
        rows: list[Tensor] = []
        for _ in range(self.config.ppo_epoch):
            for batch in storage.minibatches(self.config.num_mini_batch, recurrent=self.policy.carry_size > 0):
                loss, metrics = self._loss(batch)
                if self.config.target_kl is not None and metrics["approx_kl"] > 1.5 * self.config.target_kl:
                    metrics["grad_norm"] = torch.zeros_like(loss)
                    rows.append(torch.stack([metrics[name] for name in METRICS]))
                    return torch.stack(rows).mean(0)
                self.optimizer.zero_grad(set_to_none=False)
                loss.backward()
                metrics["grad_norm"] = clip_grad_norm(self.parameters, self.config.max_grad_norm)
                self.optimizer.step()
                rows.append(torch.stack([metrics[name] for name in METRICS]))
        return torch.stack(rows).mean(0)

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a minibatch, and its parts and diagnostics, detached."""
        config = self.config
        values, log_probs, entropies = self.policy.evaluate_actions(
            batch.obs, batch.carry, batch.masks, batch.signals, batch.actions
        )
        advantages = normalize(batch.advantages) if config.norm_adv_per_minibatch else batch.advantages
        assert values.shape == log_probs.shape == advantages.shape

        log_ratio = log_probs - batch.log_probs
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1.0 - config.clip_param, 1.0 + config.clip_param)
        surrogate = torch.minimum(ratio * advantages, clipped * advantages)

        value_error = (values - batch.returns).square()
        if config.clip_value_loss:
            change = (values - batch.values).clamp(-config.clip_param, config.clip_param)
            value_error = torch.maximum(value_error, (batch.values + change - batch.returns).square())

        per_sample = 0.5 * config.value_loss_coef * value_error - surrogate - config.entropy_coef * entropies
        with torch.no_grad():
            metrics = {
                "value_loss": 0.5 * value_error.mean(),
                "policy_loss": -surrogate.mean(),
                "entropy": entropies.mean(),
                "approx_kl": (ratio - 1.0 - log_ratio).mean(),
                "clipfrac": (clipped != ratio).float().mean(),
            }
        return per_sample.mean(), metrics
