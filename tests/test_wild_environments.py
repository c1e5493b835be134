"""Environments as people write them: what does not fit is said in one line, and what fits in some way works."""

import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.acting.collect import Stepper
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs, remarks
from a2c_ppo_acktr.envs.border import to_env_actions
from a2c_ppo_acktr.envs.declared import frame_rate, read_bounds
from a2c_ppo_acktr.envs.families import make_env
from a2c_ppo_acktr.envs.vector import DummyEnvs, EnvironmentCrash
from a2c_ppo_acktr.envs.video.camera import as_picture
from a2c_ppo_acktr.envs.wrappers import tapped
from a2c_ppo_acktr.interfaces import Decision
from a2c_ppo_acktr.normalization import Normalizer
from a2c_ppo_acktr.seeding import MOST_ENVS, PURPOSES, env_seed
from a2c_ppo_acktr.spaces import kind_of
from a2c_ppo_acktr.storage.slots import Slots
from a2c_ppo_acktr.utils import UsageError
from tests import wild_envs


def make(name, num=2, **config):
    """Environments of `tests/wild_envs.py`, as they are but for what `config` says."""
    config = {"normalize_env": False} | config
    return make_vec_envs(EnvConfig(f"tests.wild_envs:{name}-v0", **config), num, seed=1)


def actions(envs):
    return np.zeros((envs.num_envs, *envs.action_space.shape), int)


def play(envs, steps=15):
    """Reset and step; what came."""
    envs.reset()
    return [envs.step_arrays(actions(envs)) for _ in range(steps)]


def assert_says(error, *parts):
    line = str(error)
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize("name", wild_envs.OBSERVATIONS)
def test_an_observation_that_does_not_fit_its_space_is_refused_when_it_comes(name):
    *_, said = wild_envs.OBSERVATIONS[name]
    with pytest.raises(EnvironmentCrash) as caught:
        play(make(f"Obs{name}"))
    assert_says(caught.value, "environment 0 failed in ", said)


@pytest.mark.parametrize("name", wild_envs.REWARDS)
def test_a_reward_that_is_no_finite_number_is_refused(name):
    with pytest.raises(EnvironmentCrash) as caught:
        play(make(f"Reward{name}"))
    assert_says(caught.value, "environment 0 failed in step: ", wild_envs.REWARDS[name][1])


CALLS = {("step", name): said for name, (_, said) in wild_envs.STEPS.items()}
CALLS |= {("reset", name): said for name, (_, said) in wild_envs.RESETS.items()}


@pytest.mark.parametrize(("method", "name"), CALLS)
def test_an_error_in_the_interface_names_environment_method_place_and_what_is_expected(method, name):
    with pytest.raises(EnvironmentCrash) as caught:
        play(make(f"{method.title()}{name}"))
    assert_says(caught.value, f"environment 0 failed in {method}: ", CALLS[method, name])


@pytest.mark.parametrize("name", wild_envs.CONSTRUCTIONS)
def test_what_cannot_be_built_or_acted_in_is_refused_before_anything_starts(name):
    with pytest.raises(UsageError) as caught:
        make(f"Made{name}")
    assert_says(caught.value, f"--env-name tests.wild_envs:Made{name}-v0", wild_envs.CONSTRUCTIONS[name][1])


@pytest.mark.parametrize("name", [*wild_envs.FINE, "Monitored"])
def test_what_fits_in_its_own_way_works_and_counts_its_episodes(name, capsys):
    envs = make(f"Fine{name}")
    ended = [step.ended for step in play(envs) if step.ended is not None]
    assert [(one.returns.tolist(), one.lengths.tolist()) for one in ended] == [([6.0, 6.0], [6, 6])] * 2
    envs.close()
    assert ("environment 1 failed in close: RuntimeError: already closed" in capsys.readouterr().err) == (
        name == "CloseRaises"
    )


def test_an_environment_in_a_worker_is_named_by_its_own_number():
    envs = make("StepRaises", 5, vec_env="subproc")
    envs.reset()
    with pytest.raises(EnvironmentCrash, match=r"environment 0 failed in step: ValueError: the arm is stuck"):
        envs.step_arrays(actions(envs))
    envs.close()
    config = EnvConfig("tests.wild_envs:DrawnRGB-v0", normalize_env=False)
    assert make_vec_envs(config, 3, seed=1, capture_video=9).envs.others.first == 1
    part = DummyEnvs([wild_envs.Wild, lambda: gym.make("StepRaises-v0")], first=3)
    part.reset()
    with pytest.raises(EnvironmentCrash, match="environment 4 failed in step"):
        part.step_arrays(actions(part))


