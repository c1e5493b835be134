"""One launch in place of many: functions of tensors whose kernels are captured once and replayed (a CUDA graph).

Starting a kernel costs the host some microseconds, and one gradient step of a network is a hundred kernels, most of
which are done sooner than the next one starts.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.model.bases import CNNBase, FlexBase, MLPBase
from a2c_ppo_acktr.model.policy import Policy
from a2c_ppo_acktr.model.q_network import QNetwork

REHEARSALS = 3
"""Calls before the capture: libraries choose their kernels and take their memory in the first ones."""


def captured(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`function`, on a GPU replayed from its fourth call with arguments of the same shapes on.

    It may not wait for the GPU. What it reads beside its arguments must be tensors that stay where they are, such as
    parameters: numbers count as they were when it was captured. Other numbers among its arguments make a capture of
    their own. What it gives is overwritten by its next call.
    """
    return _Captured(function) if device.type == "cuda" else function


def can_be_captured(network: Any) -> bool:
    """Whether what a network computes may be replayed.

    Not with a carry, which outlasts the next call, nor with a network of the user's own, which may wait for the GPU.
    """
    if network.carry_size > 0:
        return False
    if isinstance(network, Policy):
        return type(network) is Policy and type(network.base) in (FlexBase, MLPBase, CNNBase)
    return isinstance(network, QNetwork)


class _Captured:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.rehearsals: Counter[Any] = Counter()
        self.captures: dict[Any, _Capture] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors: list[Tensor] = []
        key = _describe((args, kwargs), tensors)
        if key not in self.captures:
            if self.rehearsals[key] < REHEARSALS:
                self.rehearsals[key] += 1
                return self.function(*args, **kwargs)
            self.captures[key] = _Capture(self.function, args, kwargs, tensors)
        return self.captures[key].replay(tensors)


class _Capture:
    """A function's kernels, and the memory that they read and write; making it computes nothing."""

    def __init__(self, function: Callable[..., Any], args: Tree, kwargs: Tree, tensors: list[Tensor]) -> None:
        with torch.inference_mode(False):
            self.inputs = [tensor.clone() for tensor in tensors]
        args, kwargs = _replace((args, kwargs), iter(self.inputs))
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.result = function(*args, **kwargs)

    def replay(self, tensors: list[Tensor]) -> Any:
        for own, tensor in zip(self.inputs, tensors, strict=True):
            own.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.result


def _describe(tree: Tree, tensors: list[Tensor]) -> Any:
    """What a capture depends on; the tree's tensors are added to the list."""
    if isinstance(tree, Tensor):
        tensors.append(tree)
        return tree.shape, tree.dtype
    if isinstance(tree, dict):
        return tuple((name, _describe(entry, tensors)) for name, entry in tree.items())
    if isinstance(tree, tuple):
        return tuple(_describe(entry, tensors) for entry in tree)
    return tree


def _replace(tree: Tree, tensors: Iterator[Tensor]) -> Tree:
    """The tree with other tensors, in the order of `_describe`."""
    if isinstance(tree, Tensor):
        return next(tensors)
    if isinstance(tree, dict):
        return {name: _replace(entry, tensors) for name, entry in tree.items()}
    if isinstance(tree, tuple):
        entries = [_replace(entry, tensors) for entry in tree]
        return type(tree)(*entries) if hasattr(tree, "_fields") else tuple(entries)
    return tree
