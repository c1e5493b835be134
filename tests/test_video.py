"""Films: whole episodes and nothing else, on every backend, without a trace in what is learned."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.envs.video.camera import Film, as_picture
from a2c_ppo_acktr.run import checkpoint

ROOT = Path(__file__).parent.parent


class Picture(gym.Env):
    """Episodes of 3 to 6 steps whose pictures get lighter; its observation is drawn from its generator."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)

    def __init__(self, render_mode=None, cannot_draw=False, fails_at=None):
        self.render_mode, self.cannot_draw, self.fails_at = render_mode, cannot_draw, fails_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(3, 7))
        return self.np_random.random(2, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == self.fails_at:
            raise RuntimeError("broken")
        return self.np_random.random(2, np.float32), float(action), self.t == self.length, False, {}

    def render(self):
        if self.cannot_draw:
            raise RuntimeError("no pencil")
        return np.full((40, 61, 3), 20 + 30 * self.t, np.uint8)


class Blind(Picture):
    metadata = {}


for name, kind in {"Picture": Picture, "Blind": Blind}.items():
    if f"{name}-v0" not in gym.registry:
        gym.register(f"{name}-v0", kind)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(line):
    main.execute(arguments.parse([*line.split(), "--save-dir=", "--torch-threads", "1"]))


def pictures_of(path):
    film, pictures = cv2.VideoCapture(str(path)), []
    while (read := film.read())[0]:
        pictures.append(read[1])
    return pictures


def lengths_of(run, rank=0):
    with open(f"{run}/{rank}.monitor.csv") as file:
        next(file)
        return [int(row["l"]) for row in csv.DictReader(file)]


def films_of(run):
    """Episode number -> (step in the name, pictures); nothing else may be there."""
    found = {}
    for path in Path(run, "videos").iterdir():
        number, step = map(int, re.fullmatch(r"episode-(\d+)-step-(\d+)\.mp4", path.name).groups())
        found[number] = (step, pictures_of(path))
    return found


CARTPOLE = "--env-name CartPole-v1 --num-processes 3 --log-dir run --num-env-steps"


@pytest.mark.parametrize("backend", ["native", "dummy"])
def test_films_are_whole_episodes_and_leave_no_trace_in_what_is_learned(backend):
    line = f"{CARTPOLE} 1200 --vec-env {backend}"
    train(f"{line} --capture-video 4")
    train(f"{line} --log-dir without")
    filmed, plain = (checkpoint.load(f"{run}/checkpoints/latest.pt")["algorithm"] for run in ("run", "without"))
    assert all(torch.equal(filmed["policy"][name], value) for name, value in plain["policy"].items())
    assert [lengths_of("run", rank) for rank in range(3)] == [lengths_of("without", rank) for rank in range(3)]
    lengths, films = lengths_of("run"), films_of("run")
    assert sorted(films) == list(range(4, len(lengths) + 1, 4))
    for number, (step, pictures) in films.items():
        assert step == 3 * sum(lengths[: number - 1])
        assert len(pictures) == lengths[number - 1] + 1
        assert {picture.shape for picture in pictures} == {(400, 600, 3)}
        assert all(picture.mean() > 100 and picture.std() > 1 for picture in pictures)
        assert any((pictures[0] != picture).any() for picture in pictures[1:])
    assert not Path("without/videos").exists()


def test_a_continued_run_goes_on_counting_and_films_no_episode_without_its_beginning():
    train(f"{CARTPOLE} 300 --capture-video 1")
    before = films_of("run")
    main.execute(arguments.parse("--resume run --num-env-steps 900".split()))
    lengths, films = lengths_of("run"), films_of("run")
    going_on = max(before) + 1
    assert sorted(films) == [number for number in range(1, len(lengths) + 1) if number != going_on]
    assert all(len(pictures) == lengths[number - 1] + 1 for number, (_, pictures) in films.items())
    assert all(step == 3 * sum(lengths[: number - 1]) for number, (step, _) in films.items())


def test_filming_may_begin_when_a_run_is_continued():
    train(f"{CARTPOLE} 300 --vec-env native")
    main.execute(arguments.parse("--resume run --num-env-steps 600 --capture-video 1".split()))
    assert films_of("run")


def rollout(envs, steps=40):
    """Everything that `steps` steps of given actions show."""
    rng, seen = np.random.default_rng(0), [envs.reset()]
    for _ in range(steps):
        step = envs.step_arrays(rng.integers(0, 2, envs.num_envs))
        seen += [step.obs, step.reward, step.terminated, step.truncated]
        if step.ended is not None:
            seen += list(step.ended)
    envs.close()
    return seen


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_a_filmed_environment_beside_others_gives_the_same_numbers(backend):
    env_id = "tests.test_video:Picture-v0"
    plain = rollout(make_vec_envs(EnvConfig(env_id), 3, seed=5))
    envs = make_vec_envs(EnvConfig(env_id, vec_env=backend), 3, seed=5, capture_video=1)
    assert envs.backend == backend
    for ours, expected in zip(rollout(envs), plain, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_pictures_run_from_the_first_to_the_last_moment_of_an_episode():
    train("--env-name tests.test_video:Picture-v0 --num-processes 1 --num-env-steps 40 --log-dir run --capture-video 2")
    for number, (_, pictures) in films_of("run").items():
        assert number % 2 == 0
        light = [picture.mean() for picture in pictures]
        np.testing.assert_allclose(light, 20 + 30 * np.arange(len(light)), atol=4)
        assert pictures[0].shape == (120, 182, 3)  # enlarged threefold, sides even


def test_atari_beside_native_stepping_films_whole_games(tmp_path):
    pytest.importorskip("ale_py")
    envs = make_vec_envs(EnvConfig("PongNoFrameskip-v4"), 2, seed=1, capture_video=1)
    assert envs.backend == "native"
    envs.reset()
    envs.camera.start(tmp_path / "videos", episodes=0, env_steps=0)
    lengths = []
    while not lengths:
        ended = envs.step_arrays(np.array([3, 0])).ended
        lengths += [] if ended is None else list(ended.lengths[ended.indices == 0])
    envs.close()
    ((_, pictures),) = films_of(tmp_path).values()
    assert len(pictures) == lengths[0] + 1
    assert pictures[0].shape == (210, 160, 3)


FAMILIES = {
    "HalfCheetah-v5": "mujoco",
    "dm.cartpole.balance": "dm_control",
    "HalfCheetahBulletEnv-v0": "pybullet",
    "MiniGrid-Empty-5x5-v0": "minigrid",
    "MinAtar/Breakout-v1": "minatar",
    "LunarLander-v3": "Box2D",
}


@pytest.mark.parametrize("env_id", FAMILIES)
def test_every_family_draws_without_a_display(env_id):
    pytest.importorskip(FAMILIES[env_id])
    envs = make_vec_envs(EnvConfig(env_id, normalize_env=False), 1, seed=0, capture_video=1)
    envs.reset()
    envs.action_space.seed(0)  # some actions of MiniGrid change nothing, and three of them can follow each other
    pictures = [envs.camera.early[0]]
    for _ in range(6):
        action = np.asarray(envs.action_space.sample())
        envs.step_arrays(action[None])
        pictures += envs.env_method("render")
    envs.close()
    pictures = [as_picture(picture) for picture in pictures]
    assert all(picture.std() > 5 for picture in pictures)
    assert any((picture != pictures[0]).any() for picture in pictures[1:])


def test_the_camera_follows_a_body_that_runs_away():
    pytest.importorskip("mujoco")
    envs = make_vec_envs(EnvConfig("HalfCheetah-v5", normalize_env=False), 1, seed=0, capture_video=1)
    envs.reset()
    core = envs.get_attr("unwrapped")[0]
    core.set_state(np.r_[50.0, core.data.qpos[1:]], core.data.qvel)
    (picture,) = envs.env_method("render")
    envs.close()
    assert (picture[..., 0].astype(int) - picture[..., 2] > 50).sum() > 1000  # the cheetah is tan, the floor is not


def test_a_program_that_dies_is_named_and_leaves_no_file():
    film = Film(Path("film.mp4"), 30)
    film.add(np.zeros((100, 100, 3), np.uint8))
    film.process.kill()
    with pytest.raises(OSError, match=r"film\.mp4"):
        for _ in range(50):
            film.add(np.zeros((100, 100, 3), np.uint8))
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--env-name tests.test_video:Blind-v0", "cannot be shown"),
        ("--env-name tests.test_video:Picture-v0 --env-kwargs cannot_draw=True", "no pencil"),
        ("--env-name CartPole-v1 --capture-video -1", "--capture-video -1"),
    ],
)
def test_what_cannot_be_filmed_is_one_line_and_exit_code_2_and_creates_nothing(flags, says, capsys, tmp_path):
    assert main.main(["--capture-video", "1", *flags.split()]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert says in errors[0]
    assert not list(tmp_path.iterdir())


def test_a_crash_leaves_no_half_film(capsys):
    line = "--env-name tests.test_video:Picture-v0 --env-kwargs fails_at=6 --num-processes 1 --log-dir run --save-dir="
    assert main.main([*line.split(), "--capture-video", "1"]) == 1
    assert "broken" in capsys.readouterr().err
    lengths = lengths_of("run")
    assert {number: len(pictures) for number, (_, pictures) in films_of("run").items()} == {
        i + 1: length + 1 for i, length in enumerate(lengths)
    }


def test_a_film_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    envs = make_vec_envs(EnvConfig("tests.test_video:Picture-v0"), 2, seed=5, capture_video=2)
    envs.reset()
    envs.camera.start(tmp_path / "file" / "videos", episodes=0, env_steps=0)
    with pytest.raises(NotADirectoryError):
        for _ in range(20):
            envs.step_arrays(np.array([0, 1]))
    envs.close()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what a process blocks")
def test_ctrl_c_never_reaches_ffmpeg_even_while_it_starts(tmp_path):
    film, before = Film(tmp_path / "film.mp4", 30), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    film.add(np.zeros((96, 96, 3), np.uint8))
    status = Path(f"/proc/{film.process.pid}/status").read_text()
    blocked = int(status.split("SigBlk:")[1].split()[0], 16)
    assert all(blocked >> (sig - 1) & 1 for sig in (signal.SIGINT, signal.SIGTERM))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    film.process.send_signal(signal.SIGINT)
    film.close()
    assert film.path.stat().st_size > 0


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_a_signal_leaves_only_whole_films(tmp_path, sig):
    flags = "--env-name CartPole-v1 --num-env-steps 1e9 --torch-threads 1 --log-dir run --save-dir= --capture-video 1"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *flags.split()], start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(list(Path("run/videos").glob("episode-*.mp4"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, sig)
    assert process.wait(20) == (128 + sig if sig == signal.SIGINT else -sig)
    if sig == signal.SIGINT:
        assert all(len(pictures) > 8 for _, pictures in films_of("run").values())
    assert all(len(pictures_of(path)) > 8 for path in Path("run/videos").glob("*.mp4"))


def test_memory_does_not_grow_with_a_film():
    rng, film = np.random.default_rng(0), Film(Path("long.mp4"), 30)
    picture = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    tracemalloc.start()
    for _ in range(100):
        film.add(picture)
    film.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * picture.nbytes
    assert len(pictures_of("long.mp4")) == 100
