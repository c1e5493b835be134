"""Returns and advantages: pure functions on time-major `[T, N]`, T steps of N environments; tensors or NumPy arrays.

Row t describes the step from the observation at t to its *true* successor, which is the next observation of the
rollout or, where the episode ended, the final observation that the reset replaced.

    rewards_t      reward of the step
    discounts_t    gamma, or 0 where the successor is terminal: what the successor's value is worth
    next_values_t  V(true successor); anything finite where discounts_t is 0
    continues_t    1 where row t + 1 belongs to the same episode, 0 where it does not
    ratios_t       pi(a_t) / mu(a_t), the probability by the policy that learns over that by the one that acted
"""

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.arrays import arrays

Array = TypeVar("Array", Tensor, np.ndarray)
RETURNS = ("1-step", "n-step", "gae", "v-trace")


def reverse_scan(a: Array, b: Array) -> Array:
    """Solve `x_t = a_t + b_t x_{t+1}` with `x_T = 0` for `a, b: [T, N]` in log2(T) vectorized passes.

    Pass k composes each affine map with the one 2^k rows later (Hillis & Steele 1986), so a rollout of 2048 steps
    costs eleven tensor operations on any device instead of 2048 small ones. Nothing is divided: it is stable.
    """
    assert a.shape == b.shape, (a.shape, b.shape)
    x, b, shift = 1.0 * a, 1.0 * b, 1  # copies
    while shift < len(x):
        x[:-shift] += b[:-shift] * x[shift:]
        b[:-shift] = b[:-shift] * b[shift:]
        shift *= 2
    return x


def estimate_returns(
    kind: str,
    rewards: Array,
    discounts: Array,
    values: Array,
    next_values: Array,
    continues: Array,
    *,
    gae_lambda: float,
    ratios: Array,
) -> tuple[Array, Array]:
    """What values learn to predict and what actions are judged by, each `[T, N]`, by one of `RETURNS`.

    Except with v-trace, which estimates them separately, advantages are targets minus values.
    """
    if kind == "v-trace":
        return v_trace(rewards, discounts, values, next_values, continues, ratios)
    if kind == "gae":
        advantages = gae_advantages(rewards, discounts, values, next_values, continues, gae_lambda)
        return advantages + values, advantages
    if kind == "1-step":
        targets = one_step_returns(rewards, discounts, next_values)
    else:
        targets = n_step_returns(rewards, discounts, next_values, continues)
    return targets, targets - values


def one_step_returns(rewards: Array, discounts: Array, next_values: Array) -> Array:
    """r_t + discount_t V(successor), the target of TD(0) (Sutton 1988): all `[T, N]`."""
    assert rewards.shape == discounts.shape == next_values.shape
    return rewards + discounts * next_values


def n_step_returns(rewards: Array, discounts: Array, next_values: Array, continues: Array) -> Array:
    """Discounted return to the end of the episode or rollout, bootstrapped there (Mnih et al. 2016, section 4).

    R_t = r_t + discount_t * (R_{t+1} if the episode goes on within the rollout, else V(successor)).
    All arguments and the result are `[T, N]`.
    """
    assert rewards.shape == discounts.shape == next_values.shape == continues.shape
    goes_on = 1.0 * continues
    goes_on[-1] = 0.0
    return reverse_scan(rewards + discounts * (1.0 - goes_on) * next_values, discounts * goes_on)


def gae_advantages(
    rewards: Array, discounts: Array, values: Array, next_values: Array, continues: Array, gae_lambda: float
) -> Array:
    """Generalized advantage estimates (Schulman et al. 2016, eq. 16), `[T, N]`.

    delta_t = r_t + discount_t V(successor) - V(s_t);  A_t = delta_t + discount_t lambda continues_t A_{t+1}.
    """
    assert rewards.shape == discounts.shape == values.shape == next_values.shape == continues.shape
    deltas = rewards + discounts * next_values - values
    return reverse_scan(deltas, gae_lambda * discounts * continues)


