"""Wrappers of vectorized environments: normalization and frame stacking."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from a2c_ppo_acktr.envs.vector import Envs
from a2c_ppo_acktr.interfaces import StepArrays, Tree
from a2c_ppo_acktr.normalization import Normalizer, normalized_space
from a2c_ppo_acktr.spaces import change_leaves, empty_arrays, index, is_image, space_map, tree_map


class EnvsWrapper(Envs):
    """Around other `Envs`: everything passes through."""

    def __init__(self, envs: Envs, observation_space: spaces.Space | None = None) -> None:
        self.envs = envs
        self.signal_spaces = envs.signal_spaces
        self.normalizer, self.camera = envs.normalizer, envs.camera
        self.backend, self.state_kind, self.frame_stack = envs.backend, envs.state_kind, envs.frame_stack
        super().__init__(envs.num_envs, observation_space or envs.observation_space, envs.action_space)

    @property
    def signals(self) -> dict[str, Tree]:
        """The signals that came with the latest observations."""
        return self.envs.signals

    @property
    def original(self) -> tuple[Tree, Tree, np.ndarray | None] | None:
        """See `Envs`."""
        return self.envs.original

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments for their next reset: environment i with `seed + i`."""
        return self.envs.seed(seed)

    def reset(self) -> Tree:
        """Begin a new episode everywhere."""
        return self.envs.reset()

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        return self.envs.step_arrays(actions)

    def get_state(self) -> Any:
        """See `Envs`."""
        return self.envs.get_state()

    def set_state(self, state: Any) -> None:
        """See `Envs`."""
        self.envs.set_state(state)

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of each environment."""
        return self.envs.get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each environment."""
        self.envs.set_attr(attr_name, value, indices)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment."""
        return self.envs.env_method(method_name, *args, indices=indices, **kwargs)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether each environment has such a wrapper."""
        return self.envs.env_is_wrapped(wrapper_class, indices)


class NormalizedEnvs(EnvsWrapper):
    """Observations, leaf by leaf, and rewards normalized by running statistics, as SB3's VecNormalize.

    Args:
        envs: N environments, with numbers among their observations that can be normalized (see `is_normalized`).
        gamma: discount of the return that scales rewards.
        training: whether statistics are updated and rewards scaled; an evaluation does neither.
    """

    normalizer: Normalizer

    def __init__(self, envs: Envs, *, gamma: float, training: bool = True) -> None:
        super().__init__(envs, normalized_space(envs.observation_space))
        self.normalizer = Normalizer(envs.observation_space, envs.num_envs, gamma)
        self.normalizer.training = training

    @property
    def original(self) -> tuple[Tree, Tree, np.ndarray | None] | None:
        """Before normalization."""
        return self._original

    def reset(self) -> Tree:
        """Begin a new episode everywhere."""
        self.normalizer.returns[:] = 0.0
        obs = self.envs.reset()
        self._original: tuple[Tree, Tree, np.ndarray | None] = obs, None, None
        return self.normalizer.observe(obs)

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        step = self.envs.step_arrays(actions)
        self._original = step.obs, step.ended and step.ended.final_obs, step.reward
        obs, reward, ended = self.normalizer.observe(step.obs), step.reward, step.ended
        if self.normalizer.training:
            reward = self.normalizer.normalize_reward(reward, step.terminated | step.truncated)
        if ended is not None:
            ended = ended._replace(final_obs=self.normalizer.normalize_obs(ended.final_obs))
        return step._replace(obs=obs, reward=reward, ended=ended)


class FrameStackEnvs(EnvsWrapper):
    """The last `num_stack` images on the channel axis, oldest first; zeros before an episode's first image.

    In Dict and Tuple observations this goes for every image, and what is none stays as it is. Stacks are laid out
    channels-last, as storages keep them and networks read them.
    """

    def __init__(self, envs: Envs, num_stack: int) -> None:
        space = envs.observation_space
        super().__init__(envs, change_leaves(lambda leaf: _stacked(leaf, num_stack) if is_image(leaf) else leaf, space))
        self.frame_stack = num_stack
        self.images = space_map(is_image, space)
        self.frames: Tree = None

    @property
    def original(self) -> tuple[Tree, Tree, np.ndarray | None] | None:
        """The newest images alone."""
        return self._original

    def reset(self) -> Tree:
        """Begin a new episode everywhere."""
        obs = self.envs.reset()
        self._original: tuple[Tree, Tree, np.ndarray | None] = obs, None, None
        self.frames = tree_map(_push, self.images, empty_arrays(self.observation_space, self.num_envs), obs)
        self._begin(slice(None), obs)
        return tree_map(_channels_last, self.images, self.frames)

    def _begin(self, rows: Any, obs: Tree) -> None:
        """Leave nothing before the newest image in rows whose episode begins with `obs`."""

        def clear(image: bool, frames: np.ndarray, newest: np.ndarray) -> None:
            if image:
                frames[rows, : -newest.shape[1]] = 0

        tree_map(clear, self.images, self.frames, obs)

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        step, ended, before = self.envs.step_arrays(actions), None, self.frames
        self._original = step.obs, step.ended and step.ended.final_obs, step.reward
        self.frames = tree_map(_push, self.images, before, step.obs)
        if step.ended is not None:
            rows = step.ended.indices
            ended = step.ended._replace(
                final_obs=tree_map(_push, self.images, index(before, rows), step.ended.final_obs)
            )
            self._begin(rows, step.obs)
        return step._replace(obs=tree_map(_channels_last, self.images, self.frames), ended=ended)

    def get_state(self) -> Any:
        """The environments' state and the stacked frames."""
        state = self.envs.get_state()
        return None if state is None else {"envs": state, "frames": self.frames}

    def set_state(self, state: Any) -> None:
        """Inverse of `get_state`."""
        self.envs.set_state(state["envs"])
        self.frames = tree_map(np.array, state["frames"])


def _stacked(space: Any, num_stack: int) -> spaces.Box:
    tile = (num_stack, 1, 1)
    return spaces.Box(np.tile(space.low, tile), np.tile(space.high, tile), dtype=space.dtype.type)


def _push(image: bool, frames: np.ndarray, newest: np.ndarray) -> np.ndarray:
    """Stacks `[N, K * C, H, W]` without their oldest image and with `newest: [N, C, H, W]`."""
    if not image:
        return newest
    pushed, channels = np.empty_like(frames), newest.shape[1]
    pushed[:, :-channels], pushed[:, -channels:] = frames[:, channels:], newest
    return pushed


def _channels_last(image: bool, leaf: np.ndarray) -> np.ndarray:
    """A copy of images `[N, C, H, W]` in channels-last memory; torch does it in a quarter of NumPy's time."""
    return torch.from_numpy(leaf).contiguous(memory_format=torch.channels_last).numpy() if image else leaf
