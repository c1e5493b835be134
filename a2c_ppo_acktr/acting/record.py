"""Recordings of what an agent saw, did and computed, per episode, for analysis.

Row t of every array of an episode of L steps belongs together: `obs[t]` as the environment gave it, `obs_normalized[t]`
as the network read it, `rnn_hxs[t]` the recurrent state after reading it, `actions[t]`, `rewards[t]` that followed and
`dones[t]`. `obs` and `obs_normalized` have a row more, the episode's final observation.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.acting.collect import finished_episodes
from a2c_ppo_acktr.interfaces import AUXILIARY, NEXT, TIME_TO_END, Decision, Step, StepArrays, Tree
from a2c_ppo_acktr.spaces import index, tree_map
from a2c_ppo_acktr.utils import UsageError

Forced = Callable[[int], Any] | np.ndarray | Sequence[Any] | float | None
"""Actions that an agent is made to take: see `Inspected`."""
PER_EPISODE = ("returns", "lengths", "finished", "spans")
"""Entries of a result that are arrays over episodes; all others are lists of trees."""


class Inspected:
    """An agent that shows all that it computes in `Decision.extras`, and can be made to take given actions.

    Args:
        algorithm: the agent.
        with_activations: also show every layer's output.
        forced: one action for all steps; `[T, ...]`, the actions of an episode's first T steps, after which the agent
            decides; or a function of the step within the episode that gives an action, or None to let the agent decide.
    """

    def __init__(self, algorithm: Any, *, with_activations: bool = False, forced: Forced = None) -> None:
        self.algorithm, self.device, self.with_activations = algorithm, algorithm.device, with_activations
        shape = algorithm.spaces.action.shape or ()
        self.forced = _forced_at(forced, shape)
        self.initial_carry, self.observe = algorithm.initial_carry, algorithm.observe
        self.t: np.ndarray | None = None

    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """See `Algorithm.inspect`."""
        first = masks.cpu().numpy() == 0.0
        self.t = np.zeros(len(first), int) if self.t is None else np.where(first, 0, self.t + 1)
        decision = self.algorithm.inspect(obs, carry, masks, signals, explore, self._override)
        if not self.with_activations:
            decision.extras.pop("activations", None)
        return decision

    def _override(self, action: Tensor) -> Tensor:
        assert self.t is not None
        action = action.clone()
        for env, t in enumerate(self.t):
            if (forced := self.forced(int(t))) is not None:
                action[env] = torch.as_tensor(np.asarray(forced)).to(action)
        return action


def _forced_at(forced: Forced, shape: tuple[int, ...]) -> Callable[[int], Any]:
    """A function of the step within an episode."""
    if forced is None:
        return lambda t: None
    if callable(forced):
        return forced
    actions = np.asarray(forced)
    if actions.shape == shape:
        return lambda t: actions
    if actions.shape[1:] != shape:
        raise UsageError(f"forced actions of shape {list(actions.shape)}: expected {list(shape)}, with or without time")
    return lambda t: actions[t] if t < len(actions) else None


class Scores:
    """Returns and lengths of whole episodes, and of those that were cut.

    Args:
        quota: `[N]` episodes to count of each environment.
        max_steps: steps after which an episode is cut: it counts as far as it came, and its environment, which stays
            where it is, has played its quota. None cuts none.
    """

    def __init__(self, quota: Sequence[int], max_steps: int | None = None) -> None:
        self.quota, self.max_steps, self.steps = list(quota), max_steps, 0
        self.episodes: list[list[tuple[float, int]]] = [[] for _ in quota]
        self.lengths, self.returns = np.zeros(len(quota), np.int64), np.zeros(len(quota))
        self.cut: list[int] = []
        """Environments whose last episode was."""

    @property
    def complete(self) -> bool:
        """Whether every environment has played its quota."""
        return all(len(own) >= wanted for own, wanted in zip(self.episodes, self.quota, strict=True))

    def add(self, step: Step, arrays: StepArrays) -> None:
        """Take one step of all environments."""
        self.steps += 1
        self.lengths += 1
        self.returns += arrays.reward
        for env, episode_return, length in finished_episodes(arrays):
            if len(self.episodes[env]) < self.quota[env]:
                self.episodes[env].append((episode_return, length))
            self.lengths[env], self.returns[env] = 0, 0.0
        if self.max_steps is not None and self.lengths.max() >= self.max_steps:
            self._cut(self.max_steps)

    def _cut(self, max_steps: int) -> None:
        for env in (self.lengths >= max_steps).nonzero()[0]:
            if len(self.episodes[env]) < self.quota[env]:
                self.episodes[env].append((float(self.returns[env]), int(self.lengths[env])))
                self.quota[env] = len(self.episodes[env])
                self.cut.append(int(env))
            self.lengths[env], self.returns[env] = 0, 0.0

    def result(self) -> dict[str, np.ndarray]:
        """`returns` and `lengths`, environment after environment, and `cut`, the places of those that were."""
        episodes = [episode for own in self.episodes for episode in own]
        last = np.cumsum([len(own) for own in self.episodes]) - 1
        returns, lengths = np.array([r for r, _ in episodes]), np.array([n for _, n in episodes])
        return {"returns": returns, "lengths": lengths, "cut": np.sort(last[self.cut])}


class Last(NamedTuple):
    """What came after an episode's last action."""

    obs: Tree
    obs_normalized: Tree
    signals: dict[str, Tree]


