"""Proximal policy optimization (Schulman et al. 2017), clipped surrogate.

    ratio  = pi(a) / pi_old(a)
    policy = -mean(min(ratio A, clip(ratio, 1 - c, 1 + c) A))
    value  = 0.5 mean(max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2))
    loss   = policy + value_loss_coef * value - entropy_coef * H

Several epochs of minibatches over each rollout; Adam. A = R - V_old, normalized over the whole rollout.

Options:
    --rollback-alpha      PPO-RB: -a ratio + (1 + a)(1 +- c) in place of the clipped ratio (Wang et al. 2019)
    --trust-region-delta  TR-PPO: a sample is held where KL(old || new) of its state reached delta and ratio A > A, not
                          where its ratio left the range; with both, TR-PPO-RB, the ratio has slope -a there
    --policy-lr ...       the policy's epochs, then the value's, each with an optimizer of its own (OpenAI Spinning Up)
    --returns v-trace     targets and advantages anew before each epoch, for the policy as it then is

Deviations from the papers:
1. The value function is clipped as the policy is (OpenAI Baselines; `--no-clip-value-loss` switches it off).
2. The value loss carries 1/2 beside `value_loss_coef`, as upstream: 0.25 of a squared error at the default.
3. Gradients are clipped by global norm 0.5.
4. V-trace's advantage has no factor rho (Espeholt et al. 2018, section 4.2), since the surrogate has its ratio.

Metrics are means over the minibatches that were run:
    losses/approx_kl  mean((ratio - 1) - log ratio), the low-variance estimate of KL(old || new) of Schulman (2020)
    losses/clipfrac   share of samples whose ratio left [1 - c, 1 + c], or whose state's divergence reached delta
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.algo.base import ActorCriticConfig, Algorithm, make_optimizer, make_policy
from a2c_ppo_acktr.arrays import arrays, clip_grad_norm
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces, Evaluation, Tree
from a2c_ppo_acktr.returns import explained_variance, normalize
from a2c_ppo_acktr.spaces import tree_map
from a2c_ppo_acktr.storage import Batch, RolloutStorage
from a2c_ppo_acktr.utils import UsageError, linear_decay


@dataclass
class PPOConfig(ActorCriticConfig):
    """Flags of PPO."""

    ppo_epoch: int = flag(4, "passes over each rollout", low=1)
    num_mini_batch: int = flag(32, "minibatches per pass", low=1)
    clip_param: float = flag(0.2, "clip range c of the ratio and of the value", low=0)
    use_linear_clip_decay: bool = flag(False, "decay the clip range to 0 over --num-env-steps")
    clip_value_loss: bool = flag(True, "clip the value function as the policy is")
    norm_adv_per_minibatch: bool = flag(False, "normalize advantages in each minibatch, not over the rollout")
    rollback_alpha: float | None = flag(
        None, "push back, with this slope, what has left the clip range or trust region (PPO-RB; such as 0.3)", low=0
    )
    trust_region_delta: float | None = flag(
        None,
        "hold back where KL(old || new) of a state reached this, in place of the clip range (TR-PPO; such as 0.025)",
        low=0,
    )
    target_kl: float | None = flag(
        None, "end the update before a step whose minibatch shows approx_kl above 1.5 times this", low=0
    )
    policy_lr: float | None = flag(
        None, "learning rate of the policy; this and the next three train it and the value one after the other", low=0
    )
    value_lr: float | None = flag(None, "learning rate of the value (default of both: --lr)", low=0)
    policy_epochs: int | None = flag(None, "passes for the policy, which --target-kl may end", low=1)
    value_epochs: int | None = flag(None, "passes for the value (default of both: --ppo-epoch)", low=1)
    optimizer: str = flag("adam", "adam (upstream) or rmsprop", choices=("adam", "rmsprop"))

    @property
    def separate(self) -> bool:
        """Whether policy and value have optimizers of their own."""
        given = self.policy_lr, self.value_lr, self.policy_epochs, self.value_epochs
        return any(value is not None for value in given)

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
        reasons = super().without_effect()
        if self.optimizer != "rmsprop":
            reasons["alpha"] = f"has no effect with --optimizer {self.optimizer}"
        if self.trust_region_delta is not None and not self.clip_value_loss:
            nothing = "has no effect with --trust-region-delta and --no-clip-value-loss"
            reasons |= dict.fromkeys(("clip_param", "use_linear_clip_decay"), nothing)
        if None not in (self.policy_lr, self.value_lr):
            reasons["lr"] = "has no effect with --policy-lr and --value-lr"
        if None not in (self.policy_epochs, self.value_epochs):
            reasons["ppo_epoch"] = "has no effect with --policy-epochs and --value-epochs"
        return reasons


class Pass(NamedTuple):
    """Epochs of one optimizer over the rollout, for one part of the loss or both."""

    optimizer: torch.optim.Optimizer
    lr: float
    epochs: int
    policy: bool
    value: bool
    gradient: Callable[[Batch], dict[str, Any]]
    """See `PPO._gradient`."""


class PPO(Algorithm):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = PPOConfig
    config: PPOConfig

    def __init__(self, spaces: EnvSpaces, config: PPOConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.policy = make_policy(spaces, config).to(device)
        self.parameters = self.policy.flatten()
        self.passes = self._make_passes()
        self.optimizer = self.passes[0].optimizer
        self.clip_range: Any = config.clip_param
        if device.type == "cuda":  # a recording reads it where it stays
            self.clip_range = torch.tensor(config.clip_param, device=device)

    def _make_passes(self) -> list[Pass]:
        """One for everything, or one for the policy and one for the value.

        Both optimizers have all parameters: those that a part of the loss does not reach have gradients of zero in its
        pass, which move nothing. Layers that actor and critic share are moved by both.
        """
        config = self.config

        def make(lr: float | None, epochs: int | None, policy: bool, value: bool) -> Pass:
            lr, epochs = config.lr if lr is None else lr, config.ppo_epoch if epochs is None else epochs
            made = make_optimizer(config.optimizer, self.parameters, lr=lr, eps=config.eps, alpha=config.alpha)
            gradient = self.recorded(functools.partial(self._gradient, policy, value))
            return Pass(made, lr, epochs, policy, value, gradient)

        if not config.separate:
            return [make(None, None, True, True)]
        policy = make(config.policy_lr, config.policy_epochs, True, False)
        return [policy, make(config.value_lr, config.value_epochs, False, True)]

    def schedule(self, env_steps: int, total: int) -> None:
        """Set what depends on progress: learning rates and the clip range."""
        if self.config.use_linear_lr_decay:
            for part in self.passes:
                part.optimizer.param_groups[0]["lr"] = linear_decay(part.lr, env_steps, total)
        if self.config.use_linear_clip_decay:
            clip_range = linear_decay(self.config.clip_param, env_steps, total)
            self.clip_range = self.clip_range.fill_(clip_range) if isinstance(self.clip_range, Tensor) else clip_range

    @np.errstate(over="ignore", invalid="ignore")  # `Run` reports what is not finite
    def update(self, storage: RolloutStorage) -> dict[str, Any]:
        """All passes over the rollout; fewer epochs where `target_kl` says so."""
        self.prepare(storage)
        variance = explained_variance(storage.values, storage.returns)
        metrics: dict[str, Any] = {}
        for part in self.passes:
            found = self._epochs(part, storage)
            metrics |= found if part.policy else {"losses/value_loss": found["losses/value_loss"]}
        metrics |= {
            "losses/explained_variance": variance,
            "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        return metrics | ({"charts/clip_range": self.clip_range} if self.config.use_linear_clip_decay else {})

    def prepare(self, storage: RolloutStorage) -> None:
        """Compute returns, normalized advantages and, for a trust region, the distributions it is around."""
        super().prepare(storage)
        self._normalize_advantages(storage)
        if self.config.trust_region_delta is not None:
            storage.old_policy = self._describe_policy(storage)

    @torch.no_grad()
    def _describe_policy(self, storage: RolloutStorage) -> Tree:
        """The action distributions of the rollout, `[T, N, ...]`."""
        recurrent = self.policy.carry_size > 0
        batch = storage.whole(recurrent)
        found = self.policy(batch.obs, batch.carry, batch.masks, batch.signals).distribution.describe()
        lead = storage.num_steps, storage.num_envs
        return found if recurrent else tree_map(lambda leaf: leaf.unflatten(0, lead), found)

    @torch.no_grad()
    def _renew_returns(self, storage: RolloutStorage) -> None:
        """Compute returns and advantages for the policy as it is now; the carry of the last observation stays."""
        batch = storage.whole(recurrent=self.policy.carry_size > 0)
        new = self.policy.evaluate_actions(batch.obs, batch.carry, batch.masks, batch.signals, batch.actions)
        value, log_prob = (torch.as_tensor(x).reshape(storage.values.shape) for x in (new.value, new.log_prob))
        storage.compute_returns(self.policy.get_value, **self.config.return_settings(), learner=(value, log_prob))
        self._normalize_advantages(storage)

    def _normalize_advantages(self, storage: RolloutStorage) -> None:
        if not self.config.norm_adv_per_minibatch:
            storage.advantages = normalize(storage.advantages)

    def _epochs(self, part: Pass, storage: RolloutStorage) -> dict[str, Any]:
        """Run the minibatches of a pass; returns the means of their metrics."""
        config, count = self.config, 0
        sums: dict[str, Any] = {}
        for epoch in range(part.epochs):
            if config.return_kind == "v-trace" and (epoch > 0 or not part.policy):
                self._renew_returns(storage)
            for batch in storage.minibatches(config.num_mini_batch, recurrent=self.policy.carry_size > 0):
                metrics = part.gradient(batch)
                bound = config.target_kl if part.policy else None
                over = bound is not None and metrics["losses/approx_kl"] > 1.5 * bound
                if not over:
                    part.optimizer.step()
                count, sums = count + 1, {tag: sums.get(tag, 0.0) + value for tag, value in metrics.items()}
                if over:
                    return {tag: total / count for tag, total in sums.items()}
        return {tag: total / count for tag, total in sums.items()}

    def _gradient(self, policy: bool, value: bool, batch: Batch) -> dict[str, Any]:
        """Set the gradient of a minibatch's loss, or of one part of it, clipped; returns metrics."""
        inputs = batch.obs, batch.carry, batch.masks, batch.signals, batch.actions
        new = self.policy.evaluate_actions(*inputs, with_graph=self.config.trust_region_delta is not None)
        (to_value, to_log_prob, to_entropy), metrics = self.loss(new, batch)
        auxiliary_loss, auxiliary_metrics = self.policy.auxiliary.losses(
            new.predictions, batch.targets, self.config.auxiliary_loss_coef
        )
        if not value:
            to_value = 0.0 * to_value
        if not policy:
            to_log_prob, to_entropy, auxiliary_loss = 0.0 * to_log_prob, 0.0 * to_entropy, None
        new.backward(to_value, to_log_prob, to_entropy, auxiliary_loss)
        grad_norm = clip_grad_norm(self.parameters, self.config.max_grad_norm)
        return metrics | auxiliary_metrics | {"losses/grad_norm": grad_norm}

    def state_dict(self) -> dict[str, Any]:
        """See `Algorithm`."""
        return super().state_dict() | {"further_optimizers": [part.optimizer.state_dict() for part in self.passes[1:]]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Algorithm`; `UsageError` where the run had other optimizers."""
        further = state.get("further_optimizers", [])
        if len(further) != len(self.passes) - 1:
            kind = "one optimizer" if not further else "optimizers of policy and value"
            raise UsageError(f"the run was trained with {kind}: --policy-lr and its like cannot change that")
        super().load_state_dict(state)
        for part, stored in zip(self.passes[1:], further, strict=True):
            part.optimizer.load_state_dict(stored)

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
        surrogate, slope, outside = self._surrogate(xp, ratio, advantages, self._divergence(new, batch))

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
            "losses/clipfrac": outside.mean(dtype=advantages.dtype),
        }
        return (to_value, -mean * slope, xp.full_like(new.entropy, -config.entropy_coef * mean)), metrics

    def _divergence(self, new: Evaluation, batch: Batch) -> Any:
        """KL(old || new) of each state, `[B]`; None where there is no trust region."""
        if self.config.trust_region_delta is None:
            return None
        _, (kl,) = arrays(new.output.distribution.kl(batch.old_policy))
        return kl

    def _surrogate(self, xp: Any, ratio: Any, advantages: Any, kl: Any) -> tuple[Any, Any, Any]:
        """Gain of each sample, its derivative by log pi, and whether the sample has left its range or region: `[B]`."""
        c, alpha = self.clip_range, self.config.rollback_alpha
        if kl is None:
            limit = xp.clip(ratio, 1.0 - c, 1.0 + c)
            outside = limit != ratio
        else:
            assert kl.shape == ratio.shape
            outside = kl >= self.config.trust_region_delta
            limit = xp.where(outside, 1.0, ratio)
        gain, limited = ratio * advantages, limit * advantages  # d ratio / d log pi = ratio
        held = gain > limited
        if alpha is None:
            return xp.minimum(gain, limited), xp.where(held, 0.0, gain), outside
        turning = limited if kl is None else gain
        rolled_back = (1.0 + alpha) * turning - alpha * gain
        return xp.where(held, rolled_back, gain), xp.where(held, -alpha * gain, gain), outside
