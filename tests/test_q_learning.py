"""Q-learning through the whole program on probes."""

import numpy as np
import pytest
import torch

import main
from a2c_ppo_acktr import algo, arguments
from tests.q_learning import EVERY, act, values


def train(name, env_id, monkeypatch, tmp_path, flags=""):
    """The algorithm after `main.train` on a probe."""
    made, original = [], algo.make
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main.algo, "make", lambda *args: made.append(original(*args)) or made[0])
    few = {"c51": "--num-atoms 21 --v-min -1 --v-max 6", "rainbow": "--num-atoms 21 --v-min -1 --v-max 6"}
    argv = (
        f"--algo {name} --env-name tests.probe_envs:{env_id}-v0 --num-steps 4 --num-env-steps 800 --batch-size 32 "
        f"--learning-starts 40 --hidden-size 32 --target-update-interval 10 --lr 3e-3 --eval-interval 100000 "
        f"--torch-threads 1 --save-dir= --log-dir run --no-cuda {few.get(name, '')} {flags}"
    )
    main.execute(arguments.parse(argv.split()))
    algorithm = made[0]
    algorithm.policy.mute()
    return algorithm


def values_at(algorithm, *observation):
    return values(algorithm, algorithm.policy, torch.tensor([observation], dtype=torch.float32))[0]


@EVERY
def test_the_action_that_the_observation_names_is_learned(name, monkeypatch, tmp_path):
    algorithm = train(name, "MatchObservation", monkeypatch, tmp_path, "--num-processes 2")
    np.testing.assert_allclose(values_at(algorithm, -1.0), [1, 0], atol=0.15)
    np.testing.assert_allclose(values_at(algorithm, 1.0), [0, 1], atol=0.15)


@pytest.mark.parametrize("name", ["dqn", "c51"])
def test_values_are_discounted(name, monkeypatch, tmp_path):
    algorithm = train(name, "TwoSteps", monkeypatch, tmp_path, "--gamma 0.5")
    np.testing.assert_allclose(values_at(algorithm, 1.0), [1, 1], atol=0.1)
    np.testing.assert_allclose(values_at(algorithm, 0.0), [0.5, 0.5], atol=0.1)


@EVERY
def test_a_time_limit_is_no_end(name, monkeypatch, tmp_path):
    algorithm = train(name, "EndlessReward", monkeypatch, tmp_path, "--gamma 0.8")
    assert values_at(algorithm, 0.0).max() == pytest.approx(5, rel=0.1)  # 1 / (1 - gamma); 2.3 if it were one


def test_nested_observations_are_learned_from(monkeypatch, tmp_path):
    algorithm = train("dqn", "NestedObservation", monkeypatch, tmp_path, "--num-env-steps 100 --batch-size 16")
    picture = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 8, 8)
    obs = {"picture": picture, "pair": (torch.tensor([1, 1]), torch.tensor([[0, 1], [0, 1]]))}
    assert act(algorithm, obs, explore=False).tolist() == [0, 1]
