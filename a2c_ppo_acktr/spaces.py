"""Nested observations and actions: the only code that recurses into Dict and Tuple spaces.

A *tree* is an array or tensor, or a dict or tuple of trees, in the shape of its Gymnasium space. Everything else in
the project treats a tree as one value and goes through these functions.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from a2c_ppo_acktr.interfaces import Tree


def tree_map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Apply `function` to every leaf of `tree` (and the matching leaves of `others`)."""
    if isinstance(tree, dict):
        return {key: tree_map(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(tree_map(function, *values) for values in zip(tree, *others, strict=True))
    return function(tree, *others)


def space_map(function: Callable[[spaces.Space], Any], space: spaces.Space) -> Tree:
    """The tree of `function(leaf space)` over a possibly nested space."""
    if isinstance(space, spaces.Dict):
        return {key: space_map(function, sub) for key, sub in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(space_map(function, sub) for sub in space.spaces)
    return function(space)


def change_leaves(function: Callable[[spaces.Space], spaces.Space], space: spaces.Space) -> spaces.Space:
    """The space with `function(leaf space)` in the place of every leaf."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict([(key, change_leaves(function, sub)) for key, sub in space.spaces.items()])
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([change_leaves(function, sub) for sub in space.spaces])
    return function(space)


def named_leaves(space: spaces.Space, name: str = "observation") -> Iterator[tuple[str, spaces.Space]]:
    """Every leaf space with its place in words, such as `observation['camera']`; a Dict or Tuple of nothing is one."""
    if isinstance(space, spaces.Dict | spaces.Tuple) and not space.spaces:
        yield name, space
    elif isinstance(space, spaces.Dict):
        for key, sub in space.spaces.items():
            yield from named_leaves(sub, f"{name}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        for i, sub in enumerate(space.spaces):
            yield from named_leaves(sub, f"{name}[{i}]")
    else:
        yield name, space


def leaf_shape(space: spaces.Space) -> tuple[int, ...]:
    """Shape of one sample of a leaf space; `UnsupportedSpace` for spaces without a fixed shape."""
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise UnsupportedSpace(f"{space} has no fixed shape; supported are Box, Discrete, MultiDiscrete, MultiBinary")
    assert space.shape is not None
    return space.shape


class UnsupportedSpace(ValueError):
    """A space that no network of this project can read or act in."""


def torch_dtype(space: spaces.Space) -> torch.dtype:
    """How a leaf is stored: pixels and flags as they are, integers as int64, every float as float32."""
    dtype = np.dtype(space.dtype)
    if dtype in (np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.bool_)):
        return {"u": torch.uint8, "i": torch.int8, "b": torch.bool}[dtype.kind]
    return torch.int64 if dtype.kind in "iu" else torch.float32


def zeros(space: spaces.Space, lead: Sequence[int], device: torch.device | str = "cpu") -> Tree:
    """Tensors of zeros for `lead` samples of `space`: leaves are `[*lead, *leaf_shape]`, images channels-last."""

    def leaf(leaf_space: spaces.Space) -> Tensor:
        shape = leaf_shape(leaf_space)
        if is_image(leaf_space):
            lying = torch.zeros((*lead, *shape[1:], shape[0]), dtype=torch_dtype(leaf_space), device=device)
            return lying.movedim(-1, -3)
        return torch.zeros((*lead, *shape), dtype=torch_dtype(leaf_space), device=device)

    return space_map(leaf, space)


def empty_arrays(space: spaces.Space, num: int) -> Tree:
    """Uninitialised NumPy arrays of the space's own types for `num` samples."""
    return space_map(lambda s: np.empty((num, *leaf_shape(s)), dtype=s.dtype), space)


def assign(target: Tree, index: Any, source: Tree) -> None:
    """`target[index] = source`, leaf by leaf."""
    if isinstance(target, dict):
        for key, leaf in target.items():
            assign(leaf, index, source[key])
    elif isinstance(target, tuple):
        for leaf, value in zip(target, source, strict=True):
            assign(leaf, index, value)
    else:
        target[index] = source


def index(tree: Tree, key: Any) -> Tree:
    """`tree[key]`, leaf by leaf."""
    return tree_map(lambda leaf: leaf[key], tree)


def select(tree: Tree, axis: int, indices: Tensor) -> Tree:
    """Rows `indices: [B]` int64 of an axis, leaf by leaf; images, which lie channels-last, stay so."""

    def rows(leaf: Tensor) -> Tensor:
        if leaf.dim() < axis + 4:  # no three axes of an image after the one that is selected from
            return leaf.index_select(axis, indices)
        return leaf.movedim(-3, -1).index_select(axis, indices).movedim(-1, -3)  # contiguous: 15 times as fast

    return tree_map(rows, tree)


def concatenate(trees: Sequence[Tree]) -> Tree:
    """Join trees of tensors or of arrays along their first axis."""

    def join(*leaves: Any) -> Any:
        return torch.cat(leaves) if isinstance(leaves[0], Tensor) else np.concatenate(leaves)

    return tree_map(join, *trees)


def flatten_lead(tree: Tree) -> Tree:
    """Merge the first two axes of every leaf: `[T, N, ...]` to `[T * N, ...]`, without a copy."""
    return tree_map(lambda leaf: leaf.flatten(0, 1), tree)


def to_tensor(tree: Tree, device: torch.device | str = "cpu") -> Tree:
    """Arrays to tensors on `device`, with the types of `torch_dtype`; shares memory where it can."""

    def convert(leaf: Any) -> Tensor:
        tensor = torch.as_tensor(leaf)
        if tensor.dtype in (torch.float64, torch.float16):
            tensor = tensor.float()
        elif tensor.dtype in (torch.int32, torch.int16):
            tensor = tensor.long()
        return tensor.to(device, non_blocking=True)

    return convert(tree) if isinstance(tree, np.ndarray) else tree_map(convert, tree)


def has_channels_last(space: spaces.Space, channels: str | None = None) -> bool:
    """Whether a space is of pictures whose channel axis comes last.

    `channels`, `first` or `last`, decides. Without it the shape does: the axis that differs where two neighbours are
    equal, since most pictures are square; else the first or the last one if it is the shortest; else the last one, as
    Gymnasium's pictures have it. `channels_are_clear` says whether another reading would be odd.
    """
    if not is_image(space):
        return False
    if channels is not None:
        return channels == "last"
    first, middle, last = leaf_shape(space)
    if first == middle != last:
        return True
    if middle == last != first:
        return False
    return not first < min(middle, last)


def channels_are_clear(space: spaces.Space) -> bool:
    """Whether one of a picture's outer axes is shorter than both others: nobody would take another for the channels."""
    first, middle, last = leaf_shape(space)
    return first < min(middle, last) or last < min(first, middle)


SMALLEST_NATURE_IMAGE = 36
"""Pixels that the convolutions of Mnih et al. 2015 need; smaller pictures are grids."""


KINDS = ("vector", "grid", "image")
"""What `kind_of` tells apart."""


def kind_of(space: spaces.Space) -> str:
    """What defaults depend on: an `image`, a small `grid` of cells, or anything else, a `vector`."""
    if not is_image(space):
        return "vector"
    return "image" if min(leaf_shape(space)[1:]) >= SMALLEST_NATURE_IMAGE else "grid"


def is_image(space: spaces.Space) -> bool:
    """Whether a leaf space is a picture: three axes, channels first once the environment has been wrapped."""
    return isinstance(space, spaces.Box) and len(space.shape) == 3
