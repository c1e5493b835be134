"""The state of an object, collected from its attributes, so that nothing is forgotten in a list of names."""

import functools
import random
import types
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.plain import to_arrays

CONTAINERS = (list, tuple, deque, dict)
RANDOM = (torch.Generator, np.random.Generator, random.Random)
OPAQUE = (type, types.ModuleType, str, bytes, int, float, np.ndarray, Tensor, gym.Space, EnvSpaces)
"""Nothing that learning continues from is inside, or it is the environments'."""


@runtime_checkable
class Stateful(Protocol):
    """Modules, optimizers, and whatever else tells its state."""

    def state_dict(self) -> Any:
        """The state as plain values and tensors."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Inverse of `state_dict`."""


def collect_state(owner: object, counters: Collection[str] = (), transient: Collection[str] = ()) -> dict[str, Any]:
    """The state of every `Stateful` (modules, optimizers), learned tensor and random generator among the attributes.

    They may lie in lists, tuples, deques and dictionaries of nothing else. What stands under two names is collected
    once. A parameter that lies in the memory of a module's, such as the vector of `arrays.flatten_parameters`, is the
    module's.

    Args:
        owner: the object.
        counters: attributes of plain values, arrays or tensors that belong to the state too.
        transient: attributes that do not.

    Raises:
        TypeError: an attribute leads to something that learns where it cannot be collected; it is named.
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
    attributes = vars(owner)
    kept = {name: value for name, value in attributes.items() if name not in transient}
    held = [value for name, value in attributes.items() if name in transient or name in counters or _has_state(value)]
    modules = [one for value in held for one in _reached(value) if isinstance(one, nn.Module)]
    memory = sorted({_span(p) for module in modules for p in module.parameters()})
    safe = {id(one) for value in held for one in _reached(value)} | {id(owner)}
    seen: set[int] = set()
    for name, value in kept.items():
        if name in counters:
            yield name, value
        elif _has_state(value):
            if id(value) not in seen and not (_is_learned(value) and _lies_in(value, memory)):
                yield name, value
            seen.add(id(value))
        else:
            _refuse_what_learns(f"{type(owner).__name__}.{name}", value, safe, memory)


def _refuse_what_learns(name: str, value: Any, safe: set[int], memory: list[tuple[int, int]]) -> None:
    for one in _reached(value, safe):
        if id(one) in safe or not _learns(one) or (_is_learned(one) and _lies_in(one, memory)):
            continue
        raise TypeError(
            f"{name}: a {type(one).__name__} in a {type(value).__name__} cannot be collected: make it an attribute, "
            f"or give the {type(value).__name__} state_dict and load_state_dict"
        )


def _reached(value: Any, stop: Collection[int] = ()) -> Iterator[Any]:
    """`value` and all that it leads to, each once; what is inside an object whose `id` is in `stop` is left out."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            if id(one) not in stop:
                waiting.extend(_inside(one))


def _inside(value: Any) -> Iterable[Any]:
    if value is None or isinstance(value, OPAQUE):
        return []
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | deque | set | frozenset):
        return value
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        return [*cells, value.__defaults__, value.__kwdefaults__]
    slots = [name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ())]
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name, None) for name in slots)]


def _has_state(value: Any) -> bool:
    """Whether it is collected: by itself, or as a container of nothing else."""
    if isinstance(value, CONTAINERS) and value:
        return all(map(_has_state, value.values() if isinstance(value, dict) else value))
    return _learns(value)


def _learns(value: Any) -> bool:
    if isinstance(value, RANDOM) or _is_learned(value):
        return True
    return isinstance(value, Stateful) and not isinstance(value, type)


def _is_learned(value: Any) -> bool:
    return isinstance(value, nn.Parameter) or (isinstance(value, Tensor) and value.requires_grad and value.is_leaf)


def _span(tensor: Tensor) -> tuple[int, int]:
    """Its first address, and the first one behind it."""
    return tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()


def _lies_in(tensor: Tensor, spans: list[tuple[int, int]]) -> bool:
    """Whether sorted pieces of memory cover a tensor from end to end."""
    first, end = _span(tensor)
    for start, stop in spans:
        if start <= first < stop:
            first = stop
    return first >= end


def _state_of(value: Any) -> Any:
    if isinstance(value, CONTAINERS) and _has_state(value):
        if isinstance(value, dict):
            return {key: _state_of(entry) for key, entry in value.items()}
        return [_state_of(entry) for entry in value]
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, Stateful):
        return value.state_dict()
    return value.detach() if isinstance(value, Tensor) else value


def _restored(value: Any, state: Any, name: str) -> Any:
    """What the attribute is from now on: the object that was there where it could take the state in."""
    if isinstance(value, CONTAINERS) and _has_state(value):
        if len(state) != len(value):
            raise ValueError(f"{name}: {len(state)} in the checkpoint, {len(value)} here")
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            _restored(entry, state[key], f"{name}.{key}")
    elif isinstance(value, torch.Generator):
        value.set_state(state.cpu())
    elif isinstance(value, np.random.Generator):
        value.bit_generator.state = to_arrays(state)
    elif isinstance(value, random.Random):
        value.setstate(state)
    elif isinstance(value, torch.optim.Optimizer):
        _restore_optimizer(value, state, name)
    elif isinstance(value, Stateful):
        value.load_state_dict(state)
    else:
        return _counted(value, state, name)
    return value


def _counted(value: Any, state: Any, name: str) -> Any:
    """A tensor with its state in it, or the state of a counter if it is of the same kind; integers are numbers too."""
    if isinstance(value, Tensor):
        if state.shape != value.shape:
            raise ValueError(f"{name}: {list(state.shape)} in the checkpoint, {list(value.shape)} here")
        value.data.copy_(state)
        return value
    if isinstance(value, np.ndarray):
        return np.array(state)
    kinds = (int, float) if type(value) is float else type(value)
    if isinstance(value, int | float) and not (isinstance(state, kinds) and state == state):
        raise ValueError(f"{name}: {state!r} in the checkpoint, {value!r} here")
    return state


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], name: str) -> None:
    """Take in what it remembers of each parameter; its settings are those that it was built with.

    So a resumed run has the learning rate of its flags. Where one of torch's schedulers moves that, from the same
    `initial_lr`, it stays where it was.
    """
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    saved = state.get("param_groups", settings)
    for own, theirs in zip(settings, saved, strict=True):
        ours, unknown = sorted(own.keys() - theirs.keys()), sorted(theirs.keys() - own.keys() - {"params"})
        if ours and unknown:
            raise ValueError(f"{name}: of another kind, with {', '.join(unknown)} where this one has {', '.join(ours)}")
        if "initial_lr" in own and theirs.get("initial_lr") == own["initial_lr"]:
            own["lr"] = theirs["lr"]
    before = {parameter: dict(memory) for parameter, memory in optimizer.state.items()}
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    for parameter, memory in before.items():
        if not optimizer.state.get(parameter):  # it had not taken a step
            optimizer.state[parameter] = memory
        for key, value in memory.items():
            found = optimizer.state[parameter].get(key)
            fits = isinstance(found, Tensor) and found.shape == value.shape and found.dtype == value.dtype
            if not fits or not found.isfinite().all():
                raise ValueError(f"{name}.{key}: expected numbers {list(value.shape)}")
