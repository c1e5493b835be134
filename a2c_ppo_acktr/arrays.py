"""Parameters as one vector, and small things computed by whichever of NumPy and torch is cheaper."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def flatten_parameters(module: nn.Module) -> nn.Parameter:
    """Move all parameters of `module`, and their gradients, into one vector each; the modules keep views of it.

    Optimizers, gradient norms and `zero_grad` then cost one operation instead of one per parameter. Kernels of
    convolutions lie in channels-last order, as they do beside channels-last images.
    """
    parameters = list(module.parameters())
    orders = [(0, 2, 3, 1) if parameter.dim() == 4 else tuple(range(parameter.dim())) for parameter in parameters]
    ordered = [parameter.detach().permute(order) for parameter, order in zip(parameters, orders, strict=True)]
    flat = nn.Parameter(torch.cat([values.flatten() for values in ordered]))
    flat.grad = torch.zeros_like(flat)
    sizes = [values.numel() for values in ordered]
    pieces = zip(parameters, orders, ordered, flat.data.split(sizes), flat.grad.split(sizes), strict=True)
    for parameter, order, like, values, grads in pieces:
        back = np.argsort(order).tolist()
        parameter.data = values.view(like.shape).permute(back)
        parameter.grad = grads.view(like.shape).permute(back)
    return flat


def flat_vectors(module: nn.Module) -> tuple[Tensor, Tensor]:
    """The vectors in which `flatten_parameters` put the parameters of `module`, and their gradients: views of both."""

    def vector(pieces: list[Tensor]) -> Tensor:
        size, first = sum(piece.numel() for piece in pieces), pieces[0]
        assert all(piece.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() for piece in pieces)
        return first.detach().as_strided((size,), (1,), first.storage_offset())

    parameters = list(module.parameters())
    return vector([p.data for p in parameters]), vector([p.grad for p in parameters if p.grad is not None])


def flat_indices(module: nn.Module, names: set[str]) -> Tensor:
    """Where the parameters of these names lie in the vector of `flatten_parameters`."""
    named = list(module.named_parameters())
    chosen = torch.cat([torch.full((parameter.numel(),), name in names) for name, parameter in named])
    return chosen.nonzero().squeeze(1).to(named[0][1].device)


def arrays(*tensors: Tensor | np.ndarray) -> tuple[Any, list[Any]]:
    """What to compute small things with: NumPy and views of the tensors on the CPU, else torch and the tensors.

    What is NumPy's already stays as it is.

    On a few hundred numbers a call of NumPy costs a fifth of one of torch. Operators, reductions, `exp`, `where`,
    `clip`, `minimum`, `maximum` and `full_like` are the same in both.
    """
    if all(isinstance(tensor, np.ndarray) or tensor.device.type == "cpu" for tensor in tensors):
        return np, [tensor if isinstance(tensor, np.ndarray) else tensor.detach().numpy() for tensor in tensors]
    return torch, [torch.as_tensor(tensor).detach() for tensor in tensors]


def count(array: Any) -> Any:
    """0, 1, 2, ... along the first axis of an array as of `arrays`."""
    if isinstance(array, np.ndarray):
        return np.arange(len(array))
    return torch.arange(len(array), device=array.device)


def set_gradient(
    flat: nn.Parameter,
    loss: Tensor,
    max_norm: float = math.inf,
    frozen: Tensor | None = None,
    inputs: list[nn.Parameter] | None = None,
) -> Any:
    """Set the gradient of a flat parameter to that of `loss`, scaled down to `max_norm`; returns its norm before.

    Args:
        flat: see `flatten_parameters`.
        loss: a scalar with its graph.
        max_norm: bound of the norm.
        frozen: places whose gradient is 0.
        inputs: the parameters that get a gradient, where the loss depends on others too.
    """
    assert flat.grad is not None
    flat.grad.zero_()
    loss.backward(inputs=inputs)
    if frozen is not None:
        flat.grad[frozen] = 0.0
    return clip_grad_norm(flat, max_norm)


def clip_grad_norm(flat: nn.Parameter, max_norm: float) -> Any:
    """Scale the gradient of a flat parameter down to `max_norm`; returns its norm before."""
    assert flat.grad is not None
    xp, (grad,) = arrays(flat.grad)
    norm = xp.sqrt(xp.dot(grad, grad))
    scale = max_norm / (norm + 1e-6)
    grad *= min(scale, 1.0) if xp is np else scale.clip(max=1.0)  # a GPU is not waited for
    return norm
