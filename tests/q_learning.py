"""What the tests of Q-learning share: tables of Q that are set by hand, batches, a collector."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.envs import make_vec_envs
from a2c_ppo_acktr.interfaces import Ended, EnvSpaces, Step
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.storage.replay import Transitions

EVERY = pytest.mark.parametrize("name", ["dqn", "c51", "qr_dqn", "iqn", "rainbow"])
THREE_STATES = EnvSpaces(spaces.Discrete(3), spaces.Discrete(2), {})
VECTOR = EnvSpaces(spaces.Box(-1, 1, (4,), np.float32), spaces.Discrete(3), {})


def make(name, env_spaces=THREE_STATES, **config):
    torch.manual_seed(0)
    return algo.make(name, algo.ALGORITHMS[name].Config(**{"hidden_size": [3], **config}), env_spaces)


def set_table(network, table):
    """Make the network give `table: [S, A, K]`: the state, one-hot, passes the hidden layer as it is."""
    hidden, output = network.advantage[0], network.advantage[2]
    for layer, weight in ((hidden, torch.eye(3)), (output, torch.as_tensor(table, dtype=torch.float32).flatten(1).T)):
        layer.weight.data.copy_(weight)
        layer.bias.data.zero_()


def transitions(obs, actions, returns, discounts, next_obs, weights=None):
    columns = [torch.as_tensor(column, dtype=torch.float32) for column in (returns, discounts)]
    weights = torch.ones(len(obs)) if weights is None else torch.as_tensor(weights)
    obs, actions, next_obs = (torch.as_tensor(column) for column in (obs, actions, next_obs))
    return Transitions(obs, actions, *columns, next_obs, weights, np.arange(len(obs)))


def a_step(obs, reward, next_obs, end=None):
    """One step of one environment; where it ends, the next episode begins in state 0."""
    ended = None if end is None else Ended(torch.tensor([0]), torch.tensor([next_obs]), torch.zeros(1, 0), {})
    return Step(
        obs=torch.tensor([obs]),
        carry=torch.zeros(1, 0),
        masks=torch.tensor([float(obs != 0)]),
        signals={},
        action=torch.tensor([1]),
        extras={},
        reward=np.array([reward], np.float32),
        terminated=np.array([end == "terminated"]),
        truncated=np.array([end == "truncated"]),
        next_obs=np.array([next_obs if end is None else 0]),
        next_carry=torch.zeros(1, 0),
        next_signals={},
        ended=ended,
    )


ONLINE = [[[1.0], [2.0]], [[5.0], [3.0]], [[0.0], [0.0]]]
TARGET = [[[0.0], [0.0]], [[10.0], [20.0]], [[4.0], [-4.0]]]


def collecting(name, num_steps, num_envs, **config):
    """An algorithm of CartPole, its storage and its collector."""
    seed_everything(1)
    envs = make_vec_envs("CartPole-v1", num_envs, seed=1, normalize=False)
    algorithm = make(name, envs.spaces, hidden_size=[8, 8], **config)
    storage = algorithm.make_storage(num_steps, num_envs)
    return algorithm, storage, algorithm.make_collector(envs, storage)


def act(algorithm, obs, explore):
    return algorithm.act(obs, algorithm.initial_carry(len(obs)), torch.ones(len(obs)), {}, explore).action
