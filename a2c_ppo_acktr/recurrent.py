"""Recurrent cores over whole rollouts, with state resets inside them."""

import torch
from torch import Tensor, nn

from a2c_ppo_acktr.utils import init_orthogonal


class GRU(nn.Module):
    """A GRU layer over `[T, N]` whose state is set to zero wherever an episode begins.

    Args:
        input_size: features of the input.
        hidden_size: H.
    """

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
        if x.dim() == 2:
            _, carry = self.gru(x.unsqueeze(0), (carry * masks.unsqueeze(-1)).unsqueeze(0))
            return carry[0], carry[0]
        return self._sequence(x, carry, masks)

    def _sequence(self, x: Tensor, carry: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Cut every environment's sequence at its own resets and run all pieces as one packed batch.

        The pieces are independent, since each begins with its environment's carry (the first) or with zeros (the
        others); running them side by side makes the number of sequential steps the longest piece instead of T.
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
        out, _ = self.gru(packed, (carry[row] * first).unsqueeze(0))
        states, _ = nn.utils.rnn.pad_packed_sequence(out)

        piece = begins.flatten().cumsum(0) - 1
        position = torch.arange(num * steps, device=x.device) - flat_start[piece]
        states = states[position, piece].unflatten(0, (num, steps)).transpose(0, 1)
        return states, states[-1]
