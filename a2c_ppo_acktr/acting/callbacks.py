"""A user's functions along a recording: what they gather beside it, and that they never cost it.

What one raises is a warning that says where; it is not called again, and what it gathered before is kept.
"""

import inspect
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.spaces import tree_map


class Guarded:
    """A function that may fail: from then on it is not called.

    Args:
        function: any.
        role: what it is called by in the warning.
    """

    def __init__(self, function: Callable[..., Any], role: str) -> None:
        self.function, self.role, self.failed = function, role, False

    def call(self, where: str, default: Any, *arguments: Any, **flags: Any) -> Any:
        """What the function returns; `default` where it fails or has failed."""
        if self.failed:
            return default
        try:
            return self.function(*arguments, **flags)
        except Exception as error:  # whatever it raises, the recording goes on
            self.failed = True
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.warn(f"{type(error).__name__}: {error} ({place.filename}:{place.lineno}), {where}; not called again")
            return default

    def warn(self, text: str) -> None:
        """Say something about the function."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        warnings.warn(f"{self.role} {name}: {text}", RuntimeWarning, stacklevel=2)


class SingleEnv:
    """An environment whose attributes are those of the outermost wrapper that has them, whatever steps it."""

    def __init__(self, envs: Any, index: int) -> None:
        self._envs, self._index = envs, index

    def __getattr__(self, name: str) -> Any:
        return self._envs.get_attr(name, self._index)[0]


class OneOfEnvs:
    """One of N environments as a vectorized environment of its own, to look at."""

    num_envs = 1

    def __init__(self, envs: Any, index: int) -> None:
        self._envs, self._index, self.envs = envs, index, [SingleEnv(envs, index)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the one environment."""
        return self._envs.get_attr(attr_name, self._index)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of the one environment."""
        return self._envs.env_method(method_name, *args, indices=self._index, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._envs, name)


class DataCallback:
    """Calls a function as the research fork's `evaluate` does, along the episodes of each environment by itself.

    `function(agent, envs, rnn_hxs, obs, action, reward, done, data, first=False, stack=False)` gathers into `data`,
    which begins as `{}` and is what it returned last (what it was, where that is None). It is called

    - before the first step of every episode with `first=True`: `obs` is the first one, `action` and `reward` are `[]`,
      `done` is `[False]`;
    - after every step: `obs` is what the step led to, as the network reads it (at an episode's end the first of the
      next one: the environment was reset, so `obs` and its attributes belong together), `done` whether that ended the
      episode;
    - after that, at an episode's end, with the same and `stack=True`; also where the recording cuts it off.

    It sees one environment: `rnn_hxs` `[1, H]`, `obs` `[1, ...]`, `action` `[1, A]` and `reward` `[1, 1]` are tensors,
    `done` an array `[1]`; `envs.get_attr(name)[0]` and `envs.envs[0].name` are its attributes. `first` and `stack` are
    given to functions that have such parameters.

    Args:
        function: called as above.
        algorithm: its first argument.
        envs: N environments.
    """

    def __init__(self, function: Callable[..., Any], algorithm: Any, envs: Any) -> None:
        self.guarded, self.algorithm = Guarded(function, "data_callback"), algorithm
        known = inspect.signature(function).parameters.values()
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known)
        self.takes = {name for name in ("first", "stack") if anything or name in (p.name for p in known)}
        self.envs = [OneOfEnvs(envs, i) for i in range(envs.num_envs)]
        self.data: list[Any] = [{} for _ in self.envs]
        self.latest: list[tuple[Any, ...]] = [() for _ in self.envs]
        self.steps = [0 for _ in self.envs]

    def first(self, env: int, carry: Tensor, obs: Tree) -> None:
        """Environment `env` begins an episode; carry `[N, H]`, obs `[N, ...]`."""
        if "first" in self.takes:
            self._call(env, carry[env : env + 1], _part(obs, env), [], [], [False], first=True)

    def step(self, env: int, carry: Tensor, obs: Tree, action: Tensor, reward: np.ndarray, done: bool) -> None:
        """It made a step; all but `done` are of all environments."""
        self.steps[env] += 1
        rewards = torch.tensor([[reward[env]]], dtype=torch.float32)
        actions = action[env].reshape(1, -1)
        self.latest[env] = carry[env : env + 1], _part(obs, env), actions, rewards, np.array([done])
        self._call(env, *self.latest[env])

    def stack(self, env: int) -> None:
        """Its episode is over."""
        if "stack" in self.takes:
            self._call(env, *self.latest[env], stack=True)

    def _call(self, env: int, *arguments: Any, **flags: bool) -> None:
        where = f"after {self.steps[env]} steps in environment {env}"
        found = self.guarded.call(where, None, self.algorithm, self.envs[env], *arguments, self.data[env], **flags)
        self.data[env] = self.data[env] if found is None else found

    def result(self) -> Any:
        """What the function returned last; of several environments, one: lists joined in the order of the episodes.

        What is no list in a dictionary becomes one, of a value per environment.
        """
        if len(self.data) == 1:
            return self.data[0]
        if not all(isinstance(own, dict) for own in self.data):
            return self.data
        joined: dict[Any, Any] = {}
        for name in dict.fromkeys(name for own in self.data for name in own):
            values = [own[name] for own in self.data if name in own]
            lists = all(isinstance(value, list) for value in values)
            joined[name] = [entry for value in values for entry in value] if lists else values
        return joined


class StateCallback:
    """Calls `function(envs)` where all N environments stand, before each of their steps.

    It returns a dictionary of N values each, such as `{"position": envs.get_attr("position")}`. Row t of an episode is
    gathered where the agent saw `obs[t]`.

    Args:
        function: called as above.
        envs: N environments.
    """

    def __init__(self, function: Callable[[Any], Mapping[str, Any]], envs: Any) -> None:
        self.guarded, self.envs, self.misfits = Guarded(function, "state_callback"), envs, set[str]()
        self.now: dict[str, list[Any]] = {}

    def look(self) -> None:
        """Gather from the environments as they stand."""
        found = self.guarded.call("looking at the environments", {}, self.envs)
        if not isinstance(found, Mapping):
            self.guarded.failed, found = True, {}
            self.guarded.warn("expected a dictionary of one value per environment; not called again")
        self.now = {}
        for name, values in found.items():
            if isinstance(values, list | tuple | np.ndarray | Tensor) and len(values) == self.envs.num_envs:
                self.now[str(name)] = [_copied(value) for value in values]
            elif name not in self.misfits:
                self.misfits.add(name)
                self.guarded.warn(f"{name!r} is left out: expected {self.envs.num_envs} values, one per environment")

    def row(self, env: int) -> dict[str, Any]:
        """What was gathered of one environment."""
        return {name: values[env] for name, values in self.now.items()}


def stack_rows(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Rows of an episode as arrays `[L, ...]`; of objects `[L]` where values are unlike one another or no numbers."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _stacked([row[name] for row in rows if name in row]) for name in names}


def _stacked(values: list[Any]) -> np.ndarray:
    try:
        return np.array(values)
    except ValueError:  # unlike shapes
        objects = np.empty(len(values), object)
        for t, value in enumerate(values):
            objects[t] = value
        return objects


def _copied(value: Any) -> Any:
    """What an environment may write to is copied, wherever it lies; objects are kept as they are."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy().copy()
    if isinstance(value, list | tuple):
        return [_copied(part) for part in value]
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return value.copy() if isinstance(value, np.ndarray) else value


def _part(tree: Tree, env: int) -> Tree:
    return tree_map(lambda leaf: leaf[env : env + 1], tree)
