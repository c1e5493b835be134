"""Vectorized environments: ends, resets, states and SB3's view of them."""

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.envs.families import make_env
from a2c_ppo_acktr.envs.subproc import SubprocEnvs
from a2c_ppo_acktr.envs.vec_wrappers import FrameStackEnvs, NormalizedEnvs
from a2c_ppo_acktr.envs.vector import DummyEnvs, EnvironmentCrash, to_env_actions
from a2c_ppo_acktr.spaces import tree_map

COUNTER = "tests.probe_envs:Counter-v0"


def factories(env_id, num):
    return [functools.partial(make_env, EnvConfig(env_id))] * num


def play(envs, steps, seed=3):
    """Random actions; everything that came back."""
    rng = np.random.default_rng(seed)
    envs.seed(7)
    rows = [envs.reset()]
    for _ in range(steps):
        rows.append(envs.step_arrays(np.array([rng.integers(envs.action_space.n) for _ in range(envs.num_envs)])))
    return rows


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif a is None:
        assert b is None
    else:
        np.testing.assert_array_equal(a, b)


def test_counter_bookkeeping_of_ends_and_final_observations():
    envs = DummyEnvs(factories(COUNTER, 5))
    rows = play(envs, 200)
    time, totals, kinds = np.zeros(5), np.zeros(5), set()
    for step in rows[1:]:
        time += 1
        totals += step.reward
        assert (step.reward == time).all()
        assert not (step.terminated & step.truncated).any()
        done = step.terminated | step.truncated
        if step.ended is None:
            assert not done.any()
        else:
            assert (step.ended.indices == done.nonzero()[0]).all()
            assert (step.ended.final_obs[:, 0] == time[done]).all()
            assert (step.ended.returns == totals[done]).all()
            assert (step.ended.lengths == time[done]).all()
            kinds |= {(bool(t), bool(c)) for t, c in zip(step.terminated[done], step.truncated[done], strict=True)}
        time[done] = totals[done] = 0
        assert (step.obs[:, 0] == time).all()
    assert kinds == {(True, False), (False, True)}


@pytest.mark.parametrize(
    "env_id", [COUNTER, "tests.probe_envs:NestedObservation-v0", "tests.probe_envs:MaskedActions-v0"]
)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_processes_give_what_one_process_gives(env_id, workers):
    dummy, subproc = DummyEnvs(factories(env_id, 5)), SubprocEnvs(factories(env_id, 5), workers)
    dummy.seed(7), subproc.seed(7)
    assert_same(dummy.reset(), subproc.reset())
    rng = np.random.default_rng(0)
    for _ in range(30):
        mask = dummy.signals.get("action_mask")
        actions = rng.integers(0, 2, 5) if mask is None else mask.argmax(1)
        a, b = dummy.step_arrays(actions), subproc.step_arrays(actions)
        assert_same(a._asdict(), b._asdict())
        assert_same(dummy.signals, subproc.signals)
    assert subproc.get_attr("horizon") == dummy.get_attr("horizon")
    subproc.set_attr("horizon", 77, indices=[3])
    assert subproc.get_attr("horizon", indices=[2, 3])[1] == 77
    assert subproc.env_method("observe", indices=4) is not None
    assert_same(subproc.get_state(), dummy.get_state())
    subproc.close()
    assert not any(process.is_alive() for process in subproc._processes)


def test_a_time_limit_attaches_and_an_end_on_the_last_step_stays_an_end():
    envs = DummyEnvs(factories("tests.probe_envs:EndlessReward-v0", 1))
    envs.reset()
    cut = [envs.step_arrays(np.array([0])).truncated[0] for _ in range(10)]
    assert cut == [False] * 4 + [True] + [False] * 4 + [True]

    class EndsAtLimit(gym.Env):
        observation_space, action_space, render_mode = spaces.Discrete(2), spaces.Discrete(2), None

        def reset(self, *, seed=None, options=None):
            self.t = 0
            return 0, {}

        def step(self, action):
            self.t += 1
            return 0, 0.0, self.t == 3, False, {}

    envs = DummyEnvs([lambda: gym.wrappers.TimeLimit(EndsAtLimit(), 3)])
    envs.reset()
    steps = [envs.step_arrays(np.array([0])) for _ in range(3)]
    assert steps[-1].terminated[0]
    assert not steps[-1].truncated[0]


