"""What the tests of actor-critics from a replay share."""

import numpy as np
import torch
from gymnasium import spaces

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.interfaces import Ended, EnvSpaces, Step
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.storage.replay import Transitions

VECTOR, BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
CONTINUOUS = ("ddpg", "td3", "sac", "tqc", "crossq")
SMALL = {"hidden_size": [8, 8], "batch_size": 16, "buffer_size": 4_000, "learning_starts": 1}


def make(name, action=BOX, seed=0, obs=VECTOR, **config):
    seed_everything(seed)
    settings = {**SMALL, **config}
    return algo.make(name, algo.ALGORITHMS[name].Config(**settings), EnvSpaces(obs, action, {}))


def batch_of(num=16, seed=1, discrete=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    actions = torch.randint(discrete, (num,), generator=generator) if discrete else draw(num, 2).tanh()
    discounts = 0.9 * (torch.rand(num, generator=generator) > 0.3).float()
    weights = torch.rand(num, generator=generator)
    return Transitions(draw(num, 3), actions, draw(num), discounts, draw(num, 3), weights, np.arange(num))


def one_step_episodes(agent, num_envs, steps, terminated, reward=1.0):
    """A replay of episodes of one step each, which end or are cut."""
    storage = agent.make_storage(1, num_envs)
    obs = torch.zeros(num_envs, 3)
    over = np.ones(num_envs, bool)
    for _ in range(steps):
        storage.insert(
            step_of(agent, obs, np.full(num_envs, reward, np.float32), over & terminated, over & ~terminated)
        )
        storage.after_update()
    storage.new_steps = steps * num_envs
    return storage


def step_of(agent, obs, reward, terminated, truncated):
    """A step whose next observations are like those before, and after which episodes may begin anew."""
    num = len(obs)
    (over,) = (terminated | truncated).nonzero()
    ended = Ended(torch.from_numpy(over), obs[over], torch.zeros(len(over), 0), {}) if len(over) else None
    action = agent.act(obs, torch.zeros(num, 0), torch.ones(num), {}, True).action
    return Step(
        obs=obs,
        carry=torch.zeros(num, 0),
        masks=torch.zeros(num),
        signals={},
        action=action,
        extras={},
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        next_obs=obs.numpy(),
        next_carry=torch.zeros(num, 0),
        next_signals={},
        ended=ended,
    )
