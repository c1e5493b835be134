"""Vectorized environments behind Stable-Baselines3's VecEnv, with a call that costs no dictionary per environment."""

import traceback
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from a2c_ppo_acktr.envs import state as env_state
from a2c_ppo_acktr.interfaces import EndedArrays, EnvSpaces, StepArrays, Tree
from a2c_ppo_acktr.normalization import Normalizer
from a2c_ppo_acktr.spaces import assign, concatenate, empty_arrays, index

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
    clip_actions = True
    """Whether continuous actions are kept within their bounds."""
    state_kind = "one by one"
    """States of one kind fit all backends of that kind; one by one, they are a list of single environments' states."""

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
                    infos[env]["episode"] = {"r": step.ended.returns[row], "l": step.ended.lengths[row], "t": 0.0}
        return step.obs, step.reward, step.terminated | step.truncated, infos

    def get_images(self) -> list[np.ndarray]:
        """One RGB picture per environment."""
        return self.env_method("render")


def to_env_actions(space: spaces.Space, actions: np.ndarray, clip: bool = True) -> np.ndarray:
    """The one place where a policy's actions become an environment's.

    Box: in the space's type, within its bounds where `clip`. Discrete and MultiDiscrete: counted from their start.
    """
    if isinstance(space, spaces.Box):
        if clip:
            actions = actions.clip(space.low, space.high)
        return actions.astype(space.dtype, copy=False)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return actions + space.start
    return actions


class DummyEnvs(Envs):
    """All environments in this process, one after the other.

    Args:
        factories: one per environment.
        clip_actions: keep continuous actions within their bounds.
    """

    backend = "dummy"

    def __init__(self, factories: Sequence[EnvFactory], clip_actions: bool = True) -> None:
        self.clip_actions = clip_actions
        self.envs = [factory() for factory in factories]
        first = self.envs[0]
        declares = first.has_wrapper_attr("signal_spaces")
        self.signal_spaces = dict(first.get_wrapper_attr("signal_spaces")) if declares else {}
        super().__init__(len(self.envs), first.observation_space, first.action_space)

    def reset(self) -> Tree:
        """Begin a new episode everywhere, with the seeds of `seed` if they were just set."""
        obs, self._signals = self.reset_arrays(self._seeds)
        self._reset_seeds()
        return obs

    def reset_arrays(self, seeds: Sequence[int | None]) -> tuple[Tree, dict[str, Tree]]:
        """Begin a new episode everywhere; observations and signals."""
        obs, signals = empty_arrays(self.observation_space, self.num_envs), self._empty_signals(self.num_envs)
        for i, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            first, info = env.reset(seed=seed)
            assign(obs, i, first)
            self._read_signals(signals, i, info)
        return obs, signals

    def _empty_signals(self, num: int) -> dict[str, Tree]:
        return {name: empty_arrays(space, num) for name, space in self.signal_spaces.items()}

    def _read_signals(self, signals: dict[str, Tree], row: int, info: dict[str, Any]) -> None:
        try:
            assign(signals, row, info)
        except KeyError as error:
            raise EnvironmentCrash(f"the environment declares the signal {error} but its info lacks it") from error

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        num, actions = self.num_envs, to_env_actions(self.action_space, actions, self.clip_actions)
        obs, reward = empty_arrays(self.observation_space, num), np.empty(num)
        terminated, truncated = np.empty(num, np.bool_), np.empty(num, np.bool_)
        ended: list[tuple[int, Tree, dict[str, Any]]] = []
        signals = self._empty_signals(num)
        try:
            for i, env in enumerate(self.envs):
                next_obs, reward[i], terminated[i], cut, info = env.step(actions[i])
                truncated[i] = cut and not terminated[i]  # an end on the last allowed step is an end
                if terminated[i] or truncated[i]:
                    ended.append((i, next_obs, info))
                    next_obs, info = env.reset()
                assign(obs, i, next_obs)
                self._read_signals(signals, i, info)
        except Exception as error:  # whatever a third-party environment raises ends the run with its own traceback
            raise EnvironmentCrash(f"environment {i} failed:\n{traceback.format_exc()}") from error
        self._signals = signals
        return StepArrays(obs, reward, terminated, truncated, self._ended_arrays(ended), signals)

    def _ended_arrays(self, ended: list[tuple[int, Tree, dict[str, Any]]]) -> EndedArrays | None:
        if not ended:
            return None
        final_obs, signals = empty_arrays(self.observation_space, len(ended)), self._empty_signals(len(ended))
        returns, lengths = np.full(len(ended), np.nan), np.zeros(len(ended), np.int64)
        for row, (_, final, info) in enumerate(ended):
            assign(final_obs, row, final)
            self._read_signals(signals, row, info)
            if "episode" in info:
                returns[row], lengths[row] = info["episode"]["r"], info["episode"]["l"]
        return EndedArrays(np.array([i for i, _, _ in ended]), final_obs, returns, lengths, signals)

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
        for env in self.envs:
            env.close()

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
