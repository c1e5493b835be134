"""Q-learning on images: what it rounds to bfloat16, and how Adam begins."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.utils import UsageError
from tests.q_learning import EVERY, VECTOR, WAYS, make, transitions


@WAYS
@EVERY
def test_bfloat16_rounds_the_convolutions_of_both_networks(name, way):
    screens = EnvSpaces(spaces.Box(0, 255, (4, 84, 84), np.uint8), spaces.Discrete(3), {})
    exact, rounded = (make(name, screens, hidden_size=[8], bfloat16=bfloat16) for bfloat16 in (False, True))
    obs = torch.randint(0, 255, (5, 4, 84, 84), dtype=torch.uint8)
    for networks in ((exact.policy, rounded.policy), (exact.target, rounded.target)):
        found = [network.encoder(obs) for network in networks]
        assert found[1].dtype == torch.float32
        assert 0 < (found[0] - found[1]).abs().max() < 0.03 * found[0].abs().max()
    batch = transitions(obs, [0, 1, 2, 0, 1], torch.linspace(-1, 1, 5), 5 * [0.9], obs.flip(0))
    for algorithm in (exact, rounded):
        torch.manual_seed(1)  # the noise and the fractions
        getattr(algorithm, way)(batch._replace(rows=None))
    gradients = exact.parameters.grad, rounded.parameters.grad
    assert functional.cosine_similarity(*gradients, dim=0) > 0.99
    assert not torch.equal(*gradients)


def test_on_pixels_epsilon_does_not_hide_the_gradients_of_the_first_steps():
    few = "--buffer-size 2000 --learning-starts 500 --update-to-data 0"
    config = arguments.parse(f"--algo dqn --env-name PongNoFrameskip-v4 {few}".split()).config
    seed_everything(1)
    envs = make_vec_envs(EnvConfig("PongNoFrameskip-v4", vec_env="dummy"), 1, seed=1)
    algorithm = algo.make("dqn", config, envs.spaces)
    storage = algorithm.make_storage(500, 1)
    algorithm.make_collector(envs, storage).collect()
    algorithm.set_gradient(storage.sample(32, 0.0)._replace(rows=None))
    sizes = [parameter.grad.square().mean().sqrt() for parameter in algorithm.policy.parameters()]
    assert min(sizes) > 20 * config.eps


@EVERY
def test_bfloat16_without_images_is_refused(name):
    with pytest.raises(UsageError, match="none here"):
        make(name, VECTOR, bfloat16=True)
