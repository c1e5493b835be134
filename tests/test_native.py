"""Native stepping against single environments."""

import functools
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing
from stable_baselines3.common.atari_wrappers import MaxAndSkipEnv, WarpFrame

from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.envs.families import make_env, resolve
from a2c_ppo_acktr.envs.make import choose_backend, fits_native
from a2c_ppo_acktr.envs.native import AleEnvs, CartPoleEnvs
from a2c_ppo_acktr.envs.vector import DummyEnvs
from a2c_ppo_acktr.run.checkpoint import to_plain
from a2c_ppo_acktr.utils import UsageError
from tests.test_vec_env import assert_same


@pytest.mark.parametrize("env_id", ["CartPole-v0", "CartPole-v1"])
def test_vectorized_cartpole_equals_single_ones_step_by_step(env_id):
    native, single = CartPoleEnvs(env_id, 5), DummyEnvs([functools.partial(make_env, EnvConfig(env_id))] * 5)
    native.seed(3), single.seed(3)
    np.testing.assert_array_equal(native.reset(), single.reset())
    rng, ends, lean = np.random.default_rng(0), 0, 0.0
    for _ in range(3000):
        # a rough controller, so that time limits are reached as well as falls
        actions = rng.integers(0, 2, 5) if lean is None else (np.arange(5) < 3) * (lean > 0) + (np.arange(5) >= 3) * 1
        a, b = native.step_arrays(actions), single.step_arrays(actions)
        assert_same(a._asdict(), b._asdict())
        lean = a.obs[:, 2] + 0.5 * a.obs[:, 3] + 0.05 * a.obs[:, 1] + 0.02 * a.obs[:, 0]
        ends += a.ended is not None
    assert ends > 100


def test_vectorized_cartpole_reaches_its_time_limit():
    envs = CartPoleEnvs("CartPole-v1", 2)
    envs.seed(0)
    obs, lengths = envs.reset(), []
    while len(lengths) < 4:
        step = envs.step_arrays((obs[:, 2] + 0.5 * obs[:, 3] + 0.05 * obs[:, 1] + 0.02 * obs[:, 0] > 0).astype(int))
        obs = step.obs
        if step.ended is not None:
            assert step.truncated[step.ended.indices].all()
            lengths += step.ended.lengths.tolist()
    assert lengths == [500] * 4


def test_vectorized_cartpole_continues_from_its_plain_state():
    here, there = CartPoleEnvs("CartPole-v1", 3), CartPoleEnvs("CartPole-v1", 3)
    here.seed(1), there.seed(9)
    here.reset(), there.reset()
    rng = np.random.default_rng(0)
    for _ in range(50):
        here.step_arrays(rng.integers(0, 2, 3))
    there.set_state(to_plain(here.get_state()))
    for _ in range(200):
        actions = rng.integers(0, 2, 3)
        assert_same(here.step_arrays(actions)._asdict(), there.step_arrays(actions)._asdict())


def ale(game, num=1, **kwargs):
    resolve("PongNoFrameskip-v4")
    return AleEnvs(game, num, sticky=0.0, max_frames=108_000, **kwargs)


@pytest.mark.parametrize("game", ["Pong", "MsPacman"])
def test_ale_frames_are_within_two_grey_levels_of_gymnasiums_preprocessing(game):
    native = ale({"Pong": "pong", "MsPacman": "ms_pacman"}[game], noop_max=0, fire_reset=False)
    native.seed(0)
    single = AtariPreprocessing(gym.make(f"{game}NoFrameskip-v4"), noop_max=0, frame_skip=4, screen_size=84)
    rng = np.random.default_rng(0)
    first, _ = single.reset(seed=0)
    assert np.abs(native.reset()[0, 0].astype(int) - first).max() <= 2
    for _ in range(300):
        action = int(rng.integers(6))
        step, (obs, reward, terminated, _, _) = native.step_arrays(np.array([action])), single.step(action)
        if terminated:
            break
        assert np.abs(step.obs[0, 0].astype(int) - obs).max() <= 2
        assert step.reward[0] == np.sign(reward)


def test_ale_reports_whole_games_raw_and_ends_learning_at_each_life():
    envs = ale("ms_pacman", 2)
    envs.seed(0)
    envs.reset()
    rng, lives, games, total = np.random.default_rng(0), [0, 0], [], np.zeros(2)
    while len(games) < 2:
        step = envs.step_arrays(rng.integers(0, 9, 2))
        assert np.isin(step.reward, (-1, 0, 1)).all()
        total += step.reward
        if step.ended is None:
            continue
        for row, env in enumerate(step.ended.indices):
            lives[env] += 1
            if not np.isnan(step.ended.returns[row]):
                assert lives[env] == 3
                assert step.ended.returns[row] == 10 * total[env] or step.ended.returns[row] > 10 * total[env]
                games.append(step.ended.lengths[row])
                lives[env], total[env] = 0, 0
    assert all(length > 50 for length in games)
    envs.close()


def test_ale_repeats_with_its_seed_and_differs_between_environments():
    def play(seed):
        envs = ale("pong", 3)
        envs.seed(seed)
        frames = [envs.reset()]
        frames += [envs.step_arrays(np.array([2, 3, 0])).obs for _ in range(40)]
        envs.close()
        return np.stack(frames)

    np.testing.assert_array_equal(play(1), play(1))
    assert (play(1) != play(2)).any()


