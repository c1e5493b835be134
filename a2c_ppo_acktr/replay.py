"""Experience replay of transitions: n-step, uniform or prioritized.

Memory is what `Slots` say; on top come the windows of n steps that are complete, and their priorities.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor

from a2c_ppo_acktr.interfaces import EnvSpaces, Step, Tree
from a2c_ppo_acktr.priorities import SumTree
from a2c_ppo_acktr.returns import n_step_windows
from a2c_ppo_acktr.slots import Slots, row_bytes
from a2c_ppo_acktr.spaces import to_tensor
from a2c_ppo_acktr.utils import UsageError

CGROUP = Path("/sys/fs/cgroup")
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


class Replay:
    """The latest steps of N environments as transitions.

    Args:
        capacity: observations to keep, of all environments together.
        num_envs: N.
        num_steps: steps of all environments between updates.
        spaces: of the environments.
        device: where samples go; the memory itself is the CPU's.
        n_step: n.
        gamma: discount.
        alpha: exponent of priorities; 0 samples uniformly.
        saved: whether `state_dict` holds the contents, for --save-replay.

    Raises:
        UsageError: it does not fit into memory, or is smaller than a window.
    """

    outlasts_updates = True
    """What it holds is read by later updates too: without it a resumed run begins empty."""

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
        self.row_bytes = row_bytes(spaces) + (INDEX_BYTES if alpha > 0.0 else 1)
        check_memory(capacity, self.row_bytes)
        self.margin = spaces.frame_stack  # the oldest slots, whose stacks have lost images, and the newest
        smallest = num_envs * (n_step + self.margin + 2)
        if capacity < smallest:
            raise UsageError(f"--buffer-size {capacity}: expected at least {smallest} for {num_envs} environments")
        self.slots = Slots(capacity // num_envs, num_envs, spaces)
        self.device, self.n_step, self.gamma, self.alpha, self.saved = device, n_step, gamma, alpha, saved
        num_rows = self.slots.size * num_envs
        self.valid, self.size = np.zeros(num_rows, np.bool_), 0
        self.tree = SumTree(num_rows) if alpha > 0.0 else None
        self.max_priority = 1.0
        self.age = np.zeros(num_envs, np.int64)
        self.num_steps, self.new_steps = num_steps, 0

    def __len__(self) -> int:
        """Windows that can be sampled."""
        return self.size

    @property
    def fill(self) -> float:
        """The share of the memory that is in use."""
        return self.slots.filled / self.slots.size

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

    def _set_valid(self, rows: np.ndarray, valid: bool) -> None:
        self.size += int((self.valid[rows] != valid).sum()) * (1 if valid else -1)
        self.valid[rows] = valid
        if self.tree is not None:
            self.tree.set(rows, self.max_priority**self.alpha if valid else 0.0)

    def after_update(self) -> None:
        """Count new steps from here."""
        self.new_steps = 0

    def sample(self, batch_size: int, beta: float = 0.0) -> Transitions:
        """Random windows.

        Prioritized, window i has probability P_i = p_i^alpha / sum p^alpha and weight (M P_i)^-beta / max of the batch
        with M windows in the replay (Schaul et al. 2016, section 3.4).
        """
        assert self.size > 0, "the replay is empty"
        slots = self.slots
        if self.tree is None:
            rows, weights = self._uniform(batch_size), np.ones(batch_size, np.float32)
        else:
            rows = self.tree.sample(batch_size)
            chances = self.tree.leaves[rows] / self.tree.total
            weights = (self.size * chances) ** -beta
            weights = (weights / weights.max()).astype(np.float32)
        slot, env = np.divmod(rows, slots.num_envs)
        window = slots.row(slot[:, None] + np.arange(self.n_step), env[:, None])
        returns, discounts, lengths = n_step_windows(
            slots.rewards[window], slots.ended[window], slots.terminated[window], self.gamma
        )
        return Transitions(
            to_tensor(slots.read(rows), self.device),
            to_tensor(slots.taken(rows), self.device),
            torch.from_numpy(returns).to(self.device),
            torch.from_numpy(discounts).to(self.device),
            to_tensor(slots.read(slots.row(slot + lengths, env)), self.device),
            torch.from_numpy(weights).to(self.device),
            rows,
        )

    def _uniform(self, num: int) -> np.ndarray:
        """Valid rows, by drawing rows until all are: final observations and the newest steps are few."""
        limit = self.slots.filled * self.slots.num_envs
        rows = np.random.randint(limit, size=num)
        while not (valid := self.valid[rows]).all():
            rows[~valid] = np.random.randint(limit, size=num - int(valid.sum()))
        return rows

    def update_priorities(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        """Give the windows that begin at `rows: [B]` new priorities `[B]`, before the exponent; those lost stay so."""
        assert self.tree is not None
        assert priorities.shape == rows.shape
        priorities = priorities.astype(np.float64) + SMALLEST_PRIORITY
        self.max_priority = max(self.max_priority, float(priorities.max()))
        self.tree.set(rows, np.where(self.valid[rows], priorities**self.alpha, 0.0))

    def describe(self) -> str:
        """What a user should know of its size."""
        memory = self.slots.size * self.slots.num_envs * self.row_bytes
        return f"replay: {self.slots.size * self.slots.num_envs:,} observations, {memory / 1e9:.2g} GB when full"

    def state_dict(self) -> dict[str, Any] | None:
        """Everything, without a copy; None where it is not to be saved."""
        if not self.saved:
            return None
        rows = self.slots.filled * self.slots.num_envs
        return {
            "layout": self.layout,
            "slots": self.slots.state_dict(),
            "valid": torch.from_numpy(self.valid[:rows]),
            "weights": torch.from_numpy(self.tree.leaves[:rows]) if self.tree is not None else None,
            "max_priority": self.max_priority,
            "age": self.age,
        }

    @property
    def layout(self) -> dict[str, Any]:
        """What the contents depend on."""
        slots = self.slots
        return {
            "size": slots.size,
            "num_envs": slots.num_envs,
            "n_step": self.n_step,
            "prioritized": self.tree is not None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Inverse of `state_dict`; returns whether the contents fit."""
        if state["layout"] != self.layout:
            return False
        self.slots.load_state_dict(state["slots"])
        self.valid[: len(state["valid"])] = state["valid"]
        self.size = int(self.valid.sum())
        if self.tree is not None:
            self.tree.load(state["weights"].numpy())
        self.max_priority, self.age = state["max_priority"], np.array(state["age"])
        return True


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


def available_memory() -> int:
    """Bytes that this process can still get, a container's limit included."""
    free = psutil.virtual_memory().available
    limit, stat = CGROUP / "memory.max", CGROUP / "memory.stat"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
        used = int((CGROUP / "memory.current").read_text()) - int(counts.get("inactive_file", 0))  # files read once
        free = min(free, int(text) - used)
    return max(0, free)
