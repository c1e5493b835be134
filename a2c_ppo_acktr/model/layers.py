"""Fully connected layers; on the CPU through NumPy, on the parameters' own memory.

It is the same float32 mathematics that `torch.nn` and autograd would do. Two things make it several times faster at the
sizes of classic control and MuJoCo: NumPy's tanh (vectorized, a tenth of the time of torch's CPU kernel), and one node
of the autograd graph for a network instead of several per layer.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from a2c_ppo_acktr.utils import init_orthogonal


class Activation(NamedTuple):
    """What follows a linear layer."""

    module: type[nn.Module]
    apply: Callable[[np.ndarray], np.ndarray]
    """In place."""
    backward: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """From its output and the gradient of that to the gradient of its input."""


def _tanh_backward(output: np.ndarray, grad: np.ndarray) -> np.ndarray:
    local = output * output
    np.subtract(1.0, local, out=local)  # d tanh(z) / dz = 1 - tanh(z)^2
    local *= grad
    return local


TANH = Activation(nn.Tanh, lambda h: np.tanh(h, out=h), _tanh_backward)
RELU = Activation(nn.ReLU, lambda h: np.maximum(h, 0.0, out=h), lambda output, grad: grad * (output > 0.0))
IDENTITY = Activation(nn.Identity, lambda h: h, lambda output, grad: grad)


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


class MLP(nn.Sequential):
    """Linear layers of the given sizes, each with its activation; one size is no layer.

    They are computed module by module, as hooks need it, where `written_out` is False.

    Args:
        sizes: of the input and of every layer's output.
        activation: of every layer.
        last: of the last layer, where it differs.
        make_layer: builds a layer from the sizes of its input and output.
    """

    def __init__(
        self,
        *sizes: int,
        activation: Activation,
        last: Activation | None = None,
        make_layer: Callable[[int, int], nn.Module] = nn.Linear,
    ) -> None:
        layers = [make_layer(*pair) for pair in itertools.pairwise(sizes)]
        kinds = [activation] * len(layers)
        if last is not None and layers:
            kinds[-1] = last
        super().__init__(*(m for layer, kind in zip(layers, kinds, strict=True) for m in (layer, kind.module())))
        self.activations = kinds
        self.written_out = all(isinstance(layer, nn.Linear) for layer in layers)
        self.leaves = list(self.parameters())  # a walk through the modules would cost as much as a layer

    def forward(self, x: Tensor) -> Tensor:
        """`[..., sizes[0]]` to `[..., sizes[-1]]`."""
        return self.layers(x)[-1] if self.leaves else x

    def layers(self, x: Tensor) -> list[Tensor]:
        """The output of every layer, `[..., sizes[1]]` to `[..., sizes[-1]]`."""
        if not self.leaves:
            return []
        if x.device.type != "cpu" or x.dtype != torch.float32 or not self.written_out:
            outputs = list(itertools.accumulate(self, lambda h, module: module(h), initial=x))
            return outputs[2::2]
        if x.dim() == 2:
            return list(_Layers.apply(self.activations, x, *self.leaves))
        flat = _Layers.apply(self.activations, x.reshape(-1, x.shape[-1]), *self.leaves)
        return [h.unflatten(0, x.shape[:-1]) for h in flat]


class TanhMLP(MLP):
    """Linear and tanh layers, orthogonal with gain sqrt(2)."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes, activation=TANH, make_layer=lambda i, o: init_orthogonal(nn.Linear(i, o)))
