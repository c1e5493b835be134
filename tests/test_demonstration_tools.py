"""The programs in `gail_experts`: recording from any agent, thresholds, lives, conversion of upstream's files."""

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces

import main
from a2c_ppo_acktr import algo, experts
from a2c_ppo_acktr.acting.collect import Stepper
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.envs.vector import DummyEnvs
from a2c_ppo_acktr.experts.files import save
from a2c_ppo_acktr.interfaces import Decision
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError
from evaluate import load_agent
from gail_experts import convert_to_pytorch, record
from tests.demonstrations import padded

ROOT = Path(__file__).resolve().parent.parent


class Constant:
    """Takes the same action always."""

    device = torch.device("cpu")

    def __init__(self, action):
        self.action = torch.as_tensor(action)

    def initial_carry(self, num_envs):
        return torch.zeros(num_envs, 0)

    def act(self, obs, carry, masks, signals, explore):
        return Decision(self.action.expand(len(carry), *self.action.shape), carry, {})

    def observe(self, carry, step):
        return carry


class Nested(gym.Env):
    """Episodes of given lengths; observations say which environment, episode and step they are of."""

    observation_space = spaces.Dict(a=spaces.Box(-np.inf, np.inf, (3,)), b=spaces.Tuple((spaces.Discrete(99),)))
    action_space, render_mode = spaces.Discrete(3, start=7), None

    def __init__(self, name, lengths):
        self.name, self.lengths, self.episode = name, lengths, -1

    def observe(self):
        return {"a": np.array([self.name, self.episode, self.t], np.float32), "b": (self.t,)}

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        assert action == 9
        self.t += 1
        over = self.t == self.lengths[self.episode % len(self.lengths)]
        return self.observe(), 1.0, over and self.name == 0, over and self.name > 0, {}


def nested_envs(*lengths):
    return DummyEnvs(
        [lambda i=i, n=n: gym.wrappers.RecordEpisodeStatistics(Nested(i, n)) for i, n in enumerate(lengths)]
    )


def test_episodes_of_many_environments_are_taken_apart_and_end_in_their_own_final_observations(tmp_path):
    trajectories = record.play(Constant(2), nested_envs([2, 5], [3], [50]), 7, explore=False)
    save(tmp_path / "n.npz", trajectories)
    demos = experts.load(tmp_path / "n.npz").check(Nested.observation_space, Nested.action_space)
    assert demos.lengths.tolist() == [2, 5, 3, 3, 50, 50, 50]  # quotas 2, 2, 3: short episodes are not favoured
    assert demos.returns.tolist() == demos.lengths.tolist()
    expected = [[env, e, t] for env, e, n in [(0, 0, 2), (0, 1, 5), (1, 0, 3), (1, 1, 3)] for t in range(n)]
    assert demos.obs["a"][:13].tolist() == expected
    np.testing.assert_array_equal(demos.next_obs["a"], demos.obs["a"] + [0, 0, 1])
    np.testing.assert_array_equal(demos.obs["b"][0], demos.obs["a"][:, 2])
    assert set(demos.actions.tolist()) == {2}
    assert demos.terminated.sum() == 2
    assert demos.truncated.sum() == 5


def test_episodes_below_the_threshold_are_left_out_and_more_are_played():
    envs = nested_envs([2, 9, 4], [3, 8])
    kept, played = record.collect(Constant(2), envs, 5, threshold=4, attempts=30, explore=False)
    assert len(kept) == 5
    assert {t.episode_return for t in kept} == {4, 8, 9}
    assert played < 30
    with pytest.raises(UsageError, match=r"0 of 5 episodes reached it, 3 are wanted; .* mean .* best 9.00"):
        record.collect(Constant(2), nested_envs([9, 4]), 3, threshold=10, attempts=5, explore=False)


def test_continuous_actions_are_recorded_as_they_were_sent():
    envs = make_vec_envs(EnvConfig("Pendulum-v1"), 1, seed=1, training=False)
    (trajectory,) = record.play(Constant([5.0]), envs, 1, explore=False)
    assert set(trajectory.actions[:, 0].tolist()) == {5.0}
    assert trajectory.truncated.tolist() == [False] * 199 + [True]


