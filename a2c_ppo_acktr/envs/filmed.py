"""Vectorized environments made of others: several stepped as one, and one of them filmed.

What steps the others does not change what the first one does, with one exception: beside ALE's native stepping the
filmed game goes through the wrapper chain, which differs from it as `AleEnvs` says.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from a2c_ppo_acktr.envs.declared import frame_rate
from a2c_ppo_acktr.envs.vec_wrappers import EnvsWrapper
from a2c_ppo_acktr.envs.vector import DummyEnvs, Envs, join_steps
from a2c_ppo_acktr.envs.video.camera import Camera
from a2c_ppo_acktr.interfaces import StepArrays, Tree
from a2c_ppo_acktr.spaces import concatenate


class JointEnvs(Envs):
    """The first environment, which can draw pictures, beside others that a faster backend steps.

    Args:
        first: one environment.
        others: the same task, N - 1 times.
    """

    def __init__(self, first: DummyEnvs, others: Envs) -> None:
        self.first, self.others = first, others
        self.signal_spaces, self.backend = first.signal_spaces, others.backend
        self.state_kind = first.state_kind if others.state_kind == first.state_kind else f"1 beside {others.state_kind}"
        super().__init__(1 + others.num_envs, first.observation_space, first.action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Environment i gets `seed + i`."""
        seeds = super().seed(seed)
        self.first.seed(seeds[0])
        self.others.seed(seeds[1])
        return seeds

    def reset(self) -> Tree:
        """Begin a new episode everywhere, with the seeds of `seed` if they were just set."""
        obs = concatenate([self.first.reset(), self.others.reset()])
        self._reset_seeds()
        self._signals = concatenate([self.first.signals, self.others.signals])
        return obs

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        step = join_steps([self.first.step_arrays(actions[:1]), self.others.step_arrays(actions[1:])])
        self._signals = step.signals
        return step

    def get_state(self) -> Any:
        """See `Envs`; where the others' states are a list of single ones, so is this, as without pictures."""
        first, others = self.first.get_state(), self.others.get_state()
        if first is None or others is None:
            return None
        return first + others if self.state_kind == self.first.state_kind else [first, others]

    def set_state(self, state: Any) -> None:
        """See `Envs`."""
        first, others = (state[:1], state[1:]) if self.state_kind == self.first.state_kind else state
        self.first.set_state(first)
        self.others.set_state(others)

    def close(self) -> None:
        """Close both."""
        self.first.close()
        self.others.close()

    def _place(self, index: int) -> tuple[Envs, list[int]]:
        return (self.first, [0]) if index == 0 else (self.others, [index - 1])

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of each environment; the pictures' kind is the first one's."""
        if attr_name == "render_mode":
            return self.first.get_attr(attr_name) * len(list(self._get_indices(indices)))
        places = map(self._place, self._get_indices(indices))
        return [envs.get_attr(attr_name, own)[0] for envs, own in places]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each environment."""
        for envs, own in map(self._place, self._get_indices(indices)):
            envs.set_attr(attr_name, value, own)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment."""
        places = map(self._place, self._get_indices(indices))
        return [envs.env_method(method_name, *args, indices=own, **kwargs)[0] for envs, own in places]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Whether each environment has such a wrapper."""
        places = map(self._place, self._get_indices(indices))
        return [envs.env_is_wrapped(wrapper_class, own)[0] for envs, own in places]


class FilmedEnvs(EnvsWrapper):
    """Around environments whose first one can draw pictures: `camera` sees its episodes."""

    def __init__(self, envs: Envs, camera: Camera) -> None:
        super().__init__(envs)
        self.camera: Camera = camera
        camera.fps = frame_rate(envs.get_attr("metadata", [0])[0])
        envs.set_attr("camera", camera, [0])

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        self.camera.env_steps += self.num_envs
        step = super().step_arrays(actions)
        if self.camera.failure is not None:
            raise self.camera.failure
        return step

    def set_state(self, state: Any) -> None:
        """See `Envs`; the episode that goes on is not filmed, for its beginning is gone."""
        super().set_state(state)
        self.camera.skip()

    def close(self) -> None:
        """Leave no unfinished film, and close the environments."""
        self.camera.skip()
        super().close()
