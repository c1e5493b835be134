"""The replay of sequences against lists of whole episodes."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.spaces import index, tree_map
from a2c_ppo_acktr.storage.sequences import SequenceReplay
from a2c_ppo_acktr.utils import UsageError
from tests.scripted import KINDS, VECTOR, Game, assert_close, stacked, through_a_file


class SequenceGame(Game):
    """A `Game` that is replayed in sequences."""

    def __init__(self, burn_in=2, length=3, interval=4, **others):
        self.burn_in, self.length, self.interval = burn_in, length, interval
        super().__init__(**others)
        self.each = burn_in + length + self.n_step

    def empty(self):
        each = self.burn_in + self.length + self.n_step
        capacity = self.num_envs * (each + self.stack + 2 * self.interval + 2) + self.extra
        sizes = {"burn_in": self.burn_in, "length": self.length, "interval": self.interval, "carry_size": 3}
        return SequenceReplay(capacity, self.num_envs, 1, self.spaces, **sizes, **self.settings)

    def timelines(self):
        """Of every environment, the slots that there ever were: (episode, time counted from 0)."""
        return [
            [(episode, t) for episode in episodes for t in range(len(episode.seen))] for episodes in self.envs.episodes
        ]

    def sequences(self):
        """The slots of every sequence that is complete and not overwritten, by item."""
        found = {}
        for env, slots in enumerate(self.timelines()):
            for begin in range(0, len(slots) - self.each + 1, self.interval):
                if begin - (self.stack - 1) >= len(slots) - self.size:
                    found[begin % self.size // self.interval * self.num_envs + env] = env, slots[begin:][: self.each]
        return found

    def check(self, batch, expected):
        """Compare sampled sequences with what happened."""
        each, num = self.each, len(batch.rows)
        assert batch.masks.shape == batch.rewards.shape == (each, num)
        assert batch.acted.shape == batch.returns.shape == batch.discounts.shape == batch.ends.shape
        assert batch.acted.shape == (self.length, num)
        for column, item in enumerate(batch.rows):
            env, slots = expected[item]
            seen = [self.observation(episode, t) for episode, t in slots]
            tree_map(assert_close, index(tree_map(lambda leaf: leaf.transpose(0, 1), batch.obs), column), stacked(seen))
            assert batch.masks[:, column].tolist() == [float(t > 0) for _, t in slots]
            acted = [t < len(episode.actions) for episode, t in slots]
            for place in np.flatnonzero(acted):
                episode, t = slots[place]
                assert batch.actions[place, column] == episode.actions[t]
                assert batch.rewards[place, column] == episode.rewards[t]
            episode, t = slots[0]
            if acted[0] and t > 0:
                assert batch.carry[column].tolist() == [env + 1, episode.number, t]  # times in codes count from 1
            for place in range(self.length):
                assert batch.acted[place, column] == acted[self.burn_in + place]
                if not acted[self.burn_in + place]:
                    continue
                episode, t = slots[self.burn_in + place]
                _, _, total, weight, after = self.window(env + 1, episode.number, t + 1)
                assert batch.returns[place, column] == pytest.approx(total, abs=1e-4)
                assert batch.discounts[place, column] == pytest.approx(weight)
                end = int(batch.ends[place, column])
                assert self.burn_in + place < end < each
                tree_map(lambda leaf, a, e=end, c=column: assert_close(leaf[e, c], a), batch.obs, after)


def games():
    strategies = {
        "seed": st.integers(0, 10**6),
        "num_envs": st.integers(1, 3),
        "n_step": st.integers(1, 4),
        "kind": st.sampled_from(sorted(KINDS)),
        "ends": st.sampled_from([0.0, 0.1, 0.4, 0.9]),
        "extra": st.integers(0, 40),
        "alpha": st.sampled_from([0.0, 0.6]),
        "burn_in": st.integers(0, 4),
        "length": st.integers(1, 6),
        "interval": st.integers(1, 7),
    }
    return st.builds(SequenceGame, **strategies)


@settings(deadline=None, max_examples=60)
@given(games())
def test_every_sampled_sequence_is_one_that_happened_and_every_one_is_sampled(game):
    for number in range(70):
        game.step()
        sequences = game.sequences()
        assert set(np.flatnonzero(game.replay.valid)) == set(sequences)
        assert len(game.replay) == len(sequences)
        if sequences and number % 4 == 0:
            game.check(game.replay.sample(6), sequences)
    everything = game.replay.sample(40 * len(sequences))
    assert set(everything.rows.tolist()) == set(sequences)


@settings(deadline=None, max_examples=30)
@given(games(), st.integers(0, 60))
def test_a_loaded_replay_samples_the_same_now_and_after_the_same_steps(game, steps):
    for _ in range(steps):
        game.step()
    loaded = game.empty()
    assert loaded.load_state_dict(through_a_file(game.replay.state_dict()))
    for seed in range(30):
        assert len(loaded) == len(game.replay)
        if len(loaded):
            batches = []
            for replay in (game.replay, loaded):
                np.random.seed(seed)
                batches.append(replay.sample(4, 0.5))
            for one, other in zip(*batches, strict=True):
                tree_map(np.testing.assert_array_equal, one, other)
        game.step(loaded)


@settings(deadline=None, max_examples=30)
@given(games(), st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_where_a_resumed_run_begins_anew_sequences_go_through_the_cut(game, runs):
    for steps in (*runs, 40):
        for _ in range(steps):
            game.step()
            if len(game.replay):
                game.check(game.replay.sample(6), game.sequences())
        state = through_a_file(game.replay.state_dict())
        game.replay = game.empty()
        assert game.replay.load_state_dict(state)
        game.begin()


def test_sequences_are_sampled_by_priority_and_weighted():
    game = SequenceGame(ends=0.1, extra=60, alpha=0.5)
    for _ in range(60):
        game.step()
    items = np.array(sorted(game.sequences()))
    game.replay.update_priorities(items, (np.arange(len(items)) + 1.0) ** 2)
    batch = game.replay.sample(20_000, beta=1.0)
    counts = np.array([(batch.rows == item).sum() for item in items])
    chances = np.arange(1, len(items) + 1) / np.arange(1, len(items) + 1).sum()
    np.testing.assert_allclose(counts / counts.sum(), chances, atol=0.01)
    order = np.searchsorted(items, batch.rows)
    np.testing.assert_allclose(batch.weights, 1.0 / (order + 1.0), rtol=1e-4)


@pytest.mark.parametrize("interval", [1, 7, 33, 100])
@pytest.mark.parametrize("steps", [40, 140, 1000])
def test_uniform_draws_find_every_sequence_equally_often(interval, steps):
    game = SequenceGame(num_envs=8, burn_in=10, length=20, n_step=3, interval=interval, ends=0.02)
    for _ in range(steps):
        game.step()
    valid = np.flatnonzero(game.replay.valid)
    assert sorted(game.sequences()) == valid.tolist()
    drawn, _ = game.replay._draw(500 * len(valid), 0.0)
    counts = np.bincount(drawn, minlength=len(game.replay.valid))
    assert counts.sum() == counts[valid].sum()
    assert (np.abs(counts[valid] - 500) < 6 * np.sqrt(500)).all()


def test_a_draw_ends_where_one_sequence_of_many_slots_is_complete():
    game = SequenceGame(num_envs=8, burn_in=10, length=20, n_step=3, interval=100, ends=0.0)
    for _ in range(30):
        game.step()
    game.envs.rng = AnEnd(game.envs.rng, env=7)
    game.step()
    assert game.replay.valid.nonzero()[0].tolist() == [7]
    assert game.replay.sample(4).rows.tolist() == [7] * 4


class AnEnd:
    """Random numbers by which one environment ends in the next step, and no other."""

    def __init__(self, rng, env):
        self.rng, self.env = rng, env

    def random(self, size=None):
        ends = np.ones(size)
        ends[0, self.env] = -1.0
        return ends

    def integers(self, *args):
        return self.rng.integers(*args)


def test_a_replay_smaller_than_a_sequence_is_refused_and_other_sizes_are_not_loaded():
    sizes = {"carry_size": 3, "burn_in": 2, "length": 4, "interval": 2}
    env_spaces = EnvSpaces(VECTOR, spaces.Discrete(2), {})
    replay = SequenceReplay(28, 2, 1, env_spaces, saved=True, **sizes)
    with pytest.raises(UsageError, match="--buffer-size 27: expected at least 28"):
        SequenceReplay(27, 2, 1, env_spaces, **sizes)
    for other in ({"burn_in": 1, "length": 5}, {"carry_size": 4}):
        another = SequenceReplay(28, 2, 1, env_spaces, **sizes | other)
        assert not another.load_state_dict(replay.state_dict())


def test_no_more_is_allocated_than_is_said():
    env_spaces = EnvSpaces(VECTOR, spaces.Discrete(2), {})
    replay = SequenceReplay(20_000, 2, 1, env_spaces, alpha=0.9, carry_size=50, burn_in=10, length=20, interval=10)
    slots = replay.slots
    arrays = [slots.obs_views, slots.action_views, slots.rewards, slots.terminated, slots.ended, slots.first]
    arrays += [slots.acted, replay.valid, replay.carries, *replay.tree.levels]
    used = sum(array.nbytes for array in arrays)
    assert 0.9 * 20_000 * replay.row_bytes < used <= 20_000 * replay.row_bytes


def test_carries_are_stored_only_where_sequences_begin():
    game = SequenceGame(interval=5, ends=0.0, extra=20)
    for _ in range(12):
        game.step()
    carries = torch.from_numpy(game.replay.carries[:3])
    assert carries.tolist() == [[0, 0, 0], [1, 1, 5], [1, 1, 10]]
