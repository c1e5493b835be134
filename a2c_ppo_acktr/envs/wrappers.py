"""Wrappers of single environments. Atari's preprocessing is Stable-Baselines3's; what is here is missing there."""

from collections.abc import Callable, Sequence
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

from a2c_ppo_acktr.envs.video.rendering import follow
from a2c_ppo_acktr.interfaces import AUXILIARY


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


class HideObservations(gym.ObservationWrapper):
    """Vectors without the numbers at `hidden`."""

    def __init__(self, env: gym.Env, hidden: Sequence[int]) -> None:
        super().__init__(env)
        box = env.observation_space
        assert isinstance(box, spaces.Box)
        self.kept = np.setdiff1d(np.arange(box.shape[0]), hidden)
        self.observation_space = spaces.Box(box.low[self.kept], box.high[self.kept], dtype=box.dtype.type)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """What is left."""
        return observation[self.kept]


class DeclareAuxiliary(gym.Wrapper):
    """Declares `info['auxiliary']`, numbers in a flat array, of an environment that does not do so itself.

    Args:
        env: an environment; where a reset's info lacks the array, the targets there are unknown (NaN).
        sizes: numbers of each target, in order.
    """

    def __init__(self, env: gym.Env, sizes: Sequence[int]) -> None:
        super().__init__(env)
        own = dict(env.get_wrapper_attr("signal_spaces")) if env.has_wrapper_attr("signal_spaces") else {}
        self.size = sum(sizes)
        self.signal_spaces = {AUXILIARY: spaces.Box(-np.inf, np.inf, (self.size,), np.float32)} | own

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """See `gym.Env`."""
        obs, info = self.env.reset(**kwargs)
        return obs, {AUXILIARY: np.full(self.size, np.nan)} | info


class FrameTap(gym.Wrapper):
    """Shows each moment to `camera(render, first, last)` while that is set; `render()` draws where it wants a picture.

    It sits outside the statistics of whole episodes and inside whatever cuts those, so that an episode of `length`
    steps has `length + 1` moments, lost lives and the steps of other wrappers included.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.camera: Callable[[Callable[[], Any], bool, bool], None] | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """See `gym.Env`."""
        result = self.env.reset(**kwargs)
        if self.camera is not None:
            self.camera(self.env.render, True, False)
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See `gym.Env`."""
        result = self.env.step(action)
        if self.camera is not None:
            self.camera(self.env.render, False, bool(result[2] or result[3]))
        return result


def with_statistics(env: gym.Env) -> gym.Env:
    """`env` with whole episodes counted and, where it draws pictures, tapped."""
    env = RecordEpisodeStatistics(env)
    if env.render_mode != "rgb_array":
        return env
    follow(env)
    return FrameTap(env)


def wrap_atari(env: gym.Env) -> gym.Env:
    """The preprocessing of Mnih et al. 2015 around an emulator of frame skip 1, in upstream's order.

    No-op reset, skip of 4 with the maximum of the last two frames, statistics of the whole game, one episode per life,
    fire reset where the game has that action, 84x84 grey, rewards clipped to their sign.
    """
    env = EpisodicLifeEnv(with_statistics(MaxAndSkipEnv(NoopResetEnv(env, noop_max=30), skip=4)))
    emulator: Any = env.unwrapped
    if "FIRE" in emulator.get_action_meanings():
        env = FireResetEnv(env)
    return ImageToChannelsFirst(ClipRewardEnv(WarpFrame(env)))
