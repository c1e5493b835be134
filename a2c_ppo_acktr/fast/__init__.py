"""Faster ways to compute what is defined elsewhere.

Nobody needs this room to read the others, nor to train (`--no-fast`).

A loss is a definition: a method of its algorithm, in plain torch. An accelerator here computes the same for a whole
minibatch, or acts for all environments at once, and is registered against the definitions that it stands in for:

    on the CPU   derivatives written out, small networks in NumPy     policy actor_critic q_learning bc gail layers
    on a GPU     a function's kernels in one launch                   graphs

A method that a subclass overrides is another function, which nothing is registered against; one that was edited where
it stands no longer has the source that its accelerators were written for (`registry`). Either way the definition
counts, and autograd differentiates it. `tests/test_fast.py` compares every pair.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from a2c_ppo_acktr.fast.graphs import can_be_captured, captured
from a2c_ppo_acktr.fast.layers import NumpyGRU, NumpyLayers, forward_hooks, is_linear
from a2c_ppo_acktr.fast.registry import ACCELERATORS, LAYERS, RECURRENT, any_edited, defect, find
from a2c_ppo_acktr.model.encoders import FlatEncoder
from a2c_ppo_acktr.model.layers import MLP
from a2c_ppo_acktr.model.recurrent import GRU


def accelerated(
    plain: Callable[..., Any], definition: Callable[..., Any] | None = None, **settings: Any
) -> Callable[..., Any]:
    """`plain`, or what is known to give the same faster.

    Args:
        plain: computes what is defined.
        definition: the method that says what `plain` computes, such as the loss that it differentiates; itself by
            default. Its owner is a network, or a learner with a `policy`.
        settings: what else the accelerator has to know, of what `plain` was made with.
    """
    name, owner = find(definition if definition is not None else plain)
    if name not in ACCELERATORS or defect(name, owner):
        return plain
    network = owner if isinstance(owner, nn.Module) else owner.policy
    if next(network.parameters()).device.type == "cuda":
        found = captured(plain, torch.device("cuda")) if can_be_captured(network) else None
    else:
        found = ACCELERATORS[name].make(owner, **settings)
    return plain if found is None else _unless_hooked(network, found, plain)


def _unless_hooked(network: nn.Module, fast: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """`fast`, but `plain` for as long as a module has forward hooks, which wait for its `forward` to be called."""
    hooks = forward_hooks(network)

    @functools.wraps(fast)
    def call(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs) if any(hooks) else fast(*args, **kwargs)

    return call


def attach(network: nn.Module, *, layers: bool = True) -> None:
    """Let the recurrent and, with `layers`, the fully connected parts of a network on the CPU compute through NumPy."""
    if next(network.parameters()).device.type != "cpu":
        return
    for module in network.modules():
        if type(module) is GRU and not any_edited(RECURRENT):
            module.kernel = NumpyGRU(module)
        elif layers and isinstance(module, MLP) and len(module) and is_linear(module) and not any_edited(LAYERS):
            module.kernel = NumpyLayers(module)


def attach_q_networks(*networks: Any) -> None:
    """`attach`, where it pays: small layers of vectors, and recurrent cores."""
    for network in networks:
        small = isinstance(network.encoder, FlatEncoder) and not network.noisy_layers and network.carry_size == 0
        if small or network.carry_size > 0:
            attach(network, layers=small)
