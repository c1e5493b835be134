"""Vectorized environments behind Stable-Baselines3's VecEnv, with a call that costs no dictionary per environment."""

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from a2c_ppo_acktr.envs import state as env_state
from a2c_ppo_acktr.envs.border import (
    Misfit,
    choices,
    close,
    find_blocked,
    find_not_finite,
    reader,
    reason,
    show,
    to_env_actions,
    with_border,
)
from a2c_ppo_acktr.envs.declared import declared_signals
from a2c_ppo_acktr.interfaces import ACTION_MASK, EndedArrays, EnvSpaces, StepArrays, Tree
from a2c_ppo_acktr.normalization import Normalizer
from a2c_ppo_acktr.spaces import assign, concatenate, empty_arrays, index
from a2c_ppo_acktr.utils import UsageError

EnvFactory = Callable[[], gym.Env]


class EnvironmentCrash(RuntimeError):
    """An environment raised or its process died; the message says which and why."""


class Envs(VecEnv):
    """N environments in step, each reset by itself in the step that ends its episode.

    `step_arrays` is what this project calls; `step_async`, `step_wait` and `step` give SB3's own view of the same, so
    that SB3's wrappers fit around it.
    """

    signal_spaces: dict[str, spaces.Space]
    _signals: dict[str, Tree]
    normalizer: Normalizer | None = None
    camera: Any = None
    """What films the first environment (see `video.Camera`), or None."""
    backend: str
    """How the environments are stepped: native, dummy, subproc or envpool."""
    frame_stack = 1
    """Images that an observation stacks."""
    began: float
    """Seconds of the monotonic clock when the environments were made."""
    clip_actions = True
    """Whether continuous actions are kept within their bounds."""
    state_kind = "one by one"
    """States of one kind fit all backends of that kind; one by one, they are a list of single environments' states."""

    def __init__(self, num_envs: int, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        super().__init__(num_envs, observation_space, action_space)
        self.began = time.monotonic()

    @property
    def signals(self) -> dict[str, Tree]:
        """The signals that came with the latest observations."""
        return self._signals

    @property
    def original(self) -> tuple[Tree, Tree, np.ndarray | None] | None:
        """The latest observations, final ones and rewards as they were given; None where nothing changed them."""
        return None

    @property
    def spaces(self) -> EnvSpaces:
        """What an algorithm needs to know."""
        parts = self.observation_space, self.action_space, self.signal_spaces, self.frame_stack, self.clip_actions
        return EnvSpaces(*parts, self.normalizer)

    @abstractmethod
    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """Step every environment; `actions: [N, ...]` as an algorithm gives them (see `to_env_actions`)."""

    @abstractmethod
    def get_state(self) -> Any:
        """The state of all environments as plain values; None where it cannot be read."""

    @abstractmethod
    def set_state(self, state: Any) -> None:
        """Inverse of `get_state`."""

    def step_async(self, actions: np.ndarray) -> None:
        """SB3's first half of a step."""
        self._actions = actions

    def step_wait(self) -> tuple[Tree, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """SB3's second half: observations, rewards, dones, infos."""
        step = self.step_arrays(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if step.ended is not None:
            for row, env in enumerate(step.ended.indices):
                truncated = bool(step.truncated[env] and not step.terminated[env])
                infos[env] = {
                    "terminal_observation": index(step.ended.final_obs, row),
                    "TimeLimit.truncated": truncated,
                }
                if not np.isnan(step.ended.returns[row]):
                    elapsed = round(time.monotonic() - self.began, 6)
                    infos[env]["episode"] = {"r": step.ended.returns[row], "l": step.ended.lengths[row], "t": elapsed}
        return step.obs, step.reward, step.terminated | step.truncated, infos

    def get_images(self) -> list[np.ndarray]:
        """One RGB picture per environment."""
        return self.env_method("render")


class DummyEnvs(Envs):
    """All environments in this process, one after the other.

    Args:
        factories: one per environment.
        clip_actions: keep continuous actions within their bounds.
        first: the number of the first environment, where these are part of more.

    Raises:
        UsageError: they have different spaces.
    """

    backend = "dummy"

    def __init__(self, factories: Sequence[EnvFactory], clip_actions: bool = True, first: int = 0) -> None:
        self.clip_actions, self.first = clip_actions, first
        made = [with_border(factory()) for factory in factories]
        self.envs, self.borders = [env for env, _ in made], [border for _, border in made]
        own = self.envs[0].observation_space, self.envs[0].action_space
        for i, env in enumerate(self.envs):
            if (other := (env.observation_space, env.action_space)) != own:
                raise UsageError(
                    f"environment {first + i} has the spaces {other}, expected environment {first}'s: {own}"
                )
        self.signal_spaces = declared_signals(self.envs[0], f"environment {first}")
        self.signal_readers = {name: reader(space, name) for name, space in self.signal_spaces.items()}
        self.choices = choices(own[1]) if ACTION_MASK in self.signal_spaces else None
        super().__init__(len(self.envs), *own)

    def reset(self) -> Tree:
        """Begin a new episode everywhere, with the seeds of `seed` if they were just set."""
        obs, self._signals = self.reset_arrays(self._seeds)
        self._reset_seeds()
        return obs

    def reset_arrays(self, seeds: Sequence[int | None]) -> tuple[Tree, dict[str, Tree]]:
        """Begin a new episode everywhere; observations and signals."""
        obs, signals = empty_arrays(self.observation_space, self.num_envs), self._empty_signals(self.num_envs)
        for i, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            try:
                first, info = env.reset(seed=seed)
                assign(obs, i, first)
                self._read_signals(signals, i, info)
            except (Exception, SystemExit) as error:
                raise self._crash(i, "reset", error) from error
            self.borders[i].take_finished()
        self._check(obs, signals, "reset")
        return obs, signals

    def _empty_signals(self, num: int) -> dict[str, Tree]:
        return {name: empty_arrays(space, num) for name, space in self.signal_spaces.items()}

    def _read_signals(self, signals: dict[str, Tree], row: int, info: Any) -> None:
        for name, read in self.signal_readers.items():
            if not isinstance(info, Mapping) or name not in info:
                raise Misfit(f"it declares the signal {name!r} but its info lacks it: info is {show(info)}")
            assign(signals[name], row, read(info[name]))

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        num, actions = self.num_envs, to_env_actions(self.action_space, actions, self.clip_actions)
        obs, reward = empty_arrays(self.observation_space, num), np.empty(num)
        terminated, truncated = np.zeros(num, np.bool_), np.zeros(num, np.bool_)
        ended: _Ended | None = None
        signals, method = self._empty_signals(num), "step"
        try:
            for i, env in enumerate(self.envs):
                next_obs, reward[i], over, cut, info = env.step(actions[i])
                if over or cut:
                    terminated[i], truncated[i] = over, not over  # an end on the last allowed step is an end
                    ended = ended or _Ended(self)
                    ended.add(i, next_obs, info)
                    method = "reset"
                    next_obs, info = env.reset()
                    ended.count(self.borders[i].take_finished())
                    method = "step"
                assign(obs, i, next_obs)
                if self.signal_readers:
                    self._read_signals(signals, i, info)
        except (Exception, SystemExit) as error:  # whatever a third-party environment raises
            raise self._crash(i, method, error) from error
        self._check(obs, signals, "step")
        self._signals = signals
        return StepArrays(obs, reward, terminated, truncated, None if ended is None else ended.arrays(), signals)

    def _check(self, obs: Tree, signals: dict[str, Tree], method: str) -> None:
        """Refuse observations that are no numbers, and masks that allow nothing where an action is to be chosen."""
        if (wrong := find_not_finite(obs)) is not None:
            raise self._crash(wrong[0], method, Misfit(wrong[1]))
        if self.choices is not None and (row := find_blocked(signals[ACTION_MASK], self.choices)) is not None:
            mask = f"{ACTION_MASK} {signals[ACTION_MASK][row].tolist()}"
            raise self._crash(row, method, Misfit(f"{mask} allows no action, expected a 1 in every choice"))

    def _crash(self, env: int, method: str, error: BaseException) -> BaseException:
        """What an environment raised as a crash of it; a camera may have refused what the user asked for."""
        if isinstance(error, EnvironmentCrash | UsageError):
            return error
        return EnvironmentCrash(f"environment {self.first + env} failed in {method}: {reason(error, method)}")

    def get_state(self) -> Any:
        """See `Envs`."""
        states = [env_state.get_state(env) for env in self.envs]
        return None if any(state is None for state in states) else states

    def set_state(self, state: Any) -> None:
        """See `Envs`."""
        for env, one in zip(self.envs, state, strict=True):
            env_state.set_state(env, one)

    def close(self) -> None:
        """Close every environment."""
        for i, env in enumerate(self.envs):
            close(env, f"environment {self.first + i}")

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of each environment, looked for through its wrappers."""
        return [self.envs[i].get_wrapper_attr(attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute where a wrapper or the environment has it, else on the outermost wrapper."""
        for i in self._get_indices(indices):
            self.envs[i].set_wrapper_attr(attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment."""
        return [method(*args, **kwargs) for method in self.get_attr(method_name, indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether each environment has such a wrapper."""
        return [_is_wrapped(self.envs[i], wrapper_class) for i in self._get_indices(indices)]


class _Ended:
    """The episodes that end in one step; what came with their ends is copied before the resets, which may reuse it."""

    def __init__(self, envs: DummyEnvs) -> None:
        self.envs, num = envs, envs.num_envs
        self.indices: list[int] = []
        self.obs, self.signals = empty_arrays(envs.observation_space, num), envs._empty_signals(num)
        self.returns, self.lengths = np.full(num, np.nan), np.zeros(num, np.int64)

    def add(self, env: int, obs: Tree, info: Any) -> None:
        """An end, before the reset."""
        assign(self.obs, len(self.indices), obs)
        self.envs._read_signals(self.signals, len(self.indices), info)
        self.indices.append(env)

    def count(self, finished: tuple[float, int] | None) -> None:
        """What the latest end's whole episode came to; None where it goes on, as in a game after a lost life."""
        if finished is not None:
            self.returns[len(self.indices) - 1], self.lengths[len(self.indices) - 1] = finished

    def arrays(self) -> EndedArrays:
        """As `Envs` gives them."""
        num = len(self.indices)
        final_obs = index(self.obs, slice(num))
        if (wrong := find_not_finite(final_obs)) is not None:
            raise self.envs._crash(self.indices[wrong[0]], "step", Misfit(wrong[1]))
        signals = index(self.signals, slice(num))
        return EndedArrays(np.array(self.indices), final_obs, self.returns[:num], self.lengths[:num], signals)


def join_steps(steps: Sequence[StepArrays]) -> StepArrays:
    """One step of all environments from steps of consecutive parts of them."""
    parts, start = [], 0
    for step in steps:
        if step.ended is not None:
            parts.append(step.ended._replace(indices=step.ended.indices + start))
        start += len(step.reward)
    ended = EndedArrays(*(concatenate(columns) for columns in zip(*parts, strict=True))) if parts else None
    return StepArrays(
        concatenate([step.obs for step in steps]),
        np.concatenate([step.reward for step in steps]),
        np.concatenate([step.terminated for step in steps]),
        np.concatenate([step.truncated for step in steps]),
        ended,
        concatenate([step.signals for step in steps]),
    )


def _is_wrapped(env: gym.Env, wrapper_class: type) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper_class):
            return True
        env = env.env
    return False
