"""What the tests of Q-learning share: tables of Q that are set by hand, batches, what is learned from them."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.arrays import flat_vectors
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.interfaces import Ended, EnvSpaces, Step
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.storage.replay import Transitions

EVERY = pytest.mark.parametrize("name", ["dqn", "c51", "qr_dqn", "iqn", "rainbow"])
WAYS = pytest.mark.parametrize("way", ["gradient", "set_gradient"])
"""A gradient as it is defined, and as `fast` computes it."""
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


@torch.no_grad()
def values(algorithm, network, obs):
    """The expected return of every action, `[B, A]`."""
    return algorithm.td.values(network(obs))


def target_parameters(algorithm):
    """The memory of the target network, a vector."""
    return flat_vectors(algorithm.target)[0]


class Windows(NamedTuple):
    """What each of B windows gave, without weights."""

    losses: np.ndarray
    slopes: np.ndarray
    """[B, A, K] derivatives of the losses by the network's outputs."""
    priorities: np.ndarray
    values: np.ndarray
    """[B] Q of the actions that were taken."""


def learned(algorithm, batch, way):
    """`Windows`, each learned from by itself in one of the `WAYS`; the network is a table (see `set_table`).

    A derivative by the last layer's bias is the sum of those by the outputs. The whole batch must give the mean.
    """
    learn, layer, size = getattr(algorithm, way), algorithm.policy.advantage[2], len(batch.actions)
    assert way == "gradient" or learn != algorithm.gradient
    found = []
    for b in range(size):
        window = Transitions(*(column[b : b + 1] for column in batch))._replace(weights=torch.ones(1))
        metrics, priorities = learn(window)
        assert metrics["losses/grad_norm"] < algorithm.config.max_grad_norm  # else it was scaled
        slopes = layer.bias.grad.unflatten(0, (algorithm.policy.num_actions, -1)).clone().numpy()
        found.append((float(metrics["losses/value_loss"]), slopes, priorities.item(), float(metrics["losses/q_mean"])))
    windows = Windows(*(np.stack(column) for column in zip(*found, strict=True)))
    metrics, priorities = learn(batch)
    assert priorities.shape == (size,)
    np.testing.assert_allclose(priorities, windows.priorities, rtol=1e-6, atol=1e-6)
    weights = batch.weights.numpy()
    slopes = (weights[:, None, None] * windows.slopes).mean(0)
    np.testing.assert_allclose(layer.bias.grad, slopes.flatten(), rtol=1e-5, atol=1e-6)
    expected = {"value_loss": (weights * windows.losses).mean(), "td_error": windows.priorities.mean()}
    expected |= {"q_mean": windows.values.mean(), "q_max": windows.values.max()}
    for tag, value in expected.items():
        assert float(metrics[f"losses/{tag}"]) == pytest.approx(value, rel=1e-5, abs=1e-6)
    return windows


def losses_of(algorithm, batch):
    """The loss `[B]` of every item of a batch, and what the batch gave with all weights 1.

    The loss of the batch is the mean of weight times loss: they are its derivatives by the weights.
    """
    weights = torch.ones_like(batch.weights).requires_grad_()
    found = algorithm.loss(batch._replace(weights=weights))
    (losses,) = torch.autograd.grad(found.loss, weights, retain_graph=True)
    losses = len(weights) * losses
    assert found.loss.item() == pytest.approx(losses.mean().item(), rel=1e-5, abs=1e-7)
    return losses, found


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
    envs = make_vec_envs(EnvConfig("CartPole-v1", normalize_env=False), num_envs, seed=1)
    algorithm = make(name, envs.spaces, hidden_size=[8, 8], **config)
    storage = algorithm.make_storage(num_steps, num_envs)
    return algorithm, storage, algorithm.make_collector(envs, storage)


def act(algorithm, obs, explore):
    return algorithm.act(obs, algorithm.initial_carry(len(obs)), torch.ones(len(obs)), {}, explore).action