def test_a_constructor_that_fails_in_a_worker_is_the_users_to_mend():
    with pytest.raises(UsageError, match="cannot be made: ValueError: size must be odd"):
        make("MadeRaises", vec_env="subproc")


def test_environments_of_different_spaces_are_refused():
    sizes = iter((3, 4))

    def sized():
        env = wild_envs.Wild()
        env.observation_space = spaces.Box(-1, 1, (next(sizes),), np.float32)
        return env

    with pytest.raises(UsageError, match="environment 1 has the spaces"):
        DummyEnvs([sized] * 2)


def command(name, *more):
    common = "--algo a2c --num-env-steps 60 --save-dir= --env-name".split()
    return [*common, f"tests.wild_envs:{name}-v0", *more]


@pytest.mark.parametrize(
    ("name", "code", "begins"),
    [
        ("MadeExits", 2, "main.py: error: --env-name tests.wild_envs:MadeExits-v0: cannot be made: SystemExit: 0"),
        (
            "ResetRaises",
            2,
            "main.py: error: --env-name tests.wild_envs:ResetRaises-v0: environment 0 failed in reset: ",
        ),
        ("ObsColumn", 2, "main.py: error: --env-name tests.wild_envs:ObsColumn-v0: environment 0 failed in reset: obs"),
        ("StepExits", 1, "main.py: stopped: environment 0 failed in step: SystemExit: 0"),
        ("RewardNaN", 1, "main.py: stopped: environment 0 failed in step: reward is nan, expected a finite number"),
        ("MaskZero", 1, "main.py: stopped: environment 0 failed in step: action_mask [0, 0] allows no action"),
    ],
)
def test_on_the_command_line_each_is_one_line_and_what_never_began_leaves_nothing(name, code, begins, tmp_path, capsys):
    assert main.main(command(name, "--log-dir", str(tmp_path / "run"), "--num-processes", "2")) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(begins)
    assert (tmp_path / "run").exists() == (code == 1)


# what is kept over another call into the environment


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_a_reused_buffer_does_not_change_what_was_seen_before_the_reset(backend):
    envs = make("Reuse", vec_env=backend)
    first = envs.reset()
    for t in range(1, 7):
        step = envs.step_arrays(np.zeros(2, int))
        assert (first["flat"] == 0).all()
        if t < 6:
            assert step.ended is None
            assert (step.obs["flat"] == t).all()
            assert (step.signals["action_mask"].argmax(1) == t).all()
    assert (step.ended.final_obs["flat"] == 6).all()
    assert (step.ended.final_obs["deep"][0] == -6).all()
    assert (step.ended.final_signals["action_mask"].argmax(1) == 6).all()
    assert (step.ended.final_signals["auxiliary"]["clock"] == 6).all()
    assert (step.obs["flat"] == 0).all()
    assert (step.signals["action_mask"].argmax(1) == 0).all()
    envs.close()


def test_drawing_a_picture_does_not_change_what_was_seen():
    seen = []
    env = tapped(gym.make("Reuse-v0", render_mode="rgb_array", disable_env_checker=True))
    envs = DummyEnvs([lambda: env])
    envs.set_attr("camera", lambda render, first, last: seen.append(render().max()), [0])
    assert (envs.reset()["flat"] == 0).all()
    for t in range(1, 6):
        step = envs.step_arrays(np.zeros(1, int))
        assert (step.obs["flat"] == t).all()
        assert step.signals["action_mask"].argmax(1) == t
    assert seen == [0, 40, 80, 120, 160, 200]


@pytest.mark.parametrize("name", ["WritesIntoBits", "WritesIntoNumbers"])
def test_an_environment_that_writes_into_its_action_does_not_change_what_was_done(name):
    envs = make(name, clip_actions=False)
    envs.reset()
    given = np.ones((2, 2), envs.action_space.dtype)
    envs.step_arrays(given)
    assert (given == 1).all()


