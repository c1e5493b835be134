"""Wrappers of single environments. Atari's preprocessing is Stable-Baselines3's; what is here is missing there."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import RecordEpisodeStatistics
from stable_baselines3.common.atari_wrappers import (
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    WarpFrame,
)


class ImageToChannelsFirst(gym.ObservationWrapper):
    """Images `[H, W, C]` become `[C, H, W]`."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        box = env.observation_space
        assert isinstance(box, spaces.Box)
        self.observation_space = spaces.Box(
            np.moveaxis(box.low, -1, 0), np.moveaxis(box.high, -1, 0), dtype=box.dtype.type
        )

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Move the channel axis to the front, without a copy."""
        return np.moveaxis(observation, -1, 0)


class FrameTap(gym.Wrapper):
    """Hands every picture, after resets and steps alike, to `on_frame` while that is set."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.on_frame: Callable[[Any], None] | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """See `gym.Env`."""
        result = self.env.reset(**kwargs)
        self._show()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See `gym.Env`."""
        result = self.env.step(action)
        self._show()
        return result

    def _show(self) -> None:
        if self.on_frame is not None:
            self.on_frame(self.env.render())


def wrap_atari(env: gym.Env) -> gym.Env:
    """The preprocessing of Mnih et al. 2015 around an emulator of frame skip 1, in upstream's order.

    No-op reset, skip of 4 with the maximum of the last two frames, statistics of the whole game, one episode per life,
    fire reset where the game has that action, 84x84 grey, rewards clipped to their sign.
    """
    env = RecordEpisodeStatistics(MaxAndSkipEnv(NoopResetEnv(env, noop_max=30), skip=4))
    env = EpisodicLifeEnv(env)
    emulator: Any = env.unwrapped
    if "FIRE" in emulator.get_action_meanings():
        env = FireResetEnv(env)
    return ImageToChannelsFirst(ClipRewardEnv(WarpFrame(env)))


def has_channels_last(space: spaces.Space) -> bool:
    """Whether a space is of images whose channel axis comes last, going by its being the shortest axis."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3 and space.shape[2] < min(space.shape[:2])
