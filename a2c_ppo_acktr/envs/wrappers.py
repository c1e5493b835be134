"""Wrappers of single environments. Atari's preprocessing is Stable-Baselines3's; what is here is missing there."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.atari_wrappers import (
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    WarpFrame,
)

from a2c_ppo_acktr.envs.border import to_env_actions, with_border
from a2c_ppo_acktr.envs.video.rendering import follow
from a2c_ppo_acktr.interfaces import AUXILIARY, Tree
from a2c_ppo_acktr.spaces import change_leaves, has_channels_last, space_map, tree_map


class ImageToChannelsFirst(gym.ObservationWrapper):
    """Pictures `[H, W, C]`, alone or at any depth of Dict and Tuple observations, become `[C, H, W]`.

    Args:
        env: an environment.
        channels: `first` or `last`: where all pictures have their channels; None goes by their shapes.
    """

    def __init__(self, env: gym.Env, channels: str | None = None) -> None:
        super().__init__(env)
        self.channels_last = space_map(lambda space: has_channels_last(space, channels), env.observation_space)
        self.observation_space = change_leaves(
            lambda space: _channels_first(space) if has_channels_last(space, channels) else space, env.observation_space
        )

    def observation(self, observation: Tree) -> Tree:
        """Move the channel axes to the front, without a copy."""
        return tree_map(_move_channels, self.channels_last, observation)


def _copied(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _channels_first(box: Any) -> spaces.Box:
    return spaces.Box(np.moveaxis(box.low, -1, 0), np.moveaxis(box.high, -1, 0), dtype=box.dtype.type)


def _move_channels(channels_last: bool, leaf: Any) -> Any:
    return np.moveaxis(leaf, -1, 0) if channels_last else leaf


class RescaleActions(gym.ActionWrapper):
    """Actions of -1 to 1 in every dimension, spread over the bounds of a Box.

    Args:
        env: an environment whose actions are a Box with finite bounds.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        box = env.action_space
        assert isinstance(box, spaces.Box)
        self.box = box
        self.middle = (box.low.astype(np.float64) + box.high) / 2
        self.half = (box.high.astype(np.float64) - box.low) / 2
        self.action_space = spaces.Box(-1.0, 1.0, box.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """In the environment's units; of integers the nearest one."""
        return to_env_actions(self.box, self.middle + self.half * action)


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
    steps has `length + 1` moments, lost lives and the steps of other wrappers included. What came is copied before a
    picture is drawn, which may write where the observation lies.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.camera: Callable[[Callable[[], Any], bool, bool], None] | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """See `gym.Env`."""
        result = self.env.reset(**kwargs)
        if self.camera is not None:
            result = tree_map(_copied, result)
            self.camera(self.env.render, True, False)
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """See `gym.Env`."""
        result = self.env.step(action)
        if self.camera is not None:
            result = tree_map(_copied, result)
            self.camera(self.env.render, False, bool(result[2] or result[3]))
        return result


def tapped(env: gym.Env) -> gym.Env:
    """`env` with what it gives checked, whole episodes counted and, where it draws pictures, tapped."""
    env, _ = with_border(env)
    if env.render_mode != "rgb_array":
        return env
    follow(env)
    return FrameTap(env)


def wrap_atari(env: gym.Env) -> gym.Env:
    """The preprocessing of Mnih et al. 2015 around an emulator of frame skip 1, in upstream's order.

    No-op reset, skip of 4 with the maximum of the last two frames, statistics of the whole game, one episode per life,
    fire reset where the game has that action, 84x84 grey, rewards clipped to their sign.
    """
    env = EpisodicLifeEnv(tapped(MaxAndSkipEnv(NoopResetEnv(env, noop_max=30), skip=4)))
    emulator: Any = env.unwrapped
    if "FIRE" in emulator.get_action_meanings():
        env = FireResetEnv(env)
    return ImageToChannelsFirst(ClipRewardEnv(WarpFrame(env)))
