"""Fully connected and recurrent layers through NumPy, on the parameters' own memory.

It is the same float32 mathematics that `torch.nn` and autograd would do. Two things make it several times faster at the
sizes of classic control and MuJoCo: NumPy's tanh (vectorized, a tenth of the time of torch's CPU kernel), and one node
of the autograd graph for a network instead of several per layer or step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from a2c_ppo_acktr.model.layers import MLP
from a2c_ppo_acktr.model.recurrent import GRU


class Activation(NamedTuple):
    """What follows a linear layer."""

    apply: Callable[[np.ndarray], np.ndarray]
    """In place."""
    backward: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """From its output and the gradient of that to the gradient of its input."""


def _tanh_backward(output: np.ndarray, grad: np.ndarray) -> np.ndarray:
    local = output * output
    np.subtract(1.0, local, out=local)  # d tanh(z) / dz = 1 - tanh(z)^2
    local *= grad
    return local


TANH = Activation(lambda h: np.tanh(h, out=h), _tanh_backward)
RELU = Activation(lambda h: np.maximum(h, 0.0, out=h), lambda output, grad: grad * (output > 0.0))
IDENTITY = Activation(lambda h: h, lambda output, grad: grad)


ACTIVATIONS = {nn.Tanh: TANH, nn.ReLU: RELU, nn.Identity: IDENTITY}


def layers_forward(
    x: np.ndarray, parameters: Sequence[np.ndarray], activations: Sequence[Activation]
) -> list[np.ndarray]:
    """Outputs of every layer h = f(W h + b), starting with `x: [B, I]`; `parameters`: W, b, W, b, ...

    Parameters with a leading axis, `[K, O, I]` and `[K, O]`, are K networks side by side, with outputs `[K, B, O]`.
    """
    outputs = [x]
    for weight, bias, activation in zip(parameters[::2], parameters[1::2], activations, strict=True):
        h = outputs[-1] @ weight.swapaxes(-1, -2)
        h += bias[..., None, :]
        outputs.append(activation.apply(h))
    return outputs


def layers_backward(
    outputs: list[np.ndarray],
    parameters: Sequence[np.ndarray],
    activations: Sequence[Activation],
    grad: np.ndarray,
    grads: Sequence[np.ndarray],
    to_input: bool = False,
    inner: Sequence[np.ndarray | None] = (),
) -> np.ndarray:
    """Write the parameters' gradients to `grads`, given that of the last output; returns the input's if `to_input`.

    `inner` has what other losses add to the gradient of the outputs before the last, from the first layer on.
    """
    ones = np.ones((1, len(outputs[0])), np.float32)
    for layer in reversed(range(len(outputs) - 1)):
        if layer < len(inner) and (more := inner[layer]) is not None:
            grad = grad + more
        local = activations[layer].backward(outputs[layer + 1], grad)
        np.matmul(local.swapaxes(-1, -2), outputs[layer], out=grads[2 * layer])
        np.matmul(ones, local, out=grads[2 * layer + 1][..., None, :])  # a third of the time of NumPy's sum over rows
        if layer > 0 or to_input:
            grad = local @ parameters[2 * layer]
    return grad


class _Layers(torch.autograd.Function):
    """`layers_forward` for autograd."""

    @staticmethod
    def forward(ctx: Any, activations: Sequence[Activation], x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.activations = activations
        ctx.parameters = [parameter.detach().numpy() for parameter in parameters]
        ctx.outputs = layers_forward(x.detach().numpy(), ctx.parameters, activations)
        return tuple(map(torch.from_numpy, ctx.outputs[1:]))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        to_input = ctx.needs_input_grad[1]
        grads = [np.empty_like(parameter) for parameter in ctx.parameters]
        *inner, last = (None if grad is None else grad.numpy() for grad in grad_outputs)
        last = np.zeros_like(ctx.outputs[-1]) if last is None else last
        grad = layers_backward(ctx.outputs, ctx.parameters, ctx.activations, last, grads, to_input, inner)
        return None, torch.from_numpy(grad) if to_input else None, *map(torch.from_numpy, grads)


class NumpyLayers:
    """The kernel of an `MLP` of linear layers."""

    def __init__(self, mlp: MLP) -> None:
        self.leaves = list(mlp.parameters())  # a walk through the modules would cost as much as a layer
        self.activations = activations_of(mlp)
        self.hooks = forward_hooks(mlp)

    def __call__(self, x: Tensor) -> list[Tensor] | None:
        """The output of every layer, `[..., O]`, for `x: [..., I]` float32; None where a hook waits for one of them."""
        if any(self.hooks):
            return None
        if x.dim() == 2:
            return list(_Layers.apply(self.activations, x, *self.leaves))
        flat = _Layers.apply(self.activations, x.reshape(-1, x.shape[-1]), *self.leaves)
        return [h.unflatten(0, x.shape[:-1]) for h in flat]


def forward_hooks(module: nn.Module) -> list[dict[int, Any]]:
    """What calls of a module and those within it trigger, as it is from now on."""
    return [hooks for one in module.modules() for hooks in (one._forward_hooks, one._forward_pre_hooks)]


def is_linear(mlp: MLP) -> bool:
    """Whether an `MLP` is of ordinary linear layers and known activations, so that it can be written out."""
    modules = list(mlp)
    return all(type(m) is nn.Linear for m in modules[::2]) and all(type(m) in ACTIVATIONS for m in modules[1::2])


def activations_of(mlp: MLP) -> list[Activation]:
    """What follows each layer."""
    return [ACTIVATIONS[type(module)] for module in list(mlp)[1::2]]


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


class NumpyGRU:
    """The kernel of a `GRU`."""

    def __init__(self, gru: GRU) -> None:
        self.leaves = list(gru.gru.parameters())

    def __call__(self, x: Tensor, carry: Tensor, masks: Tensor) -> Tensor:
        """The states `[T, N, H]` of a sequence; arguments as of `GRU.forward`, in float32."""
        return _GRUSteps.apply(x, carry, masks, *self.leaves)