def test_a_reused_buffer_leaves_bootstrapping_the_true_last_observation(tmp_path):
    args = arguments.parse(
        command("ReuseFlat", "--log-dir", str(tmp_path / "run"), "--use-proper-time-limits", "--no-normalize-env")
    )
    with main.build(args) as parts:
        parts.collector.num_steps = 6
        parts.storage.num_steps = 6
        ends = [parts.collector.stepper.step(explore=True)[0].ended for _ in range(6)]
    assert (ends[-1].final_obs == 6).all()


# masks


def test_a_mask_that_allows_nothing_stops_at_that_step_before_anything_is_done():
    play(make("MaskZeroAtTheEnd"))  # where nothing is to be done, none has to be allowed
    for name, mask in (("MaskZero", "[0, 0]"), ("MaskZeroInAPart", "[1, 1, 0, 0]")):
        envs = make(name)
        envs.reset()
        for _ in range(2):
            envs.step_arrays(actions(envs))
        with pytest.raises(EnvironmentCrash) as caught:
            envs.step_arrays(actions(envs))
        assert_says(caught.value, f"environment 0 failed in step: action_mask {mask} allows no action")


def test_a_mask_that_is_missing_or_of_another_size_is_said():
    with pytest.raises(EnvironmentCrash, match="declares the signal 'action_mask' but its info lacks it"):
        make("MaskLost").reset()
    with pytest.raises(EnvironmentCrash, match=r"action_mask is \[1.\].* expected a value of MultiBinary\(2\)"):
        make("MaskShort").reset()


# actions


def test_of_whole_numbers_the_nearest_is_done():
    box = spaces.Box(-2, 2, (1,), np.int64)
    given = np.array([[-9.0], [-1.6], [-0.4], [0.4], [0.6], [1.9], [9.0]])
    assert to_env_actions(box, given).ravel().tolist() == [-2, -2, 0, 0, 1, 2, 2]
    assert to_env_actions(box, given, clip=False).ravel().tolist() == [-2, -2, 0, 0, 1, 2, 2]
    assert to_env_actions(box, given).dtype == np.int64
    drawn = to_env_actions(box, np.random.default_rng(0).normal(size=(10_000, 1)))
    assert (drawn == 0).mean() == pytest.approx(0.383, abs=0.02)  # of N(0, 1), within a half; 68 % were it cut off


def test_bounds_that_a_first_policy_hardly_meets_are_said_and_those_of_robots_are_not():
    for name, said in (("BoxFar", "action[0] of 5 to 9"), ("BoxWide", "of 0 to 100"), ("BoxTiny", "of -0.01 to 0.01")):
        assert said in read_bounds(wild_envs.BOXES[name])
        assert "--rescale-actions" in read_bounds(wild_envs.BOXES[name])
    assert "--rescale-actions" not in read_bounds(wild_envs.BOXES["BoxHalfOpen"])
    for low, high in ((-1, 1), (-0.4, 0.4), (-2, 2), (-3, 3), (0, 1), (-np.inf, np.inf), (-3e38, 3e38)):
        assert read_bounds(spaces.Box(low, high, (2,), np.float32)) is None
    assert read_bounds(spaces.Discrete(3)) is None


def test_rescaled_actions_reach_the_bounds_and_nothing_beyond():
    envs = make("BoxFar", 3, rescale_actions=True)
    assert envs.action_space == spaces.Box(-1, 1, (2,), np.float32)
    envs.reset()
    envs.step_arrays(np.array([[-1, -1], [0.0, 0.0], [9, 9]], np.float32))
    seen = np.array([env.unwrapped.seen[0] for env in envs.envs])
    np.testing.assert_allclose(seen, [[5, -1], [7, -0.75], [9, -0.5]])
    whole = make("BoxWhole", 3, rescale_actions=True)
    whole.reset()
    whole.step_arrays(np.array([[-1], [0.3], [9]], np.float32))
    assert [env.unwrapped.seen[0].tolist() for env in whole.envs] == [[-2], [1], [2]]
    for name in ("BoxHalfOpen", "FineLists"):
        with pytest.raises(UsageError, match="--rescale-actions"):
            make(name, rescale_actions=True)


# pictures among observations


