"""A minibatch of an actor-critic or a cloned policy on the CPU, with the derivatives of its loss written out.

Autograd over vectors of a few hundred numbers costs as much as the networks. Each loss here is a function of values,
log-probabilities and entropies; its derivatives by those go through the network by hand where `FusedPolicy` fits, else
by autograd. A minibatch is computed as by `ActorCritic.gradient`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.arrays import clip_grad_norm
from a2c_ppo_acktr.fast.policy import Evaluated, FusedPolicy
from a2c_ppo_acktr.interfaces import ACTION_MASK
from a2c_ppo_acktr.model.policy import Policy
from a2c_ppo_acktr.returns import normalize
from a2c_ppo_acktr.storage.rollout import Batch

Slopes = tuple[Any, Any, Any]
"""Derivatives by value, log-probability and entropy, each of the batch's shape."""


def evaluate(policy: Policy, parameters: Tensor, batch: Batch) -> Evaluated:
    """`Policy.evaluate_actions` for NumPy, with the way back through its graph."""
    new = policy.evaluate_actions(batch.obs, batch.carry, batch.masks, batch.signals, batch.actions)
    outputs = new.value, new.log_prob, new.entropy

    def backward(to_value: Any, to_log_prob: Any, to_entropy: Any, auxiliary_loss: Tensor | None) -> None:
        assert parameters.grad is not None
        parameters.grad.zero_()
        grads = [torch.from_numpy(grad) for grad in (to_value, to_log_prob, to_entropy)]
        if auxiliary_loss is None:
            torch.autograd.backward(outputs, grads)
        else:
            torch.autograd.backward((*outputs, auxiliary_loss), [*grads, torch.ones_like(auxiliary_loss)])

    value, log_prob, entropy = (output.detach().numpy() for output in outputs)
    return Evaluated(value, log_prob, entropy, backward, new.predictions, new.distribution)


def gradient(
    slopes: Callable[[Any, Evaluated, Batch], tuple[Slopes, dict[str, Any]]],
) -> Callable[..., Callable[[Batch], dict[str, Any]] | None]:
    """What makes `ActorCritic.gradient` of a loss for a learner, given the derivatives of that loss."""

    def make(learner: Any, part: str | None = None) -> Callable[[Batch], dict[str, Any]] | None:
        policy, parameters, config = learner.policy, learner.parameters, learner.config
        asks_more = policy.auxiliary.heads or vars(config).get("trust_region_delta") is not None
        by_hand = FusedPolicy.fits(policy) and not asks_more and ACTION_MASK not in learner.spaces.signals
        fused = FusedPolicy(policy) if by_hand else None

        @np.errstate(over="ignore", invalid="ignore")  # `Run` reports what is not finite
        def gradient(batch: Batch) -> dict[str, Any]:
            if fused is not None:
                new = fused.evaluate(batch.obs, batch.actions)
            else:
                new = evaluate(policy, parameters, batch)
            (to_value, to_log_prob, to_entropy), metrics = slopes(learner, new, batch)
            auxiliary_loss = None
            if part != "value" and policy.auxiliary.heads:
                coef = config.auxiliary_loss_coef
                auxiliary_loss, more = policy.auxiliary.losses(new.predictions, batch.targets, coef)
                metrics |= more
            if part == "value":
                to_log_prob, to_entropy = 0.0 * to_log_prob, 0.0 * to_entropy
            elif part == "policy":
                to_value = 0.0 * to_value
            new.backward(to_value, to_log_prob, to_entropy, auxiliary_loss)
            if policy.frozen is not None:
                parameters.grad[policy.frozen] = 0.0
            return metrics | {"losses/grad_norm": clip_grad_norm(parameters, config.max_grad_norm)}

        return gradient

    return make


def a2c_slopes(learner: Any, new: Evaluated, batch: Batch) -> tuple[Slopes, dict[str, Any]]:
    """Of `A2C.loss`."""
    config, returns, advantages = learner.config, batch.returns.numpy(), batch.advantages.numpy()
    if config.norm_adv:
        advantages = normalize(advantages)
    error, mean = new.value - returns, 1.0 / math.prod(advantages.shape)
    slopes = (
        2.0 * config.value_loss_coef * mean * error,
        -mean * advantages,
        np.full_like(new.entropy, -config.entropy_coef * mean),
    )
    return slopes, {
        "losses/value_loss": (error * error).mean(),
        "losses/policy_loss": -(advantages * new.log_prob).mean(),
        "losses/entropy": new.entropy.mean(),
    }


def ppo_slopes(learner: Any, new: Evaluated, batch: Batch) -> tuple[Slopes, dict[str, Any]]:
    """Of `PPO.loss`; d ratio / d log pi = ratio."""
    config, c = learner.config, learner.clip_range
    numbers = batch.values, batch.log_probs, batch.returns, batch.advantages
    old_value, old_log_prob, returns, advantages = (tensor.numpy() for tensor in numbers)
    if config.norm_adv_per_minibatch:
        advantages = normalize(advantages)
    mean = 1.0 / math.prod(advantages.shape)
    log_ratio = new.log_prob - old_log_prob
    ratio = np.exp(log_ratio)
    kl = _divergence(new, batch) if config.trust_region_delta is not None else None
    gains, slope, outside = _surrogate(config, c, ratio, advantages, kl)

    error = new.value - returns
    squared, to_value = error * error, config.value_loss_coef * mean * error
    if config.clip_value_loss:
        change = new.value - old_value
        within = np.clip(change, -c, c)
        clipped_squared = (old_value + within - returns) ** 2
        to_value = np.where((change != within) & (clipped_squared > squared), 0.0, to_value)
        squared = np.maximum(squared, clipped_squared)

    return (to_value, -mean * slope, np.full_like(new.entropy, -config.entropy_coef * mean)), {
        "losses/value_loss": 0.5 * squared.mean(),
        "losses/policy_loss": -gains.mean(),
        "losses/entropy": new.entropy.mean(),
        "losses/approx_kl": (ratio - 1.0 - log_ratio).mean(),
        "losses/clipfrac": outside.mean(dtype=advantages.dtype),
    }


@torch.no_grad()
def _divergence(new: Evaluated, batch: Batch) -> np.ndarray:
    """KL(old || new) of each state, `[B]`."""
    return new.distribution.kl(batch.old_policy).numpy()


def _surrogate(config: Any, c: float, ratio: Any, advantages: Any, kl: Any) -> tuple[Any, Any, Any]:
    """Gain of each sample, its derivative by log pi, and whether the sample has left its range or region: `[B]`."""
    alpha = config.rollback_alpha
    if kl is None:
        limit = np.clip(ratio, 1.0 - c, 1.0 + c)
        outside = limit != ratio
    else:
        outside = kl >= config.trust_region_delta
        limit = np.where(outside, np.float32(1.0), ratio)
    gain, limited = ratio * advantages, limit * advantages
    held = gain > limited
    if alpha is None:
        return np.minimum(gain, limited), np.where(held, 0.0, gain), outside
    turning = limited if kl is None else gain
    rolled_back = (1.0 + alpha) * turning - alpha * gain
    return np.where(held, rolled_back, gain), np.where(held, -alpha * gain, gain), outside
