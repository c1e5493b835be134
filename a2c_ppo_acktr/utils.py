"""Small tools with one job each."""

import importlib
import math
import sys
import traceback
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def printable(text: str, lines: bool = False) -> str:
    """What a terminal may be given: control characters, which text of files may hold, become their escapes.

    Args:
        text: whatever it is.
        lines: keep its lines, as of a traceback, apart.
    """
    return "".join(
        c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode("ascii") for c in text
    )


class UsageError(Exception):
    """The user asked for something impossible: one line that says what would be accepted, exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


class Diverged(RuntimeError):
    """A number that is learned from, or by, stopped being one."""


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
    if not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f"{flag} {name}: expected module:attribute, the module as in an import statement")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
        return getattr(found, attribute) if attribute else found
    except (Exception, SystemExit) as error:  # whatever a module of the user's own raises
        raise UsageError(f"{flag} {name}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an error of the user's own code says, and where it was raised, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename not in (__file__, importlib.__file__) and not f.filename.startswith("<")]
    if not own:  # the module, or what it should hold, is not there
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error} ({Path(own[-1].filename).name}, line {own[-1].lineno})"
