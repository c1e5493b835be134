"""Files that come from strangers: what reading them may raise and take."""

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from a2c_ppo_acktr.memory import available_memory
from a2c_ppo_acktr.utils import UsageError


def fail(source: str | Path, defect: str) -> NoReturn:
    """Say what is wrong with demonstrations."""
    raise UsageError(f"demonstrations {source}: {defect}")


@contextlib.contextmanager
def reading(source: str | Path, *expected: type[Exception]) -> Iterator[None]:
    """Say in one line what a damaged file makes its reader raise, but for what is `expected`."""
    try:
        yield
    except expected:
        raise
    except pickle.UnpicklingError:
        fail(source, "not a file of tensors, or one whose loading would run code")
    except Exception as error:  # damage makes zipfile, zlib, NumPy, torch, json and Minari raise whatever it leads to
        lines = str(error).splitlines()
        fail(source, f"cannot be read: {type(error).__name__}" + (f": {lines[0]}" if lines else ""))


class Archive:
    """The arrays of an `.npz` by name, read where they are asked for, as long as all of them fit into memory.

    Args:
        path: for messages.
        file: as `numpy.load` opens it.
    """

    def __init__(self, path: str | Path, file: Any) -> None:
        self.path, self.file, self.left = path, file, available_memory()
        self.sizes = {info.filename.removesuffix(".npy"): info.file_size for info in file.zip.infolist()}

    def __getitem__(self, name: str) -> np.ndarray:
        check_size(self.path, name, self.sizes[name], self.left)
        self.left -= self.sizes[name]
        return self.file[name]


def check_size(path: str | Path, name: str, size: int, free: int) -> None:
    """Refuse what would unpack to more bytes than are `free`."""
    if size > free:
        fail(path, f"{name} takes {size / 1e9:.2g} GB, {free / 1e9:.2g} GB are free")
