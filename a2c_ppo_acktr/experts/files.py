"""Files of demonstrations: episodes in, episodes out, and no code that runs on the way.

A file is one `.npz`, which NumPy reads without running code; E episodes, S steps in all, episode after episode:

    meta                    JSON: format, version, frame_stack, and what is known of the recording (see `save`)
    lengths, returns        [E] steps and raw return of each episode
    actions                 [S, ...] as the agent sent them: choices counted from 0, continuous ones before any clipping
                            (missing, [S, 0] or NaN: not recorded, which is enough for those who learn from states)
    rewards                 [S] as the environment gave them
    terminated, truncated   [S]
    obs, obs/<key>/...      [S + ends, ...] before normalization; floats as float32, images channels first

An episode has a row of observations more than it has steps, its final one. Where a step inside it is terminated, a life
was lost (an Atari episode is a whole game): the observation that the step led to follows there too, before the first
one of the next life. Of stacked images the newest alone is kept; a stack begins anew with each life, as in training.
"""

import importlib
import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from gymnasium import spaces

from a2c_ppo_acktr.experts.archive import Archive, check_size, fail, reading
from a2c_ppo_acktr.files import write_named
from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.memory import available_memory
from a2c_ppo_acktr.spaces import concatenate, has_channels_last, index, space_map, tree_map
from a2c_ppo_acktr.utils import UsageError

FORMAT = "a2c_ppo_acktr.demonstrations"
VERSION = 1
MINARI = "minari:"
PER_STEP = ("actions", "rewards", "terminated", "truncated")
UPSTREAM = ("states", "actions", "rewards", "lengths")
ACTIONS = "actions"
"""What a file may lack."""
NUMBERS = "biuf"
KINDS = {
    "lengths": "iu",
    "returns": "f",
    "actions": NUMBERS,
    "rewards": NUMBERS,
    "terminated": "b",
    "truncated": "b",
}
"""Kinds of NumPy's types that the arrays of a file may have."""


class Trajectory(NamedTuple):
    """One episode of T steps, K of which are terminated or truncated, the last one among them."""

    obs: Tree
    """[T + K, ...]"""
    actions: np.ndarray
    """[T, ...], or [T, 0] where they were not recorded."""
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    episode_return: float