def test_a_picture_is_read_alike_alone_and_at_any_depth():
    alone, nested = make("Alone"), make("Nested")
    assert kind_of(alone.observation_space) == "image"
    for space in (alone.observation_space, nested.observation_space["camera"], nested.observation_space["both"][0]):
        assert space.shape == (3, 40, 48)
    alone.reset(), nested.reset()
    for _ in range(8):
        one, other = alone.step_arrays(actions(alone)), nested.step_arrays(actions(nested))
        np.testing.assert_array_equal(one.obs, other.obs["camera"])
        np.testing.assert_array_equal(one.obs, other.obs["both"][0])
        assert (one.obs[:, 0] == one.obs[:, 0, :1, :1]).all()
        assert not one.obs[:, 1:].any()
    assert one.obs[0, 0, 0, 0] == 20


def test_the_channels_are_told_by_the_shape_or_by_the_flag_and_the_reading_is_said():
    def said(name, **config):
        envs = make(name, **config)
        return envs.observation_space, remarks(EnvConfig(f"tests.wild_envs:{name}-v0", **config), envs)

    _, lines = said("Nested")
    assert lines == [
        "observation['both'][0] [40, 48, 3]: 3 channels of 40 x 48, channels last",
        "observation['camera'] [40, 48, 3]: 3 channels of 40 x 48, channels last",
    ]
    for channels, read, other in ((None, "last", "first"), ("first", "first", None), ("last", "last", None)):
        _, (line,) = said("Cube", channels=channels)
        assert f"10 channels of 10 x 10, channels {read}" in line
        assert ("which the shape does not tell (--channels first if it is wrong)" in line) == (other == "first")
    space, (line,) = said("Alone", channels="first")
    assert space.shape == (40, 48, 3)
    assert line.startswith("observation [40, 48, 3]: 40 channels of 48 x 3, channels first")
    with pytest.raises(UsageError, match=r"--channels last: .* has no pictures"):
        make("FineLists", channels="last")


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [
        ((84, 84, 3), True),
        ((3, 84, 84), False),
        ((1, 84, 84), False),
        ((84, 84, 1), True),
        ((10, 10, 10), True),
        ((7, 7, 20), True),
        ((20, 7, 7), False),
        ((48, 200, 3), True),
        ((3, 48, 200), False),
        ((1, 9, 3), False),
        ((12, 8, 12), True),
    ],
)
def test_which_axis_of_a_shape_has_the_channels(shape, channels_last):
    class Shaped(wild_envs.Wild):
        observation_space = spaces.Box(0, 255, shape, np.uint8)

        def observe(self):
            return np.zeros(shape, np.uint8)

    gym.register("Shaped-v0", entry_point=Shaped)
    try:
        found = make_env(EnvConfig("Shaped-v0")).observation_space.shape
    finally:
        del gym.registry["Shaped-v0"]
    assert found == ((shape[2], *shape[:2]) if channels_last else shape)


def test_what_a_network_does_with_odd_pictures_is_said():
    class Odd(wild_envs.Wild):
        observation_space = spaces.Box(0.0, 255.0, (20, 120, 3), np.float32)

    gym.register("Odd-v0", entry_point=Odd)
    try:
        (line,) = remarks(EnvConfig("Odd-v0"), DummyEnvs([lambda: make_env(EnvConfig("Odd-v0"))]))
    finally:
        del gym.registry["Odd-v0"]
    assert "float32 up to 255 are read as they are, only uint8 is divided by 255" in line
    assert "one side is under 36" in line


# normalization


def test_every_leaf_of_numbers_is_normalized_by_itself_with_the_rewards():
    envs = make("Nested", 4, normalize_env=True)
    obs = [envs.reset()] + [step.obs for step in play(envs, 300)]
    numbers = np.concatenate([one["both"][1] for one in obs])
    assert numbers.dtype == np.float32
    assert np.abs(numbers).max() < 10
    assert numbers[50:].std() == pytest.approx(1, abs=0.2)
    assert obs[-1]["camera"].dtype == np.uint8
    scores = make("Scores", 4, normalize_env=True)
    steps = play(scores, 300)
    assert np.concatenate([one.obs for one in steps[100:]]).std() == pytest.approx(1, abs=0.1)
    assert np.abs(np.array([one.reward for one in steps[100:]])).max() < 5  # of 100 as it is given
    other = make("Nested", 4, normalize_env=True)
    other.normalizer.load_state_dict(envs.normalizer.state_dict())
    other.normalizer.training = envs.normalizer.training = False
    np.testing.assert_array_equal(other.reset()["both"][1], envs.reset()["both"][1])