def test_an_atari_game_is_one_episode_whose_stacks_and_final_images_are_those_that_were_seen(tmp_path, monkeypatch):
    seed_everything(0)
    envs = make_vec_envs(EnvConfig("BreakoutNoFrameskip-v4"), 1, seed=1, training=False)
    agent = algo.make("a2c", algo.ALGORITHMS["a2c"].Config(), envs.spaces)
    seen, led_to, step = [], [], Stepper.step

    def spy(self, explore):
        taken, arrays = step(self, explore)
        seen.append(taken.obs[0].numpy().copy())
        led_to.append((arrays.ended.final_obs if arrays.ended is not None else arrays.obs)[0].copy())
        return taken, arrays

    monkeypatch.setattr(Stepper, "step", spy)
    save(tmp_path / "b.npz", record.play(agent, envs, 1, explore=True), frame_stack=envs.frame_stack)
    envs.close()
    demos = experts.load(tmp_path / "b.npz").check(envs.observation_space, envs.action_space)
    assert len(demos.lengths) == 1
    assert demos.terminated.sum() == 5
    np.testing.assert_array_equal(demos.obs, np.stack(seen))
    np.testing.assert_array_equal(demos.next_obs, np.stack(led_to))
    assert demos.frames.shape == (len(demos) + 5, 1, 84, 84)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main.main("--env-name CartPole-v1 --num-env-steps 1600 --log-dir run --torch-threads 1".split()) == 0
    return folder


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.chdir(trained)


def test_a_recording_repeats_in_the_environment_itself(here, capsys):
    assert record.main("--checkpoint run --num-trajectories 4 --num-processes 3 --non-det --out out/c.npz".split()) == 0
    env = gym.make("CartPole-v1").unwrapped
    demos = experts.load("out/c.npz").check(env.observation_space, env.action_space)
    assert checkpoint.load("run/checkpoints/latest.pt")["normalizer"] is not None  # it saw other numbers than these
    env.reset()
    next_obs, terminated = [], []
    for e in range(4):
        own = demos.select(demos.episodes == e)
        env.state = own.obs[0].astype(np.float64)
        for action in own.actions:
            obs, _, over, _, _ = env.step(action)
            next_obs.append(obs)
            terminated.append(over)
    np.testing.assert_allclose(demos.next_obs, next_obs, atol=1e-4)
    np.testing.assert_array_equal(demos.terminated, terminated)
    np.testing.assert_array_equal(demos.returns, demos.lengths)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"kept 4 of 4 episodes, {len(demos)} steps: return mean {demos.returns.mean():.2f}")
    assert line.endswith("wrote out/c.npz")
    known = {"env_name": "CartPole-v1", "algo": "a2c", "deterministic": False, "frame_stack": 1, "seed": 1}
    assert known.items() <= demos.meta.items()
    assert demos.meta["command"].startswith("python gail_experts/record.py --checkpoint run --num-trajectories 4")


def test_a_seed_repeats_a_recording_and_a_file_is_replaced_with_a_word(here, capsys):
    def recorded(*extra):
        assert record.main(["--checkpoint", "run", "--num-trajectories", "3", "--out", "r.npz", *extra]) == 0
        return experts.load("r.npz").obs.tolist()

    first = recorded()
    assert recorded() == first
    assert capsys.readouterr().out.splitlines()[-1].endswith("replaced r.npz")
    assert recorded("--seed", "2") != first
    sampled = recorded("--non-det")
    assert sampled != first
    assert recorded("--non-det") == sampled


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        ("--algo dqn --env-name CartPole-v1 --num-env-steps 300", (4,)),
        ("--algo a2c --env-name BreakoutNoFrameskip-v4 --num-env-steps 5 --num-processes 1", (4, 84, 84)),
    ],
)
def test_agents_of_other_algorithms_and_of_stacked_images_are_recorded_too(tmp_path, monkeypatch, line, shape):
    monkeypatch.chdir(tmp_path)
    assert main.main([*line.split(), "--log-dir", "run", "--torch-threads", "1"]) == 0
    assert record.main("--checkpoint run --num-trajectories 1 --non-det --out r.npz".split()) == 0
    _, envs = load_agent(Path("run/checkpoints/latest.pt"))
    demos = experts.load("r.npz").check(envs.observation_space, envs.action_space)
    assert demos.meta["algo"] == line.split()[1]
    assert demos.obs.shape == (demos.lengths.sum(), *shape)
    assert len(demos.lengths) == 1


