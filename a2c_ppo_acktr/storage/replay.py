"""Experience replay of transitions: n-step, uniform or prioritized.

Memory is what `Slots` say; on top come the windows of n steps that are complete, and their priorities.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.interfaces import EnvSpaces, Step, Tree
from a2c_ppo_acktr.memory import available_memory
from a2c_ppo_acktr.returns import n_step_windows
from a2c_ppo_acktr.spaces import to_tensor
from a2c_ppo_acktr.storage.priorities import SumTree
from a2c_ppo_acktr.storage.slots import Slots, row_bytes
from a2c_ppo_acktr.utils import UsageError

INDEX_BYTES = 10
"""Of a row: which windows are complete, and their weights with the sums over them."""
SMALLEST_PRIORITY = 1e-6
"""Added to every priority, so that no step is lost for ever."""


class Transitions(NamedTuple):
    """B windows of up to n steps: from `obs` to `next_obs`."""

    obs: Tree
    actions: Tensor
    """[B, ...] taken in `obs`."""
    returns: Tensor
    """[B] discounted rewards of the window's steps."""
    discounts: Tensor
    """[B] gamma^m after m steps, 0 where `next_obs` is terminal: what the value of `next_obs` is worth."""
    next_obs: Tree
    weights: Tensor
    """[B] importance weights, at most 1."""
    rows: np.ndarray
    """[B] where the windows begin: `update_priorities` wants them back."""