def test_games_that_need_fire_after_a_lost_life_stay_on_the_wrapper_chain():
    for env_id, native in [
        ("PongNoFrameskip-v4", True),
        ("MsPacmanNoFrameskip-v4", True),
        ("BreakoutNoFrameskip-v4", False),
        ("ALE/Breakout-v5", False),
        ("CartPole-v1", True),
        ("Pendulum-v1", False),
    ]:
        resolve(env_id)
        assert fits_native(env_id) == native


def test_auto_picks_and_what_cannot_be_native_is_refused():
    assert make_vec_envs(EnvConfig("CartPole-v1"), 6, seed=0).backend == "native"
    assert make_vec_envs(EnvConfig("CartPole-v1"), 5, seed=0).backend == "dummy"
    assert make_vec_envs(EnvConfig("CartPole-v1"), 6, seed=0, render_mode="rgb_array").backend == "dummy"
    assert (
        make_vec_envs(EnvConfig("CartPole-v1", env_kwargs={"sutton_barto_reward": True}), 6, seed=0).backend == "dummy"
    )
    assert make_vec_envs(EnvConfig("Pendulum-v1"), 2, seed=0).backend == "dummy"
    with pytest.raises(UsageError, match="none for it"):
        make_vec_envs(EnvConfig("Pendulum-v1", vec_env="native"), 2, seed=0)
    with pytest.raises(UsageError, match="--env-kwargs"):
        make_vec_envs(EnvConfig("CartPole-v1", vec_env="native", env_kwargs={"sutton_barto_reward": True}), 2, seed=0)


def test_many_costly_environments_get_worker_processes(monkeypatch):
    for env_id in ("BreakoutNoFrameskip-v4", "HalfCheetah-v5"):
        resolve(env_id)
    monkeypatch.setattr("a2c_ppo_acktr.envs.make.available_cores", lambda: 2)
    assert choose_backend("BreakoutNoFrameskip-v4", 16, plain=True) == "subproc"
    assert choose_backend("PongNoFrameskip-v4", 16, plain=False) == "subproc"
    assert choose_backend("BreakoutNoFrameskip-v4", 1, plain=True) == "dummy"
    assert choose_backend("HalfCheetah-v5", 16, plain=True) == "dummy"
    monkeypatch.setattr("a2c_ppo_acktr.envs.make.available_cores", lambda: 1)
    assert choose_backend("BreakoutNoFrameskip-v4", 16, plain=True) == "dummy"


def test_envpool_resets_in_the_step_that_ends_an_episode_and_keeps_the_books():
    envs = make_vec_envs(EnvConfig("CartPole-v1", vec_env="envpool", normalize_env=False), 4, seed=3)
    obs, rng, lengths, ended = envs.reset(), np.random.default_rng(0), np.zeros(4, int), 0
    assert np.abs(obs).max() <= 0.05
    for _ in range(200):
        step = envs.step_arrays(rng.integers(0, 2, 4))
        lengths += 1
        done = step.terminated | step.truncated
        assert (step.reward == 1).all()
        if step.ended is None:
            assert not done.any()
            continue
        assert step.ended.indices.tolist() == done.nonzero()[0].tolist()
        assert step.ended.lengths.tolist() == step.ended.returns.tolist() == lengths[done].tolist()
        assert (np.abs(step.obs[done]) <= 0.05).all()  # the first observation of the next episode
        assert ((np.abs(step.ended.final_obs[:, 0]) > 2.4) | (np.abs(step.ended.final_obs[:, 2]) > 0.209)).all()
        lengths[done], ended = 0, ended + done.sum()
    assert ended > 20
    envs.close()


def test_envpool_repeats_with_its_seed_and_a_time_limit_truncates():
    def play(seed):
        envs = make_vec_envs(EnvConfig("HalfCheetah-v5", vec_env="envpool", normalize_env=False), 2, seed=seed)
        first = envs.reset()
        steps = [envs.step_arrays(np.full((2, 6), 0.5, np.float32)) for _ in range(1000)]
        envs.close()
        return first, steps

    (first, steps), (again, _), (other, _) = play(1), play(1), play(2)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()
    assert steps[-1].truncated.all()
    assert not steps[-1].terminated.any()
    assert steps[-1].ended.lengths.tolist() == [1000, 1000]


def test_what_envpool_cannot_run_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="does not have it"):
        make_vec_envs(EnvConfig("tests.probe_envs:Counter-v0", vec_env="envpool"), 2, seed=0)
    with pytest.raises(UsageError, match="--env-kwargs"):
        make_vec_envs(EnvConfig("CartPole-v1", vec_env="envpool", env_kwargs={"sutton_barto_reward": True}), 2, seed=0)
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UsageError, match="needs the envpool extra"):
        make_vec_envs(EnvConfig("CartPole-v1", vec_env="envpool"), 2, seed=0)


@pytest.mark.parametrize("game", ["Pong", "MsPacman"])
def test_ale_frames_hardly_differ_from_the_wrapper_chains(game):
    native = ale({"Pong": "pong", "MsPacman": "ms_pacman"}[game], noop_max=0, fire_reset=False)
    native.seed(0)
    chain = WarpFrame(MaxAndSkipEnv(gym.make(f"{game}NoFrameskip-v4"), 4))
    frames, rng = [(native.reset()[0, 0], chain.reset(seed=0)[0])], np.random.default_rng(0)
    for _ in range(100):
        action = int(rng.integers(4))
        frames.append((native.step_arrays(np.array([action])).obs[0, 0], chain.step(action)[0]))
    difference = np.stack([np.abs(ours.astype(int) - theirs[..., 0]) for ours, theirs in frames])
    assert difference.mean() < 0.05
    assert (difference > 2).mean() < 0.005
