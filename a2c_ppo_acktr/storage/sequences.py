"""Experience replay of sequences with stored recurrent states (Kapturowski et al. 2019, section 3).

A sequence is `burn_in + length + n_step` consecutive slots of an environment, begun at every `interval`-th slot. It may
cross episode ends: `first` flags reset the state there, and in the slots of final observations nothing was done. The
carry with which the first slot was read comes along; only those are stored.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.interfaces import EnvSpaces, Step, Tree
from a2c_ppo_acktr.returns import n_step_windows
from a2c_ppo_acktr.spaces import to_tensor, tree_map
from a2c_ppo_acktr.storage.replay import Buffer, check_capacity

INDEX_BYTES = 11
"""Of an item: whether it is complete, and its weight with the sums over it."""


class Sequences(NamedTuple):
    """B sequences of T = burn-in + L + n slots; L of them are learned from, each with a window of up to n steps."""

    obs: Tree
    """[T, B, ...]"""
    actions: Tensor
    """[T, B, ...]"""
    rewards: Tensor
    """[T, B]"""
    masks: Tensor
    """[T, B] 0 where an observation is the first of its episode."""
    carry: Tensor
    """[B, H] with which the first observation was read."""
    acted: Tensor
    """[L, B] whether something was done in a slot; what follows means nothing elsewhere."""
    returns: Tensor
    """[L, B] discounted rewards of the window's steps."""
    discounts: Tensor
    """[L, B] gamma^m after m steps, 0 where the window ends in a terminal observation."""
    ends: Tensor
    """[L, B] the slot, counted from the sequence's first, that the window leads to."""
    weights: Tensor
    """[B] importance weights, at most 1."""
    rows: np.ndarray
    """[B] which sequences these are: `update_priorities` wants them back."""


class SequenceReplay(Buffer):
    """Sequences; items are numbered by `slot // interval * N + environment`.

    Arguments are those of `Buffer`, and:

    Args:
        capacity: observations to keep, of all environments together.
        carry_size: H.
        burn_in: slots that only warm the state up.
        length: L.
        interval: slots between the beginnings of sequences.

    Raises:
        UsageError: it does not fit into memory, or is smaller than a sequence.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        num_steps: int,
        spaces: EnvSpaces,
        *,
        carry_size: int,
        burn_in: int,
        length: int,
        interval: int,
        device: torch.device | str = "cpu",
        n_step: int = 1,
        gamma: float = 0.99,
        alpha: float = 0.0,
        saved: bool = False,
    ) -> None:
        self.burn_in, self.length, self.interval = burn_in, length, interval
        self.slots_each, self.margin = burn_in + length + n_step, spaces.frame_stack
        check_capacity(capacity, num_envs * (self.slots_each + self.margin + 2 * interval + 2), num_envs)
        size = capacity // num_envs // interval * interval
        super().__init__(
            size,
            num_envs,
            num_steps,
            spaces,
            num_items=size // interval * num_envs,
            extra_bytes=-(-(4 * carry_size + INDEX_BYTES) // interval),
            device=device,
            n_step=n_step,
            gamma=gamma,
            alpha=alpha,
            saved=saved,
        )
        self.carries = np.zeros((len(self.valid), carry_size), np.float32)
        self.seen = np.zeros(num_envs, np.int64)
        """Slots up to which sequences have been looked for."""

    def insert(self, step: Step) -> None:
        """Append one step of all environments, and find the sequences that it completes and those that it overwrites.

        A sequence that begins with a final observation needs no carry: the state is reset right after it.
        """
        slots = self.slots
        at = slots.insert(step)
        self.new_steps += slots.num_envs
        (kept,) = (at // slots.num_envs % self.interval == 0).nonzero()
        if len(kept):
            self.carries[self._items(at[kept] // slots.num_envs, kept)] = step.carry[torch.from_numpy(kept)].cpu()
        for number in range(1, 1 + int((slots.cursor - self.seen).max())):
            (envs,) = (self.seen + number <= slots.cursor).nonzero()
            newest = self.seen[envs] + number
            self._set(newest + self.margin - 1 - slots.size, envs, False)
            self._set(newest + 1 - self.slots_each, envs, True)
        self.seen[:] = slots.cursor

    def _set(self, begins: np.ndarray, envs: np.ndarray, valid: bool) -> None:
        """Let sequences be sampled, or not, where they begin."""
        there = (begins >= 0) & (begins % self.interval == 0)
        if there.any():
            self._set_valid(self._items(begins[there], envs[there]), valid)

    def _items(self, begins: np.ndarray, envs: np.ndarray) -> np.ndarray:
        return begins % self.slots.size // self.interval * self.slots.num_envs + envs

    def sample(self, batch_size: int, beta: float = 0.0) -> Sequences:
        """Random sequences, with probabilities and weights as of `_draw`."""
        items, weights = self._draw(batch_size, beta)
        slots, device = self.slots, self.device
        begins, env = np.divmod(items, slots.num_envs)
        slot = begins * self.interval + np.arange(self.slots_each)[:, None]
        rows = slots.row(slot, env)
        learned = rows[self.burn_in : self.burn_in + self.length]
        window = slots.row(slot[self.burn_in :][: self.length] + np.arange(self.n_step)[:, None, None], env)
        returns, discounts, lengths = n_step_windows(
            slots.rewarded(window), slots.ended[window], slots.terminated[window], self.gamma
        )
        ends = lengths + np.arange(self.burn_in, self.burn_in + self.length)[:, None]

        def unflatten(leaf: Tensor) -> Tensor:
            return leaf.unflatten(0, rows.shape)

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        return Sequences(
            obs=tree_map(unflatten, to_tensor(slots.read(rows.ravel()), device)),
            actions=tree_map(unflatten, to_tensor(slots.taken(rows.ravel()), device)),
            rewards=tensor(slots.rewarded(rows)),
            masks=tensor(1.0 - slots.first[rows].astype(np.float32)),
            carry=tensor(self.carries[items]),
            acted=tensor(slots.acted[learned]),
            returns=tensor(returns),
            discounts=tensor(discounts),
            ends=tensor(ends),
            weights=self._give(weights),
            rows=items,
        )

    @property
    def layout(self) -> dict[str, Any]:
        """See `Buffer`."""
        sizes = {"burn_in": self.burn_in, "length": self.length, "interval": self.interval}
        return super().layout | sizes | {"carry_size": self.carries.shape[1]}

    def state_dict(self) -> dict[str, Any] | None:
        """See `Buffer`."""
        state = super().state_dict()
        return None if state is None else state | {"carries": torch.from_numpy(self.carries), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """See `Buffer`."""
        if not super().load_state_dict(state):
            return False
        self.carries[:], self.seen[:] = state["carries"], state["seen"]
        return True
