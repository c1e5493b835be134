"""Moving statistics and a memory: what is sampled is told by the present ones, whenever it was stored."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.envs.vec_wrappers import NormalizedEnvs
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.storage.replay import Replay
from a2c_ppo_acktr.storage.sequences import SequenceReplay
from tests.scripted import GAMMA, VECTOR, Game, through_a_file


class NormalizedGame(Game):
    """A game whose observations and rewards reach learner and replay normalized."""

    def __init__(self, **settings):
        super().__init__(kind="vector", **settings)
        self.wrapped = NormalizedEnvs(self.envs, gamma=GAMMA)
        self.spaces, self.replay = self.wrapped.spaces, None
        self.replay = self.empty()
        self.envs.episodes = [[] for _ in range(self.num_envs)]
        self.envs.begun = [0] * self.num_envs
        self.begin()


def test_windows_are_normalized_by_the_statistics_of_when_they_are_sampled():
    game = NormalizedGame(num_envs=2, n_step=3, ends=0.2, extra=60)
    for _ in range(40):
        game.step()
    keys = {row: key for key, row in game.windows().items()}
    normalizer, batch = game.wrapped.normalizer, game.replay.sample(200)
    mean, deviation = normalizer.obs_rms.mean, np.sqrt(normalizer.obs_rms.var + 1e-8)
    scale = np.sqrt(normalizer.return_rms.var + 1e-8)
    for b, row in enumerate(batch.rows):
        obs, action, total, weight, next_obs = game.window(*keys[row])
        np.testing.assert_allclose(batch.obs[b], np.clip((obs - mean) / deviation, -10, 10), atol=1e-4)
        np.testing.assert_allclose(batch.next_obs[b], np.clip((next_obs - mean) / deviation, -10, 10), atol=1e-4)
        assert float(batch.returns[b]) == pytest.approx(total / scale, rel=1e-4, abs=1e-5)
        assert (batch.actions[b], float(batch.discounts[b])) == (action, pytest.approx(weight))
    assert batch.obs.dtype == batch.returns.dtype == torch.float32


def test_sequences_too():
    envs = make_vec_envs(EnvConfig("MountainCar-v0", normalize_env=True), 2, seed=1, gamma=GAMMA)
    seed_everything(1)
    learner = algo.make("dqn", algo.ALGORITHMS["dqn"].Config(hidden_size=[8]), envs.spaces)
    replay = SequenceReplay(800, 2, 1, envs.spaces, carry_size=0, burn_in=2, length=4, interval=3, gamma=GAMMA)
    collector = learner.make_collector(envs, replay)
    collector.num_steps = 300
    raw = [envs.original[0]]
    step_arrays = envs.step_arrays

    def noted(actions):
        step = step_arrays(actions)
        raw.append(envs.original[0] if step.ended is None else None)
        return step

    envs.step_arrays = noted
    collector.collect()
    batch = replay.sample(64)
    assert torch.unique(batch.rewards).numel() == 1, "a reward of -1 is the same whenever it was earned"
    begins, env = np.divmod(batch.rows, 2)
    for b in range(64):
        slot = begins[b] * 3
        if slot < 190:  # before the first time limit, slots are steps
            expected = envs.normalizer.normalize_obs(np.stack([raw[slot + t][env[b]] for t in range(7)]))
            np.testing.assert_allclose(batch.obs[:, b], expected, atol=1e-4)


def test_equal_rewards_and_observations_stay_equal_however_the_statistics_move():
    """FAIL means: -1 was stored as -10, -2 and -.04, by what was known of the returns at the time."""
    seed_everything(1)
    envs = make_vec_envs(EnvConfig("MountainCar-v0", normalize_env=True), 1, seed=1)
    learner = algo.make("dqn", algo.ALGORITHMS["dqn"].Config(hidden_size=[8]), envs.spaces)
    storage = learner.make_storage(256, 1)
    collector = learner.make_collector(envs, storage)
    collector.num_steps = 1000
    collector.collect()
    batch = storage.sample(500)
    deviation = np.sqrt(envs.normalizer.return_rms.var)
    np.testing.assert_allclose(batch.returns, max(-10.0, -1.0 / deviation), rtol=1e-5)


def test_an_unnormalized_replay_gives_back_what_it_was_given():
    game = Game(kind="vector", extra=30)
    for _ in range(20):
        game.step()
    game.check(game.replay.sample(50), game.windows())
    assert game.replay.layout.keys() == {"size", "num_envs", "n_step", "prioritized"}


def test_a_replay_that_was_kept_normalized_is_not_taken_for_one_that_was_not():
    space = EnvSpaces(VECTOR, spaces.Discrete(2), {})
    older = Replay(40, 1, 1, space, saved=True)
    newer = Replay(40, 1, 1, space._replace(normalizer=NormalizedGame().wrapped.normalizer), saved=True)
    assert not newer.load_state_dict(through_a_file(older.state_dict()))
    assert newer.load_state_dict(through_a_file(newer.state_dict()))
