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
    values = tensor.detach().float().cpu().numpy().ravel()
    values = values[np.isfinite(values)]
    values = values.astype(np.float64)
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    finest = 2 * BINS * np.spacing(max(abs(low), abs(high)))  # numbers that diverge are too close for so many bins
    if high - low < finest or high == low:
        low, high = low - max(0.5, finest), high + max(0.5, finest)
    counts, edges = np.histogram(values, BINS, (low, high))
    return Histogram(counts, edges, float(values.sum()), float(np.dot(values, values)))
