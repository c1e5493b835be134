"""Optimizers."""

import torch
from torch import nn

from a2c_ppo_acktr.optim.adam import Adam


def make_optimizer(name: str, flat: nn.Parameter, *, lr: float, eps: float, alpha: float) -> torch.optim.Optimizer:
    """`adam` or `rmsprop` over flat parameters (see `arrays.flatten_parameters`); its state is there from the start."""
    if name == "adam":
        return Adam(flat, lr=lr, eps=eps)
    rmsprop = torch.optim.RMSprop([flat], lr=lr, eps=eps, alpha=alpha, foreach=False)
    rmsprop.state[flat] = {"step": torch.tensor(0.0), "square_avg": torch.zeros_like(flat.data)}
    return rmsprop
