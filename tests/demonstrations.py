"""Small demonstrations whose numbers say where they belong: step t of episode e is seen as 100 e + t."""

import numpy as np
import pytest
from gymnasium import spaces

from a2c_ppo_acktr import experts
from a2c_ppo_acktr.experts.files import Trajectory
from a2c_ppo_acktr.utils import UsageError

LINE, COIN = spaces.Box(-np.inf, np.inf, (1,), np.float64), spaces.Discrete(2)


def defect(source, **kwargs):
    """The one line that refuses `source`."""
    with pytest.raises(UsageError) as caught:
        experts.load(source, **kwargs)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"demonstrations {source}: ")
    return line


def trajectory(episode, length, lives=(), make=lambda clock: clock[:, None], actions=None, limit=False):
    """An episode of `length` steps; after the steps in `lives` a life is lost, whose final observation is -clock."""
    clock, ended = [], np.isin(np.arange(length), [*lives, length - 1])
    for t in range(length):
        clock.append(100.0 * episode + t)
        if ended[t]:
            clock.append(-(100.0 * episode + t + 1))
    truncated = ended & limit & (np.arange(length) == length - 1)
    rewards = np.arange(length) + 0.5
    actions = (np.arange(length) % 2) if actions is None else actions
    return Trajectory(make(np.array(clock)), actions, rewards, ended & ~truncated, truncated, rewards.sum())


def vectors(lengths=(3, 1, 5), **kwargs):
    return [trajectory(e, length, **kwargs) for e, length in enumerate(lengths)]


def padded(lengths=(3, 1, 5), discrete=False):
    """Upstream's arrays, with NaN where they are padded."""
    num, most = len(lengths), max(lengths)
    clock = 100.0 * np.arange(num)[:, None] + np.arange(most)
    beyond = np.arange(most) >= np.array(lengths)[:, None]
    clock[beyond] = np.nan
    actions = (np.zeros_like(clock) if discrete else clock / 1000)[..., None]
    return {
        "states": np.stack([clock, -clock], 2).astype(np.float32),
        "actions": actions.astype(np.float32),
        "rewards": np.where(beyond, np.nan, 1.0).astype(np.float32),
        "lengths": np.array(lengths),
    }
