"""Optimizers."""

import torch
from torch import nn

from a2c_ppo_acktr.optim.adam import Adam


def make_optimizer(name: str, flat: nn.Parameter, *, lr: float, eps: float, alpha: float) -> torch.optim.Optimizer:
    """`adam` or `rmsprop` over flat parameters (see `arrays.flatten_parameters`)."""
    if name == "adam":
        return Adam(flat, lr=lr, eps=eps)
    return torch.optim.RMSprop([flat], lr=lr, eps=eps, alpha=alpha, foreach=False)
