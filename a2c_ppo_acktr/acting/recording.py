"""Recordings as files: one `.npz`, readable without this project and without running code.

An entry `a/b` holds the leaf `b` of the tree `a`, all episodes after one another; `lengths` says how to take them apart
(observations have a row more per episode).
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from a2c_ppo_acktr.acting.record import PER_EPISODE, with_aliases
from a2c_ppo_acktr.files import write_named
from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.utils import UsageError

REST = "data_rest"
ALIASES = ("hidden_states",)
EMPTY = "without_leaves"


def save(path: str | Path, result: dict[str, Any]) -> None:
    """Write what `evaluate` returned.

    Raises:
        UsageError: something in it is no array of numbers or text.
    """
    arrays: dict[str, Any] = {}
    empty = []
    for name, value in result.items():
        if name in ALIASES or (name == "obs_normalized" and value is result["obs"]):
            continue
        if name in PER_EPISODE:
            arrays[name] = value
        elif name == REST:
            arrays |= {f"{REST}/{key}": np.asarray(entry) for key, entry in value.items()}
        elif value:
            leaves = [dict(_leaves(name, episode)) for episode in value]
            arrays |= {path: np.concatenate([episode[path] for episode in leaves]) for path in leaves[0]}
            empty += [] if leaves[0] else [name]
    if objects := [name for name, array in arrays.items() if array.dtype.hasobject]:
        raise UsageError(f"--record {path}: {', '.join(objects)}: neither numbers nor text, which cannot be saved")

    arrays[EMPTY] = np.array(empty, dtype=str)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_named(Path(path), write)


def load(path: str | Path) -> dict[str, Any]:
    """Read what `save` wrote: the same dictionary.

    Raises:
        UsageError: no such file, or not a recording.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        lengths = arrays["lengths"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"recording {path}: cannot be read: {error}") from error
    result: dict[str, Any] = {name: arrays.pop(name) for name in PER_EPISODE}
    trees: list[dict[str, Any]] = [{} for _ in lengths]
    rest: dict[str, Any] = {}
    empty = arrays.pop(EMPTY, np.array([]))
    for name, array in arrays.items():
        if name.startswith(f"{REST}/"):
            rest[name.partition("/")[2]] = array
            continue
        more = (len(array) - lengths.sum()) // max(1, len(lengths))
        for tree, part in zip(trees, np.split(array, np.cumsum(lengths + more)[:-1]), strict=True):
            _put(tree, name.split("/"), part)
    for name in trees[0] if trees else ():
        result[name] = [_with_tuples(tree[name]) for tree in trees]
    result |= {name: [{} for _ in lengths] for name in empty.tolist()}
    if rest:
        result[REST] = rest
    return with_aliases(result, normalized="obs_normalized" in result)


def _leaves(path: str, tree: Tree) -> Iterator[tuple[str, np.ndarray]]:
    """Paths and arrays; an element of a tuple is named `(i)`."""
    if isinstance(tree, dict | tuple):
        items = tree.items() if isinstance(tree, dict) else ((f"({i})", part) for i, part in enumerate(tree))
        for key, part in items:
            yield from _leaves(f"{path}/{key}", part)
    else:
        yield path, np.asarray(tree)


def _put(tree: dict[str, Any], path: list[str], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _with_tuples(tree: Tree) -> Tree:
    if not isinstance(tree, dict):
        return tree
    parts = {key: _with_tuples(part) for key, part in tree.items()}
    return tuple(parts.values()) if parts and all(key.startswith("(") for key in parts) else parts
