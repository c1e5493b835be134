"""Auxiliary targets: what environments offer for a policy's auxiliary heads to predict."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from a2c_ppo_acktr.envs.vec_wrappers import EnvsWrapper
from a2c_ppo_acktr.envs.vector import Envs
from a2c_ppo_acktr.interfaces import AUXILIARY, TIME_TO_END, StepArrays, Tree
from a2c_ppo_acktr.utils import UsageError

ANY_NUMBER = spaces.Box(-np.inf, np.inf, (1,), np.float32)
Targets = dict[str, spaces.Space]


class AuxiliaryEnvs(EnvsWrapper):
    """Gathers the auxiliary targets by name into the one signal `auxiliary`.

    An environment's own `auxiliary` signal gives the entries of its Dict; of a flat Box the pieces `auxiliary_0`,
    `auxiliary_1`, ... where `truth_sizes` says how to cut it; else the one target `auxiliary`. Everything is as the
    environment gives it, neither normalized nor stacked, so this wrapper stands inside of those.

    Args:
        envs: N environments.
        truth_sizes: numbers of each piece of a flat signal.
        previous_action: offer the action that led to the observation; unknown (-1, or NaN) on an episode's first.
        previous_reward: offer the reward that came with the observation; unknown on an episode's first.
        observation: offer these entries of a flat observation.
        time_to_end: offer log(1 + steps to the episode's last), which storages fill in afterwards.

    Raises:
        UsageError: these environments have no such target.
    """

    def __init__(
        self,
        envs: Envs,
        truth_sizes: Sequence[int] | None = None,
        *,
        previous_action: bool = False,
        previous_reward: bool = False,
        observation: Sequence[int] | int = (),
        time_to_end: bool = False,
    ) -> None:
        super().__init__(envs)
        self.targets, self.read_own = _own_targets(envs.signal_spaces.get(AUXILIARY), truth_sizes)
        self.action_target = _action_target(envs.action_space) if previous_action else None
        if self.action_target is not None:
            self.targets["previous_action"] = self.action_target
        if previous_reward:
            self.targets["previous_reward"] = ANY_NUMBER
        self.entries = [observation] if isinstance(observation, int) else list(observation)
        if self.entries:
            self.targets["observation"] = _entries_target(envs.observation_space, self.entries)
        if time_to_end:
            self.targets[TIME_TO_END] = ANY_NUMBER
        self.signal_spaces = {**envs.signal_spaces, AUXILIARY: spaces.Dict(list(self.targets.items()))}

    @property
    def signals(self) -> dict[str, Tree]:
        """The signals that came with the latest observations."""
        return self._signals

    def reset(self) -> Tree:
        """Begin a new episode everywhere."""
        obs, num = self.envs.reset(), self.num_envs
        actions = np.zeros((num, *(self.action_space.shape or ())))
        self._signals = self._gather(self.envs.signals, obs, actions, np.zeros(num), firsts=np.arange(num))
        return obs

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        step, nobody = self.envs.step_arrays(actions), np.arange(0)
        ended, firsts = step.ended, nobody
        if ended is not None:
            firsts = ended.indices
            arrays = ended.final_signals, ended.final_obs, actions[firsts], step.reward[firsts]
            ended = ended._replace(final_signals=self._gather(*arrays, firsts=nobody))
        self._signals = self._gather(step.signals, step.obs, actions, step.reward, firsts=firsts)
        return step._replace(signals=self._signals, ended=ended)

    def _gather(
        self, own: dict[str, Tree], obs: Tree, actions: np.ndarray, reward: np.ndarray, *, firsts: np.ndarray
    ) -> dict[str, Tree]:
        """Signals and targets of `obs`, from what led there; nothing did in the rows `firsts`."""
        found = dict(self.read_own(own.get(AUXILIARY)))
        if self.action_target is not None:
            found["previous_action"] = actions.astype(self.action_target.dtype)
            found["previous_action"][firsts] = -1 if isinstance(self.action_target, spaces.Discrete) else np.nan
        if "previous_reward" in self.targets:
            found["previous_reward"] = reward.astype(np.float32)[:, None]
            found["previous_reward"][firsts] = np.nan
        if self.entries:
            found["observation"] = obs[:, self.entries].astype(np.float32)
        if TIME_TO_END in self.targets:
            found[TIME_TO_END] = np.full((len(reward), 1), np.nan, np.float32)
        return {**own, AUXILIARY: found}


def _own_targets(space: Any, sizes: Sequence[int] | None) -> tuple[Targets, Callable[[Any], dict[str, Tree]]]:
    """The targets of an environment's own signal, and what reads them from it."""
    if sizes is not None:
        if not isinstance(space, spaces.Box) or space.shape != (sum(sizes),):
            raise UsageError(f"--auxiliary-truth-sizes {list(sizes)}: they must add up to a flat array, not to {space}")
        names, cuts = [f"auxiliary_{i}" for i in range(len(sizes))], np.cumsum(sizes)[:-1]
        pieces = [spaces.Box(-np.inf, np.inf, (size,), np.float32) for size in sizes]
        return dict(zip(names, pieces, strict=True)), lambda own: dict(zip(names, np.split(own, cuts, 1), strict=True))
    if isinstance(space, spaces.Dict):
        return dict(space.spaces), lambda own: own
    if space is not None:
        return {AUXILIARY: space}, lambda own: {AUXILIARY: own}
    return {}, lambda own: {}


def _action_target(space: spaces.Space) -> spaces.Space:
    """The space of an action as policies give it: counted from 0, unbounded."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return spaces.Box(-np.inf, np.inf, space.shape, np.float32)
    raise UsageError(f"--aux-wrapper-kwargs previous_action: of Discrete and flat Box actions only, not {space}")


def _entries_target(space: spaces.Space, entries: list[int]) -> spaces.Space:
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise UsageError(f"--aux-wrapper-kwargs observation: of flat observations only, not {space}")
    if not all(isinstance(entry, int) and 0 <= entry < space.shape[0] for entry in entries):
        raise UsageError(f"--aux-wrapper-kwargs observation={entries}: the entries are 0 to {space.shape[0] - 1}")
    return spaces.Box(-np.inf, np.inf, (len(entries),), np.float32)
