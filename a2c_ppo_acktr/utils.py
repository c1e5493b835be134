"""Small tools with one job each."""

import math
from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class UsageError(Exception):
    """The user asked for something impossible: one line that says what would be accepted, exit code 2."""


def init_orthogonal(module: ModuleT, gain: float = math.sqrt(2)) -> ModuleT:
    """Give `module` orthogonal weights of the given gain and zero biases (Saxe et al. 2014); returns it."""
    for name, parameter in module.named_parameters(recurse=False):
        if "weight" in name:
            nn.init.orthogonal_(parameter, gain)
        elif "bias" in name:
            nn.init.zeros_(parameter)
    return module


def linear_decay(initial: float, env_steps: int, total: int) -> float:
    """`initial` at the first environment step, 0 from step `total` on."""
    return initial * max(0.0, 1.0 - env_steps / total)