@pytest.mark.parametrize("mean", [0.0, -300.0, 1e5, 1.7e9])
def test_a_normalizer_sees_small_differences_far_from_0(mean):
    normalizer, rng = Normalizer(spaces.Box(-np.inf, np.inf, (2,), np.float64), 8, 0.99), np.random.default_rng(0)
    for _ in range(125):  # 1,000 samples, whose deviation of 1 would seem to be 32 at 1e5 with a prior of mean 0
        seen = normalizer.observe(mean + rng.normal(size=(8, 2)))
    assert np.sqrt(normalizer.obs_rms.var) == pytest.approx(1.0, abs=0.1)
    assert 0.5 < np.abs(seen).max() < 5


def test_a_checkpoint_of_a_run_that_did_not_normalize_plays_as_it_was_trained(tmp_path, capsys):
    from a2c_ppo_acktr.run import checkpoint
    from evaluate import load_agent

    folder = tmp_path / "run"
    assert main.main(command("Nested", "--log-dir", str(folder), "--no-normalize-env")) == 0
    path = folder / "checkpoints" / "latest.pt"
    contents = checkpoint.load(path)
    assert contents["normalizer"] is None
    contents["settings"]["normalize_env"] = True  # as were such runs before leaves were normalized
    torch.save(contents, path)
    with_module = {"trusted": True} if "trusted" in load_agent.__code__.co_varnames else {}
    _, envs = load_agent(path, **with_module)
    assert envs.normalizer is None


# seeds


