"""What an environment declares of itself: spaces that can be read and acted in, pictures, their rate, bounds."""

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from a2c_ppo_acktr.envs.border import choices
from a2c_ppo_acktr.spaces import (
    SMALLEST_NATURE_IMAGE,
    channels_are_clear,
    has_channels_last,
    is_image,
    leaf_shape,
    named_leaves,
)
from a2c_ppo_acktr.utils import UsageError

MOST_CHOICES = 10**6
"""Values that a choice may have, each of which is a number of a network's input or output."""
READABLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
DEFAULT_FPS, MOST_FPS = 30, 1000
LEAST_REACHED, WIDEST_BOUNDS = 0.1, 1e6
"""Share of an action's bounds that the first policy should reach within two deviations; wider ones bound nothing."""
LEAST_INSIDE = 0.05
"""Share of the first policy's actions that should lie within the bounds."""


def check_spaces(env: gym.Env, env_id: str) -> None:
    """Whether an environment's spaces can be read and acted in at all.

    Raises:
        UsageError: one cannot, with the one that came and what would be accepted.
    """
    try:
        observation, action = env.observation_space, env.action_space
    except AttributeError as error:
        raise UsageError(f"--env-name {env_id}: {error}: it must have observation_space and action_space") from error
    declared_signals(env, f"--env-name {env_id}")
    for name, space in named_leaves(observation):
        _check_leaf(space, f"--env-name {env_id}: {name}")
    _check_leaf(action, f"--env-name {env_id}: the action")
    if len(leaf_shape(action)) > 1 or (isinstance(action, spaces.Box | spaces.MultiBinary) and not leaf_shape(action)):
        axes = f"{action}, of shape {list(leaf_shape(action))}"
        raise UsageError(f"--env-name {env_id}: the action is {axes}, expected one axis, as of shape [3]")


def declared_signals(env: gym.Env, whose: str) -> dict[str, spaces.Space]:
    """The spaces of the arrays that an environment promises to put into `info`.

    Raises:
        UsageError: it declares something else.
    """
    declared = env.get_wrapper_attr("signal_spaces") if env.has_wrapper_attr("signal_spaces") else {}
    if not isinstance(declared, Mapping):
        raise UsageError(f"{whose}: signal_spaces is {declared}, expected a dictionary of spaces")
    for signal, space in declared.items():
        for name, leaf in named_leaves(space, str(signal)):
            _check_leaf(leaf, f"{whose}: the signal {name}")
    return dict(declared)


def check_mask(mask: spaces.Space | None, action: spaces.Space, env_id: str) -> None:
    """Whether the signal of valid actions, where there is one, fits the actions.

    Raises:
        UsageError: it does not.
    """
    if mask is None:
        return
    sizes = choices(action)
    if sizes is None:
        raise UsageError(f"--env-name {env_id}: action_mask is for Discrete and MultiDiscrete actions, not {action}")
    if not isinstance(mask, READABLE) or leaf_shape(mask) != (sum(sizes),):
        raise UsageError(f"--env-name {env_id}: action_mask is {mask}, expected shape {[sum(sizes)]} for {action}")


def _check_leaf(space: Any, whose: str) -> None:
    shown = " ".join(str(space).split())
    if not isinstance(space, READABLE):
        raise UsageError(f"{whose} is {shown}, expected Box, Discrete, MultiDiscrete or MultiBinary")
    if math.prod(leaf_shape(space)) == 0:
        raise UsageError(f"{whose} is {shown}, which has no numbers")
    number = int(space.n) if isinstance(space, spaces.Discrete) else 0
    number = int(space.nvec.sum()) if isinstance(space, spaces.MultiDiscrete) else number
    if number > MOST_CHOICES:
        raise UsageError(f"{whose} is {shown}, which has {number:,} values, expected at most {MOST_CHOICES:,}")


def read_pictures(space: spaces.Space, channels: str | None) -> list[str]:
    """A line for each picture among observations, as the environment gives them: its shape, and how it is read."""
    return [_read_picture(name, leaf, channels) for name, leaf in named_leaves(space) if is_image(leaf)]


def _read_picture(name: str, space: spaces.Space, channels: str | None) -> str:
    assert isinstance(space, spaces.Box)
    shape, last = list(leaf_shape(space)), has_channels_last(space, channels)
    count, height, width = (shape[2], *shape[:2]) if last else shape
    line = f"{name} {shape}: {count} channels of {height} x {width}, channels {'last' if last else 'first'}"
    if channels is None and not channels_are_clear(space):
        line += f", which the shape does not tell (--channels {'first' if last else 'last'} if it is wrong)"
    if np.dtype(space.dtype) != np.uint8 and float(space.high.max()) > 1.0:
        line += f"; {space.dtype} up to {space.high.max():g} are read as they are, only uint8 is divided by 255"
    if min(height, width) < SMALLEST_NATURE_IMAGE <= max(height, width):
        line += f"; one side is under {SMALLEST_NATURE_IMAGE}, so the network keeps all places and is large"
    return line


def read_bounds(space: spaces.Space) -> str | None:
    """A line about continuous actions whose bounds the first policy, N(0, 1), hardly meets; None where it does."""
    if not isinstance(space, spaces.Box):
        return None
    for i, (low, high) in enumerate(zip(space.low.tolist(), space.high.tolist(), strict=True)):
        inside = (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2))) / 2
        width, within = high - low, max(0.0, min(2.0, high) - max(-2.0, low))
        reached = within / width if 0.0 < width < WIDEST_BOUNDS else 1.0
        if width > 0.0 and (inside < LEAST_INSIDE or reached < LEAST_REACHED):
            line = f"action[{i}] of {low:g} to {high:g}: a new policy acts around 0 with deviation 1, and is cut off"
            return f"{line}; --rescale-actions spreads -1 to 1 over the bounds" if space.is_bounded() else line
    return None


def render_modes(env: gym.Env) -> list[str]:
    """What an environment says that it can draw."""
    modes = env.metadata.get("render_modes") if isinstance(env.metadata, Mapping) else None
    return [str(mode) for mode in modes] if isinstance(modes, list | tuple | set | frozenset) else []


def frame_rate(metadata: Any) -> float:
    """Pictures per second that an environment's metadata ask for, or the default where they hold no such number."""
    fps = metadata.get("render_fps") if isinstance(metadata, Mapping) else None
    if isinstance(fps, int | float | np.number) and not isinstance(fps, bool) and 0 < float(fps) <= MOST_FPS:
        return float(fps)
    return float(DEFAULT_FPS)