def test_sb3_view_has_terminal_observation_and_truncation():
    envs = DummyEnvs(factories("tests.probe_envs:EndlessReward-v0", 2))
    envs.reset()
    for t in range(1, 6):
        _obs, _reward, done, infos = envs.step(np.zeros(2, int))
        assert done.tolist() == [t == 5] * 2
        assert infos[0] == {} or t == 5
    assert infos[0]["TimeLimit.truncated"] is True
    assert infos[0]["episode"]["r"] == 5
    assert infos[1]["terminal_observation"].shape == (1,)


def test_sb3_wrappers_fit_around_and_agree_with_sb3s_own_environments():
    ours = VecNormalize(make_vec_envs(EnvConfig("CartPole-v1", normalize_env=False), 3, seed=5), gamma=0.9)
    theirs = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3), gamma=0.9)
    theirs.seed(5)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), rtol=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(200):
        actions = rng.integers(0, 2, 3)
        a, b = ours.step(actions), theirs.step(actions)
        for x, y in zip(a[:3], b[:3], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_normalization_equals_sb3s():
    ours = NormalizedEnvs(DummyEnvs(factories("CartPole-v1", 3)), gamma=0.9)
    theirs = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3), gamma=0.9)
    ours.seed(5), theirs.seed(5)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), rtol=1e-5)
    rng = np.random.default_rng(0)
    for _ in range(300):
        actions = rng.integers(0, 2, 3)
        step = ours.step_arrays(actions)
        obs, reward, _, infos = theirs.step(actions)
        np.testing.assert_allclose(step.obs, obs, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(step.reward, reward, rtol=1e-4, atol=1e-5)
        if step.ended is not None:
            for row, env in enumerate(step.ended.indices):
                np.testing.assert_allclose(
                    step.ended.final_obs[row], infos[env]["terminal_observation"], rtol=1e-4, atol=1e-5
                )


def test_frozen_normalization_leaves_rewards_and_statistics_alone():
    envs = make_vec_envs(EnvConfig("CartPole-v1"), 2, seed=1, training=False)
    envs.reset()
    before = envs.normalizer.obs_rms.mean.copy()
    step = envs.step_arrays(np.array([0, 1]))
    assert (step.reward == 1).all()
    assert (envs.normalizer.obs_rms.mean == before).all()


class Pictures(gym.Env):
    """2x2 pictures that show the time; episodes of 3 steps."""

    observation_space, action_space = spaces.Box(0, 255, (1, 2, 2), np.uint8), spaces.Discrete(2)
    render_mode = None

    def reset(self, *, seed=None, options=None):
        self.t = 1
        return np.full((1, 2, 2), 1, np.uint8), {}

    def step(self, action):
        self.t += 1
        return np.full((1, 2, 2), self.t, np.uint8), 0.0, self.t == 4, False, {}


def test_frames_stack_in_order_and_do_not_leak_into_the_next_episode():
    envs = FrameStackEnvs(DummyEnvs([Pictures] * 2), 3)
    assert envs.reset()[0, :, 0, 0].tolist() == [0, 0, 1]
    steps = [envs.step_arrays(np.zeros(2, int)) for _ in range(4)]
    assert [s.obs[0, :, 0, 0].tolist() for s in steps] == [[0, 1, 2], [1, 2, 3], [0, 0, 1], [0, 1, 2]]
    assert steps[2].ended.final_obs[1, :, 0, 0].tolist() == [2, 3, 4]

    theirs = VecFrameStack(DummyVecEnv([Pictures] * 2), 3, channels_order="first")
    assert_same(theirs.reset(), envs.reset())
    for _ in range(7):
        assert_same(theirs.step(np.zeros(2, int))[0], envs.step_arrays(np.zeros(2, int)).obs)


def test_actions_reach_the_environment_in_its_own_terms():
    box = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 2], np.float32))
    np.testing.assert_array_equal(to_env_actions(box, np.array([[5, -5.0]])), [[1, 0]])
    np.testing.assert_array_equal(to_env_actions(box, np.array([[5, -5.0]]), clip=False), [[5, -5]])
    assert to_env_actions(box, np.zeros((1, 2))).dtype == np.float32
    assert to_env_actions(spaces.Discrete(3, start=-1), np.array([0, 2])).tolist() == [-1, 1]
    assert to_env_actions(spaces.MultiDiscrete([2, 3], start=[1, 5]), np.array([[0, 2]])).tolist() == [[1, 7]]


