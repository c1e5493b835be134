"""Evaluation: quotas, determinism, frozen statistics; and watching."""

import json
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import enjoy
import evaluate
import main
from a2c_ppo_acktr import algo
from a2c_ppo_acktr.envs.vector import DummyEnvs
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.run import checkpoint


class FixedLength(gym.Env):
    """Episodes of a given length with reward 1 per step."""

    observation_space, action_space, render_mode = spaces.Box(0, 1, (1,)), spaces.Discrete(2), None

    def __init__(self, length):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == self.length, False, {}


def agent(envs):
    return algo.make("a2c", algo.ALGORITHMS["a2c"].Config(), EnvSpaces(*envs.spaces))


@pytest.mark.parametrize("num_episodes", [1, 5, 6, 10])
def test_every_environment_plays_its_quota_so_that_short_episodes_are_not_favoured(num_episodes):
    lengths = [1, 2, 50]
    envs = DummyEnvs([lambda n=n: gym.wrappers.RecordEpisodeStatistics(FixedLength(n)) for n in lengths])
    result = evaluate.evaluate(agent(envs), envs, num_episodes)
    assert len(result["returns"]) == len(result["lengths"]) == num_episodes
    counts = [(result["lengths"] == n).sum() for n in lengths]
    assert max(counts) - min(counts) <= 1
    assert (result["returns"] == result["lengths"]).all()


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main.main("--env-name CartPole-v1 --num-env-steps 1600 --log-dir run --torch-threads 1".split())
    return tmp_path


def test_command_line_prints_and_writes_the_statistics(trained, capsys):
    capsys.readouterr()
    line = "--load-dir trained_models/a2c --env-name CartPole-v1 --num-episodes 7 --json out/result.json"
    assert evaluate.main(line.split()) == 0
    result = json.loads(Path("out/result.json").read_text())
    assert {"mean", "std", "min", "max", "n", "returns", "lengths"} <= result.keys()
    assert result["n"] == len(result["returns"]) == len(result["lengths"]) == 7
    assert result["mean"] == pytest.approx(np.mean(result["returns"]))
    assert f"mean {result['mean']:.2f}" in capsys.readouterr().out


def test_deterministic_evaluation_repeats_and_sampling_differs(trained):
    def returns(*extra):
        evaluate.main(["--load-dir", "run", "--num-episodes", "8", "--json", "r.json", *extra])
        return json.loads(Path("r.json").read_text())["returns"]

    assert returns() == returns()
    assert returns("--seed", "2") != returns()
    assert returns("--non-det") != returns()
    assert returns("--non-det") == returns("--non-det")


def test_the_environments_of_an_agent_can_be_looked_at(trained):
    algorithm, envs = evaluate.load_agent(Path("run/checkpoints/latest.pt"), num_envs=8, vec_env="dummy")
    played = evaluate.evaluate(algorithm, envs, 8, state_callback=lambda envs: {"state": envs.get_attr("state")})
    np.testing.assert_allclose(played["states"][7]["state"], played["obs"][7][:-1], rtol=1e-5)


def test_a_limit_of_steps_scores_whole_episodes_alone(trained, capsys):
    def played(steps):
        assert (
            evaluate.main(["--load-dir", "run", "--evaluate-steps", str(steps), "--json", "r.json", "--non-det"]) == 0
        )
        return json.loads(Path("r.json").read_text())

    capsys.readouterr()
    short = played(3)
    assert "no episode ended" in capsys.readouterr().out
    assert (short["n"], short["mean"], short["returns"]) == (0, None, [])
    longer = played(60)
    assert longer["n"] == len(longer["returns"]) > 0
    assert longer["returns"] == longer["lengths"]  # CartPole's return is the length of the whole episode
    assert longer["mean"] == pytest.approx(np.mean(longer["lengths"]))


def test_evaluation_uses_the_runs_frozen_statistics(trained):
    saved = checkpoint.load("run/checkpoints/latest.pt")
    algorithm, envs = evaluate.load_agent(Path("run/checkpoints/latest.pt"), num_envs=2)
    before = envs.normalizer.obs_rms.mean.copy()
    np.testing.assert_array_equal(before, saved["normalizer"]["obs"]["mean"].numpy())
    weights = {k: v.clone() for k, v in algorithm.policy.state_dict().items()}
    evaluate.evaluate(algorithm, envs, 4)
    np.testing.assert_array_equal(before, envs.normalizer.obs_rms.mean)
    assert all(torch.equal(v, weights[k]) for k, v in algorithm.policy.state_dict().items())


def test_what_does_not_fit_or_is_not_there_is_named(trained, capsys):
    capsys.readouterr()
    for argv, says in [
        ("--load-dir trained_models/a2c --env-name Pendulum-v1", "it holds CartPole-v1"),
        ("--load-dir trained_models/a2c", "--env-name is needed"),
        ("--load-dir run --env-name Pendulum-v1", "does not fit Pendulum-v1"),
        ("--load-dir run --num-episodes 0", "at least 1"),
    ]:
        assert evaluate.main(argv.split()) == 2
        assert says in capsys.readouterr().err


def test_evaluation_during_training_keeps_the_best(trained):
    assert main.main("--env-name CartPole-v1 --num-env-steps 3200 --eval-interval 10 --log-dir evaluated".split()) == 0
    best = checkpoint.load("evaluated/checkpoints/best.pt")
    assert best["update"] % 10 == 0
    assert best["best"] == checkpoint.load("evaluated/checkpoints/latest.pt")["best"] > 0


def test_of_equally_good_evaluations_the_latest_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    returns = iter([3.0, 7.0, 5.0, 7.0, 6.0])
    monkeypatch.setattr(main, "evaluate_now", lambda *_: (np.full(2, next(returns)), np.ones(2)))
    assert main.main("--env-name CartPole-v1 --num-env-steps 400 --eval-interval 1 --log-dir run".split()) == 0
    best = checkpoint.load("run/checkpoints/best.pt")
    assert (best["update"], best["best"]) == (4, 7.0)


def test_enjoy_writes_a_film_and_prints_every_return(trained, capsys):
    capsys.readouterr()
    line = "--load-dir trained_models/a2c --env-name CartPole-v1 --num-episodes 2 --video films/cart.mp4"
    assert enjoy.main(line.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    lengths = [int(line.split()[-1]) for line in lines if line.startswith("episode")]
    assert len(lengths) == 2
    film = cv2.VideoCapture("films/cart.mp4")
    pictures = []
    while (read := film.read())[0]:
        pictures.append(read[1])
    assert len(pictures) == sum(lengths) + 2  # every episode shows its first observation
    assert pictures[0].shape == (400, 600, 3)
    assert pictures[0].std() > 1
    assert [path.name for path in Path("films").iterdir()] == ["cart.mp4"]


def test_enjoy_without_a_display_names_the_way_out(trained, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert enjoy.main("--load-dir trained_models/a2c --env-name CartPole-v1".split()) == 2
    assert "--video FILE" in capsys.readouterr().err
