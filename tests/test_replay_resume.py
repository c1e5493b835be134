"""A replay that was saved, and what a resumed run does with it."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.spaces import tree_map
from a2c_ppo_acktr.storage.replay import Replay
from tests.scripted import GAMMA, VECTOR, Game, games, through_a_file


def assert_same_samples(one, other, seed):
    batches = []
    for replay in (one, other):
        np.random.seed(seed)
        batches.append(replay.sample(16, 0.5))
    for a, b in zip(*batches, strict=True):
        tree_map(np.testing.assert_array_equal, a, b)
    return batches[0]


@settings(deadline=None, max_examples=30)
@given(games(), st.integers(0, 40))
def test_a_loaded_replay_samples_the_same_now_and_after_the_same_steps(game, steps):
    for step in range(steps):
        game.step()
        if game.replay.tree is not None and len(game.replay):
            game.replay.update_priorities(game.replay.sample(4).rows, game.rng.random(4) * step)
    loaded = game.empty()
    assert loaded.load_state_dict(through_a_file(game.replay.state_dict()))
    for more in range(30):
        assert len(loaded) == len(game.replay) == len(game.windows())
        assert loaded.fill == game.replay.fill
        if len(loaded):
            batch = assert_same_samples(game.replay, loaded, more)
            if loaded.tree is not None:
                priorities = game.rng.random(16) * more
                for replay in (game.replay, loaded):
                    replay.update_priorities(batch.rows, priorities)
        game.step(loaded)


def resume_anew(game):
    """Load into an empty replay while the environments begin new episodes."""
    state = through_a_file(game.replay.state_dict())
    game.replay = game.empty()
    assert game.replay.load_state_dict(state)
    game.begin()


@settings(deadline=None, max_examples=40)
@given(games(), st.lists(st.integers(0, 25), min_size=1, max_size=3))
def test_where_a_resumed_run_begins_anew_episodes_are_cut_and_bootstrapped(game, runs):
    """Windows of fewer than n steps before the cut may be kept or not."""
    for steps in (*runs, 0):
        for _ in range(steps):
            game.step()
        resume_anew(game)
        for _ in range(8):
            game.step()
            least, most = game.windows(), game.windows(of_cut=True)
            assert len(least) <= len(game.replay) <= len(most)
            if len(game.replay):
                game.check(game.replay.sample(32), most)
        if least:
            assert set(game.keys(game.replay.sample(40 * len(most)))) >= set(least)


@pytest.mark.parametrize("n_step", [1, 2, 3])
def test_the_first_step_after_a_cut_is_no_window_before_it_has_n_steps(n_step):
    """The ring is full: where the new episode begins an old window lay."""
    game = Game(n_step=n_step, ends=0.0)
    for _ in range(3 * game.size):
        game.step()
    resume_anew(game)
    game.step()
    new = game.envs.begun[0]
    sampled = game.replay.sample(500)
    assert ((1, new, 1) in game.keys(sampled)) == (n_step == 1)
    assert len(game.replay) == len({tuple(key) for key in game.keys(sampled)})
    game.check(sampled, game.windows(of_cut=True))


def test_the_window_that_ends_with_a_cut_is_worth_its_next_observation():
    game = Game(n_step=2, ends=0.0, extra=20, kind="stack of 4")
    for _ in range(5):
        game.step()
    resume_anew(game)
    for _ in range(5):
        game.step()
    batch = game.replay.sample(200)
    last = game.keys(batch).index((1, 1, 4))  # the steps at times 4 and 5, then the cut
    assert batch.discounts[last].item() == pytest.approx(GAMMA**2)
    np.testing.assert_array_equal(batch.next_obs[last], game.observation(game.envs.episodes[0][0], 5))
    first = game.keys(batch).index((1, 2, 1))
    assert (batch.obs[first, :3] == 0).all()


@pytest.mark.parametrize("other", [{"n_step": 1, "extra": 2}, {"num_envs": 1}, {"extra": 2}, {"alpha": 0.5}])
def test_contents_of_another_layout_are_not_loaded(other):
    game, another = Game(num_envs=2, n_step=2), Game(**{"num_envs": 2, "n_step": 2} | other)
    for _ in range(5):
        game.step()
    assert not another.replay.load_state_dict(game.replay.state_dict())
    assert len(another.replay) == 0
    another.step()
    another.step()
    assert len(another.replay) == len(another.windows()) > 0


def test_what_is_not_to_be_saved_has_no_state():
    assert Replay(40, 1, 1, EnvSpaces(VECTOR, spaces.Discrete(2), {})).state_dict() is None
