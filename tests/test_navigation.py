"""The arena's geometry by hand, and that one arena and many are the same task."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import main
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.envs import state as env_state
from a2c_ppo_acktr.envs.families import make_env
from a2c_ppo_acktr.envs.navigation.env import NavigationEnv, NavigationEnvs
from a2c_ppo_acktr.envs.navigation.simulation import (
    ANGLES,
    EAST,
    FORWARD,
    HEADINGS,
    LANDMARK,
    LEFT,
    NORTH,
    PALETTE,
    PLATFORM,
    PLATFORM_RADIUS,
    RADIUS,
    SOUTH,
    WEST,
)
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.run.checkpoint import to_plain
from a2c_ppo_acktr.spaces import index
from a2c_ppo_acktr.utils import UsageError
from tests.test_arena import QUARTER, placed
from tests.test_vec_env import assert_same


def assert_truths(auxiliary, position, heading, platform, facing=None):
    np.testing.assert_allclose(auxiliary["position"], position, atol=1e-6)
    np.testing.assert_allclose(auxiliary["heading"], [np.cos(heading), np.sin(heading)], atol=1e-6)
    distance = np.linalg.norm(np.subtract(position, platform))
    np.testing.assert_allclose(auxiliary["goal_distance"], [distance], atol=1e-6)


@pytest.mark.parametrize("kwargs", [{}, {"walls": "paired", "random_platform": True}, {"view": True}], ids=str)
def test_single_and_batched_arenas_are_the_same_bit_for_bit(kwargs):
    num, kwargs = 5, {"max_steps": 60} | kwargs
    many = make_vec_envs(EnvConfig("Navigation-v0", normalize_env=False, env_kwargs=kwargs), num, seed=3)
    assert many.backend == "native"
    single = [make_env(EnvConfig("Navigation-v0", env_kwargs=kwargs)) for _ in range(num)]
    obs, signals = many.reset(), many.signals
    for i, env in enumerate(single):
        first, info = env.reset(seed=3 + i)
        assert_same(obs[i], first)
        assert_same(index(signals, i), {"auxiliary": info["auxiliary"]})
    rng, kinds = np.random.default_rng(0), set()
    for _ in range(500):
        actions = rng.choice(4, num, p=[0.2, 0.15, 0.6, 0.05])
        step = many.step_arrays(actions)
        row = 0
        for i, env in enumerate(single):
            obs, reward, terminated, truncated, info = env.step(actions[i])
            assert (step.reward[i], step.terminated[i], step.truncated[i]) == (reward, terminated, truncated)
            if terminated or truncated:
                kinds.add((terminated, truncated))
                assert step.ended.indices[row] == i
                assert_same(step.ended.final_obs[row], obs)
                assert_same(index(step.ended.final_signals, row), {"auxiliary": info["auxiliary"]})
                assert (step.ended.returns[row], step.ended.lengths[row]) == (
                    info["episode"]["r"],
                    info["episode"]["l"],
                )
                obs, info = env.reset()
                row += 1
            assert_same(step.obs[i], obs)
            assert_same(index(step.signals, i), {"auxiliary": info["auxiliary"]})
        assert row == (0 if step.ended is None else len(step.ended.indices))
    assert kinds == {(True, False), (False, True)}


def play(envs, steps, columns=slice(None)):
    """Random actions of eight environments, of which some are played; observations and signals."""
    rng = np.random.default_rng(0)
    rows = [(envs.reset(), envs.signals)]
    for _ in range(steps):
        step = envs.step_arrays(rng.integers(0, 4, 8)[columns])
        rows.append((step.obs, step.signals))
    return rows


def test_an_arena_depends_on_its_seed_and_not_on_how_many_there_are():
    def started(num, seed):
        return make_vec_envs(
            EnvConfig("Navigation-v0", normalize_env=False, env_kwargs={"max_steps": 20}), num, seed=seed
        )

    eight, again, three = play(started(8, 5), 100), play(started(8, 5), 100), play(started(3, 5), 100, slice(0, 3))
    assert_same(eight, again)
    for (obs, signals), (few, few_signals) in zip(eight, three, strict=True):
        assert_same(obs[:3], few)
        assert_same(index(signals, slice(0, 3)), few_signals)
    other = play(started(8, 6), 0)
    assert (other[0][0] != eight[0][0]).any()
    assert_same(other[0][0][:7], eight[0][0][1:])


def test_auxiliary_targets_tell_the_state_after_every_step_and_at_the_end():
    env = NavigationEnv(random_platform=True, max_steps=50)
    _, info = env.reset(seed=2)
    rng, ends, platforms = np.random.default_rng(1), 0, set()
    for _ in range(400):
        assert env.signal_spaces["auxiliary"].contains(info["auxiliary"])
        state = env.arenas
        assert_truths(info["auxiliary"], state.position[0], ANGLES[state.heading[0]], state.platform[0])
        assert_truths(info["auxiliary"], info["position"], info["heading"], info["platform"])
        facing = info["auxiliary"]["facing_wall"]
        ahead = info["position"] + 3 * np.array([np.cos(info["heading"]), np.sin(info["heading"])])
        assert {EAST: ahead[0], NORTH: ahead[1], WEST: -ahead[0], SOUTH: -ahead[1]}[int(facing)] > 1
        platforms.add(tuple(info["platform"]))
        _, _, terminated, truncated, info = env.step(rng.integers(4))
        if terminated or truncated:
            assert_truths(info["auxiliary"], info["position"], info["heading"], info["platform"])
            ends += 1
            _, info = env.reset()
    platforms.add(tuple(info["platform"]))
    assert len(platforms) == ends + 1
    assert ends > 5


def test_final_signals_belong_to_the_final_observation():
    envs = NavigationEnvs(4, max_steps=10)
    envs.reset()
    for _ in range(10):
        before = envs.arenas.get_state()
        step = envs.step_arrays(np.full(4, LEFT))
    turned = ANGLES[(before["heading"] + 1) % HEADINGS]
    final = step.ended.final_signals["auxiliary"]
    np.testing.assert_allclose(final["heading"], np.stack([np.cos(turned), np.sin(turned)], -1), atol=1e-6)
    np.testing.assert_allclose(final["position"], before["position"], atol=1e-6)
    assert (step.signals["auxiliary"]["position"] != final["position"]).any()


def test_arenas_continue_from_their_plain_state():
    here, there = (NavigationEnvs(3, random_platform=True, max_steps=30) for _ in range(2))
    here.reset(), there.reset()
    rng = np.random.default_rng(0)
    for _ in range(50):
        here.step_arrays(rng.integers(0, 4, 3))
    there.set_state(to_plain(here.get_state()))
    for _ in range(200):
        actions = rng.integers(0, 4, 3)
        assert_same(here.step_arrays(actions)._asdict(), there.step_arrays(actions)._asdict())


def test_one_arena_continues_from_its_plain_state_through_its_wrappers():
    here, there = (
        make_env(EnvConfig("Navigation-v0", env_kwargs={"random_platform": True, "max_steps": 30})) for _ in range(2)
    )
    here.reset(seed=1), there.reset(seed=9)
    rng = np.random.default_rng(0)
    for _ in range(20):
        here.step(rng.integers(4))
    env_state.set_state(there, to_plain(env_state.get_state(here)))
    for _ in range(100):
        action = rng.integers(4)
        step = here.step(action)
        step[-1].get("episode", {}).pop("t", None)
        other = there.step(action)
        other[-1].get("episode", {}).pop("t", None)
        assert_same(step, other)
        if step[2] or step[3]:
            assert_same(here.reset(), there.reset())


def test_nobody_writes_to_arrays_that_were_handed_out():
    envs = NavigationEnvs(3, max_steps=5)
    envs.reset()
    steps = [envs.step_arrays(np.full(3, FORWARD)) for _ in range(12)]
    copies = [np.copy(step.obs) for step in steps]
    places = [np.copy(step.signals["auxiliary"]["position"]) for step in steps]
    envs.step_arrays(np.full(3, FORWARD))
    assert_same(copies, [step.obs for step in steps])
    assert_same(places, [step.signals["auxiliary"]["position"] for step in steps])
    assert not np.shares_memory(steps[0].obs, steps[1].obs)


@pytest.mark.parametrize("kwargs", [{}, {"view": True}], ids=str)
def test_gymnasium_accepts_the_environment(kwargs):
    check_env(gym.make("Navigation-v0", render_mode="rgb_array", **kwargs).unwrapped)


def test_the_view_shows_near_walls_tall_and_in_their_colour():
    near, far = (placed((x, 0), 0, view=True, walls="distinct").observe()[0][0] for x in (0.8, -0.8))
    assert near.shape == (3, 36, 48)
    assert near.dtype == np.uint8
    middle = near[:, 17, 24].astype(float)
    assert middle / middle.sum() == pytest.approx(PALETTE[0] / PALETTE[0].sum(), abs=0.02)
    heights = [(image[:, :, 24] == image[:, 17:18, 24]).all(0).sum() for image in (near, far)]
    assert heights == [36, 10]  # a wall of height 0.5 at distance 1.8: 36 * 0.5 / 1.8


def test_the_picture_from_above_shows_walls_landmark_platform_and_agent():
    env = gym.make("Navigation-v0", render_mode="rgb_array", walls="distinct")
    env.reset(seed=0)
    core = env.unwrapped
    core.set_state(core.get_state() | {"position": [[-0.5, 0.0]], "heading": [2 * QUARTER]})
    picture = env.render()
    assert picture.shape == (300, 300, 3)
    assert picture.dtype == np.uint8
    assert core.metadata["render_fps"] > 0
    middle, scale = 150, 136
    for (x, y), colour in {(1, 0): 0, (0, 1): LANDMARK, (0.7, 1): 1, (-1, 0): 2, (0, -1): 3}.items():
        assert picture[round(middle - scale * y), round(middle + scale * x)].tolist() == PALETTE[colour].tolist()
    agent = picture[middle, middle + round(scale * (-0.5 + 0.7 * RADIUS))]  # behind its centre: it faces west
    assert agent.min() > 200
    floor, platform = (picture[round(middle - scale * y), round(middle + scale * x)] for x, y in [(0.5, 0.5), PLATFORM])
    assert (platform != floor).any()
    assert NavigationEnv().render() is None


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"walls": "purple"}, "alike, paired"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"platform": [0.5]}, "platform="),
        ({"platform": [0.5, 1.2]}, "between -1 and 1"),
        ({"size": 2}, "size"),
    ],
)
@pytest.mark.parametrize("vec_env", ["native", "dummy"])
def test_arguments_that_make_no_arena_are_refused(vec_env, kwargs, message):
    with pytest.raises(UsageError, match=message):
        make_vec_envs(EnvConfig("Navigation-v0", vec_env=vec_env, env_kwargs=kwargs), 2, seed=0)


def test_the_platform_stands_where_it_is_asked_for_in_every_episode():
    env = NavigationEnv(platform=[-0.25, 0.5])
    for seed in range(5):
        _, info = env.reset(seed=seed)
        assert info["platform"].tolist() == [-0.25, 0.5]
        assert info["auxiliary"]["goal_distance"] > 2 * PLATFORM_RADIUS


def test_auto_steps_natively_with_arguments_and_singly_for_pictures():
    with_arguments = make_vec_envs(
        EnvConfig("Navigation-v0", env_kwargs={"walls": "paired"}, normalize_env=False), 2, seed=0
    )
    assert with_arguments.backend == "native"
    assert make_vec_envs(EnvConfig("Navigation-v0"), 2, seed=0, render_mode="rgb_array").backend == "dummy"


def test_training_from_the_command_line(tmp_path):
    argv = "--algo ppo --env-name Navigation-v0 --recurrent-policy --num-processes 4 --num-steps 16 --num-mini-batch 2 "
    argv += "--num-env-steps 256 --env-kwargs max_steps=20 --use-proper-time-limits --vec-env auto --save-dir="
    folder = tmp_path / "run"
    assert main.main([*argv.split(), "--log-dir", str(folder)]) == 0
    contents = checkpoint.load(folder / "checkpoints" / "latest.pt")
    assert contents["settings"]["env_name"] == "Navigation-v0"
    assert len((folder / "0.monitor.csv").read_text().splitlines()) > 3
