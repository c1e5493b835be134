"""The collector: T steps of N environments into a storage."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from a2c_ppo_acktr.interfaces import (
    Actor,
    Decision,
    Ended,
    Environments,
    Episode,
    Original,
    Step,
    StepArrays,
    UnreadableState,
)
from a2c_ppo_acktr.spaces import to_tensor, tree_map


class Stepper:
    """Steps environments with an algorithm's actions; holds where every environment stands.

    Args:
        envs: N environments; they are reset here.
        algorithm: what acts.
    """

    def __init__(self, envs: Environments, algorithm: Actor) -> None:
        self.envs, self.algorithm, self.device = envs, algorithm, algorithm.device
        self.ongoing = torch.ones(envs.num_envs, device=self.device)
        self.unreadable: str | None = None
        """Why the environments' states could not be read or set, where that should have gone."""
        self.begin()

    def begin(self) -> None:
        """Begin a new episode everywhere."""
        self.obs = to_tensor(self.envs.reset(), self.device)
        self.original = self.envs.original
        self.signals = to_tensor(self.envs.signals, self.device)
        self.carry = self.algorithm.initial_carry(self.envs.num_envs)
        self.masks = torch.zeros_like(self.ongoing)

    def step(self, explore: bool) -> tuple[Step, StepArrays]:
        """Act once in every environment; the step as learning sees it, and as the environments gave it."""
        decision = self._act(explore)
        arrays = self.envs.step_arrays(decision.action.cpu().numpy())
        ended = None
        if arrays.ended is not None:
            indices = torch.from_numpy(arrays.ended.indices).to(self.device)
            final_obs, final_signals = to_tensor((arrays.ended.final_obs, arrays.ended.final_signals), self.device)
            ended = Ended(indices, final_obs, decision.carry[indices], final_signals)
        step = Step(
            obs=self.obs,
            carry=self.carry,
            masks=self.masks,
            signals=self.signals,
            action=decision.action,
            extras=decision.extras,
            reward=arrays.reward,
            terminated=arrays.terminated,
            truncated=arrays.truncated,
            next_obs=arrays.obs,
            next_carry=decision.carry,
            next_signals=arrays.signals,
            ended=ended,
            original=self._as_given(),
        )
        step = step._replace(next_carry=self.algorithm.observe(decision.carry, step))
        self.obs, self.carry = to_tensor(arrays.obs, self.device), step.next_carry
        self.masks = self.ongoing
        if ended is not None:
            self.masks = self.ongoing.index_fill(0, ended.indices, 0.0)
        self.signals = to_tensor(arrays.signals, self.device)
        return step, arrays

    @np.errstate(all="ignore")  # as torch has it: what diverges is found in the metrics
    def _act(self, explore: bool) -> Decision:
        return self.algorithm.act(self.obs, self.carry, self.masks, self.signals, explore)

    def _as_given(self) -> Original | None:
        """What the environments gave in the step that was just taken, before it was normalized or stacked."""
        before, self.original = self.original, self.envs.original
        if before is None or self.original is None:
            return None
        next_obs, final_obs, reward = self.original
        assert reward is not None
        return Original(before[0], reward, next_obs, final_obs)

    def state_dict(self, *, in_step: bool = False) -> dict[str, Any]:
        """Observations, carries and, where they can be read, the environments' states: not in the middle of a step."""
        return {
            "envs": None if in_step else self._envs_state(),
            "state_kind": self.envs.state_kind,
            "obs": self.obs,
            "original": tree_map(torch.from_numpy, self.original[0]) if self.original is not None else None,
            "signals": self.signals,
            "carry": self.carry,
            "masks": self.masks,
        }

    def _envs_state(self) -> Any:
        try:
            return self.envs.get_state()
        except UnreadableState as error:
            self.unreadable = str(error)
            return None

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Continue; returns whether running episodes continue too (else every environment begins a new one).

        Raises:
            ValueError: the state is of other observations.
        """
        fits = state.get("state_kind", self.envs.state_kind) == self.envs.state_kind
        if state["envs"] is None or len(state["masks"]) != self.envs.num_envs or not fits:
            self.begin()
            return False
        restored = tuple(to_tensor(state[name], self.device) for name in ("obs", "signals", "carry", "masks"))
        tree_map(_check_shape, (self.obs, self.signals, self.carry, self.masks), restored)
        original = state.get("original") if self.original is not None else None
        if original is not None and self.original is not None:
            tree_map(_check_shape, to_tensor(self.original[0]), to_tensor(original))
        try:
            self.envs.set_state(state["envs"])
        except UnreadableState as error:
            self.unreadable = str(error)
            self.begin()
            return False
        self.obs, self.signals, self.carry, self.masks = restored
        if original is not None:
            self.original = tree_map(np.asarray, original), None, None
        return True


def _check_shape(own: Tensor, restored: Tensor) -> None:
    if own.shape != restored.shape or own.dtype != restored.dtype:
        shapes = f"{list(restored.shape)} of {restored.dtype}, expected {list(own.shape)} of {own.dtype}"
        raise ValueError(f"what the environments gave is {shapes}")


def finished_episodes(arrays: StepArrays) -> list[Episode]:
    """The whole episodes that ended in a step; a lost life, whose return is NaN, is none."""
    if arrays.ended is None:
        return []
    rows = zip(arrays.ended.indices, arrays.ended.returns, arrays.ended.lengths, strict=True)
    return [Episode(int(env), float(ret), int(length)) for env, ret, length in rows if not math.isnan(ret)]


class Collector:
    """T steps of N environments into a storage.

    Args:
        envs: N environments; they are reset here.
        algorithm: what acts.
        storage: what takes the steps.
    """

    num_steps: int
    """Steps that the next `collect` takes in every environment: at first the storage's."""

    def __init__(self, envs: Environments, algorithm: Actor, storage: Any) -> None:
        self.stepper, self.storage = Stepper(envs, algorithm), storage
        self.num_envs, self.num_steps, self.env_steps = envs.num_envs, storage.num_steps, 0
        self.collecting = False
        """Whether `collect` runs, or was left in the middle: the environments are ahead of what has been counted."""

    @torch.inference_mode()
    def collect(self) -> list[Episode]:
        """Take `num_steps` steps in every environment; returns the episodes that finished."""
        episodes: list[Episode] = []
        self.collecting = True
        for _ in range(self.num_steps):
            step, arrays = self.stepper.step(explore=True)
            self.storage.insert(step)
            episodes += finished_episodes(arrays)
        self.env_steps += self.num_steps * self.num_envs
        self.collecting = False
        return episodes

    @property
    def unreadable(self) -> str | None:
        """See `Stepper`."""
        return self.stepper.unreadable

    def state_dict(self) -> dict[str, Any]:
        """The count of steps, and the stepper's state."""
        return {"env_steps": self.env_steps, "stepper": self.stepper.state_dict(in_step=self.collecting)}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Inverse of `state_dict`; returns what `Stepper.load_state_dict` does."""
        self.env_steps = state["env_steps"]
        return self.stepper.load_state_dict(state["stepper"])
