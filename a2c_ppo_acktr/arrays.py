"""Parameters as one vector, and small things computed by whichever of NumPy and torch is cheaper."""

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


def clip_grad_norm(flat: nn.Parameter, max_norm: float) -> Any:
    """Scale the gradient of a flat parameter down to `max_norm`; returns its norm before."""
    assert flat.grad is not None
    xp, (grad,) = arrays(flat.grad)
    norm = xp.sqrt(xp.dot(grad, grad))
    scale = max_norm / (norm + 1e-6)
    grad *= min(scale, 1.0) if xp is np else scale.clip(max=1.0)  # a GPU is not waited for
    return norm
