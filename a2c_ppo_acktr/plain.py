"""Plain values and tensors, all that a checkpoint holds: made so before it is written, checked once it is read."""

import types
import typing
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

PLAIN = (types.NoneType, bool, int, float, str, bytes, set)
NAMES = {bool: "True or False", int: "an integer", float: "a number", str: "a text", types.NoneType: "None"}
NAMES |= {Tensor: "a tensor", list: "a list", tuple: "a list", dict: "a dictionary"}


def to_plain(value: Any) -> Any:
    """Arrays to tensors and NumPy scalars to Python's, so that `weights_only` loading accepts the whole.

    Raises:
        TypeError: something in it is of a class that could not be read back; it is named.
    """
    kind = type(value)
    if kind in (dict, OrderedDict):
        return {key: to_plain(one) for key, one in value.items()}
    if kind in (list, tuple, torch.Size):
        return (list if kind is list else tuple)(to_plain(one) for one in value)
    if kind is np.ndarray:
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if kind not in PLAIN and not isinstance(value, Tensor):
        raise TypeError(f"a {kind.__name__} cannot be saved: only plain values, arrays and tensors can")
    return value


def to_arrays(value: Any) -> Any:
    """Tensors to the arrays that `to_plain` made them of."""
    if isinstance(value, dict):
        return {key: to_arrays(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_arrays(one) for one in value)
    return value.numpy() if isinstance(value, Tensor) else value


def misfit(value: Any, kind: Any, name: str) -> str | None:
    """What is wrong with `value`, called `name`; None where it is of its kind.

    Args:
        value: plain values and tensors.
        kind: Any, bool, int, float (integers too), str, Tensor, None, list[...], dict, dict[str, ...], a TypedDict,
            tuple[...] (a list of as many), or a union of these.
        name: of the value, or empty.
    """
    if kind is Any:
        return None
    if isinstance(kind, types.UnionType):
        found = [misfit(value, one, name) for one in typing.get_args(kind)]
        return None if None in found else found[0]
    plain = typing.get_origin(kind) or (dict if typing.is_typeddict(kind) else kind)
    accepted: Any = {float: (int, float), tuple: (list, tuple)}.get(plain, plain)
    if not isinstance(value, accepted) or (isinstance(value, bool) and plain is not bool):
        return f"{name} is {_shown(value)}, expected {NAMES[plain]}"
    return next(filter(None, _misfits_inside(value, kind, plain, name)), None)


def _misfits_inside(value: Any, kind: Any, plain: Any, name: str) -> Iterator[str | None]:
    parts = typing.get_args(kind)
    if typing.is_typeddict(kind):
        hints, required = typing.get_type_hints(kind), kind.__required_keys__
        for key, hint in hints.items():
            inner = f"{name}.{key}" if name else key
            if key in value:
                yield misfit(value[key], hint, inner)
            elif key in required:
                yield f"{inner} is missing"
    elif plain is list and parts:
        yield from (misfit(one, parts[0], f"{name}[{i}]") for i, one in enumerate(value))
    elif plain is tuple:
        if len(value) != len(parts):
            yield f"{name} has {len(value)} entries, expected {len(parts)}"
        yield from (misfit(one, part, f"{name}[{i}]") for i, (one, part) in enumerate(zip(value, parts, strict=False)))
    elif plain is dict and parts:
        for key, one in value.items():
            yield misfit(key, parts[0], f"a key of {name}")
            yield misfit(one, parts[1], f"{name}.{key}")


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return NAMES.get(type(value), type(value).__name__) if isinstance(value, list | dict | str) else repr(value)