class Recorder:
    """Assembles episodes from the steps of N environments.

    Args:
        stepper: what steps an `Inspected` agent, not yet stepped.
        quota: `[N]` episodes to keep of each environment.
        callback: what gathers further data, or None.
    """

    def __init__(self, stepper: Any, quota: Sequence[int], callback: "DataCallback | None" = None) -> None:
        self.stepper, self.envs, self.quota, self.callback = stepper, stepper.envs, quota, callback
        self.steps, self.original = 0, self.envs.original
        self.running: list[list[dict[str, Tree]]] = [[] for _ in quota]
        self.episodes: list[list[dict[str, Any]]] = [[] for _ in quota]
        if callback is not None:
            obs = self.original[0] if self.original is not None else tree_map(_numpy, stepper.obs)
            callback.begin(_numpy(stepper.carry), obs)

    @property
    def complete(self) -> bool:
        """Whether every environment has played its quota."""
        return all(len(own) >= wanted for own, wanted in zip(self.episodes, self.quota, strict=True))

    def add(self, step: Step, arrays: StepArrays) -> None:
        """Take one step of all environments."""
        before, self.original = self.original, self.envs.original
        normalized = tree_map(_numpy, step.obs)
        row = {
            "obs": before[0] if before is not None else normalized,
            "obs_normalized": normalized,
            "actions": _numpy(step.action),
            "rewards": arrays.reward,
            "rnn_hxs": _numpy(step.next_carry),
            "dones": arrays.terminated | arrays.truncated,
            "masks": _numpy(step.masks),
            **tree_map(_numpy, step.extras),
            "auxiliary_truths": tree_map(_numpy, step.signals.get(AUXILIARY, {})),
        }
        for env, rows in enumerate(self.running):
            if len(self.episodes[env]) < self.quota[env]:
                rows.append(index(row, env))
        self.steps += 1
        if self.callback is not None:
            self.callback.step(row)
        for k, env in enumerate(arrays.ended.indices if arrays.ended is not None else ()):
            ended: Any = arrays.ended
            if not np.isnan(ended.returns[k]):  # where only a life was lost, the episode goes on
                final = self.original[1] if self.original is not None else ended.final_obs
                last = Last(*index((final, ended.final_obs, ended.final_signals), k))
                self._finish(int(env), last, float(ended.returns[k]), finished=True)

    def _cut(self) -> None:
        """Keep the running episodes as far as they came."""
        for env, rows in enumerate(self.running):
            if rows:
                obs, signals = tree_map(_numpy, index((self.stepper.obs, self.stepper.signals), env))
                last = Last(index(self.original[0], env) if self.original is not None else obs, obs, signals)
                self._finish(env, last, float(sum(row["rewards"] for row in rows)), finished=False)

    def _finish(self, env: int, last: Last, episode_return: float, finished: bool) -> None:
        rows, self.running[env] = self.running[env], []
        if not rows or len(self.episodes[env]) >= self.quota[env]:
            return
        episode = tree_map(lambda *leaves: np.stack(leaves), *rows)
        episode["obs"], episode["obs_normalized"] = tree_map(
            lambda leaf, final: np.concatenate([leaf, np.asarray(final)[None]]),
            (episode["obs"], episode["obs_normalized"]),
            (last.obs, last.obs_normalized),
        )
        truths = episode["auxiliary_truths"]
        for name, final in last.signals.get(AUXILIARY, {}).items():
            if name == TIME_TO_END:
                if finished:
                    truths[name] = np.log(np.arange(len(rows), 0, -1, dtype=np.float32))[:, None]
            else:
                truths[NEXT + name] = np.concatenate([truths[name][1:], np.asarray(final)[None]])
        span = env, self.steps - len(rows), self.steps
        episode |= {"returns": episode_return, "lengths": len(rows), "finished": finished, "spans": span}
        self.episodes[env].append(episode)

    def result(self) -> dict[str, Any]:
        """All episodes, environment after environment: arrays of one number per episode, lists of one tree per episode.

        `spans` says of each the environment and the steps of all environments `[start, stop)` that it took.
        """
        self._cut()
        episodes = [episode for own in self.episodes for episode in own]
        result: dict[str, Any] = {name: np.array([episode.pop(name) for episode in episodes]) for name in PER_EPISODE}
        result |= {name: [episode[name] for episode in episodes] for name in (episodes[0] if episodes else ())}
        if self.callback is not None:
            result["data"], rest = self.callback.finish(result["spans"], self.steps)
            result |= {"data_rest": rest} if rest else {}
        return with_aliases(result, normalized=self.original is not None)


