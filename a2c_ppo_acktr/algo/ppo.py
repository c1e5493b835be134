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
5. TR-PPO-RB's -a ratio A is lifted by (1 + a) ratio A of the policy as it is, a constant, so that nothing jumps where a
   state leaves its region: the slope is the paper's, and `losses/policy_loss` has ratio A there, as everywhere.

Metrics are means over the minibatches that were run:
    losses/approx_kl  mean((ratio - 1) - log ratio), the low-variance estimate of KL(old || new) of Schulman (2020)
    losses/clipfrac   share of samples whose ratio left [1 - c, 1 + c], or whose state's divergence reached delta
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from a2c_ppo_acktr.algo.actor_critic import ActorCritic, ActorCriticConfig
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import EnvSpaces, Tree
from a2c_ppo_acktr.model.policy import Evaluation
from a2c_ppo_acktr.optim import make_optimizer
from a2c_ppo_acktr.returns import explained_variance, normalize
from a2c_ppo_acktr.spaces import tree_map
from a2c_ppo_acktr.storage.rollout import Batch, RolloutStorage
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
    part: str | None
    """`policy`, `value`, or None for both (see `ActorCritic.gradient`)."""
    set_gradient: Callable[[Batch], dict[str, Any]]


class PPO(ActorCritic):
    """See the module's docstring; arguments as in `Algorithm`."""

    Config = PPOConfig
    is_upstreams: ClassVar[bool] = True
    transient = ("passes",)
    config: PPOConfig

    def __init__(self, spaces: EnvSpaces, config: PPOConfig, device: torch.device) -> None:
        super().__init__(spaces, config, device)
        self.clip_range: Any = config.clip_param
        if device.type == "cuda":  # what is captured reads it where it stays
            self.clip_range = torch.tensor(config.clip_param, device=device)
        self.passes = self._make_passes()
        self.optimizer, *further = (one.optimizer for one in self.passes)
        self.further_optimizers = further

    def _make_passes(self) -> list[Pass]:
        """One for everything, or one for the policy and one for the value.

        Both optimizers have all parameters: those that a part of the loss does not reach have gradients of zero in its
        pass, which move nothing. Layers that actor and critic share are moved by both.
        """
        config = self.config

        def make(part: str | None, lr: float | None, epochs: int | None) -> Pass:
            lr, epochs = config.lr if lr is None else lr, config.ppo_epoch if epochs is None else epochs
            made = make_optimizer(config.optimizer, self.parameters, lr=lr, eps=config.eps, alpha=config.alpha)
            return Pass(made, lr, epochs, part, self.gradient_of(self.loss, part))

        if not config.separate:
            return [make(None, None, None)]
        policy = make("policy", config.policy_lr, config.policy_epochs)
        return [policy, make("value", config.value_lr, config.value_epochs)]

    def loss(self, new: Evaluation, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See the module's docstring."""
        config, c, old_value, returns = self.config, self.clip_range, batch.values, batch.returns
        assert new.value.shape == new.log_prob.shape == batch.advantages.shape
        advantages = normalize(batch.advantages) if config.norm_adv_per_minibatch else batch.advantages
        log_ratio = new.log_prob - batch.log_probs
        ratio = log_ratio.exp()
        gains, outside = self.surrogate(ratio, advantages, new, batch)

        error = (new.value - returns).square()
        if config.clip_value_loss:
            clipped_value = old_value + (new.value - old_value).clamp(-c, c)
            error = torch.maximum(error, (clipped_value - returns).square())

        policy_loss, value_loss, entropy = -gains.mean(), 0.5 * error.mean(), new.entropy.mean()
        return policy_loss + config.value_loss_coef * value_loss - config.entropy_coef * entropy, {
            "losses/value_loss": value_loss,
            "losses/policy_loss": policy_loss,
            "losses/entropy": entropy,
            "losses/approx_kl": (ratio - 1.0 - log_ratio).mean(),
            "losses/clipfrac": outside.float().mean(),
        }

    def surrogate(self, ratio: Tensor, advantages: Tensor, new: Evaluation, batch: Batch) -> tuple[Tensor, Tensor]:
        """What each sample gains, and whether it has left its range or region: `[B]` both."""
        c, alpha, delta = self.clip_range, self.config.rollback_alpha, self.config.trust_region_delta
        if delta is None:
            limit = ratio.clamp(1.0 - c, 1.0 + c)
            outside = limit != ratio
        else:
            outside = new.distribution.kl(batch.old_policy) >= delta
            assert outside.shape == ratio.shape
            limit = torch.where(outside, 1.0, ratio)
        gain, limited = ratio * advantages, limit * advantages
        if alpha is None:
            return torch.minimum(gain, limited), outside
        turning = limited if delta is None else gain.detach()
        return torch.where(gain > limited, (1.0 + alpha) * turning - alpha * gain, gain), outside

    def schedule(self, env_steps: int, total: int) -> None:
        """See `Algorithm`: learning rates and the clip range."""
        if self.config.use_linear_lr_decay:
            for one in self.passes:
                one.optimizer.param_groups[0]["lr"] = linear_decay(one.lr, env_steps, total)
        if self.config.use_linear_clip_decay:
            clip_range = linear_decay(self.config.clip_param, env_steps, total)
            self.clip_range = self.clip_range.fill_(clip_range) if isinstance(self.clip_range, Tensor) else clip_range

    def update(self, storage: RolloutStorage) -> dict[str, Any]:
        """All passes over the rollout; fewer epochs where `target_kl` says so."""
        self.prepare(storage)
        variance, bound = explained_variance(storage.values, storage.returns), self.config.target_kl
        metrics: dict[str, Any] = {}
        for one in self.passes:
            sums: dict[str, Any] = {}
            count = 0
            for batch in self._minibatches(one, storage):
                found = one.set_gradient(batch)
                sums, count = {tag: sums.get(tag, 0.0) + value for tag, value in found.items()}, count + 1
                if one.part != "value" and bound is not None and found["losses/approx_kl"] > 1.5 * bound:
                    break
                one.optimizer.step()
            tags = ("losses/value_loss",) if one.part == "value" else sums
            metrics |= {tag: sums[tag] / count for tag in tags}
        metrics |= {
            "losses/explained_variance": variance,
            "charts/learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        return metrics | ({"charts/clip_range": self.clip_range} if self.config.use_linear_clip_decay else {})

    def _minibatches(self, one: Pass, storage: RolloutStorage) -> Iterator[Batch]:
        """Those of all epochs; for v-trace with returns as the policy has them when the epoch begins."""
        for epoch in range(one.epochs):
            if self.config.return_kind == "v-trace" and (epoch > 0 or one.part == "value"):
                self._renew_returns(storage)
            yield from storage.minibatches(self.config.num_mini_batch, recurrent=self.policy.carry_size > 0)

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
        new = self.evaluate(storage.whole(recurrent=self.policy.carry_size > 0))
        value, log_prob = (x.reshape(storage.values.shape) for x in (new.value, new.log_prob))
        storage.compute_returns(self.value_of, **self.config.return_settings(), learner=(value, log_prob))
        self._normalize_advantages(storage)

    def _normalize_advantages(self, storage: RolloutStorage) -> None:
        if not self.config.norm_adv_per_minibatch:
            storage.advantages = normalize(storage.advantages)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Algorithm`; `UsageError` where the run had other optimizers."""
        further = state.get("further_optimizers", [])
        if len(further) != len(self.further_optimizers):
            kind = "one optimizer" if not further else "optimizers of policy and value"
            raise UsageError(f"the run was trained with {kind}: --policy-lr and its like cannot change that")
        super().load_state_dict({"further_optimizers": [], **state})