def test_nested_signals_are_the_same_on_every_backend():
    several = [
        make_vec_envs(
            EnvConfig("Navigation-v0", vec_env=backend, env_kwargs={"max_steps": 30}, normalize_env=False), 3, seed=4
        )
        for backend in ("dummy", "subproc", "native")
    ]
    for envs in several:
        envs.reset()
    rng, ends = np.random.default_rng(0), 0
    for _ in range(100):
        actions = rng.integers(0, 4, 3)
        steps = [envs.step_arrays(actions) for envs in several]
        for other in steps[1:]:
            assert_same(steps[0].signals, other.signals)
            assert_same(steps[0].ended, other.ended)
        ends += steps[0].ended is not None
    assert ends >= 3
    for envs in several:
        envs.close()


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_actions_beyond_the_bounds_are_clipped_everywhere_but_in_mujoco(backend):
    cost = {}
    for clip in (None, True, False):
        envs = make_vec_envs(
            EnvConfig("Reacher-v5", clip_actions=clip, normalize_env=False, vec_env=backend), 2, seed=1
        )
        envs.reset()
        cost[clip] = envs.step_arrays(np.full((2, 2), 5.0)).reward.sum()
        envs.close()
    assert cost[None] == cost[False] < cost[True] - 1


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_a_crash_of_an_environment_says_why(backend):
    envs = make_vec_envs(EnvConfig("tests.probe_envs:Crash-v0", vec_env=backend), 2, seed=1)
    envs.reset()
    with pytest.raises(EnvironmentCrash, match="the gripper is stuck"):
        for _ in range(5):
            envs.step_arrays(np.zeros(2, int))
    envs.close()


def test_a_killed_worker_is_noticed():
    envs = SubprocEnvs(factories(COUNTER, 2), 2)
    envs.reset()
    envs._processes[1].kill()
    with pytest.raises(EnvironmentCrash, match="worker 1 died"):
        for _ in range(3):
            envs.step_arrays(np.zeros(2, int))
    envs.close()


@pytest.mark.parametrize(
    "env_id",
    [
        "CartPole-v1",
        "Pendulum-v1",
        "Acrobot-v1",
        "MountainCar-v0",
        "MountainCarContinuous-v0",
        "HalfCheetah-v5",
        "Reacher-v5",
        "Ant-v5",
        "Humanoid-v5",
        "PongNoFrameskip-v4",
        "ALE/Breakout-v5",
        "tests.probe_envs:Counter-v0",
    ],
)
def test_state_read_and_set_elsewhere_continues_exactly(env_id):
    """Through a checkpoint's plain form, into environments that have lived another life."""
    from a2c_ppo_acktr.run.checkpoint import to_plain

    here, there = (make_vec_envs(EnvConfig(env_id, vec_env="dummy"), 2, seed=seed) for seed in (1, 50))
    sampler = here.action_space
    sampler.seed(0)
    for envs, steps in ((here, 60), (there, 17)):
        envs.reset()
        for _ in range(steps):
            envs.step_arrays(np.stack([sampler.sample() for _ in range(2)]))
    there.set_state(to_plain(here.get_state()))
    if there.normalizer is not None:
        there.normalizer.load_state_dict(here.normalizer.state_dict())
    for _ in range(300):
        actions = np.stack([sampler.sample() for _ in range(2)])
        assert_same(here.step_arrays(actions)._asdict(), there.step_arrays(actions)._asdict())


def test_nested_observations_keep_their_types():
    envs = make_vec_envs(EnvConfig("tests.probe_envs:NestedObservation-v0"), 3, seed=1)
    dtypes = tree_map(lambda leaf: str(leaf.dtype), envs.reset())
    assert dtypes == {"picture": "uint8", "pair": ("int64", "int8")}
