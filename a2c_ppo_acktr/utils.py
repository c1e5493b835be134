"""Small tools with one job each."""

import importlib
import math
import sys
from pathlib import Path
from typing import Any, TypeVar

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


def import_from_here(name: str, flag: str) -> Any:
    """What `module:attribute`, or `module` alone, names, also in the working directory, wherever main.py lies.

    Raises:
        UsageError: it cannot be imported; the line begins with the flag that named it.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found
    except (Exception, SystemExit) as error:  # whatever a module of the user's own raises
        raise UsageError(f"{flag} {name}: {' '.join(str(error).split()) or type(error).__name__}") from error