def test_no_two_environments_of_any_run_or_purpose_share_a_seed():
    seeds = [
        env_seed(run, purpose, index)
        for run in (*range(50), 10_000, 131_071)
        for purpose in PURPOSES
        for index in (0, 1, 7, 63, MOST_ENVS - 1)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert env_seed(3, "training", 5) == env_seed(3, "training") + 5
    assert 0 <= env_seed(2**63, "test", 10**9) < 2**31


def test_training_selection_and_test_begin_in_different_states(tmp_path, monkeypatch, capsys):
    from evaluate import load_agent

    seen, real = [], wild_envs.Seeds.reset

    def reset(env, *, seed=None, options=None):
        if seed is not None:
            seen.append(seed)
        return real(env, seed=seed, options=options)

    monkeypatch.setattr(wild_envs.Seeds, "reset", reset)
    for run in (1, 2):
        folder = tmp_path / f"run{run}"
        argv = command("Seeds", "--log-dir", str(folder), "--seed", str(run), "--num-processes", "4")
        assert main.main([*argv, "--eval-interval", "1", "--eval-episodes", "4", "--num-env-steps", "20"]) == 0
        with_module = {"trusted": True} if "trusted" in load_agent.__code__.co_varnames else {}
        _, envs = load_agent(folder / "checkpoints" / "latest.pt", num_envs=4, seed=run, **with_module)
        envs.reset()
    assert len(seen) == len(set(seen)) == 2 * 3 * 4


def test_what_draws_from_numpys_global_generator_repeats_in_workers():
    def seen(seed):
        envs = make_vec_envs(EnvConfig("tests.wild_envs:Global-v0", vec_env="subproc", normalize_env=False), 4, seed)
        rows = [envs.reset(), *(envs.step_arrays(np.zeros(4, int)).obs for _ in range(3))]
        envs.close()
        return np.array(rows)

    first = seen(1)
    np.testing.assert_array_equal(first, seen(1))
    assert (first != seen(2)).all()
    assert len({tuple(row) for row in first[0]}) == 4


# films


def film(name, path, episodes=1):
    envs = make_vec_envs(
        EnvConfig(f"tests.wild_envs:{name}-v0", normalize_env=False), 1, seed=1, render_mode=None, capture_video=1
    )
    try:
        envs.reset()
        envs.camera.start(path, episodes=0, env_steps=0)
        for _ in range(6 * episodes):
            envs.step_arrays(np.zeros(1, int))
    finally:
        envs.close()
    return sorted(path.iterdir()) if path.exists() else []


def pictures(path):
    """What a film shows, `[T, H, W, 3]`."""
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.array([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


@pytest.mark.parametrize("name", wild_envs.DRAWN)
def test_every_picture_that_can_be_drawn_is_in_the_film_as_it_is(name, tmp_path):
    (path,) = film(f"Drawn{name}", tmp_path / "films")
    shown = pictures(path)
    assert shown.shape == (7, 96, 128, 3)
    red, _, blue = (shown[..., channel].mean((1, 2)) for channel in range(3))
    expected = {"Grey": 200, "GreyAxis": 200, "Flags": 255}.get(name, 200)
    np.testing.assert_allclose(red, expected, atol=8)
    if expected == 200 and "Grey" not in name:
        np.testing.assert_allclose(blue, 40.0 * np.arange(7), atol=12)


def test_what_cannot_be_filmed_from_the_start_is_the_users_to_mend(tmp_path):
    with pytest.raises(UsageError, match=r"^--capture-video: no picture can be drawn: render\(\) gave None"):
        film("UndrawnNone", tmp_path / "films")


@pytest.mark.parametrize("name", wild_envs.UNDRAWN)
def test_what_is_no_picture_is_said_and_leaves_no_film(name, tmp_path):
    with pytest.raises((UsageError, EnvironmentCrash)) as caught:
        film(f"Undrawn{name}", tmp_path / "films")
    assert_says(caught.value, wild_envs.UNDRAWN[name][1])
    assert not (tmp_path / "films").exists() or not list((tmp_path / "films").iterdir())


def test_an_environment_that_ignores_the_render_mode_is_refused():
    with pytest.raises(UsageError, match="cannot be shown: needs render mode rgb_array"):
        make_env(EnvConfig("tests.wild_envs:DrawnWithoutMode-v0"), "rgb_array")


def test_what_is_white_goes_by_the_kind_of_number():
    def shade(value, dtype, **kwargs):
        return as_picture(np.full((96, 96, 3), value, dtype), **kwargs)[0, 0, 0]

    assert shade(200, np.uint8) == shade(200, np.int64) == shade(200.0, np.float32) == 200
    assert shade(0.5, np.float64) == 127
    assert shade(True, np.bool_) == 255
    assert shade(300, np.int32) == shade(np.inf, np.float32) == 255
    assert shade(-5, np.int32) == shade(np.nan, np.float32) == 0
    assert shade(1.0, np.float32, white=255.0) == 1  # a dark picture in a film of bright ones


def test_a_rate_that_is_no_rate_is_replaced():
    assert frame_rate({"render_fps": 0.5}) == 0.5
    for odd in (None, {}, {"render_fps": None}, {"render_fps": "fast"}, {"render_fps": -1}, {"render_fps": np.nan}, []):
        assert frame_rate(odd) == 30


# flags


def test_an_environment_of_the_working_directory_is_found(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_wild_world.py").write_text(
        "import gymnasium as gym\nfrom tests.wild_envs import Wild\ngym.register('MyWorld-v0', entry_point=Wild)\n"
    )
    (tmp_path / "my_broken_world.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "my_torn_world.py").write_text("def (\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    argv = ["--algo", "a2c", "--num-env-steps", "60", "--log-dir", "run", "--save-dir", ""]
    for module in ("my_broken_world", "my_torn_world", "my_missing_world", "..", "../../x", ""):
        assert main.main([*argv, "--env-name", f"{module}:MyWorld-v0"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"main.py: error: --env-name {module}:MyWorld-v0: ")
    assert main.main([*argv, "--env-name", "my_wild_world:MyWorld-v0"]) == 0


@pytest.mark.parametrize("kwargs", [{"frameskip": 2}, {"obs_type": "ram"}, {"continuous": True}, {"frameskip": 0}])
def test_arguments_that_ataris_preprocessing_would_overwrite_are_refused(kwargs):
    ((name, value),) = kwargs.items()
    with pytest.raises(UsageError, match=f"--env-kwargs {name}={value}: has no effect"):
        make_vec_envs(EnvConfig("ALE/Pong-v5", env_kwargs=kwargs), 1, seed=1)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("Pendulum-v1", {"max_episode_steps": -5}),
        ("LunarLander-v3", {"gravity": 99}),
        ("HalfCheetah-v5", {"xml_file": "/etc/passwd"}),
        ("FrozenLake-v1", {"map_name": "nothing"}),
        ("MiniGrid-Empty-5x5-v0", {"size": 1}),
    ],
)
def test_arguments_that_a_constructor_refuses_are_named_in_one_line(env_id, kwargs):
    ((name, value),) = kwargs.items()
    with pytest.raises(UsageError) as caught:
        make_env(EnvConfig(env_id, env_kwargs=kwargs))
    assert_says(caught.value, f"--env-name {env_id} --env-kwargs {name}={value}: cannot be made: ")


def test_values_that_only_look_like_numbers_stay_words():
    from a2c_ppo_acktr.flags import read_value

    assert [read_value(text) for text in ("001", "1_0", "1e-3", "-2", "inf", "7")] == [
        "001",
        "1_0",
        1e-3,
        -2,
        np.inf,
        7,
    ]
    assert [read_value(text) for text in ("true", "false", "True", "None", "'001'")] == [True, False, True, None, "001"]


# Stable-Baselines3's view


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_asking_for_what_an_environment_lacks_leaves_it_running(backend):
    envs = make("FineLists", vec_env=backend)
    envs.reset()
    assert not envs.has_attr("action_masks")
    assert envs.has_attr("horizon")
    for ask in (lambda: envs.get_attr("nothing"), lambda: envs.env_method("nothing")):
        with pytest.raises(AttributeError, match="nothing"):
            ask()
    *_, infos = [envs.step(np.zeros(2, int)) for _ in range(6)][-1]
    assert infos[0]["episode"]["l"] == 6
    assert infos[0]["episode"]["t"] >= 0
    time.sleep(0.01)
    *_, infos = [envs.step(np.zeros(2, int)) for _ in range(6)][-1]
    assert infos[0]["episode"]["t"] >= 0.01
    envs.close()


def test_a_game_that_ends_within_the_no_op_after_a_lost_life_is_counted():
    from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv

    class Game(wild_envs.Wild):
        """Two lives; the second is lost by doing nothing after the first one."""

        action_space = spaces.Discrete(2)

        def __init__(self):
            super().__init__()
            self.ale = self

        def lives(self):
            return 2 if self.t < 3 else 1 if self.t == 3 else 0

        def end(self):
            return self.t >= 4, False

    envs = DummyEnvs([lambda: EpisodicLifeEnv(tapped(Game()))])
    envs.reset()
    ended = [envs.step_arrays(np.ones(1, int)).ended for _ in range(9)]
    found = [(one.returns[0], one.lengths[0]) for one in ended if one is not None]
    assert found == [(4.0, 4)] * 3


class Still:
    """An actor that always takes action 0."""

    device = torch.device("cpu")

    def initial_carry(self, num_envs):
        return torch.zeros(num_envs, 0)

    def act(self, obs, carry, masks, signals, explore):
        return Decision(torch.zeros(len(masks), dtype=torch.int64), carry, {})

    def observe(self, carry, step):
        return carry


def test_pictures_within_a_dict_are_stacked_as_alone_and_put_together_in_a_replay():
    alone, nested = make("Alone", frame_stack=3), make("Nested", frame_stack=3)
    assert nested.observation_space["camera"] == nested.observation_space["both"][0] == alone.observation_space
    np.testing.assert_array_equal(alone.reset(), nested.reset()["camera"])
    for _ in range(14):
        one, other = alone.step_arrays(actions(alone)), nested.step_arrays(actions(nested))
        np.testing.assert_array_equal(one.obs, other.obs["camera"])
        np.testing.assert_array_equal(one.obs, other.obs["both"][0])
        if one.ended is not None:
            np.testing.assert_array_equal(one.ended.final_obs, other.ended.final_obs["camera"])
            assert other.ended.final_obs["both"][1].shape == (2, 4)

    stepper, slots = Stepper(nested, Still()), Slots(40, 2, nested.spaces)
    assert slots.obs["camera"].shape == (80, 3, 40, 48)
    for _ in range(14):
        step, _ = stepper.step(explore=True)
        found = slots.read(slots.insert(step))
        assert torch.equal(found["camera"], step.obs["camera"])
        assert torch.equal(found["both"][0], step.obs["both"][0])
        assert torch.equal(found["both"][1], step.obs["both"][1])
