"""Returns against their definitions, written as slowly as possible."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr.returns import explained_variance, gae_advantages, n_step_returns, reverse_scan


def random_rollout(seed, steps, num):
    """Rewards, values of observations and of true successors, and random ends, as NumPy arrays [T, N]."""
    rng = np.random.default_rng(seed)
    terminated = rng.random((steps, num)) < 0.15
    truncated = (rng.random((steps, num)) < 0.15) & ~terminated
    values = rng.normal(size=(steps, num))
    next_values = np.concatenate([values[1:], rng.normal(size=(1, num))])
    ended = terminated | truncated
    next_values[ended] = rng.normal(size=ended.sum())
    return rng.normal(size=(steps, num)), values, next_values, terminated, truncated


def arguments(rollout, gamma):
    rewards, values, next_values, terminated, truncated = rollout
    discounts, continues = gamma * ~terminated, ~(terminated | truncated)
    as_tensor = [torch.tensor(a, dtype=torch.float64) for a in (rewards, discounts, values, next_values, continues)]
    return as_tensor


def n_step_by_definition(rollout, gamma, t, n):
    """Sum rewards from t to the end of episode or rollout, then bootstrap unless the successor is terminal."""
    rewards, _, next_values, terminated, truncated = rollout
    total, weight = 0.0, 1.0
    for k in range(t, len(rewards)):
        total += weight * rewards[k, n]
        weight *= gamma
        if terminated[k, n]:
            return total
        if truncated[k, n] or k == len(rewards) - 1:
            return total + weight * next_values[k, n]
    raise AssertionError


def gae_by_definition(rollout, gamma, lam, t, n):
    """A_t = sum over k-step advantages' deltas, stopping where the episode does."""
    rewards, values, next_values, terminated, truncated = rollout
    total, weight = 0.0, 1.0
    for k in range(t, len(rewards)):
        successor = 0.0 if terminated[k, n] else next_values[k, n]
        total += weight * (rewards[k, n] + gamma * successor - values[k, n])
        weight *= gamma * lam
        if terminated[k, n] or truncated[k, n]:
            break
    return total


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 17), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1))
def test_returns_and_advantages_equal_their_definition_with_random_ends(seed, steps, num, gamma, lam):
    rollout = random_rollout(seed, steps, num)
    rewards, discounts, values, next_values, continues = arguments(rollout, gamma)
    returns = n_step_returns(rewards, discounts, next_values, continues)
    advantages = gae_advantages(rewards, discounts, values, next_values, continues, lam)
    for t in range(steps):
        for n in range(num):
            assert returns[t, n].item() == pytest.approx(n_step_by_definition(rollout, gamma, t, n), abs=1e-9)
            assert advantages[t, n].item() == pytest.approx(gae_by_definition(rollout, gamma, lam, t, n), abs=1e-9)


def test_gae_with_lambda_one_equals_returns_minus_values():
    rewards, discounts, values, next_values, continues = arguments(random_rollout(3, 40, 5), 0.97)
    returns = n_step_returns(rewards, discounts, next_values, continues)
    advantages = gae_advantages(rewards, discounts, values, next_values, continues, 1.0)
    torch.testing.assert_close(advantages, returns - values)


def test_hand_worked_rollout():
    # gamma 0.5: step 0 goes on, step 1 is cut (successor worth 4), step 2 terminates, step 3 ends the rollout (worth 8)
    column = lambda *numbers: torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)  # noqa: E731
    returns = n_step_returns(column(1, 2, 3, 4), column(0.5, 0.5, 0, 0.5), column(100, 4, 100, 8), column(1, 0, 0, 1))
    assert returns.squeeze(1).tolist() == [1 + 0.5 * 4, 2 + 0.5 * 4, 3, 4 + 0.5 * 8]
    advantages = gae_advantages(
        column(1, 2, 3, 4), column(0.5, 0.5, 0, 0.5), column(1, 1, 1, 1), column(1, 4, 100, 8), column(1, 0, 0, 1), 0.5
    )
    # deltas: 1 + .5 - 1 = .5;  2 + 2 - 1 = 3;  3 - 1 = 2;  4 + 4 - 1 = 7;  A_0 = .5 + .25 * 3
    assert advantages.squeeze(1).tolist() == [1.25, 3, 2, 7]


def test_scan_of_a_long_rollout_is_stable():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2048, 3)), rng.random((2048, 3))
    x = np.zeros(3)
    expected = np.empty_like(a)
    for t in reversed(range(2048)):
        x = expected[t] = a[t] + b[t] * x
    scanned = reverse_scan(torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32))
    np.testing.assert_allclose(scanned.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_inputs_of_other_shapes_are_refused_instead_of_broadcast():
    a = torch.zeros(4, 3)
    with pytest.raises(AssertionError):
        n_step_returns(a, a, torch.zeros(4, 1), a)


def test_explained_variance():
    targets = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(targets, targets) == 1
    assert explained_variance(torch.zeros(3), targets) == 0
    assert math.isnan(explained_variance(targets, torch.ones(3)))