def v_trace(
    rewards: Array,
    discounts: Array,
    values: Array,
    next_values: Array,
    continues: Array,
    ratios: Array,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
) -> tuple[Array, Array]:
    """Targets and advantages of a policy from the actions of another (Espeholt et al. 2018, eq. 1 and section 4.2).

    v_t = V(s_t) + delta_t + discount_t c_t continues_t (v_{t+1} - V(s_{t+1}))
    delta_t = rho_t (r_t + discount_t V(successor) - V(s_t));  rho_t = min(rho_bar, ratio_t);  c_t = min(c_bar, ratio_t)
    A_t = r_t + discount_t (v_{t+1} if the episode goes on within the rollout, else V(successor)) - V(s_t)

    A_t comes without its factor rho_t: it is for a surrogate that has a ratio of its own. Where actions are the
    policy's own, v_t is the n-step return and A_t = v_t - V(s_t). Everything is `[T, N]`.
    """
    assert rewards.shape == discounts.shape == values.shape
    assert values.shape == next_values.shape == continues.shape == ratios.shape
    deltas = ratios.clip(max=rho_bar) * (rewards + discounts * next_values - values)
    targets = values + reverse_scan(deltas, discounts * ratios.clip(max=c_bar) * continues)
    following = 1.0 * next_values  # a copy
    following[:-1] = continues[:-1] * targets[1:] + (1.0 - continues[:-1]) * next_values[:-1]
    return targets, rewards + discounts * following - values


def log_steps_to_end(ended: Tensor) -> Tensor:
    """log(1 + steps left after this one) until the episode's last step, `[T, N]`; NaN where the end lies beyond.

    Args:
        ended: `[T, N]` bool, whether the episode ended in the step.
    """
    steps = torch.arange(len(ended), device=ended.device).unsqueeze(1).expand(ended.shape)
    ends = torch.where(ended, steps, len(ended)).flip(0).cummin(0).values.flip(0)
    return torch.where(ends < len(ended), (ends - steps + 1.0).log(), math.nan)


def normalize(advantages: Array) -> Array:
    """Mean 0 and deviation 1, of any shape; a single advantage, which has no deviation, becomes 0."""
    centred = advantages - advantages.mean()
    count = math.prod(advantages.shape)
    return centred / (((centred * centred).sum() / max(1, count - 1)) ** 0.5 + 1e-5)


def explained_variance(predictions: Tensor, targets: Tensor) -> Any:
    """1 - Var(target - prediction) / Var(target): 1 is perfect, 0 a constant's; NaN where targets are constant."""
    xp, (predictions, targets) = arrays(predictions, targets)
    variance = targets.var()
    return 1.0 - (targets - predictions).var() / xp.where(variance > 0, variance, math.nan)


def n_step_windows(
    rewards: np.ndarray, ended: np.ndarray, terminated: np.ndarray, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows `[n, ...]` of consecutive steps, cut at the first that ended an episode (Sutton 1988; Rainbow, eq. 1).

    Returns:
        The discounted rewards of the m <= n steps that count, `[...]`; gamma^m, or 0 where the last of them was
        terminal, `[...]`; and m, `[...]`: the observation after the window is m steps later.
    """
    assert rewards.shape == ended.shape == terminated.shape
    returns, terminal, lengths = rewards[0], terminated[0], np.ones(rewards.shape[1:], np.int64)
    counts = True
    for k in range(1, len(rewards)):
        counts = counts & ~ended[k - 1]
        returns = returns + np.float32(gamma**k) * (rewards[k] * counts)
        terminal = terminal | (terminated[k] & counts)
        lengths += counts
    powers = np.float32(gamma) ** np.arange(len(rewards) + 1, dtype=np.float32)
    return returns, powers[lengths] * ~terminal, lengths


def rescale_value(x: Array, epsilon: float = 1e-3) -> Array:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x (Pohlen et al. 2018, proposition A.2)."""
    xp = np if isinstance(x, np.ndarray) else torch
    return xp.sign(x) * ((abs(x) + 1.0) ** 0.5 - 1.0) + epsilon * x


def unscale_value(x: Array, epsilon: float = 1e-3) -> Array:
    """The inverse of `rescale_value`, in closed form."""
    xp = np if isinstance(x, np.ndarray) else torch
    root = ((1.0 + 4.0 * epsilon * (abs(x) + 1.0 + epsilon)) ** 0.5 - 1.0) / (2.0 * epsilon)
    return xp.sign(x) * (root * root - 1.0)
