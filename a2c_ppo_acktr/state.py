"""The state of an object, collected from its attributes, so that nothing is forgotten in a list of names."""

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn


@runtime_checkable
class Stateful(Protocol):
    """Modules, optimizers, and whatever else tells its state."""

    def state_dict(self) -> Any:
        """The state as plain values and tensors."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Inverse of `state_dict`."""


def collect_state(owner: object, counters: Collection[str] = (), transient: Collection[str] = ()) -> dict[str, Any]:
    """The state of every module, optimizer, parameter and other `Stateful` among an object's attributes.

    An object that stands under two names is collected once. A parameter that is a view of a module's, such as the
    vector of `arrays.flatten_parameters`, is the module's.

    Args:
        owner: the object.
        counters: attributes of plain values, arrays or tensors that belong to the state too.
        transient: attributes that do not.

    Raises:
        TypeError: an attribute holds modules, optimizers or parameters where they cannot be collected; it is named.
    """
    return {name: _state_of(value) for name, value in _collected(owner, counters, transient)}


def restore_state(
    owner: object, state: dict[str, Any], counters: Collection[str] = (), transient: Collection[str] = ()
) -> None:
    """Inverse of `collect_state`; `KeyError` where the state lacks something, `ValueError` where it does not fit."""
    for name, value in list(_collected(owner, counters, transient)):
        found = _restored(value, state[name], name)
        if found is not value:
            setattr(owner, name, found)


def _collected(owner: object, counters: Collection[str], transient: Collection[str]) -> Iterator[tuple[str, Any]]:
    attributes = {name: value for name, value in vars(owner).items() if name not in transient}
    seen: set[int] = set()
    memory = {p.untyped_storage().data_ptr() for value in attributes.values() for p in _parameters_of(value)}
    for name, value in attributes.items():
        if name in counters:
            yield name, value
        elif _has_state(value) and id(value) not in seen:
            seen.add(id(value))
            if not (isinstance(value, nn.Parameter) and value.untyped_storage().data_ptr() in memory):
                yield name, value
        elif not _has_state(value) and _hides_state(value):
            raise TypeError(
                f"{type(owner).__name__}.{name}: modules, optimizers or parameters in a {type(value).__name__} cannot "
                "be collected: make them attributes, or give it state_dict and load_state_dict"
            )


def _parameters_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, nn.Module):
        yield from value.parameters()
    elif isinstance(value, list | tuple | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _parameters_of(entry)


def _has_state(value: Any) -> bool:
    """Whether it is collected: by itself, or as a list or dictionary of nothing else."""
    if isinstance(value, list | dict) and value:
        return all(map(_has_state, value.values() if isinstance(value, dict) else value))
    return isinstance(value, nn.Parameter | torch.Generator) or (isinstance(value, Stateful) and not _is_class(value))


def _is_class(value: Any) -> bool:
    return isinstance(value, type)


def _hides_state(value: Any, depth: int = 3) -> bool:
    """Whether something inside would be lost; methods and functions only refer to what they use."""
    if isinstance(value, nn.Module | torch.optim.Optimizer | nn.Parameter):
        return True
    if depth == 0 or isinstance(value, type) or callable(value):
        return False
    if isinstance(value, list | tuple | set | dict):
        return any(_hides_state(entry, depth - 1) for entry in (value.values() if isinstance(value, dict) else value))
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        return any(_hides_state(entry, depth - 1) for entry in vars(value).values())
    return False


def _state_of(value: Any) -> Any:
    if isinstance(value, list):
        return [_state_of(entry) for entry in value]
    if isinstance(value, dict) and value and _has_state(value):
        return {key: _state_of(entry) for key, entry in value.items()}
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, Stateful):
        return value.state_dict()
    return value.detach() if isinstance(value, Tensor) else value


def _restored(value: Any, state: Any, name: str) -> Any:
    """What the attribute is from now on: the object that was there where it could take the state in."""
    if isinstance(value, list | dict) and value and _has_state(value):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        if len(state) != len(value):
            raise ValueError(f"{name}: {len(state)} in the checkpoint, {len(value)} here")
        for key, entry in entries:
            _restored(entry, state[key], f"{name}.{key}")
    elif isinstance(value, torch.Generator):
        value.set_state(state.cpu())
    elif isinstance(value, Stateful):
        value.load_state_dict(state)
    elif isinstance(value, Tensor):
        value.data.copy_(state)
    else:
        return np.array(state) if isinstance(value, np.ndarray) else state
    return value
