"""Recordings as files: one `.npz`, readable without this project and without running code.

An entry `a/b` holds the leaf `b` of the tree `a`, all episodes after one another; `lengths` says how to take them apart
(observations have a row more per episode). What a callback gathered is kept as it is: `data/pos/[2]` is the third entry
of the list `pos`.
"""

import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from torch import Tensor

from a2c_ppo_acktr.acting.record import PER_EPISODE, with_aliases
from a2c_ppo_acktr.files import write_atomically
from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.utils import UsageError

DATA = "data"
"""What a `data_callback` gathered, in a form of its own."""
ALIASES = ("hidden_states",)
EMPTY = "without_leaves"
PLAIN = (bool, int, float, str, np.generic)
"""What a list of nothing else becomes one array of."""


def save(path: str | Path, result: dict[str, Any]) -> None:
    """Write what `evaluate` returned; what callbacks gathered and no file can hold is left out, with a warning."""
    arrays: dict[str, Any] = {}
    empty = []
    for name, value in result.items():
        if name in ALIASES or (name == "obs_normalized" and value is result["obs"]):
            continue
        if name in PER_EPISODE:
            arrays[name] = value
        elif name == DATA:
            leaves = dict(_leaves(name, value))
            arrays |= leaves
            empty += [] if leaves else [name]
        elif value:
            episodes = [dict(_leaves(name, episode)) for episode in value]
            shared = [path for path in episodes[0] if all(path in episode for episode in episodes)]
            arrays |= {path: _joined([episode[path] for episode in episodes]) for path in shared}
            empty += [] if shared else [name]
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        text = f"recording {path}: left out, neither numbers nor text of one shape: {', '.join(objects)}"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    kept = {name: array for name, array in arrays.items() if name not in objects}
    kept[EMPTY] = np.array(empty, dtype=str)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **kept)

    write_atomically(Path(path), write)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """All episodes after one another; objects where they do not fit together."""
    fits = len({part.shape[1:] for part in parts}) == 1
    return np.concatenate(parts) if fits else np.array([None], object)


def load(path: str | Path) -> dict[str, Any]:
    """Read what `save` wrote: the same dictionary; lists of numbers that a callback gathered have become arrays.

    Raises:
        UsageError: no such file, or not a recording.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return _parsed(dict(file))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"recording {path}: cannot be read: {error}") from error


def _parsed(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    lengths = arrays["lengths"]
    result: dict[str, Any] = {name: arrays.pop(name) for name in PER_EPISODE}
    trees: list[dict[str, Any]] = [{} for _ in lengths]
    gathered: dict[str, Any] = {}
    empty = arrays.pop(EMPTY, np.array([], str)).tolist()
    for name, array in arrays.items():
        root, *path = name.split("/")
        if root == DATA:
            _put(gathered, [DATA, *path], array)
            continue
        more = (len(array) - lengths.sum()) // max(1, len(lengths))
        for tree, part in zip(trees, np.split(array, np.cumsum(lengths + more)[:-1]), strict=True):
            _put(tree, [root, *path], part)
    for name in trees[0] if trees else ():
        result[name] = [_with_sequences(tree[name]) for tree in trees]
    result |= {name: {} if name == DATA else [{} for _ in lengths] for name in empty}
    if gathered:
        result[DATA] = _with_sequences(gathered[DATA])
    return with_aliases(result, normalized="obs_normalized" in result)


def _leaves(path: str, tree: Tree) -> Iterator[tuple[str, np.ndarray]]:
    """Paths and arrays; an element of a tuple is named `(i)`, of a list that is not of plain values alone `[i]`."""
    if isinstance(tree, dict):
        for key, part in tree.items():
            yield from _leaves(f"{path}/{_quoted(str(key))}", part)
    elif isinstance(tree, tuple) or (isinstance(tree, list) and not all(isinstance(part, PLAIN) for part in tree)):
        left, right = "()" if isinstance(tree, tuple) else "[]"
        for i, part in enumerate(tree):
            yield from _leaves(f"{path}/{left}{i}{right}", part)
    else:
        yield path, np.asarray(tree.cpu() if isinstance(tree, Tensor) else tree)


def _quoted(key: str) -> str:
    return key.replace("%", "%25").replace("/", "%2F")


def _put(tree: dict[str, Any], path: list[str], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(unquote(key), {})
    tree[unquote(path[-1])] = value


def _with_sequences(tree: Tree) -> Tree:
    """Dictionaries whose keys are all `(i)` or `[i]` become tuples and lists again."""
    if not isinstance(tree, dict):
        return tree
    parts = {key: _with_sequences(part) for key, part in tree.items()}
    for left, kind in (("(", tuple), ("[", list)):
        if parts and all(key.startswith(left) for key in parts):
            return kind(parts.values())
    return parts
