"""From a name to an environment: families, retired ids, preprocessing, errors."""

import sys

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

from a2c_ppo_acktr.envs import EnvConfig, describe, make_vec_envs
from a2c_ppo_acktr.envs import make as envs_module
from a2c_ppo_acktr.envs.families import make_env, resolve
from a2c_ppo_acktr.utils import UsageError


@pytest.mark.parametrize(
    ("env_id", "shape", "dtype"),
    [
        ("CartPole-v1", (4,), "float32"),
        ("LunarLander-v3", (8,), "float32"),
        ("HalfCheetah-v5", (17,), "float32"),
        ("HalfCheetahBulletEnv-v0", (26,), "float32"),
        ("PongNoFrameskip-v4", (4, 84, 84), "uint8"),
        ("ALE/Pong-v5", (4, 84, 84), "uint8"),
        ("dm.cartpole.balance", (5,), "float32"),
        ("tests.probe_envs:Counter-v0", (2,), "float32"),
        ("MiniGrid-Empty-5x5-v0", (3, 7, 7), "uint8"),
        ("MinAtar/Breakout-v1", (4, 10, 10), "bool"),
    ],
)
def test_every_family_resets_and_steps(env_id, shape, dtype):
    envs = make_vec_envs(EnvConfig(env_id), 2, seed=1)
    assert envs.observation_space.shape == shape
    obs = envs.reset()
    assert obs.shape == (2, *shape)
    assert obs.dtype == dtype
    step = envs.step_arrays(np.stack([envs.action_space.sample() for _ in range(2)]))
    assert step.obs.dtype == dtype
    assert step.reward.shape == step.terminated.shape == step.truncated.shape == (2,)
    envs.close()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Reacher-v2", "Reacher-v5"),
        ("HalfCheetah-v3", "HalfCheetah-v5"),
        ("Pendulum-v0", "Pendulum-v1"),
        ("LunarLander-v2", "LunarLander-v3"),
    ],
)
def test_retired_ids_run_on_the_newest_version_with_one_line(old, new, capsys):
    resolve.cache_clear()
    assert resolve(old) == new
    assert capsys.readouterr().out.splitlines() == [f"{old} has been retired by Gymnasium: running {new}"]


def test_ids_that_still_exist_are_left_alone():
    assert resolve("CartPole-v0") == "CartPole-v0"
    assert resolve("HalfCheetah-v4") == "HalfCheetah-v4"


@pytest.mark.parametrize(
    "env_id", ["NoSuchEnv-v0", "CartPol-v1", "nomodule:Env-v0", "CartPole-v9", "dm.cartpole.fly", "a b"]
)
def test_unknown_ids_are_refused_in_one_line(env_id):
    with pytest.raises(UsageError) as caught:
        resolve(env_id)
    assert "\n" not in str(caught.value)
    assert env_id in str(caught.value)


def test_a_missing_extra_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pybullet_envs_gymnasium", None)
    resolve.cache_clear()
    with pytest.raises(UsageError, match=r"pip install -e '\.\[pybullet\]'"):
        resolve("HopperBulletEnv-v0")
    resolve.cache_clear()


def test_env_kwargs_reach_the_environment_and_wrong_ones_are_named():
    assert make_env(EnvConfig("Pendulum-v1", env_kwargs={"g": 3.0})).unwrapped.g == 3.0
    with pytest.raises(UsageError, match="gravitas"):
        make_env(EnvConfig("Pendulum-v1", env_kwargs={"gravitas": 3.0}))


def test_atari_chain_equals_sb3s_on_both_ids():
    for env_id in ("PongNoFrameskip-v4", "BreakoutNoFrameskip-v4"):
        resolve(env_id)  # registers it, for SB3 too
        theirs = VecTransposeImage(VecFrameStack(make_atari_env(env_id, 1, seed=3), 4))
        theirs.seed(3)
        ours = make_vec_envs(EnvConfig(env_id, vec_env="dummy"), 1, seed=3)
        np.testing.assert_array_equal(ours.reset(), theirs.reset())
        rng = np.random.default_rng(0)
        for _ in range(400):
            actions = rng.integers(0, ours.action_space.n, 1)
            step = ours.step_arrays(actions)
            obs, reward, done, _ = theirs.step(actions)
            np.testing.assert_array_equal(step.obs, obs)
            assert step.reward == reward
            assert (step.terminated | step.truncated) == done


