"""The latest steps of N environments, every observation once.

Each environment has a ring of slots. A slot holds an observation and what was done there, and the slot after it holds
the true successor:

    o_0  o_1  ...  o_T  |  o_0  o_1  ...        o_T is the final observation: nothing was done there

So a successor is the next slot whether the episode went on, was cut or ended, and no window of steps needs to know what
a reset did. Of stacked images only the newest one is kept; a stack is put together where it is read. Where observations
and rewards are normalized, they are kept as the environments gave them and normalized where they are read: what was
stored early and what was stored late is then told by the same, present statistics.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from a2c_ppo_acktr.interfaces import EnvSpaces, Step, Tree
from a2c_ppo_acktr.spaces import assign, index, is_image, leaf_shape, select, space_map, torch_dtype, tree_map


class Slots:
    """The rings: rows of arrays, `row = slot * N + environment`, filled one step of all environments at a time.

    Args:
        size: L, slots per environment.
        num_envs: N.
        env_spaces: of the environments.
    """

    def __init__(self, size: int, num_envs: int, env_spaces: EnvSpaces) -> None:
        self.size, self.num_envs, self.stack = size, num_envs, env_spaces.frame_stack
        rows = size * num_envs
        self.obs = space_map(lambda space: _rows(space, rows, self.stack), env_spaces.observation)
        self.actions = space_map(lambda space: _rows(space, rows), env_spaces.action)
        self.images = space_map(is_image, env_spaces.observation)
        self.obs_views, self.action_views = tree_map(_array, self.obs), tree_map(_array, self.actions)
        self.rewards = np.zeros(rows, np.float32)
        self.terminated, self.ended = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
        self.first, self.acted = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
        self.cursor, self.envs = np.zeros(num_envs, np.int64), np.arange(num_envs)
        self.standing = False
        self.normalizer = env_spaces.normalizer

    @property
    def filled(self) -> int:
        """Slots of an environment that may have been written."""
        return min(self.size, int(self.cursor.max()) + 1)

    def row(self, slots: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """Rows of slots, which may be counted beyond the ring's ends."""
        return slots % self.size * self.num_envs + envs

    def insert(self, step: Step) -> np.ndarray:
        """Append one step; returns the rows `[N]` that it was written to.

        Afterwards `cursor: [N]` is the slot of the observation that each environment stands at.
        """
        step = step if self.normalizer is None else step.as_given()
        if not self.standing:
            self._begin(step)
        at, after = self.row(self.cursor, self.envs), self.row(self.cursor + 1, self.envs)
        assign(self.action_views, at, tree_map(_array, step.action))
        self.rewards[at], self.terminated[at] = step.reward, step.terminated
        self.ended[at] = step.terminated | step.truncated
        self.acted[at] = True
        self.cursor += 1
        self._stand(after, step.next_obs, first=False)
        if step.ended is not None:
            envs = step.ended.indices.cpu().numpy()
            self._stand(after[envs], tree_map(_array, step.ended.final_obs), first=False)
            self.cursor[envs] += 1
            self._stand(self.row(self.cursor[envs], envs), index(step.next_obs, envs), first=True)
        return at

    def _stand(self, rows: np.ndarray, obs: Tree, first: Any) -> None:
        """Write observations in which nothing has been done yet."""
        if self.stack > 1:
            obs = tree_map(lambda im, leaf: leaf[:, -(leaf.shape[1] // self.stack) :] if im else leaf, self.images, obs)
        assign(self.obs_views, rows, obs)
        self.first[rows], self.acted[rows], self.ended[rows] = first, False, False

    def _begin(self, step: Step) -> None:
        """Take what the environments stand at: at the start, and where a resumed run's episodes began anew."""
        begins = _array(step.masks) == 0.0
        if self.cursor.any():
            (cut,) = (begins & ~self.first[self.row(self.cursor, self.envs)]).nonzero()
            self.ended[self.row(self.cursor[cut] - 1, cut)] = True
            self.cursor[cut] += 1
        self._stand(self.row(self.cursor, self.envs), tree_map(_array, step.obs), begins)
        self.standing = True

    def read(self, rows: np.ndarray) -> Tree:
        """Observations `[K, ...]` of rows, as a learner sees them."""
        stacked = self._read_stacks if self.stack > 1 else None
        found = tree_map(
            lambda image, leaf, view: stacked(leaf, rows) if image and stacked else take(leaf, view, rows),
            self.images,
            self.obs,
            self.obs_views,
        )
        return found if self.normalizer is None else self.normalizer.normalize_obs(tree_map(_array, found))

    def _read_stacks(self, leaf: Tensor, rows: np.ndarray) -> Tensor:
        """Stacks `[K, stack * C, H, W]` of images, put together."""
        slots, envs = np.divmod(rows, self.num_envs)
        places = self.row(slots[:, None] + np.arange(1 - self.stack, 1), envs[:, None])
        images = select(leaf, 0, torch.from_numpy(places.ravel())).unflatten(0, places.shape)
        begins = self.first[places[:, :0:-1]]
        if begins.any():  # images before an episode's first one are black
            before = np.logical_or.accumulate(begins, axis=1)[:, ::-1]
            images[torch.from_numpy(np.pad(before, ((0, 0), (0, 1))))] = 0
        return images.flatten(1, 2)

    def rewarded(self, rows: np.ndarray) -> np.ndarray:
        """Rewards `[...]` of rows, float32, as a learner sees them."""
        rewards = self.rewards[rows]
        return rewards if self.normalizer is None else self.normalizer.scale_reward(rewards).astype(np.float32)

    def taken(self, rows: np.ndarray) -> Tree:
        """Actions `[K, ...]` of rows."""
        return tree_map(lambda leaf, view: take(leaf, view, rows), self.actions, self.action_views)

    def state_dict(self) -> dict[str, Any]:
        """The filled part of everything, without a copy."""
        rows = self.filled * self.num_envs
        trees = {"obs": self.obs_views, "actions": self.action_views}
        names = ("rewards", "terminated", "ended", "first", "acted")
        arrays = trees | {name: getattr(self, name) for name in names}
        return {"cursor": self.cursor} | {
            name: tree_map(lambda leaf: torch.from_numpy(leaf[:rows]), tree) for name, tree in arrays.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.cursor[:] = state["cursor"]
        for name in ("obs", "actions", "rewards", "terminated", "ended", "first", "acted"):
            views = {"obs": self.obs_views, "actions": self.action_views}.get(name, getattr(self, name))
            tree_map(_fill, views, state[name])
        self.standing = False


def take(leaf: Tensor, view: np.ndarray, rows: np.ndarray) -> Tensor:
    """Rows of a leaf; NumPy is faster at small ones, `select` knows how images lie."""
    if leaf.dim() < 4:
        return torch.from_numpy(view.take(rows, 0))
    return select(leaf, 0, torch.from_numpy(rows))


def row_bytes(env_spaces: EnvSpaces) -> int:
    """Memory of one row."""
    sizes: list[int] = []
    space_map(lambda leaf: sizes.append(_rows(leaf, 1, env_spaces.frame_stack).nbytes), env_spaces.observation)
    space_map(lambda leaf: sizes.append(_rows(leaf, 1).nbytes), env_spaces.action)
    return sum(sizes) + 8  # reward and flags


def _rows(space: spaces.Space, num: int, stack: int = 1) -> Tensor:
    """Zeros for `num` samples of a leaf, on pages that the system gives when they are written; images channels-last."""
    shape, dtype = leaf_shape(space), torch.zeros(0, dtype=torch_dtype(space)).numpy().dtype
    if is_image(space):
        channels, height, width = shape
        return torch.from_numpy(np.zeros((num, height, width, channels // stack), dtype)).movedim(-1, -3)
    return torch.from_numpy(np.zeros((num, *shape), dtype))


def _array(leaf: Any) -> np.ndarray:
    return leaf.cpu().numpy() if isinstance(leaf, Tensor) else leaf


def _fill(view: np.ndarray, values: Tensor) -> None:
    view[: len(values)] = values