def save(path: str | Path, trajectories: Sequence[Trajectory], *, frame_stack: int = 1, **meta: Any) -> None:
    """Write demonstrations atomically.

    Args:
        path: the file.
        trajectories: at least one; of one shape.
        frame_stack: images that the agent's observations stacked; `Trajectory.obs` are single ones.
        **meta: plain values to remember: env_name, algo, command, deterministic, ...; `final_obs=False` where the final
            observations are not known and the last ones are repeated in their place.

    Raises:
        UsageError: what would be written could not be read back.
    """
    trajectories = [checked(path, i, trajectory) for i, trajectory in enumerate(trajectories)]
    leaves: dict[str, np.ndarray] = {}
    names = _name_leaves(concatenate([t.obs for t in trajectories]), "obs", leaves)
    head = {"format": FORMAT, "version": VERSION, "frame_stack": frame_stack, "obs": names, **meta}
    arrays: dict[str, Any] = {
        "meta": np.array(json.dumps(head, default=str)),
        "lengths": np.array([len(t.rewards) for t in trajectories]),
        "returns": np.array([t.episode_return for t in trajectories], np.float64),
        **per_step(trajectories),
        **leaves,
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_named(Path(path), write)


def read(source: str | Path) -> tuple[list[Trajectory], dict[str, Any]]:
    """The episodes of a file or data set, not yet checked (see `checked`), and what is known of their recording.

    Upstream's files (states `[E, T, ...]`, actions, rewards, lengths, padded to T) lack final observations and do not
    say how episodes ended: their last observations are repeated, and their last steps count as truncated, which claims
    least.

    Args:
        source: this project's `.npz`, upstream's `.pt` dictionary, or `minari:<dataset-id>`.

    Raises:
        UsageError: one line that names the file and its defect.
    """
    suffix = Path(source).suffix
    if str(source).startswith(MINARI):
        return _read_minari(str(source))
    if suffix not in READERS:
        fail(source, f"expected a file .npz or .pt, or {MINARI}<dataset-id>")
    if not Path(source).is_file():
        fail(source, "no such file")
    return READERS[suffix](source)


def per_step(trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """The arrays of `PER_STEP`, episode after episode; actions that one of them lacks, none has."""
    arrays = {name: [getattr(one, name) for one in trajectories] for name in PER_STEP}
    if any(lacks_actions(part) for part in arrays[ACTIONS]):
        arrays[ACTIONS] = [nothing(len(part)) for part in arrays[ACTIONS]]
    return {name: np.concatenate(parts) for name, parts in arrays.items()}


def nothing(length: int) -> np.ndarray:
    """`[T, 0]`, in the place of actions that were not recorded."""
    return np.zeros((length, 0), np.float32)


def lacks_actions(actions: np.ndarray) -> bool:
    """Whether there are none."""
    return actions.shape[1:] == (0,)


def from_padded(source: str | Path, arrays: Mapping[str, np.ndarray]) -> list[Trajectory]:
    """Episodes from arrays padded to T: states and actions `[E, T, ...]`, rewards `[E, T]`, lengths `[E]`."""
    states, actions, rewards, lengths = (arrays[name] for name in UPSTREAM)
    num, most = states.shape[:2] if states.ndim > 2 else (0, 0)
    numeric = all(arrays[name].dtype.kind in NUMBERS for name in UPSTREAM)
    fits = lengths.shape == (num,) and rewards.shape == actions.shape[:2] == (num, most)
    if num == 0 or not numeric or not fits:
        shapes = ", ".join(f"{name} {list(arrays[name].shape)} {arrays[name].dtype}" for name in UPSTREAM)
        fail(source, f"expected states and actions [E, T, ...], rewards [E, T], lengths [E], found {shapes}")
    if not all(1 <= length <= most and length == int(length) for length in lengths.tolist()):
        fail(source, f"lengths {lengths.tolist()[:4]}...: expected whole numbers from 1 to {most}")
    trajectories = []
    for e, length in enumerate(lengths.astype(np.int64)):
        last = np.arange(length) == length - 1
        own = rewards[e, :length]
        obs = states[e, np.append(np.arange(length), length - 1)]
        trajectories.append(Trajectory(obs, actions[e, :length], own, np.zeros_like(last), last, float(own.sum())))
    return trajectories


def checked(source: str | Path, number: int, trajectory: Trajectory) -> Trajectory:
    """An episode whose parts agree, with observations and actions of floats as float32.

    Raises:
        UsageError: it is empty, goes on, disagrees in lengths, or holds what is no finite number.
    """
    episode, length = f"episode {number}", len(trajectory.rewards)
    ended = trajectory.terminated | trajectory.truncated
    if len(ended) == 0 or not ended[-1]:
        fail(source, f"{episode} is empty" if len(ended) == 0 else f"{episode}: its last step is no end")
    obs, actions = tree_map(_as_float32, (trajectory.obs, trajectory.actions))
    if actions.dtype.kind == "f" and len(actions) == length and np.isnan(actions).all():
        actions = nothing(length)
    leaves: dict[str, np.ndarray] = {"actions": actions, "rewards": trajectory.rewards}
    _name_leaves(obs, "obs", leaves)
    for name, leaf in leaves.items():
        rows = length + (int(ended.sum()) if name.startswith("obs") else 0)
        if leaf.dtype.kind not in NUMBERS or len(leaf) != rows or len(ended) != length:
            fail(source, f"{episode}: {name} {list(leaf.shape)} of type {leaf.dtype}: expected {rows} rows of numbers")
        if not np.isfinite(leaf).all():
            fail(source, f"{episode}: {name} not finite")
    return trajectory._replace(obs=obs, actions=actions)


def _as_float32(leaf: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinity is found afterwards
        return leaf.astype(np.float32, copy=False) if leaf.dtype.kind == "f" else leaf


def _read_npz(path: str | Path) -> tuple[list[Trajectory], dict[str, Any]]:
    if not zipfile.is_zipfile(path):
        fail(path, "cut short, or not a .npz")
    with reading(path, UsageError), np.load(path, allow_pickle=False) as file:
        archive = Archive(path, file)
        if missing := {"meta", *KINDS} - {ACTIONS} - archive.sizes.keys():
            fail(path, f"lacks {', '.join(sorted(missing))}")
        meta = json.loads(str(archive["meta"]))
        head = meta["format"], meta["version"]
        names, stacked, final = meta["obs"], meta["frame_stack"], meta.get("final_obs", True)
        obs = _find_leaves(names, archive)
        arrays = {name: archive[name] for name in KINDS if name in archive.sizes}
        arrays.setdefault(ACTIONS, nothing(len(arrays["rewards"])))
    if head != (FORMAT, VERSION):
        fail(path, f"of format {head}, this program reads {(FORMAT, VERSION)}")
    leaves: dict[str, np.ndarray] = {}
    _name_leaves(obs, "obs", leaves)
    stackable = isinstance(obs, np.ndarray) and obs.ndim == 4
    plain = isinstance(stacked, int) and isinstance(final, bool)
    if not leaves or not plain or stacked < 1 or (stacked > 1 and not stackable):
        fail(path, f"observations {names} with frame_stack {stacked} and final_obs {final}")
    rows = _rows(path, arrays, leaves)
    trajectories = []
    starts = np.cumsum(arrays["lengths"]) - arrays["lengths"]
    for e, (start, length) in enumerate(zip(starts.tolist(), arrays["lengths"].tolist(), strict=True)):
        steps = {name: arrays[name][start : start + length] for name in PER_STEP}
        own = index(obs, slice(rows[e], rows[e + 1]))
        trajectories.append(Trajectory(obs=own, episode_return=float(arrays["returns"][e]), **steps))
    return trajectories, meta


def _rows(path: str | Path, arrays: Mapping[str, np.ndarray], leaves: Mapping[str, np.ndarray]) -> list[int]:
    """The `E + 1` rows of observations where episodes begin and end, after a check of all lengths and types."""
    for name, kinds in KINDS.items():
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim < 1 or (array.ndim > 1 and name != "actions"):
            fail(path, f"{name} {list(array.shape)} of type {array.dtype}")
    lengths, returns = arrays["lengths"].tolist(), arrays["returns"]
    if len(lengths) == 0 or min(lengths) < 1 or len(returns) != len(lengths) or not np.isfinite(returns).all():
        fail(
            path, f"{len(lengths)} lengths (expected at least 1, all positive) and {len(returns)} returns (all finite)"
        )
    sizes = {name: len(arrays[name]) for name in PER_STEP}
    if set(sizes.values()) != {sum(lengths)}:
        fail(path, f"lengths sum to {sum(lengths)}, but there are {sizes}")
    ends = np.append(0, np.cumsum(arrays["terminated"] | arrays["truncated"]))
    steps = np.append(0, np.cumsum(lengths))
    rows = (steps + ends[steps]).tolist()
    for name, leaf in leaves.items():
        if leaf.ndim < 1 or len(leaf) != rows[-1]:
            fail(path, f"{name} {list(leaf.shape)}: expected {rows[-1]} observations")
    return rows


def _read_pt(path: str | Path) -> tuple[list[Trajectory], dict[str, Any]]:
    with reading(path, UsageError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged files torch first says that they look odd
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(info.file_size for info in archive.infolist())
            check_size(path, "the whole", unpacked, available_memory())
        contents = torch.load(path, map_location="cpu", weights_only=True)
    needed = [name for name in UPSTREAM if name != ACTIONS]
    missing = [name for name in needed if not isinstance(contents, dict) or name not in contents]
    if missing:
        fail(path, f"lacks {', '.join(missing)}")
    with reading(path):
        arrays = {name: contents[name].numpy() for name in UPSTREAM if name in contents}
    check_size(path, "the whole", sum(array.nbytes for array in arrays.values()), available_memory())
    arrays.setdefault(ACTIONS, np.zeros((*arrays["rewards"].shape, 0), np.float32))
    return from_padded(path, arrays), {"frame_stack": 1, "final_obs": False}


READERS = {".npz": _read_npz, ".pt": _read_pt}


def _read_minari(source: str) -> tuple[list[Trajectory], dict[str, Any]]:
    try:
        minari = importlib.import_module("minari")
    except ImportError as error:
        fail(source, f"needs Minari ({error}): pip install -e '.[imitation]'")
    name = source.removeprefix(MINARI)
    try:
        with reading(source, FileNotFoundError):
            dataset = minari.load_dataset(name)
    except FileNotFoundError:
        fail(source, f"not on this machine: minari download {name}")
    with reading(source):
        episodes = list(dataset.iterate_episodes())
    space, action_space = dataset.observation_space, dataset.action_space
    channels_last = space_map(has_channels_last, space)
    start = 0 if isinstance(action_space, spaces.Box) else getattr(action_space, "start", 0)
    trajectories = []
    for episode in episodes:
        terminated, truncated = (np.array(ends, bool) for ends in (episode.terminations, episode.truncations))
        truncated[-1:] |= ~terminated[-1:]  # where the recording stopped
        obs = tree_map(np.asarray, episode.observations)
        obs = tree_map(lambda last, leaf: np.moveaxis(leaf, -1, 1) if last else leaf, channels_last, obs)
        actions, rewards = np.asarray(episode.actions) - start, np.asarray(episode.rewards)
        trajectories.append(Trajectory(obs, actions, rewards, terminated, truncated, float(rewards.sum())))
    env_name = dataset.env_spec.id if dataset.env_spec is not None else None
    return trajectories, {"frame_stack": 1, "env_name": env_name}


def _name_leaves(tree: Tree, name: str, leaves: dict[str, np.ndarray]) -> Any:
    """Put the leaves under names; returns the tree of names as JSON knows it, with a list for a tuple."""
    if isinstance(tree, dict):
        return {key: _name_leaves(part, f"{name}/{quote(str(key), safe='')}", leaves) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return [_name_leaves(part, f"{name}/{i}", leaves) for i, part in enumerate(tree)]
    leaves[name] = tree
    return name


def _find_leaves(names: Any, arrays: Archive) -> Tree:
    """Inverse of `_name_leaves`."""
    if isinstance(names, dict):
        return {key: _find_leaves(part, arrays) for key, part in names.items()}
    if isinstance(names, list):
        return tuple(_find_leaves(part, arrays) for part in names)
    return arrays[names]