def test_a_lost_life_ends_learning_but_not_the_reported_game():
    envs = make_vec_envs(EnvConfig("BreakoutNoFrameskip-v4"), 1, seed=0)
    envs.reset()
    rng, lives, games = np.random.default_rng(0), 0, []
    while not games:
        step = envs.step_arrays(rng.integers(0, 4, 1))
        if step.ended is not None:
            lives += 1
            games += [length for length in step.ended.lengths if not np.isnan(step.ended.returns[0])]
    assert lives == 5
    assert games[0] > 50


def test_ale_v5_keeps_sticky_actions_and_a_total_skip_of_four():
    env = make_env(EnvConfig("ALE/Pong-v5")).unwrapped
    assert env._frameskip == 1
    assert env.ale.getFloat("repeat_action_probability") == 0.25
    envs = make_vec_envs(EnvConfig("ALE/Pong-v5"), 2, seed=1)
    assert "sticky actions with probability 0.25" in describe("ALE/Pong-v5", envs)
    assert "sticky actions off" in describe("PongNoFrameskip-v4", envs)


def test_seeds_differ_between_environments_and_repeat_between_runs():
    first, second = (make_vec_envs(EnvConfig("CartPole-v1", normalize_env=False), 3, seed=4).reset() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len({tuple(row) for row in first}) == 3


def test_dm_control_time_limit_is_a_truncation():
    env = make_env(EnvConfig("dm.cartpole.balance"))
    env.reset(seed=0)
    for step in range(1, 1001):
        _, _, terminated, truncated, _ = env.step(np.zeros(1))
        assert not terminated
        assert truncated == (step == 1000)


def test_frame_stack_is_refused_for_vectors():
    with pytest.raises(UsageError, match="only images"):
        make_vec_envs(EnvConfig("CartPole-v1", frame_stack=4), 1, seed=0)


def test_hidden_numbers_are_left_out_and_the_others_stay_in_order():
    plain = make_vec_envs(EnvConfig("CartPole-v1", normalize_env=False, time_feature=True), 2, seed=3)
    hidden = make_vec_envs(
        EnvConfig("CartPole-v1", normalize_env=False, time_feature=True, hide_observations=[3, 1]), 2, seed=3
    )
    assert hidden.observation_space.shape == (3,)
    np.testing.assert_array_equal(hidden.reset(), plain.reset()[:, [0, 2, 4]])
    for _ in range(30):
        one, other = (envs.step_arrays(np.ones(2, np.int64)) for envs in (plain, hidden))
        np.testing.assert_array_equal(other.obs, one.obs[:, [0, 2, 4]])
        if one.ended is not None:
            np.testing.assert_array_equal(other.ended.final_obs, one.ended.final_obs[:, [0, 2, 4]])


def test_what_is_wrapped_by_a_flag_goes_on_from_its_state():
    clock = make_vec_envs(EnvConfig("tests.probe_envs:FlatClock-v0", auxiliary_truth_sizes=[1, 1, 1]), 2, seed=0)
    clock.reset()
    assert clock.get_state() is not None
    config = EnvConfig("CartPole-v1", vec_env="dummy", hide_observations=[1, 3])
    ours, theirs = (make_vec_envs(config, 2, seed=seed) for seed in (0, 5))
    ours.reset(), theirs.reset()
    ours.step_arrays(np.zeros(2, np.int64))
    theirs.set_state(ours.get_state())
    for _ in range(10):
        one, other = (envs.step_arrays(np.zeros(2, np.int64)) for envs in (ours, theirs))
        np.testing.assert_array_equal(one.terminated, other.terminated)
    for one, other in zip(ours.get_state(), theirs.get_state(), strict=True):
        np.testing.assert_array_equal(one["core"]["state"], other["core"]["state"])


def test_mujoco_leaves_no_log_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_env(EnvConfig("HalfCheetah-v5")).reset()
    assert not list(tmp_path.iterdir())


def test_pybullet_announces_nothing(capfd):
    for backend in ("dummy", "subproc"):
        envs = make_vec_envs(EnvConfig("HopperBulletEnv-v0", vec_env=backend), 2, seed=1)
        envs.reset()
        envs.step_arrays(np.zeros((2, 3)))
        envs.close()
    print("spoken")
    captured = capfd.readouterr()
    assert captured.out == "spoken\n"
    assert not captured.err


def test_every_extra_of_a_family_is_installable():
    extras = (envs_module.__file__, {extra for _, extra, _ in envs_module.FAMILIES})[1]
    setup = open("setup.py").read()
    assert all(f'"{extra}": [' in setup for extra in extras)
    assert gym.__version__ >= "1.1"
