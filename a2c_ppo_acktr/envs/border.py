"""The border between an environment, which anybody may have written, and the trainer.

What comes over it fits the spaces that the environment declares, or is refused with what came and what was expected:
nothing is bent. What an environment keeps and writes into again is copied before the environment is called again.
"""

import contextlib
import math
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.spaces import leaf_shape

EXPECTED = {
    "reset": "reset(seed=..., options=...) -> (observation, info)",
    "step": "step(action) -> (observation, reward, terminated, truncated, info)",
}
PACKAGE, GYMNASIUM = Path(__file__).parents[1], Path(gym.__file__).parent
PLUMBING = tuple(map(str, (PACKAGE, *(GYMNASIUM / part for part in ("core.py", "wrappers", "envs/registration.py")))))
"""Where an error is about how an environment is called, not of the environment's own making."""
MOST_PLACES = 4
SEQUENCES = (tuple, list)


class Misfit(Exception):
    """What came does not fit what the environment declares; the message says both."""


class Border(gym.Wrapper):
    """Checks what one environment gives, and counts whole episodes, whatever `info` holds.

    `finished` is the return and length of an episode that has ended, until somebody takes it: also of one that ended
    within the reset of a wrapper around this one.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.read = reader(env.observation_space)
        self.episode_returns, self.episode_lengths = 0.0, 0
        self.finished: tuple[float, int] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See `gym.Env`."""
        result = self.env.reset(seed=seed, options=options)
        if not isinstance(result, SEQUENCES) or len(result) != 2:
            raise _wrong_parts("reset", result, 2)
        obs, info = result
        self.episode_returns, self.episode_lengths = 0.0, 0
        return self.read(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `gym.Env`."""
        result = self.env.step(action)
        if not isinstance(result, SEQUENCES) or len(result) != 5:
            raise _wrong_parts("step", result, 5)
        obs, reward, terminated, truncated, info = result
        if type(reward) is not float:
            reward = float(reward) if isinstance(reward, float) else _number(reward)  # NumPy's are floats, too
        if not math.isfinite(reward):
            raise Misfit(f"reward is {reward}, expected a finite number")
        if type(terminated) is not bool:
            terminated = _flag(terminated, "terminated")
        if type(truncated) is not bool:
            truncated = _flag(truncated, "truncated")
        self.episode_returns += reward
        self.episode_lengths += 1
        if terminated or truncated:
            info = self._finish(info)
        return self.read(obs), reward, terminated, truncated, info

    def _finish(self, info: Any) -> Any:
        """Note the episode, also in `info` as Gymnasium does, unless the environment has something there."""
        if self.finished is None:
            self.finished = self.episode_returns, self.episode_lengths
        if not isinstance(info, dict) or "episode" in info:
            return info
        return info | {"episode": {"r": self.episode_returns, "l": self.episode_lengths}}

    def take_finished(self) -> tuple[float, int] | None:
        """The episode that has ended since this was asked, if any."""
        finished, self.finished = self.finished, None
        return finished


def with_border(env: gym.Env) -> tuple[gym.Env, Border]:
    """An environment that has a border, and that: one is put around it where no wrapper is one."""
    inner = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, Border):
            return env, inner
        inner = inner.env
    border = Border(env)
    return border, border


def close(env: gym.Env, name: str) -> None:
    """Close an environment; that it fails in that is said and no more, for nothing depends on it any longer."""
    try:
        env.close()
    except (Exception, SystemExit) as error:
        print(f"{name} failed in close: {reason(error)}", file=sys.stderr)


def reader(space: spaces.Space, name: str = "observation") -> Callable[[Any], Tree]:
    """What checks that a value fits `space`, and gives it in arrays of no fewer digits; it raises `Misfit`."""
    if isinstance(space, spaces.Dict):
        entries = {key: reader(sub, f"{name}[{key!r}]") for key, sub in space.spaces.items()}

        def read_entries(value: Any) -> Tree:
            if not isinstance(value, Mapping):
                raise Misfit(f"{name} is {show(value)}, expected a dictionary of {', '.join(map(repr, entries))}")
            for key in entries:
                if key not in value:
                    raise Misfit(f"{name} has no {key!r}, expected {', '.join(map(repr, entries))}")
            return {key: read(value[key]) for key, read in entries.items()}

        return read_entries
    if isinstance(space, spaces.Tuple):
        parts = [reader(sub, f"{name}[{i}]") for i, sub in enumerate(space.spaces)]

        def read_parts(value: Any) -> Tree:
            if not isinstance(value, tuple | list) or len(value) != len(parts):
                raise Misfit(f"{name} is {show(value)}, expected a tuple of {len(parts)}")
            return tuple(read(part) for read, part in zip(parts, value, strict=True))

        return read_parts
    return _LeafReader(space, name)


class _LeafReader:
    def __init__(self, space: spaces.Space, name: str) -> None:
        self.space, self.name = space, name
        self.shape, self.dtype = leaf_shape(space), np.dtype(space.dtype)
        self.low: Any = None
        self.high: Any = None
        if isinstance(space, spaces.Discrete):
            self.low, self.high = int(space.start), int(space.start + space.n - 1)
        elif isinstance(space, spaces.MultiDiscrete):
            self.low, self.high = space.start, space.start + space.nvec - 1
        elif isinstance(space, spaces.MultiBinary):
            self.low, self.high = 0, 1

    def __call__(self, value: Any) -> Any:
        """Almost always there is nothing to do."""
        if self.low is None:
            if type(value) is np.ndarray and value.dtype is self.dtype and value.shape == self.shape:
                return value
        elif type(value) is int and not self.shape and self.low <= value <= self.high:
            return value
        return self._convert(value)

    def _convert(self, value: Any) -> np.ndarray:
        try:
            array = np.asarray(value)
        except Exception as error:  # whatever else than numbers somebody takes for an observation
            raise self._misfit(value) from error
        if array.shape != self.shape or array.dtype.kind not in "biuf":
            raise self._misfit(value)
        if array.dtype != self.dtype and self.dtype.kind in "biu":
            with np.errstate(invalid="ignore"):
                cast = array.astype(self.dtype)
            if (cast != array).any():
                raise self._misfit(value)
            array = cast
        if self.low is not None and ((array < self.low) | (array > self.high)).any():
            raise self._misfit(value)
        return array

    def _misfit(self, value: Any) -> Misfit:
        return Misfit(f"{self.name} is {show(value)}, expected {_describe(self.space)}")


def _describe(space: spaces.Space) -> str:
    """What fits a leaf space, in words."""
    if isinstance(space, spaces.Discrete):
        return f"an integer from {space.start} to {space.start + space.n - 1}"
    if isinstance(space, spaces.Box):
        return f"{space.dtype} numbers of shape {list(space.shape)}"
    return f"a value of {' '.join(str(space).split())}"


def show(value: Any) -> str:
    """What came, in words: the numbers if they are few, else type and shape."""
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(map(repr, value)) or 'nothing'}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        numbers = f"{' '.join(str(value).split())}, " if math.prod(shape) <= 4 else ""
        return f"{numbers}{type(value).__name__} of {dtype} numbers of shape {list(shape)}"
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else f'{text[:57]}...'} ({type(value).__name__})"


def _wrong_parts(method: str, result: Any, count: int) -> Misfit:
    came = f"a {type(result).__name__} of {len(result)}" if isinstance(result, tuple | list) else show(result)
    return Misfit(f"{method} gave {came}, expected {count} values: {EXPECTED[method]}")


def _number(value: Any) -> float:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if np.ndim(value) == 0 and not isinstance(value, str | bytes):
            return float(value)
    raise Misfit(f"reward is {show(value)}, expected a number")


def _flag(value: Any, name: str) -> bool:
    """A flag as environments give it: a bool of any library, 0 or 1, an array of one of these, or None for False."""
    if value is None:
        return False
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        raise Misfit(f"{name} is {show(value)}, expected True or False")
    return bool(array.item())


def find_not_finite(batch: Tree, name: str = "observation") -> tuple[int, str] | None:
    """The first row of `batch: [N, ...]` that holds NaN or infinity, with what and where; None if there is none."""
    if isinstance(batch, dict):
        found = (find_not_finite(part, f"{name}[{key!r}]") for key, part in batch.items())
    elif isinstance(batch, tuple):
        found = (find_not_finite(part, f"{name}[{i}]") for i, part in enumerate(batch))
    elif batch.dtype.kind != "f" or math.isfinite(np.vdot(batch, batch)):  # a tenth of the time of looking at each
        return None
    else:
        wrong = ~np.isfinite(batch.reshape(len(batch), -1))
        rows, columns = wrong.nonzero()
        if not len(rows):
            return None
        place = ", ".join(map(str, np.unravel_index(columns[0], batch.shape[1:])))
        number = batch.reshape(len(batch), -1)[rows[0], columns[0]]
        return int(rows[0]), f"{name}{f'[{place}]' if place else ''} is {number}, expected a finite number"
    return next((one for one in found if one is not None), None)


def choices(action_space: spaces.Space) -> list[int] | None:
    """How an action mask is divided: numbers of the choices that are made at once; None where masks mean nothing."""
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    if isinstance(action_space, spaces.MultiDiscrete):
        return [int(n) for n in action_space.nvec.ravel()]
    return None


def find_blocked(masks: np.ndarray, sizes: list[int]) -> int | None:
    """The first row of `masks: [N, sum(sizes)]` that leaves nothing to choose in one of its parts."""
    starts = np.cumsum([0, *sizes[:-1]])
    blocked = ~np.logical_or.reduceat(masks != 0, starts, axis=1).all(1)
    return int(blocked.argmax()) if blocked.any() else None


def to_env_actions(space: spaces.Space, actions: np.ndarray, clip: bool = True) -> np.ndarray:
    """The one place where a policy's actions become an environment's.

    Box: in the space's type, within its bounds where `clip`; of integers the nearest one, always within its bounds.
    Discrete and MultiDiscrete: counted from their start. Always a copy, since an environment may write into it.
    """
    if isinstance(space, spaces.Box):
        whole = space.dtype.kind in "iu"
        if clip or whole:
            actions = actions.clip(space.low, space.high)
        return (np.rint(actions) if whole else actions).astype(space.dtype)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return actions + space.start
    return actions.copy()


def reason(error: BaseException, method: str | None = None) -> str:
    """One line about what an environment raised: what, where in its files, and what was expected of `method`."""
    if isinstance(error, Misfit):
        return str(error)
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(PLUMBING)]
    places = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in own[-MOST_PLACES:]]
    line = f"{type(error).__name__}{f': {text}' if text else ''}"
    if places:
        line += f" ({', '.join(places)})"
    is_about_the_call = frames and frames[-1].filename.startswith(PLUMBING)
    return f"{line}; expected {EXPECTED[method]}" if method is not None and is_about_the_call else line
