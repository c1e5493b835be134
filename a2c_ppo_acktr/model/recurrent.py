"""Recurrent cores over whole rollouts, with state resets inside them."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.utils import init_orthogonal

warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
"""On a GPU cuDNN copies them at every call, since all parameters of a network are parts of one vector."""


class GRU(nn.Module):
    """A GRU layer over `[T, N]` whose state is set to zero wherever an episode begins.

    Args:
        input_size: features of the input.
        hidden_size: H.
    """

    kernel: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """Gives the states of a sequence, where an accelerator has been put here (see `fast.attach`)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.gru = init_orthogonal(nn.GRU(input_size, hidden_size), gain=1.0)
        self.output_size = self.carry_size = hidden_size

    def forward(self, x: Tensor, carry: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Read one step or a sequence.

        Args:
            x: `[N, input_size]` (one step) or `[T, N, input_size]`.
            carry: `[N, H]`, the state before the first step.
            masks: `[N]` or `[T, N]`, 0 on the first step of an episode.

        Returns:
            The states after each step, `[N, H]` or `[T, N, H]`, and the last one, `[N, H]`.
        """
        if x.dim() == 2 and self.kernel is None:
            _, carry = self._run(x.unsqueeze(0), carry * masks.unsqueeze(-1))
            return carry, carry
        if self.kernel is None:
            return _in_pieces(self._run, x, carry, masks)
        if x.dim() == 2:
            state = self.kernel(x.unsqueeze(0), carry, masks.unsqueeze(0))[0]
            return state, state
        states = self.kernel(x, carry, masks)
        return states, states[-1]

    def _run(self, x: Any, carry: Tensor) -> tuple[Any, Tensor]:
        states, last = self.gru(x, carry.unsqueeze(0))
        return states, last[0]


class LSTM(nn.Module):
    """An LSTM layer (Hochreiter & Schmidhuber 1997; Gers et al. 2000) with resets; arguments as of `GRU`.

    Its carry is `[N, 2 H]`: the state h, which it gives out, and the cell c.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = init_orthogonal(nn.LSTM(input_size, hidden_size), gain=1.0)
        self.output_size, self.carry_size = hidden_size, 2 * hidden_size

    def forward(self, x: Tensor, carry: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """See `GRU.forward`; the first result is h, the last carry h and c."""
        if x.dim() == 2:
            states, carry = self._run(x.unsqueeze(0), carry * masks.unsqueeze(-1))
            return states[0], carry
        return _in_pieces(self._run, x, carry, masks)

    def _run(self, x: Any, carry: Tensor) -> tuple[Any, Tensor]:
        states, last = self.lstm(x, tuple(part.contiguous() for part in carry[None].chunk(2, -1)))
        return states, torch.cat(last, -1)[0]


def _in_pieces(
    run: Callable[[Any, Tensor], tuple[Any, Tensor]], x: Tensor, carry: Tensor, masks: Tensor
) -> tuple[Tensor, Tensor]:
    """Cut every environment's sequence at its own resets and run all pieces as one packed batch.

    The pieces are independent, since each begins with its environment's carry (the first) or with zeros (the
    others); running them side by side makes the number of sequential steps the longest piece instead of T.

    Args:
        run: from a packed batch and its carries to packed states and the carries at the pieces' ends.
        x: `[T, N, input_size]`.
        carry: `[N, H]`, before the first step.
        masks: `[T, N]`.

    Returns:
        The states `[T, N, ...]` and the last carry `[N, H]`.
    """
    steps, num = masks.shape
    begins = masks.t() == 0
    begins[:, 0] = True
    row, time = begins.nonzero(as_tuple=True)
    ends = torch.cat([time[1:], time.new_full((1,), steps)])
    last_of_row = torch.cat([row[1:] != row[:-1], row.new_ones(1, dtype=torch.bool)])
    lengths = torch.where(last_of_row, steps, ends) - time

    flat_start = row * steps + time
    offsets = torch.arange(int(lengths.max()), device=x.device)
    padded = (flat_start + offsets.unsqueeze(1)).clamp_(max=num * steps - 1)
    by_env = x.transpose(0, 1).flatten(0, 1)
    packed = nn.utils.rnn.pack_padded_sequence(by_env[padded], lengths.cpu(), enforce_sorted=False)
    first = (time == 0).unsqueeze(-1) * masks[time, row].unsqueeze(-1)
    out, carries = run(packed, carry[row] * first)
    states, _ = nn.utils.rnn.pad_packed_sequence(out)

    piece = begins.flatten().cumsum(0) - 1
    position = torch.arange(num * steps, device=x.device) - flat_start[piece]
    states = states[position, piece].unflatten(0, (num, steps)).transpose(0, 1)
    return states, carries[last_of_row]
