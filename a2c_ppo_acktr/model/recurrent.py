"""Recurrent cores over whole rollouts, with state resets inside them."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from a2c_ppo_acktr.utils import init_orthogonal

warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
"""On a GPU cuDNN copies them at every call, since all parameters of a network are parts of one vector."""


class _GRUSteps(torch.autograd.Function):
    """A GRU over `[T, N]` on the CPU, in NumPy: small steps cost a fraction of torch's dispatch.

    With h the masked previous state, gates split as (r, z, n), and a_* the pre-activations:

        r = s(a_r)   z = s(a_z)   n = tanh(x_n + r g_n)   h' = n + z (h - n)
        d a_n = dh' (1 - z)(1 - n^2)   d a_z = dh' (h - n) z (1 - z)   d a_r = d a_n g_n r (1 - r)   d g_n = d a_n r
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, carry: Tensor, masks: Tensor, *parameters: Tensor) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = (parameter.detach().numpy() for parameter in parameters)
        inputs, keep = x.detach().numpy(), masks.detach().numpy()[..., None]
        steps, num, hidden = *keep.shape[:2], w_hh.shape[1]
        from_input = (inputs.reshape(steps * num, -1) @ w_ih.T + b_ih).reshape(steps, num, -1)
        from_input[..., : 2 * hidden] += b_hh[: 2 * hidden]
        weights, bias = w_hh.T, b_hh[2 * hidden :]
        gates = np.empty((steps, num, 2 * hidden), np.float32)
        new, new_from_state, states = (np.empty((steps, num, hidden), np.float32) for _ in range(3))
        from_state = np.empty((num, 3 * hidden), np.float32)
        first = h = carry.detach().numpy()
        all_keep = masks.all(1).tolist()
        rows = zip(from_input, gates, new, new_from_state, states, keep, all_keep, strict=True)
        for given, gate, n, g, after, kept, all_kept in rows:
            if not all_kept:
                h = h * kept
            np.matmul(h, weights, out=from_state)
            np.add(given[:, : 2 * hidden], from_state[:, : 2 * hidden], out=gate)
            gate *= 0.5
            np.tanh(gate, out=gate)  # s(a) = (1 + tanh(a / 2)) / 2
            gate *= 0.5
            gate += 0.5
            np.add(from_state[:, 2 * hidden :], bias, out=g)
            np.multiply(gate[:, :hidden], g, out=n)
            n += given[:, 2 * hidden :]
            np.tanh(n, out=n)
            h = np.subtract(h, n, out=after)
            h *= gate[:, hidden:]
            h += n
        ctx.saved = inputs, keep, first, states, gates, new, new_from_state, w_ih, w_hh
        return torch.from_numpy(states)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        inputs, keep, first, states, gates, n, new_from_state, w_ih, w_hh = ctx.saved
        steps, num, hidden = n.shape
        r, z = gates[..., :hidden], gates[..., hidden:]
        before = np.concatenate([first[None], states[:-1]]) * keep
        to_new = (1.0 - z) * (1.0 - n * n)
        # Derivatives of the three pre-activations that the state contributes to, for each h'.
        slopes = np.stack([to_new * new_from_state * r * (1.0 - r), (before - n) * z * (1.0 - z), to_new * r], axis=2)
        d_state = np.empty((steps, num, 3, hidden), np.float32)
        d_after = grad_outputs[0].numpy().copy()
        dh: Any = 0.0
        rows = zip(d_after[::-1], d_state[::-1], slopes[::-1], z[::-1], keep[::-1], strict=True)
        for after, pre, slope, gate, kept in rows:
            after += dh
            np.multiply(after[:, None], slope, out=pre)
            dh = after * gate
            dh += pre.reshape(num, -1) @ w_hh
            dh *= kept
        flat_state = d_state.reshape(steps * num, -1)
        grads_hh = flat_state.T @ before.reshape(steps * num, -1), flat_state.sum(0)
        d_state[:, :, 2] = d_after * to_new  # from here on the gradient of what the input contributed
        d_inputs = (flat_state @ w_ih).reshape(inputs.shape)
        grads_ih = flat_state.T @ inputs.reshape(steps * num, -1), flat_state.sum(0)
        arrays = (grads_ih[0], grads_hh[0], grads_ih[1], grads_hh[1])
        return torch.from_numpy(d_inputs), torch.from_numpy(dh), None, *map(torch.from_numpy, arrays)


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
        self.leaves = list(self.gru.parameters())

    def forward(self, x: Tensor, carry: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Read one step or a sequence.

        Args:
            x: `[N, input_size]` (one step) or `[T, N, input_size]`.
            carry: `[N, H]`, the state before the first step.
            masks: `[N]` or `[T, N]`, 0 on the first step of an episode.

        Returns:
            The states after each step, `[N, H]` or `[T, N, H]`, and the last one, `[N, H]`.
        """
        if x.device.type == "cpu" and x.dtype == torch.float32:
            if x.dim() == 3:
                states = _GRUSteps.apply(x, carry, masks, *self.leaves)
                return states, states[-1]
            state = _GRUSteps.apply(x.unsqueeze(0), carry, masks.unsqueeze(0), *self.leaves)[0]
            return state, state
        if x.dim() == 2:
            _, carry = self._run(x.unsqueeze(0), carry * masks.unsqueeze(-1))
            return carry, carry
        return _in_pieces(self._run, x, carry, masks)

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
