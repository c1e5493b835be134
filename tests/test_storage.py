"""The rollout: what goes in comes out once, in order, with the right successors."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr.interfaces import Ended, EnvSpaces, Step
from a2c_ppo_acktr.returns import RETURNS
from a2c_ppo_acktr.storage import RolloutStorage

SPACES = EnvSpaces(spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Discrete(50), {})


def value_of(obs, carry, masks):
    """A value function whose numbers can be recomputed by hand: 100 obs_0 + obs_1 + 7 carry, if not masked."""
    return 100 * obs[:, 0] + obs[:, 1] + 7 * carry[:, 0] * masks


def filled(seed, steps, num):
    """A storage filled from a random tape, and the tape: dictionaries of NumPy arrays [T, N]."""
    rng = np.random.default_rng(seed)
    storage = RolloutStorage(steps, num, SPACES, carry_size=1)
    tape = {
        "obs": rng.integers(0, 9, (steps + 1, num, 2)).astype(np.float32),
        "carry": rng.normal(size=(steps + 1, num, 1)).astype(np.float32),
        "final": rng.integers(10, 19, (steps, num, 2)).astype(np.float32),
        "reward": rng.normal(size=(steps, num)).astype(np.float32),
        "action": rng.integers(0, 50, (steps, num)),
        "terminated": rng.random((steps, num)) < 0.2,
    }
    tape["truncated"] = (rng.random((steps, num)) < 0.2) & ~tape["terminated"]
    ended = tape["terminated"] | tape["truncated"]
    tape["masks"] = np.concatenate([np.ones((1, num)), 1 - ended]).astype(np.float32)
    for t in range(steps):
        row = {k: torch.from_numpy(v[t].copy()) for k, v in tape.items()}
        where = torch.from_numpy(ended[t].nonzero()[0])
        next_carry = torch.from_numpy(tape["carry"][t + 1])
        value = value_of(row["obs"], row["carry"], row["masks"])
        storage.insert(
            Step(
                obs=row["obs"],
                masks=row["masks"],
                carry=row["carry"],
                signals={},
                action=row["action"],
                extras={"value": value, "log_prob": -value},
                reward=row["reward"],
                terminated=row["terminated"],
                truncated=row["truncated"],
                next_obs=torch.from_numpy(tape["obs"][t + 1]),
                next_carry=next_carry,
                next_signals={},
                ended=Ended(where, row["final"][where], next_carry[where], {}) if len(where) else None,
            )
        )
    return storage, tape


def successor_value(tape, t, n, limits):
    """What followed step t is worth, and whether the episode goes on after it."""
    terminated, truncated = tape["terminated"][t, n], tape["truncated"][t, n]
    if terminated or (truncated and not limits):
        return 0.0, False
    obs = tape["final"][t, n] if truncated else tape["obs"][t + 1, n]
    return 100 * obs[0] + obs[1] + 7 * tape["carry"][t + 1, n, 0], not truncated


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.sampled_from([*RETURNS, "learner"])
)
def test_returns_bootstrap_from_the_true_successor(seed, steps, num, limits, kind):
    storage, tape = filled(seed, steps, num)
    gamma, lam, learner = 0.9, 0.8, None
    values, ratios = storage.values, torch.ones(steps, num)
    if kind == "learner":  # another policy than the one that acted
        noise = torch.randn(2, steps, num, generator=torch.Generator().manual_seed(seed))
        values, ratios = values + noise[0], noise[1].exp()
        storage.log_probs.fill_(-1.5)
        kind, learner = "v-trace", (values, noise[1] - 1.5)
    storage.compute_returns(
        value_of, kind=kind, gamma=gamma, gae_lambda=lam, use_proper_time_limits=limits, learner=learner
    )
    for n in range(num):
        following = advantage = math.nan
        for t in reversed(range(steps)):
            successor, goes_on = successor_value(tape, t, n, limits)
            last = not goes_on or t == steps - 1
            if not last:
                successor = values[t + 1, n].item()
            reward, value, bounded = tape["reward"][t, n], values[t, n].item(), min(1.0, ratios[t, n].item())
            delta = reward + gamma * successor - value
            after = successor if last else following
            if kind == "gae":
                advantage = delta + (0.0 if last else gamma * lam * advantage)
                target = advantage + value
            elif kind == "v-trace":
                target = value + bounded * (delta + (0.0 if last else gamma * (following - successor)))
                advantage = reward + gamma * after - value
            else:
                target = reward + gamma * (successor if kind == "1-step" else after)
                advantage = target - value
            following = target
            assert storage.returns[t, n].item() == pytest.approx(target, rel=1e-4, abs=1e-2)
            assert storage.advantages[t, n].item() == pytest.approx(advantage, rel=1e-4, abs=1e-2)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 6), st.data())
def test_feed_forward_minibatches_hold_every_sample_once(steps, num, data):
    storage, tape = filled(0, steps, num)
    parts = data.draw(st.integers(1, steps * num))
    batches = list(storage.minibatches(parts, recurrent=False))
    sizes = [len(batch.actions) for batch in batches]
    assert len(batches) == parts
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == steps * num
    seen = torch.cat([torch.cat([b.obs, b.actions.unsqueeze(1), b.values.unsqueeze(1)], 1) for b in batches])
    stored = np.concatenate(
        [tape["obs"][:-1].reshape(-1, 2), tape["action"].reshape(-1, 1), storage.values.reshape(-1, 1)], 1
    )
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, stored.tolist()))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 6), st.data())
def test_recurrent_minibatches_are_whole_environments_in_time_order(steps, num, data):
    storage, tape = filled(1, steps, num)
    parts = data.draw(st.integers(1, num))
    seen = []
    for batch in storage.minibatches(parts, recurrent=True):
        for column in range(batch.actions.shape[1]):
            env = next(n for n in range(num) if (tape["carry"][0, n] == batch.carry[column].numpy()).all())
            seen.append(env)
            assert (batch.actions[:, column].numpy() == tape["action"][:, env]).all()
            assert (batch.obs[:, column].numpy() == tape["obs"][:-1, env]).all()
            assert (batch.masks[:, column].numpy() == tape["masks"][:-1, env]).all()
    assert sorted(seen) == list(range(num))


def test_recurrent_minibatches_keep_tables_whole():
    """Leaves of two axes beside the pixels' three: observations that are tables, probabilities of many choices."""
    table = EnvSpaces(spaces.Box(-1, 1, (3, 2), np.float32), spaces.Discrete(2), {})
    storage = RolloutStorage(5, 4, table, 1)
    storage.obs.copy_(torch.arange(6 * 4 * 3 * 2).view(6, 4, 3, 2))
    batches = list(storage.minibatches(2, recurrent=True))
    assert all(batch.obs.shape == (5, 2, 3, 2) for batch in batches)
    columns = torch.cat([batch.obs for batch in batches], 1)
    assert sorted(columns[0, :, 0, 0].tolist()) == storage.obs[0, :, 0, 0].tolist()
    assert (columns - columns[:1, :, :1, :1] == storage.obs[:-1, :1]).all()


def test_minibatches_differ_from_pass_to_pass():
    storage, _ = filled(2, 8, 4)
    first, second = (torch.cat([b.obs for b in storage.minibatches(4, recurrent=False)]) for _ in range(2))
    assert not torch.equal(first, second)


def test_pixels_are_stored_once_as_bytes():
    pixels = EnvSpaces(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(6), {})
    storage = RolloutStorage(128, 8, pixels, 0)
    assert storage.obs.dtype == torch.uint8
    assert storage.obs.shape == (129, 8, 4, 84, 84)


def test_after_update_the_next_rollout_does_not_see_the_ended_rows_of_the_last():
    storage, _ = filled(3, 6, 3)
    assert storage.ended
    storage.after_update()
    assert not storage.ended
    with pytest.raises(AssertionError, match="0 of 6"):
        storage.compute_returns(value_of, kind="n-step", gamma=0.9, use_proper_time_limits=True)
