"""Distributions of the numbers in a learner's networks."""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

BINS = 64


class Histogram(NamedTuple):
    """Counts between edges, and the moments that TensorBoard shows beside them."""

    counts: np.ndarray
    """[B]"""
    edges: np.ndarray
    """[B + 1]"""
    total: float
    squares: float


def of_learner(learner: Any) -> dict[str, Histogram]:
    """`parameters/<name>`, and `gradients/<name>` of the last minibatch, of every network that `learner` holds."""
    found: dict[str, Histogram] = {}
    for name, network in learner.networks().items():
        for inner, parameter in network.named_parameters():
            tensors = {"parameters": parameter, "gradients": parameter.grad}
            for kind, tensor in tensors.items():
                if tensor is not None:
                    found[f"{kind}/{name}.{inner}"] = of_tensor(tensor)
    return found


def of_tensor(tensor: Tensor) -> Histogram:
    """The distribution of a tensor's finite numbers."""
    values = tensor.detach().double().cpu().numpy().ravel()  # float32's largest numbers have no squares among its own
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) > 0 else (0.0, 0.0)
    if low == high:  # bins need a width that is seen beside the number
        margin = max(0.5, 0.01 * abs(low))
        low, high = low - margin, high + margin
    counts, edges = np.histogram(values, BINS, (low, high))
    return Histogram(counts, edges, float(values.sum()), float(np.dot(values, values)))
