"""Environments that step all at once in compiled or vectorized code, where they match the single ones."""

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode

from a2c_ppo_acktr.envs.vector import Envs, to_env_actions
from a2c_ppo_acktr.interfaces import EndedArrays, StepArrays, Tree


class NativeEnvs(Envs):
    """What they all share: returns and lengths of running episodes, and no environment objects to reach into."""

    backend = state_kind = "native"

    def __init__(self, num_envs: int, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.signal_spaces, self._signals = {}, {}
        super().__init__(num_envs, observation_space, action_space)
        self.returns, self.lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    @abstractmethod
    def _reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        """Begin a new episode everywhere; observations `[N, ...]`."""

    def reset(self) -> Tree:
        """Begin a new episode everywhere, with the seeds of `seed` if they were just set."""
        self.returns[:], self.lengths[:] = 0.0, 0
        obs = self._reset(self._seeds)
        self._reset_seeds()
        return obs

    def _count(
        self, obs: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> EndedArrays | None:
        """Statistics of a step whose ends are whole episodes; an end on the last allowed step is no truncation."""
        truncated &= ~terminated
        self.returns += reward
        self.lengths += 1
        ended = terminated | truncated
        return self._finish(ended, ended, obs)

    def _finish(self, ended: np.ndarray, over: np.ndarray, final_obs: np.ndarray) -> EndedArrays | None:
        """Describe the environments where `ended: [N]`; statistics restart where the whole episode is `over: [N]`."""
        if not ended.any():
            return None
        (indices,) = ended.nonzero()
        returns = np.where(over, self.returns, np.nan)[indices]
        result = EndedArrays(indices, final_obs[indices], returns, self.lengths[indices])
        self.returns[over], self.lengths[over] = 0.0, 0
        return result

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Only `render_mode`, which is None: nothing here can be rendered."""
        return [None for _ in self._get_indices(indices)] if attr_name == "render_mode" else self._refuse(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """There are no environment objects."""
        self._refuse(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """There are no environment objects."""
        self._refuse(method_name)

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """No."""
        return [False for _ in self._get_indices(indices)]

    def _refuse(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: native environments have no objects of their own; use --vec-env dummy")


class CartPoleEnvs(NativeEnvs):
    """Gymnasium's vectorized CartPole with the reset in the step that ends an episode and a generator per environment.

    Gymnasium's own resets one step later, with a step that does nothing, and draws all resets from one generator.
    """

    def __init__(self, env_id: str, num_envs: int) -> None:
        vector: Any = gym.make_vec(env_id, num_envs, vectorization_mode="vector_entry_point").unwrapped
        self.vector = vector
        super().__init__(num_envs, vector.single_observation_space, vector.single_action_space)

    def _reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        if not hasattr(self, "generators") or any(seed is not None for seed in seeds):
            self.generators = [seeding.np_random(seed)[0] for seed in seeds]
        self.vector.reset()
        return self._restart(np.arange(self.num_envs), np.empty((self.num_envs, 4), np.float32))

    def _restart(self, indices: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """Draw new states, each from its environment's generator, into the simulation and into `obs`."""
        vector = self.vector
        for i in indices:
            vector.state[:, i] = self.generators[i].uniform(vector.low, vector.high, size=4)
        vector.steps[indices] = 0
        obs[indices] = vector.state.T[indices]
        return obs

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        obs, reward, terminated, truncated, _ = self.vector.step(actions)
        ended = self._count(obs, reward, terminated, truncated)
        if ended is not None:
            self.vector.prev_done[:] = False
            self._restart(ended.indices, obs)
        return StepArrays(obs, reward, terminated, truncated, ended, self.signals)

    def get_state(self) -> Any:
        """See `Envs`."""
        return {
            "state": self.vector.state.copy(),
            "steps": self.vector.steps.copy(),
            "returns": self.returns.copy(),
            "lengths": self.lengths.copy(),
            "rng": [generator.bit_generator.state for generator in self.generators],
        }

    def set_state(self, state: Any) -> None:
        """See `Envs`."""
        self.vector.state = np.array(state["state"])
        self.vector.steps = np.array(state["steps"])
        self.returns, self.lengths = np.array(state["returns"]), np.array(state["lengths"])
        for generator, rng in zip(self.generators, state["rng"], strict=True):
            generator.bit_generator.state = rng

    def close(self) -> None:
        """Nothing is held."""


class AleEnvs(NativeEnvs):
    """The Arcade Learning Environment's own vector environment, which steps on threads of its own.

    It differs from the wrapper chain in four known ways: grey comes from the palette and is scaled by ALE; 0 to 29
    no-ops follow a reset instead of 1 to 30; FIRE comes before them; a lost life is not followed by a no-op step. It
    never presses FIRE after a lost life, so games that need that are not run here (see `fits`).

    Args:
        game: ROM name, such as `pong`.
        num_envs: N.
        sticky: probability that the emulator repeats the previous action.
        max_frames: emulator frames of the longest episode.
        noop_max: most no-ops after a reset.
        fire_reset: press FIRE after a reset where the game has it.
    """

    def __init__(
        self,
        game: str,
        num_envs: int,
        *,
        sticky: float,
        max_frames: int,
        noop_max: int = 30,
        fire_reset: bool = True,
    ) -> None:
        from ale_py.vector_env import AtariVectorEnv

        self.vector: Any = AtariVectorEnv(
            game,
            num_envs,
            repeat_action_probability=sticky,
            max_num_frames_per_episode=max_frames,
            stack_num=1,
            noop_max=noop_max,
            use_fire_reset=fire_reset,
            life_loss_info=True,
            reward_clipping=False,
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
        super().__init__(num_envs, self.vector.single_observation_space, self.vector.single_action_space)
        self.frame_numbers, self.lives = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)

    @staticmethod
    def fits(env: Any) -> bool:
        """Whether a game (an unwrapped AtariEnv that was reset) has no lives, or no FIRE to press after losing one."""
        return env.ale.lives() == 0 or "FIRE" not in env.get_action_meanings()

    def _reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        given = None if None in seeds else np.array(seeds)
        obs, info = self.vector.reset(seed=given)
        self._read(info)
        return obs.copy()

    def _read(self, info: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Take in lives and frame numbers `[N]`; returns the ones before."""
        before = self.lives, self.frame_numbers
        self.lives, self.frame_numbers = (info[k].astype(np.int64) for k in ("lives", "episode_frame_number"))
        return before

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        obs, raw_reward, terminated, truncated, info = self.vector.step(to_env_actions(self.action_space, actions))
        terminated, truncated = terminated.copy(), truncated & ~terminated
        self.returns += raw_reward
        self.lengths += 1
        lives, frame_numbers = self._read(info)  # of the new game where one is over: it has not fewer lives
        over = truncated | (terminated & ((self.lives >= lives) | (self.frame_numbers < frame_numbers)))
        final_obs = info.get("final_obs", obs)
        ended = self._finish(terminated | truncated, over, final_obs)
        return StepArrays(obs.copy(), np.sign(raw_reward), terminated, truncated, ended, self.signals)

    def get_state(self) -> None:
        """The emulators cannot be read: running episodes of a resumed run begin anew."""

    def set_state(self, state: Any) -> NoReturn:
        """There is no state to set."""
        self._refuse("set_state")

    def close(self) -> None:
        """End the emulators' threads."""
        self.vector.close()


class EnvPoolEnvs(NativeEnvs):
    """EnvPool's versions of Gymnasium's tasks, on its threads, with the reset in the step that ends an episode.

    They follow Gymnasium's tasks of the same id with a physics engine of their own build, so numbers agree in
    distribution, not bit for bit.

    Args:
        env_id: an id that both know.
        num_envs: N.
        clip_actions: keep continuous actions within their bounds.
    """

    backend = "envpool"

    def __init__(self, env_id: str, num_envs: int, clip_actions: bool = True) -> None:
        self.env_id, self.clip_actions = env_id, clip_actions
        self.pool = self._make(num_envs, seed=0)
        super().__init__(num_envs, self.pool.observation_space, self.pool.action_space)

    @staticmethod
    def knows(env_id: str) -> bool:
        """Whether EnvPool, which must be installed, has this task."""
        return env_id in importlib.import_module("envpool").list_all_envs()

    def _make(self, num_envs: int, seed: int) -> Any:
        return importlib.import_module("envpool").make_gymnasium(self.env_id, num_envs=num_envs, seed=seed)

    def _reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        if seeds[0] is not None:
            self.pool.close()
            self.pool = self._make(self.num_envs, seeds[0])  # seeds are fixed when a pool is made
        return self.pool.reset()[0]

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        actions = to_env_actions(self.action_space, actions, self.clip_actions)
        obs, reward, terminated, truncated, _ = self.pool.step(actions)
        ended = self._count(obs, reward, terminated, truncated)
        if ended is not None:
            obs[ended.indices] = self.pool.reset(ended.indices)[0]
        return StepArrays(obs, reward, terminated, truncated, ended, self.signals)

    def get_state(self) -> None:
        """The simulators cannot be read: running episodes of a resumed run begin anew."""

    def set_state(self, state: Any) -> NoReturn:
        """There is no state to set."""
        self._refuse("set_state")

    def close(self) -> None:
        """End the threads."""
        self.pool.close()
