"""Recordings of what an agent saw, did and computed, per episode, for analysis.

Row t of every array of an episode of L steps belongs together: `obs[t]` as the environment gave it, `obs_normalized[t]`
as the network read it, `rnn_hxs[t]` the recurrent state after reading it, `actions[t]`, `rewards[t]` that followed and
`dones[t]`. `obs` and `obs_normalized` have a row more, the episode's final observation. `states[t]`, what a state
callback gathered, is where the environment stood at `obs[t]`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from a2c_ppo_acktr.acting.callbacks import DataCallback, StateCallback, stack_rows
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
        self.space = algorithm.spaces.action
        self.forced = _forced_at(forced, self.space)
        self.initial_carry, self.observe = algorithm.initial_carry, algorithm.observe
        self.given, self.t = forced, None

    t: np.ndarray | None
    """[N] steps within the episodes, from the first decision on."""

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
                if callable(self.given):
                    check_forced("actions", forced, self.space)
                action[env] = torch.as_tensor(np.asarray(forced)).to(action)
        return action


def check_forced(name: str, forced: Any, space: Any) -> np.ndarray:
    """Actions that an agent of this space can take, `[...]` or `[T, ...]`; choices are counted from 0.

    Raises:
        UsageError: others; the line begins with `name`.
    """
    shape, given = space.shape or (), " ".join(str(forced).split())
    try:
        actions = np.asarray(forced)
    except ValueError:
        actions = np.asarray(None)
    if actions.dtype.kind not in "iufb" or not np.isfinite(actions).all():
        raise UsageError(f"{name} {given}: expected numbers of shape {list(shape)}, with or without time in front")
    if shape not in (actions.shape, actions.shape[1:]):
        raise UsageError(
            f"{name} of shape {list(actions.shape)}: expected {list(shape)}, with or without time in front"
        )
    if not isinstance(space, spaces.Box):
        most: Any = space.n - 1 if isinstance(space, spaces.Discrete) else getattr(space, "nvec", np.array(2)) - 1
        if (actions != np.rint(actions)).any() or (actions < 0).any() or (actions > most).any():
            raise UsageError(f"{name} {given}: expected whole numbers from 0 to {most}: choices are counted from 0")
    return actions


def _forced_at(forced: Forced, space: Any) -> Callable[[int], Any]:
    """A function of the step within an episode."""
    if forced is None:
        return lambda t: None
    if callable(forced):
        return forced
    actions = check_forced("actions", forced, space)
    if actions.shape == (space.shape or ()):
        return lambda t: actions
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
        data: what is called along every episode, or None.
        states: what looks at the environments before every step, or None.
    """

    def __init__(
        self,
        stepper: Any,
        quota: Sequence[int],
        data: DataCallback | None = None,
        states: StateCallback | None = None,
    ) -> None:
        self.stepper, self.envs, self.quota, self.data, self.states = stepper, stepper.envs, quota, data, states
        self.steps, self.original = 0, self.envs.original
        self.running: list[list[dict[str, Tree]]] = [[] for _ in quota]
        self.episodes: list[list[dict[str, Any]]] = [[] for _ in quota]
        self.seen: list[list[dict[str, Any]]] = [[] for _ in quota]
        if states is not None:
            states.look()
        for env in range(len(quota)):
            self._begin(env)

    def _wanted(self, env: int) -> bool:
        return len(self.episodes[env]) < self.quota[env]

    def _begin(self, env: int) -> None:
        if self.data is not None and self._wanted(env):
            self.data.first(env, self.stepper.carry, self.stepper.obs)

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
            "signals": {name: tree_map(_numpy, one) for name, one in step.signals.items() if name != AUXILIARY},
        }
        ended: Any = arrays.ended
        over = {} if ended is None else {int(env): k for k, env in enumerate(ended.indices)}
        over = {env: k for env, k in over.items() if not np.isnan(ended.returns[k])}  # after a lost life it goes on
        for env, rows in enumerate(self.running):
            if self._wanted(env):
                rows.append(index(row, env))
                if self.states is not None:
                    self.seen[env].append(self.states.row(env))
                if self.data is not None:
                    taken = step.next_carry, self.stepper.obs, step.action, arrays.reward
                    self.data.step(env, *taken, done=env in over)
        self.steps += 1
        if self.states is not None:
            self.states.look()
        for env, k in over.items():
            final = self.original[1] if self.original is not None else ended.final_obs
            last = Last(*index((final, ended.final_obs, ended.final_signals), k))
            self._finish(env, last, float(ended.returns[k]), finished=True)
            self._begin(env)

    def _cut(self) -> None:
        """Keep the running episodes as far as they came; their return, of raw rewards to the end, is unknown."""
        for env, rows in enumerate(self.running):
            if rows and self._wanted(env):
                obs, signals = tree_map(_numpy, index((self.stepper.obs, self.stepper.signals), env))
                last = Last(index(self.original[0], env) if self.original is not None else obs, obs, signals)
                self._finish(env, last, math.nan, finished=False)

    def _finish(self, env: int, last: Last, episode_return: float, finished: bool) -> None:
        rows, self.running[env] = self.running[env], []
        seen, self.seen[env] = self.seen[env], []
        if not rows or not self._wanted(env):
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
        if self.states is not None:
            episode["states"] = stack_rows(seen)
        if self.data is not None:
            self.data.stack(env)
        self.episodes[env].append(episode)

    def result(self) -> dict[str, Any]:
        """All episodes, environment after environment: arrays of one number per episode, lists of one tree per episode.

        `spans` says of each the environment and the steps of all environments `[start, stop)` that it took. `data` is
        what `DataCallback` gathered, in its own form.
        """
        self._cut()
        episodes = [episode for own in self.episodes for episode in own]
        result: dict[str, Any] = {name: np.array([episode.pop(name) for episode in episodes]) for name in PER_EPISODE}
        result |= {name: [episode[name] for episode in episodes] for name in (episodes[0] if episodes else ())}
        if self.data is not None:
            result["data"] = self.data.result()
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
