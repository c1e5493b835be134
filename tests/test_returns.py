"""Returns against their definitions, written as slowly as possible."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr.returns import (
    explained_variance,
    gae_advantages,
    n_step_returns,
    n_step_windows,
    one_step_returns,
    rescale_value,
    reverse_scan,
    unscale_value,
    v_trace,
)


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


def v_trace_by_definition(rollout, gamma, ratios, rho_bar, c_bar, s, n):
    """v_s = V(s_s) + sum over t of gamma^(t - s) (product of c_s .. c_{t-1}) delta_t, while the episode lasts."""
    rewards, values, next_values, terminated, truncated = rollout
    total, weight = values[s, n], 1.0
    for t in range(s, len(rewards)):
        successor = 0.0 if terminated[t, n] else next_values[t, n]
        total += weight * min(rho_bar, ratios[t, n]) * (rewards[t, n] + gamma * successor - values[t, n])
        weight *= gamma * min(c_bar, ratios[t, n])
        if terminated[t, n] or truncated[t, n]:
            break
    return total


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 10**6), st.integers(1, 17), st.integers(1, 4), st.floats(0, 1), st.floats(0.1, 3), st.floats(0.1, 3)
)
def test_v_trace_equals_its_definition_with_random_ends_and_policies(seed, steps, num, gamma, rho_bar, c_bar):
    rollout = random_rollout(seed, steps, num)
    rewards, discounts, values, next_values, continues = arguments(rollout, gamma)
    ratios = np.exp(np.random.default_rng(seed + 1).normal(size=(steps, num)))
    targets, advantages = v_trace(
        rewards, discounts, values, next_values, continues, torch.from_numpy(ratios), rho_bar, c_bar
    )
    assert targets.shape == advantages.shape == (steps, num)
    for t in range(steps):
        for n in range(num):
            expected = v_trace_by_definition(rollout, gamma, ratios, rho_bar, c_bar, t, n)
            assert targets[t, n].item() == pytest.approx(expected, abs=1e-9)
            goes_on = continues[t, n] and t < steps - 1
            following = next_values[t, n].item()
            if goes_on:
                following = v_trace_by_definition(rollout, gamma, ratios, rho_bar, c_bar, t + 1, n)
            advantage = rewards[t, n] + discounts[t, n] * following - values[t, n]
            assert advantages[t, n].item() == pytest.approx(advantage.item(), abs=1e-9)


def test_v_trace_of_the_policys_own_actions_is_the_n_step_return():
    rewards, discounts, values, next_values, continues = arguments(random_rollout(4, 40, 5), 0.97)
    targets, advantages = v_trace(rewards, discounts, values, next_values, continues, torch.ones_like(values))
    returns = n_step_returns(rewards, discounts, next_values, continues)
    torch.testing.assert_close(targets, returns)
    torch.testing.assert_close(advantages, returns - values)


def test_v_trace_bounds_ratios_from_above_and_leaves_small_ones():
    ones = torch.ones(1, 2)
    targets, advantages = v_trace(3 * ones, 0 * ones, ones, ones, 0 * ones, torch.tensor([[0.25, 40.0]]))
    assert targets.tolist() == [[1 + 0.25 * 2, 1 + 2]]
    assert advantages.tolist() == [[2, 2]]


def test_one_step_returns_by_hand():
    column = lambda *numbers: torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)  # noqa: E731
    targets = one_step_returns(column(1, 2, 3), column(0.5, 0, 0.5), column(4, 100, 8))
    assert targets.squeeze(1).tolist() == [3, 2, 7]


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
    with pytest.raises(AssertionError):
        one_step_returns(a, a, torch.zeros(4))
    for position in range(6):
        with pytest.raises(AssertionError):
            v_trace(*(torch.zeros(4, 1) if i == position else a for i in range(6)))


def test_explained_variance():
    targets = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(targets, targets) == 1
    assert explained_variance(torch.zeros(3), targets) == 0
    assert math.isnan(explained_variance(targets, torch.ones(3)))


def test_windows_of_n_steps_by_hand():
    # gamma 0.5, three steps with the rewards 1, 2, 4; each window ends where its first t (terminated) or c (cut) stands
    windows = {"---": (3, 0.125, 3), "--c": (3, 0.125, 3), "--t": (3, 0, 3), "-c-": (2, 0.25, 2), "-t-": (2, 0, 2)}
    windows |= {"c--": (1, 0.5, 1), "t--": (1, 0, 1), "ct-": (1, 0.5, 1), "tc-": (1, 0, 1), "-ct": (2, 0.25, 2)}
    letters = np.array([list(ends) for ends in windows])
    rewards = np.tile(np.array([1, 2, 4], np.float32), (len(windows), 1))
    returns, discounts, lengths = n_step_windows(rewards.T, letters.T != "-", letters.T == "t", 0.5)
    assert list(zip(returns.tolist(), discounts.tolist(), lengths.tolist(), strict=True)) == list(windows.values())
    assert returns.dtype == discounts.dtype == np.float32


def test_windows_of_one_step_by_hand():
    flags = np.array([[True, True, False]]), np.array([[True, False, False]])
    returns, discounts, lengths = n_step_windows(np.array([[3, 4, 5]], np.float32), *flags, 0.5)
    assert (returns.tolist(), discounts.tolist(), lengths.tolist()) == ([3, 4, 5], [0, 0.5, 0.5], [1, 1, 1])
    assert returns.dtype == discounts.dtype == np.float32


def test_windows_of_other_shapes_are_refused():
    with pytest.raises(AssertionError):
        n_step_windows(np.zeros((3, 4)), np.zeros((1, 4), bool), np.zeros((3, 4), bool), 0.9)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_rescaled_values_by_hand(kind):
    x, h = [0.0, 3.0, -3.0, 8.0, -99.0], [0.0, 1.003, -1.003, 2.008, -9.099]
    np.testing.assert_allclose(rescale_value(kind(x)), h, rtol=1e-6)
    np.testing.assert_allclose(unscale_value(kind(h)), x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rescale_value(kind(x), epsilon=0.5)[1:3], [2.5, -2.5], rtol=1e-6)
    np.testing.assert_allclose(unscale_value(kind([2.5, -2.5]), epsilon=0.5), [3, -3], rtol=1e-6)


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.sampled_from([1e-3, 1e-2, 0.5]))
def test_unscaling_is_the_inverse_of_rescaling(x, epsilon):
    for values in (np.array([x]), torch.tensor([x], dtype=torch.float64)):
        assert unscale_value(rescale_value(values, epsilon), epsilon).item() == pytest.approx(x, rel=1e-9, abs=1e-9)
        assert rescale_value(unscale_value(values, epsilon), epsilon).item() == pytest.approx(x, rel=1e-9, abs=1e-9)
