"""What stops being a number is said in one line that names it, whatever learns, and nothing else is printed."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.run import histograms
from a2c_ppo_acktr.utils import Diverged
from tests.scripted import Game


class BadReward(gym.Env):
    """Episodes of 20 steps; the reward of the tenth is not finite."""

    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def __init__(self, bad):
        self.bad = bad

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), self.bad if self.t == 10 else 1.0, self.t == 20, False, {}


for name, bad in (("Nan", np.nan), ("Inf", np.inf)):
    gym.register(f"Reward{name}-v0", entry_point=BadReward, kwargs={"bad": bad})


def stopped(flags, folder):
    """The one line on stderr of a training that does not reach its end."""
    command = f"main.py {flags} --num-env-steps 6000 --torch-threads 1 --no-cuda --save-dir= --log-dir {folder / 'r'}"
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("main.py: stopped: ")
    return line


@pytest.mark.parametrize("bad", ["Nan", "Inf"])
@pytest.mark.parametrize("algorithm", ["rainbow", "c51", "r2d1"])
def test_a_reward_that_is_no_number_is_named(algorithm, bad, tmp_path):
    line = stopped(f"--algo {algorithm} --env-name tests.test_divergence:Reward{bad}-v0 --num-processes 2", tmp_path)
    assert f"environment 0 failed in step: reward is {bad.lower()}" in line


@pytest.mark.parametrize("flags", ["dqn --prioritized", "r2d1 --learning-starts 200", "a2c"])
def test_a_network_that_diverges_is_told_by_its_loss_alone(flags, tmp_path, capfd):
    line = f"--algo {flags} --env-name CartPole-v1 --num-env-steps 6000 --torch-threads 1 --no-cuda --save-dir="
    args = arguments.parse([*line.split(), "--log-dir", str(tmp_path / "r")])
    args.config.lr = args.config.max_grad_norm = 1e30  # more than the flags allow
    with pytest.raises(Diverged, match=r"losses/value_loss is (nan|inf)|grad_norm"):
        main.execute(args)
    assert capfd.readouterr().err == ""


def test_priorities_that_are_no_numbers_leave_a_replay_that_can_be_sampled():
    game = Game(n_step=1, ends=0.0, extra=20, alpha=0.9)
    for _ in range(12):
        game.step()
    rows = np.array(sorted(game.windows().values()))
    game.replay.update_priorities(rows, np.full(len(rows), 2.0))
    broken = np.where(np.arange(len(rows)) % 2 == 0, np.nan, np.inf)
    game.replay.update_priorities(rows, broken)
    assert game.replay.max_priority == pytest.approx(2.0, rel=1e-5)
    np.testing.assert_allclose(game.replay.tree.leaves[rows], (2.0 + 1e-6) ** 0.9)
    game.check(game.replay.sample(50, 0.5), game.windows())


@pytest.mark.parametrize("numbers", [[1e30], [3e38, -3e38], [1e30, 1.0000001e30], [2e-45, 0.0], []])
def test_a_histogram_counts_numbers_of_any_size(numbers):
    found = histograms.of_tensor(torch.tensor(numbers))
    assert found.counts.sum() == len(numbers)
    assert (np.diff(found.edges) > 0).all()
    assert found.squares == pytest.approx(sum(float(np.float32(x)) ** 2 for x in numbers), rel=1e-6)