def with_aliases(result: dict[str, Any], normalized: bool) -> dict[str, Any]:
    """Names that share what they mean: the fork's `hidden_states`, and what was read where nothing changed it."""
    if "rnn_hxs" in result:
        result["hidden_states"] = result["rnn_hxs"]
        if not normalized:
            result["obs_normalized"] = result["obs"]
    return result


def _numpy(leaf: Any) -> Any:
    return leaf.cpu().numpy() if isinstance(leaf, Tensor) else leaf


class DataCallback:
    """Calls a user's function along an evaluation, and splits what it gathered into episodes.

    The function is called after every step of all environments with eight arguments: the algorithm, the environments,
    the recurrent states `[N, H]` after reading, the observations `[N, ...]` that were read, as the environments gave
    them, the actions, rewards and dones `[N, ...]` that followed, and `data`, which begins as `{}` and is what the
    function returned last (what it was, where that is None). A function that has a parameter `first` is also called
    once before the first step, with `first=True` and None for actions, rewards and dones; one that has `stack` once at
    the end, with `stack=True`.

    Args:
        function: called as above.
        algorithm: its first argument.
        envs: its second.
    """

    def __init__(self, function: Callable[..., Any], algorithm: Any, envs: Any) -> None:
        self.function, self.algorithm, self.envs = function, algorithm, envs
        known = inspect.signature(function).parameters.values()
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known)
        self.takes = {name for name in ("first", "stack") if anything or name in (p.name for p in known)}
        self.data: Any = {}
        self.latest: tuple[Any, ...] = (None,) * 5

    def begin(self, carry: Tensor, obs: Tree) -> None:
        """The environments were reset."""
        if "first" in self.takes:
            self._call(carry, obs, None, None, None, first=True)

    def step(self, row: dict[str, Tree]) -> None:
        """The environments made a step; `row` is the recorder's."""
        self.latest = tuple(row[name] for name in ("rnn_hxs", "obs", "actions", "rewards", "dones"))
        self._call(*self.latest)

    def _call(self, *arguments: Any, **flags: bool) -> None:
        found = self.function(self.algorithm, self.envs, *arguments, self.data, **flags)
        self.data = self.data if found is None else found

    def finish(self, spans: np.ndarray, num_steps: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What was gathered per episode `(environment, start, stop)`, and what cannot be split.

        A list or array of one entry per step of all environments is split, also of one more, gathered from `first` on:
        then row t was gathered before step t. Entries of one value per environment are taken apart.
        """
        if "stack" in self.takes:
            self._call(*self.latest, stack=True)
        if not isinstance(self.data, dict):
            return [{} for _ in spans], {"data": self.data}
        episodes: list[dict[str, Any]] = [{} for _ in spans]
        rest = {}
        for name, entries in self.data.items():
            if not isinstance(entries, list | tuple | np.ndarray) or not num_steps <= len(entries) <= num_steps + 1:
                rest[name] = entries
                continue
            for episode, (env, start, stop) in zip(episodes, spans, strict=True):
                episode[name] = np.array([self._own(entry, env) for entry in entries[start:stop]])
        return episodes, rest

    def _own(self, entry: Any, env: int) -> Any:
        """One environment's part of an entry."""
        if isinstance(entry, list | tuple) or (isinstance(entry, np.ndarray | Tensor) and entry.ndim > 0):
            if len(entry) == self.envs.num_envs:
                return _numpy(entry[env])
        return _numpy(entry)