def test_what_cannot_be_recorded_is_one_line_and_leaves_no_file(here, capsys):
    capsys.readouterr()
    for words, says in [
        ("--checkpoint run --out x.pt", "--out x.pt: expected a name that ends in .npz"),
        ("--checkpoint run --num-trajectories 0", "--num-trajectories 0: expected at least 1"),
        ("--checkpoint run --num-trajectories 3 --max-attempts 2", "--max-attempts 2: expected at least"),
        ("--checkpoint run --reward-threshold much", "--reward-threshold much: expected a number"),
        ("--checkpoint nowhere", "nowhere: no checkpoint there"),
        (
            "--checkpoint run --num-trajectories 2 --reward-threshold 501 --max-attempts 4 --out x.npz",
            "--reward-threshold 501: 0 of 4 episodes reached it, 2 are wanted",
        ),
    ]:
        assert record.main(words.split()) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
        assert not list(Path().glob("x.*"))


def test_without_a_name_the_file_is_upstreams_beside_the_program(here, tmp_path, monkeypatch):
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    assert record.main("--checkpoint run --num-trajectories 1".split()) == 0
    assert experts.find(tmp_path, "CartPole-v1").name == "trajs_cartpole.npz"


def test_both_programs_run_from_a_shell_anywhere(trained):
    def run(program, *words):
        command = [sys.executable, str(ROOT / "gail_experts" / program), *words]
        return subprocess.run(command, cwd=trained, capture_output=True, text=True, timeout=120)

    done = run("record.py", "--checkpoint", "run", "--num-trajectories", "1", "--out", "shell.npz")
    assert done.returncode == 0
    assert "wrote shell.npz" in done.stdout
    refused = run("convert_to_pytorch.py", "--h5-file", "a.h5", "--out", "b.txt")
    assert refused.returncode == 2
    assert refused.stderr == "convert_to_pytorch.py: error: --out b.txt: expected a name that ends in .npz\n"


@pytest.fixture
def h5(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("trajs_x.h5", "w") as file:
        for key, array in zip(convert_to_pytorch.KEYS, padded().values(), strict=True):
            file[key] = array.astype(np.float64)
    return Path("trajs_x.h5")


def test_upstreams_h5_becomes_an_npz_or_upstreams_dictionary_with_the_same_steps(h5, capsys):
    assert convert_to_pytorch.main(["--h5-file", "trajs_x.h5", "--env-name", "X-v0"]) == 0
    assert capsys.readouterr().out == "3 episodes, mean return 3.00: wrote trajs_x.npz\n"
    assert convert_to_pytorch.main("--h5-file trajs_x.h5 --pt-file x.pt".split()) == 0
    npz, pt = experts.load("trajs_x.npz"), experts.load("x.pt")
    assert npz.obs[:, 0].tolist() == [0, 1, 2, 100, 200, 201, 202, 203, 204]
    for name in ("obs", "next_obs", "actions", "rewards", "terminated", "truncated", "has_next", "lengths", "returns"):
        np.testing.assert_array_equal(getattr(npz, name), getattr(pt, name), err_msg=name)
    assert np.flatnonzero(~npz.has_next).tolist() == [2, 3, 8]
    written = torch.load("x.pt", weights_only=True)
    for name, array in padded().items():
        np.testing.assert_array_equal(written[name], array)
    assert written["states"].dtype == torch.float32
    assert written["lengths"].dtype == torch.int64


def test_an_h5_file_with_defects_is_one_line(h5, capsys):
    whole = h5.read_bytes()
    for size in range(0, len(whole), 301):
        h5.write_bytes(whole[:size])
        assert convert_to_pytorch.main(["--h5-file", str(h5)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("convert_to_pytorch.py: error: demonstrations trajs_x.h5: ")
        assert error.count("\n") == 1
    h5.write_bytes(whole)
    for key, value, says in [("len_B", [9, 9, 9], "whole numbers from 1 to 5"), ("r_B_T", None, "lacks r_B_T")]:
        with h5py.File(h5, "a") as file:
            del file[key]
            if value is not None:
                file[key] = value
        assert convert_to_pytorch.main(["--h5-file", str(h5)]) == 2
        assert says in capsys.readouterr().err
    assert convert_to_pytorch.main([]) == 2
    assert "demonstrations trajs_halfcheetah.h5: no such file" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["trajs_x.h5"]


def test_h5py_where_it_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert convert_to_pytorch.main([]) == 2
    assert "pip install -e '.[imitation]'" in capsys.readouterr().err
