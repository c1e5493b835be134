"""The tuples that pass between environments, collector, storage and algorithm. N environments, E ended episodes."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

Tree = Any
"""An array or tensor, or a dict or tuple of trees, in the shape of its space (see `spaces.py`)."""

ACTION_MASK = "action_mask"
"""The signal of valid actions: 0 where an action, or a choice of it, is invalid."""
AUXILIARY = "auxiliary"
"""The signal of auxiliary targets: a dictionary by name."""
NEXT = "next:"
"""Before a target's name: it describes the observation after the action, not the one that was read."""
TIME_TO_END = "time_to_end"
"""The one target that is known in hindsight only: log(1 + steps to the episode's last one)."""


class EnvSpaces(NamedTuple):
    """What an algorithm is told of its environments."""

    observation: spaces.Space
    action: spaces.Space
    signals: dict[str, spaces.Space]
    """Further arrays that come with each observation: `ACTION_MASK`, `AUXILIARY`, or an environment's own."""
    frame_stack: int = 1
    """Images that an observation stacks on its channel axis, oldest first."""
    clip_actions: bool = True
    """Whether continuous actions are kept within their bounds before the environments see them."""
    normalizer: Any = None
    """The moving statistics by which observations and rewards are normalized (a `Normalizer`), if they are."""


class EndedArrays(NamedTuple):
    """Episodes that ended in a step."""

    indices: np.ndarray
    """[E] int64, which environments."""
    final_obs: Tree
    """[E, ...] the observations that the resets replaced."""
    returns: np.ndarray
    """[E] undiscounted raw return of the whole episode; NaN where only a life was lost."""
    lengths: np.ndarray
    """[E] int64 agent steps of the whole episode."""
    final_signals: dict[str, Tree] = {}
    """[E, ...] the signals that came with `final_obs`."""


class StepArrays(NamedTuple):
    """One step of N environments, in NumPy; nobody writes to the arrays afterwards."""

    obs: Tree
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ended: EndedArrays | None
    """None where no episode ended, which is almost always."""
    signals: dict[str, Tree]
    """Arrays that came with `obs`."""


class Decision(NamedTuple):
    """What an algorithm decides on one batch of observations."""

    action: Tensor
    carry: Tensor
    """[N, H] recurrent state or task context after reading the observation."""
    extras: dict[str, Tree]
    """Tensors [N, ...] that `update` will want back, such as value and log_prob."""


class Ended(NamedTuple):
    """Tensors of `EndedArrays` that learning needs."""

    indices: Tensor
    final_obs: Tree
    carry: Tensor
    """[E, H] state after the last observation that was acted on, not reset: it values `final_obs`."""
    final_signals: dict[str, Tree]
    """[E, ...] signals that came with `final_obs`."""


class Original(NamedTuple):
    """Arrays of a step as the environments gave them, before anything changed them."""

    obs: Tree
    reward: np.ndarray
    next_obs: Tree
    final_obs: Tree | None


class Step(NamedTuple):
    """One step of N environments as a storage sees it: tensors from the learner, arrays from the environments."""

    obs: Tree
    carry: Tensor
    """[N, H] state before `obs` was read."""
    masks: Tensor
    """[N] 0 where `obs` is the first of an episode."""
    signals: dict[str, Tree]
    """Tensors that came with `obs`."""
    action: Tensor
    extras: dict[str, Tree]
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: Tree
    """Arrays: the next observations; after an episode's end the first of the next one (the true successor: `ended`)."""
    next_carry: Tensor
    next_signals: dict[str, Tree]
    """Arrays that came with `next_obs`."""
    ended: Ended | None
    original: Original | None = None
    """None where nothing changed what the environments gave."""

    def as_given(self) -> "Step":
        """The step as the environments gave it: what a storage keeps that outlasts the statistics of the time."""
        if self.original is None:
            return self
        obs, reward, next_obs, final_obs = self.original
        ended = self.ended and self.ended._replace(final_obs=final_obs)
        return self._replace(obs=obs, reward=reward, next_obs=next_obs, ended=ended)


class Episode(NamedTuple):
    """A finished episode."""

    env: int
    episode_return: float
    length: int


class Actor(Protocol):
    """What steps environments need of an algorithm (see `algo.base.Algorithm`)."""

    device: torch.device

    def initial_carry(self, num_envs: int) -> Tensor:
        """The carry of environments that begin: `[N, H]`."""

    def act(self, obs: Tree, carry: Tensor, masks: Tensor, signals: dict[str, Tree], explore: bool) -> Decision:
        """Choose actions."""

    def observe(self, carry: Tensor, step: Step) -> Tensor:
        """The carry after the environments answered."""


class UnreadableState(Exception):
    """An environment cannot give or take its state, and says why: it has to begin a new episode instead."""


class Environments(Protocol):
    """What stepping needs of N environments (see `envs.vector.Envs`)."""

    num_envs: int
    state_kind: str

    @property
    def signals(self) -> dict[str, Tree]:
        """Arrays that came with the latest observations."""

    @property
    def original(self) -> tuple[Tree, Tree, np.ndarray | None] | None:
        """The latest observations, final ones and rewards as they were given; None where nothing changed them."""

    def reset(self) -> Tree:
        """Begin a new episode everywhere; the first observations."""

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """Step every environment."""

    def get_state(self) -> Any:
        """The state of all environments as plain values; None where nobody knows how to read it.

        Raises:
            UnreadableState: an environment's own way of giving it fails.
        """

    def set_state(self, state: Any) -> None:
        """Inverse of `get_state`; `UnreadableState` where an environment's own way of taking it fails."""


class LazyMetric:
    """A number that is computed when it is asked for: of the metrics of an update most are never written."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def __float__(self) -> float:
        return float(self.function())