class Buffer(ABC):
    """The latest steps of N environments, and which items of them, windows or sequences, can be sampled.

    Args:
        size: slots per environment.
        num_envs: N.
        num_steps: steps of all environments between updates.
        spaces: of the environments.
        num_items: items that there can be.
        extra_bytes: memory per observation for what subclasses hold beside the slots.
        device: where samples go; the memory itself is the CPU's.
        n_step: steps before the value of the next observation is used.
        gamma: discount.
        alpha: exponent of priorities; 0 samples uniformly.
        saved: whether `state_dict` holds the contents, for --save-replay.

    Raises:
        UsageError: it does not fit into memory.
    """

    outlasts_updates = True
    """What it holds is read by later updates too: without it a resumed run begins empty."""

    def __init__(
        self,
        size: int,
        num_envs: int,
        num_steps: int,
        spaces: EnvSpaces,
        *,
        num_items: int,
        extra_bytes: int,
        device: torch.device | str,
        n_step: int,
        gamma: float,
        alpha: float,
        saved: bool,
    ) -> None:
        self.row_bytes = row_bytes(spaces) + extra_bytes
        check_memory(size * num_envs, self.row_bytes)
        self.slots, self.num_steps = Slots(size, num_envs, spaces), num_steps
        self.device, self.n_step, self.gamma, self.alpha, self.saved = device, n_step, gamma, alpha, saved
        self.valid, self.size = np.zeros(num_items, np.bool_), 0
        self.tree = SumTree(num_items) if alpha > 0.0 else None
        self.max_priority, self.new_steps = 1.0, 0

    def __len__(self) -> int:
        """Items that can be sampled."""
        return self.size

    @property
    def observations(self) -> int:
        """Slots that are in use, of all environments together."""
        return self.slots.filled * self.slots.num_envs

    @property
    def fill(self) -> float:
        """The share of the memory that is in use."""
        return self.slots.filled / self.slots.size

    @abstractmethod
    def insert(self, step: Step) -> None:
        """Append one step of all environments."""

    def after_update(self) -> None:
        """Count new steps from here."""
        self.new_steps = 0

    def _set_valid(self, items: np.ndarray, valid: bool) -> None:
        """Let items be sampled, or not; none may be named twice."""
        before = int(np.count_nonzero(self.valid[items]))
        self.size += len(items) - before if valid else -before
        self.valid[items] = valid
        if self.tree is not None:
            self.tree.set(items, self.max_priority**self.alpha if valid else 0.0)

    def _give(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _draw(self, num: int, beta: float) -> tuple[np.ndarray, np.ndarray]:
        """Random items `[num]`, and their importance weights, float32.

        Prioritized, item i has probability P_i = p_i^alpha / sum p^alpha and weight (M P_i)^-beta / max of the batch
        with M items in the replay (Schaul et al. 2016, section 3.4).
        """
        assert self.size > 0, "the replay is empty"
        if self.tree is None:
            return self._uniform(num), np.ones(num, np.float32)
        items = self.tree.sample(num)
        chances = self.tree.leaves[items] / self.tree.total
        weights = (self.size * chances) ** -beta
        return items, (weights / weights.max()).astype(np.float32)

    def _uniform(self, num: int) -> np.ndarray:
        """Valid items: of draws among those that have begun, where most of these are valid, else from their list."""
        apart = self.slots.size * self.slots.num_envs // len(self.valid)  # slots from one item to the next
        limit = -(-self.slots.filled // apart) * self.slots.num_envs
        if 2 * self.size < limit:
            return np.random.choice(np.flatnonzero(self.valid), num)
        found = np.empty(0, np.int64)
        while len(found) < num:
            items = (np.random.random_sample(num + num // 4 + 4) * limit).astype(np.int64)
            items = items[self.valid[items]]
            found = np.concatenate([found, items]) if len(found) else items
        return found[:num]

    def update_priorities(self, items: np.ndarray, priorities: np.ndarray) -> None:
        """Give `items: [B]` new priorities `[B]`, before the exponent; those that were lost meanwhile stay so.

        What is no number is no priority: a network that has diverged says so by its loss, and can still be asked.
        """
        assert self.tree is not None
        assert priorities.shape == items.shape
        priorities = priorities.astype(np.float64) + SMALLEST_PRIORITY
        finite = np.isfinite(priorities)
        items, priorities = items[finite], priorities[finite]
        self.max_priority = max(self.max_priority, float(priorities.max(initial=0.0)))
        self.tree.set(items, np.where(self.valid[items], priorities**self.alpha, 0.0))

    def describe(self) -> str:
        """What a user should know of its size."""
        num = self.slots.size * self.slots.num_envs
        return f"replay: {num:,} observations, {num * self.row_bytes / 1e9:.2g} GB when full"

    @property
    def layout(self) -> dict[str, Any]:
        """What the contents depend on."""
        slots = self.slots
        prioritized = self.tree is not None
        sizes = {"size": slots.size, "num_envs": slots.num_envs, "n_step": self.n_step, "prioritized": prioritized}
        return sizes if slots.normalizer is None else sizes | {"as_given": True}  # older ones were kept normalized

    def state_dict(self) -> dict[str, Any] | None:
        """Everything, without a copy; None where it is not to be saved."""
        if not self.saved:
            return None
        return {
            "layout": self.layout,
            "slots": self.slots.state_dict(),
            "valid": torch.from_numpy(self.valid),
            "weights": torch.from_numpy(self.tree.leaves) if self.tree is not None else None,
            "max_priority": self.max_priority,
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Inverse of `state_dict`; returns whether the contents fit."""
        if state["layout"] != self.layout:
            return False
        self.slots.load_state_dict(state["slots"])
        self.valid[:] = state["valid"]
        self.size = int(self.valid.sum())
        if self.tree is not None:
            self.tree.load(state["weights"].numpy())
        self.max_priority = state["max_priority"]
        return True


class Replay(Buffer):
    """Windows of up to n steps; items are the rows in which they begin.

    Arguments are those of `Buffer`, and:

    Args:
        capacity: observations to keep, of all environments together.

    Raises:
        UsageError: it does not fit into memory, or is smaller than a window.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        num_steps: int,
        spaces: EnvSpaces,
        *,
        device: torch.device | str = "cpu",
        n_step: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.0,
        saved: bool = False,
    ) -> None:
        self.margin = spaces.frame_stack  # the oldest slots, whose stacks have lost images, and the newest
        check_capacity(capacity, num_envs * (n_step + self.margin + 2), num_envs)
        size = capacity // num_envs
        super().__init__(
            size,
            num_envs,
            num_steps,
            spaces,
            num_items=size * num_envs,
            extra_bytes=INDEX_BYTES if alpha > 0.0 else 1,
            device=device,
            n_step=n_step,
            gamma=gamma,
            alpha=alpha,
            saved=saved,
        )
        self.age = np.zeros(num_envs, np.int64)

    def insert(self, step: Step) -> None:
        """Append one step of all environments, and find the windows that it completes and those that it overwrites."""
        slots, n = self.slots, self.n_step
        at = slots.insert(step)
        self.age = np.where(slots.first[at], 1, self.age + 1)
        self.new_steps += slots.num_envs
        first = slots.row(at // slots.num_envs - (n - 1), slots.envs)
        complete = [first[self.age >= n]]
        ahead = slots.cursor[:, None] + np.arange(self.margin)
        lost = [at, slots.row(ahead, slots.envs[:, None]).ravel()]  # `at`: after a cut it was not the slot ahead
        if step.ended is not None:  # windows of fewer than n steps end with the episode
            (envs,) = slots.ended[at].nonzero()
            lost.append(slots.row(slots.cursor[envs] - 1, envs))
            for k in range(min(n - 1, int(self.age[envs].max()))):
                own = envs[self.age[envs] > k]
                complete.append(slots.row(at[own] // slots.num_envs - k, own))
        self._set_valid(np.concatenate(lost), False)
        self._set_valid(np.concatenate(complete), True)

    def sample(self, batch_size: int, beta: float = 0.0) -> Transitions:
        """Random windows, with probabilities and weights as of `_draw`."""
        rows, weights = self._draw(batch_size, beta)
        slots = self.slots
        slot, env = np.divmod(rows, slots.num_envs)
        window = slots.row(slot + np.arange(self.n_step)[:, None], env)
        returns, discounts, lengths = n_step_windows(
            slots.rewarded(window), slots.ended[window], slots.terminated[window], self.gamma
        )
        return Transitions(
            to_tensor(slots.read(rows), self.device),
            to_tensor(slots.taken(rows), self.device),
            self._give(returns),
            self._give(discounts),
            to_tensor(slots.read(slots.row(slot + lengths, env)), self.device),
            self._give(weights),
            rows,
        )

    def state_dict(self) -> dict[str, Any] | None:
        """See `Buffer`."""
        state = super().state_dict()
        return None if state is None else state | {"age": self.age}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """See `Buffer`."""
        if not super().load_state_dict(state):
            return False
        self.age = np.array(state["age"])
        return True


def check_capacity(capacity: int, smallest: int, num_envs: int) -> None:
    """Refuse a replay in which nothing could be sampled.

    Raises:
        UsageError: it is smaller than `smallest`.
    """
    if capacity < smallest:
        raise UsageError(f"--buffer-size {capacity}: expected at least {smallest} for {num_envs} environments")


def check_memory(capacity: int, each: int) -> None:
    """Refuse a replay, of `each` bytes per observation, that would not fit into this machine's memory once it is full.

    Raises:
        UsageError: it would not.
    """
    free = available_memory()
    if capacity * each > free:
        raise UsageError(
            f"--buffer-size {capacity}: needs {capacity * each / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            f"at most {int(free / each)} fit"
        )
