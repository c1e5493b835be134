"""Demonstrations as the arrays that imitation learns from: S steps out of E episodes, some or all of them."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces

from a2c_ppo_acktr.experts.files import PER_STEP, Trajectory, checked, fail, lacks_actions, per_step, read
from a2c_ppo_acktr.flags import flag
from a2c_ppo_acktr.interfaces import Tree
from a2c_ppo_acktr.spaces import concatenate, index, leaf_shape


@dataclasses.dataclass
class ImitationConfig:
    """Flags of everything that learns from demonstrations."""

    demonstrations: str | None = flag(
        None,
        "FILE.npz, upstream's FILE.pt or minari:<dataset-id> (default: the environment's in --gail-experts-dir)",
    )
    gail_experts_dir: str = flag("./gail_experts", "folder of demonstrations")
    num_trajectories: int | None = flag(None, "episodes to learn from, drawn by --seed (default: all)", low=1)
    subsample: int = flag(1, "keep one in so many steps of each episode", low=1)

    @property
    def reads_actions(self) -> bool:
        """Whether it learns from the expert's actions, so that it needs them."""
        return True

    def load(self, env_name: str, seed: int) -> "Demonstrations":
        """What the flags name; `UsageError` where it is missing or damaged."""
        source = self.demonstrations or find(self.gail_experts_dir, env_name)
        shown = load(source, self.num_trajectories, self.subsample, np.random.default_rng(seed))
        return dataclasses.replace(shown, seed=seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstrations:
    """S steps out of E episodes; `select`, `with_next` and `batches` give some of the steps as the same class."""

    source: str
    """The file or data set, for messages."""
    meta: dict[str, Any]
    frames: Tree
    """[F, ...] every observation once, final ones included; of stacked images the newest."""
    rows: np.ndarray
    """[S] the row of `frames` that a step read; the next one holds what the step led to."""
    firsts: np.ndarray
    """[S] the row where a step's stack of images begins."""
    episodes: np.ndarray
    """[S] the episode that a step is of."""
    actions: np.ndarray
    """[S, ...], or [S, 0] where they were not recorded."""
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    has_next: np.ndarray
    """[S] False where the observation that followed is not known, and `next_obs` repeats `obs`."""
    lengths: np.ndarray
    """[E] steps of the whole episodes, however few of them are here."""
    returns: np.ndarray
    """[E] raw returns of the whole episodes."""
    deaths: np.ndarray
    """[E] how many steps of the whole episodes were terminated."""
    seed: int
    """Of what is drawn among them."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def frame_stack(self) -> int:
        """Images that an observation stacks."""
        return self.meta["frame_stack"]

    @property
    def ends_known(self) -> bool:
        """Whether it is known how episodes ended; files that lack final observations, as upstream's, do not tell."""
        return self.meta.get("final_obs", True)

    def recorded_elsewhere(self, env_names: Collection[str], env_kwargs: Mapping[str, Any]) -> str | None:
        """What they were recorded in, where it is known to be another environment or one of other settings."""
        name, kwargs = self.meta.get("env_name"), self.meta.get("env_kwargs")
        if (name is None or name in env_names) and (kwargs is None or kwargs == env_kwargs):
            return None
        return " ".join([str(name), *(f"{key}={value}" for key, value in (kwargs or {}).items())])

    @property
    def obs(self) -> Tree:
        """`[S, ...]` what each step read; gathered anew at each call."""
        return self._observations(self.rows)

    @property
    def next_obs(self) -> Tree:
        """`[S, ...]` what each step led to, an episode's final observation after its last; gathered at each call."""
        return self._observations(self.rows + 1)

    def _observations(self, rows: np.ndarray) -> Tree:
        if self.frame_stack == 1:
            return index(self.frames, rows)
        images = []
        for age in range(self.frame_stack - 1, -1, -1):
            images.append(self.frames[np.maximum(rows - age, self.firsts)])
            images[-1][rows - age < self.firsts] = 0
        return np.concatenate(images, axis=1)

    def select(self, steps: np.ndarray) -> "Demonstrations":
        """The steps at indices or where a mask `[S]` holds; observations are not copied."""
        names = ("rows", "firsts", "episodes", *PER_STEP, "has_next")
        return dataclasses.replace(self, **{name: getattr(self, name)[steps] for name in names})

    def with_next(self) -> "Demonstrations":
        """The steps whose next observation is known."""
        return self.select(self.has_next)

    def batches(self, batch_size: int, generator: np.random.Generator) -> "Iterator[Demonstrations]":
        """One epoch: every step once, in a new random order; the last batch is what is left."""
        order = generator.permutation(len(self))
        for start in range(0, len(order), batch_size):
            yield self.select(order[start : start + batch_size])

    def check(self, observation_space: spaces.Space, action_space: spaces.Space | None) -> "Demonstrations":
        """The same with actions in the space's shape and type, so that one can learn from it in an environment.

        Args:
            observation_space: the learner's, with stacked images.
            action_space: the environment's; None for those who read no actions, which are then left as they are.

        Raises:
            UsageError: observations or actions do not fit.
        """
        for name, space, leaf in self._leaves(observation_space, self.frames, "observations"):
            shape = leaf.shape[1:]
            shape = (shape[0] * self.frame_stack, *shape[1:]) if self.frame_stack > 1 else shape
            if shape != leaf_shape(space) or not np.can_cast(leaf.dtype, np.dtype(space.dtype), "same_kind"):
                self._misfit(name, f"of shape {list(shape)} and type {leaf.dtype}", space)
            self._check_range(name, leaf, space, getattr(space, "start", 0))
        if action_space is None:
            return self
        return dataclasses.replace(self, actions=self._actions_in(action_space))

    def _actions_in(self, space: spaces.Space) -> np.ndarray:
        actions, shape = self.actions, leaf_shape(space)
        if lacks_actions(actions):
            fail(self.source, "lacks actions, without which bco learns, and --gail with --gail-input state")
        if actions.shape[1:] == (1,) and shape == ():  # upstream's files have an axis for every action
            actions = actions[:, 0]
        if actions.shape[1:] != shape:
            self._misfit("actions", f"of shape {list(actions.shape[1:])}", space)
        if isinstance(space, spaces.Box):
            return actions.astype(np.float32, copy=False)
        if (actions != np.rint(actions)).any():
            self._misfit("actions", "that are fractions", space)
        self._check_range("actions", actions, space, 0)
        return actions.astype(np.int64, copy=False)

    def _check_range(self, name: str, values: np.ndarray, space: spaces.Space, low: Any) -> None:
        """Refuse choices outside of `low` to the number that the space has."""
        if isinstance(space, spaces.Box):
            return
        num: Any = space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", 2)
        if (values < low).any() or (values >= low + num).any():
            self._misfit(name, f"from {values.min()} to {values.max()}", space)

    def _leaves(self, space: Any, tree: Tree, name: str) -> Iterator[tuple[str, spaces.Space, np.ndarray]]:
        """Leaves of a space beside the arrays that should fit it."""
        kind: Any = np.ndarray
        if isinstance(space, spaces.Dict | spaces.Tuple):
            kind = dict if isinstance(space, spaces.Dict) else tuple
        if not isinstance(tree, kind):
            self._misfit(name, f"that are a {type(tree).__name__}", space)
        if kind is np.ndarray:
            yield name, space, tree
            return
        parts, own = (dict(x) if kind is dict else dict(enumerate(x)) for x in (space.spaces, tree))
        if own.keys() != parts.keys():
            self._misfit(name, f"with the parts {', '.join(map(str, own))}", space)
        for key, part in parts.items():
            yield from self._leaves(part, own[key], f"{name}/{key}")

    def _misfit(self, name: str, what: str, space: spaces.Space) -> NoReturn:
        fail(self.source, f"{name} {what} do not fit the environment's {space}".replace("\n", " "))


def file_name(env_name: str) -> str:
    """Upstream's name of an environment's demonstrations, without a suffix: `trajs_halfcheetah`."""
    return "trajs_" + re.sub(r"-v\d+$", "", env_name).lower().replace("/", "-").replace(":", "-")


def find(directory: str | Path, env_name: str) -> Path:
    """The demonstrations of an environment in a directory such as `gail_experts`.

    Raises:
        UsageError: there are none.
    """
    paths = [Path(directory) / f"{file_name(env_name)}{suffix}" for suffix in (".npz", ".pt")]
    for path in paths:
        if path.is_file():
            return path
    fail(directory, f"none of {env_name}: neither {paths[0].name} nor {paths[1].name}")


def load(
    source: str | Path,
    num_trajectories: int | None = None,
    subsample: int = 1,
    generator: np.random.Generator | None = None,
) -> Demonstrations:
    """Read demonstrations: this project's `.npz`, upstream's `.pt` dictionary, or `minari:<dataset-id>`.

    Args:
        source: where from; see `trajectories.read` for what the formats lack.
        num_trajectories: how many episodes; None takes all.
        subsample: keep one in so many steps of each episode, its true next observation included.
        generator: chooses episodes without replacement, and for each episode the first step that is kept, among its
            first `subsample`. None takes the first episodes from their first steps.

    Raises:
        UsageError: one line that names the file and its defect. No pickle is ever loaded.
    """
    trajectories, meta = read(source)
    trajectories = [checked(source, i, trajectory) for i, trajectory in enumerate(trajectories)]
    wanted = len(trajectories) if num_trajectories is None else num_trajectories
    if not 1 <= wanted <= len(trajectories):
        fail(source, f"holds {len(trajectories)} episodes, {wanted} were asked for")
    chosen = range(wanted) if generator is None else np.sort(generator.permutation(len(trajectories))[:wanted])
    whole = _join(source, [trajectories[i] for i in chosen], meta)
    starts, ends = np.cumsum(whole.lengths) - whole.lengths, np.cumsum(whole.lengths)
    if generator is not None:
        starts += generator.integers(0, np.minimum(subsample, whole.lengths))
    kept = [np.arange(start, end, subsample) for start, end in zip(starts, ends, strict=True)]
    return whole.select(np.concatenate(kept)) if subsample > 1 else whole


def _join(source: str | Path, trajectories: Sequence[Trajectory], meta: dict[str, Any]) -> Demonstrations:
    arrays = per_step(trajectories)
    lengths = np.array([len(t.rewards) for t in trajectories])
    ended = arrays["terminated"] | arrays["truncated"]
    lives = np.cumsum(ended) - ended
    rows = np.arange(len(ended)) + lives
    has_next = np.ones_like(ended)
    has_next[np.cumsum(lengths) - 1] = meta.get("final_obs", True)
    return Demonstrations(
        source=str(source),
        meta=meta,
        frames=concatenate([t.obs for t in trajectories]),
        rows=rows,
        firsts=rows[np.append(0, np.flatnonzero(ended)[:-1] + 1)][lives],
        episodes=np.repeat(np.arange(len(lengths)), lengths),
        has_next=has_next,
        lengths=lengths,
        returns=np.array([t.episode_return for t in trajectories]),
        deaths=np.array([np.count_nonzero(t.terminated) for t in trajectories]),
        seed=0,
        **arrays,
    )
