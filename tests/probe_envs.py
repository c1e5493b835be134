"""Small environments that only a correct algorithm solves; registered under `tests.probe_envs:`."""

import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class ProbeEnv(gym.Env):
    """What the probes share: a seeded generator, a step count, plain state."""

    observation_space: spaces.Space = spaces.Box(-1, 1, (1,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)
    horizon = 1

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.cue = 0, float(self.np_random.choice([-1.0, 1.0]))
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = self.reward(action)
        self.t += 1
        return self.observe(), reward, self.t >= self.horizon, False, {}

    def observe(self) -> np.ndarray:
        return np.array([self.cue], np.float32)

    def reward(self, action: Any) -> float:
        return 1.0

    def get_state(self) -> dict[str, Any]:
        return {"t": self.t, "cue": self.cue}

    def set_state(self, state: dict[str, Any]) -> None:
        self.t, self.cue = state["t"], state["cue"]


class ConstantReward(ProbeEnv):
    """One step, reward 1: V must become 1. Fails if value loss or its gradient is wrong."""

    def observe(self) -> np.ndarray:
        return np.zeros(1, np.float32)


class ObservationReward(ProbeEnv):
    """One step, reward = observation: V must read its input."""

    def reward(self, action: Any) -> float:
        return self.cue


class TwoSteps(ProbeEnv):
    """Reward 1 on the second step: V(first) must be gamma."""

    horizon = 2

    def observe(self) -> np.ndarray:
        return np.array([float(self.t)], np.float32)

    def reward(self, action: Any) -> float:
        return float(self.t == 1)


class ActionReward(ProbeEnv):
    """Reward 1 for action 1: the policy gradient must have the right sign."""

    def observe(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def reward(self, action: Any) -> float:
        return float(action == 1)


class MatchObservation(ProbeEnv):
    """Reward 1 for the action that the observation names: advantages must belong to their samples."""

    def reward(self, action: Any) -> float:
        return float((action == 1) == (self.cue > 0))


class MatchVector(MatchObservation):
    """`MatchObservation` for a continuous action: reward -(a - cue / 2)^2."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reward(self, action: Any) -> float:
        return -float((action[0] - 0.5 * self.cue) ** 2)


class MatchBits(MatchObservation):
    """`MatchObservation` for two bits, one of them inverted."""

    action_space = spaces.MultiBinary(2)

    def reward(self, action: Any) -> float:
        wanted = self.cue > 0
        return 0.5 * float((action[0] == 1) == wanted) + 0.5 * float((action[1] == 1) != wanted)


class MatchChoices(MatchObservation):
    """`MatchObservation` for two choices of different sizes, counted from 1 and 0."""

    action_space = spaces.MultiDiscrete([2, 3], start=[1, 0])

    def reward(self, action: Any) -> float:
        wanted = self.cue > 0
        return 0.5 * float((action[0] == 2) == wanted) + 0.5 * float((action[1] == 2) == wanted)


class Corridor(ProbeEnv):
    """Four steps to the left, reward -1 each, or to the right, +1; the place is what is seen."""

    horizon = 4

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.place = 0.0
        return super().reset(seed=seed)

    def observe(self) -> np.ndarray:
        return np.array([self.place / 4], np.float32)

    def reward(self, action: Any) -> float:
        step = 1.0 if action == 1 else -1.0
        self.place += step
        return step


class EndlessReward(ProbeEnv):
    """Reward 1 for ever, cut by a time limit: V is 1 / (1 - gamma) with proper time limits, less without."""

    def observe(self) -> np.ndarray:
        return np.zeros(1, np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.observe(), 1.0, False, False, {}


class RememberCue(ProbeEnv):
    """A cue in the first observation, three blank ones, reward 1 for the action that the cue named at the end."""

    horizon = 4

    def observe(self) -> np.ndarray:
        return np.array([self.cue if self.t == 0 else 0.0], np.float32)

    def reward(self, action: Any) -> float:
        return float((action == 1) == (self.cue > 0)) if self.t == self.horizon - 1 else 0.0


class RememberLong(RememberCue):
    """`RememberCue` with ten blank observations."""

    horizon = 11


class MaskedActions(ProbeEnv):
    """Five actions of which a random two are valid; an invalid one raises. Reward 1 for the lower valid one."""

    observation_space = spaces.Box(-1, 1, (5,), np.float32)
    action_space = spaces.Discrete(5)
    signal_spaces = {"action_mask": spaces.MultiBinary(5)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.draw()
        return self.observe(), {"action_mask": self.mask}

    def draw(self) -> None:
        self.mask = np.zeros(5, np.int8)
        self.mask[self.np_random.choice(5, 2, replace=False)] = 1

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.mask[action] == 1, f"invalid action {action} of {self.mask}"
        reward = float(action == self.mask.argmax())
        self.t += 1
        self.draw()
        return self.observe(), reward, self.t >= 3, False, {"action_mask": self.mask}

    def observe(self) -> np.ndarray:
        return self.mask.astype(np.float32) if hasattr(self, "mask") else np.zeros(5, np.float32)

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"mask": self.mask.tolist()}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.mask = np.array(state["mask"], np.int8)


class NestedObservation(MatchObservation):
    """`MatchObservation` with the cue inside a nested observation: a picture, a number and flags."""

    observation_space = spaces.Dict(
        {
            "picture": spaces.Box(0, 255, (1, 8, 8), np.uint8),
            "pair": spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiBinary(2))),
        }
    )

    def observe(self) -> Any:
        picture = np.full((1, 8, 8), 255 if self.cue > 0 else 0, np.uint8)
        return {"picture": picture, "pair": (np.int64(1 + self.t), np.array([0, 1], np.int8))}


class Counter(ProbeEnv):
    """Observation t, reward t, ends or is cut at random: bookkeeping can be read off the numbers."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    episode = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        terminated, truncated = self.np_random.random() < 0.2, self.np_random.random() < 0.2
        return self.observe(), float(self.t), terminated, truncated, {}

    def observe(self) -> np.ndarray:
        return np.array([self.t, self.episode], np.float64)

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"episode": self.episode}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.episode = state["episode"]


class Crash(ProbeEnv):
    """Raises in its third step."""

    horizon = 100

    def reward(self, action: Any) -> float:
        if self.t == 2:
            raise RuntimeError("the gripper is stuck")
        return 0.0


class Slow(ProbeEnv):
    """A step takes `seconds` from step `since` of an episode on; episodes of 100 steps."""

    horizon = 100

    def __init__(self, render_mode: str | None = None, seconds: float = 0.0, since: int = 0) -> None:
        super().__init__(render_mode)
        self.seconds, self.since = seconds, since

    def reward(self, action: Any) -> float:
        if self.t >= self.since:
            time.sleep(self.seconds)
        return 1.0


class Never(ProbeEnv):
    """No episode ends but by chance: one in ten steps of action 0, which is worth nothing."""

    def reward(self, action: Any) -> float:
        self.horizon = self.t + 1 if action == 0 and self.np_random.random() < 0.1 else self.t + 2
        return float(action)


class Leaves(ProbeEnv):
    """Ends the program, where it is told to."""

    horizon = 100

    def __init__(self, render_mode: str | None = None, where: str = "step") -> None:
        super().__init__(render_mode)
        self.where = where
        if where == "constructor":
            sys.exit(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        if self.where == "reset":
            sys.exit(0)
        return super().reset(seed=seed)

    def reward(self, action: Any) -> float:
        if self.where == "step" and self.t == 20:
            sys.exit(0)
        return 0.0


class Unreadable(ProbeEnv):
    """Its state is told in a way of its own; observations far from 0, which say when the episode began."""

    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    horizon = 8
    told: Any = None

    def observe(self) -> np.ndarray:
        return np.array([self.start, self.start + self.t], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        self.t, self.start = 0, 1000.0 + 100.0 * self.np_random.random()
        return self.observe(), {}

    def get_state(self) -> Any:
        return type(self).told(self)

    def set_state(self, state: Any, velocity: Any) -> None:  # type: ignore[override]  # as MuJoCo's environments
        raise AssertionError


class NotANumber(ProbeEnv):
    """Gives a reward of NaN once."""

    horizon = 100

    def reward(self, action: Any) -> float:
        return float("nan") if self.t == 50 else 0.0


class Clock(ProbeEnv):
    """Auxiliary targets that say the step t of the episode: as a number twice, and as a class of four."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    signal_spaces = {
        "auxiliary": spaces.Dict({"time": spaces.Box(-np.inf, np.inf, (2,), np.float32), "hour": spaces.Discrete(4)})
    }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.horizon = int(self.np_random.integers(2, 9))
        return self.observe(), self.info()

    def info(self) -> dict[str, Any]:
        return {"auxiliary": {"time": np.array([self.t, -self.t], np.float32), "hour": self.t % 4}}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == self.horizon
        return self.observe(), self.t / 10, over and self.t % 2 == 0, over, self.info()

    def observe(self) -> np.ndarray:
        return np.array([self.t, self.t % 2, (self.t // 2) % 2], np.float32)


class FlatClock(Clock):
    """`Clock` with its targets in one array that it does not declare, and leaves out of a reset's info."""

    signal_spaces = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return super().reset(seed=seed)[0], {}

    def info(self) -> dict[str, Any]:
        return {"auxiliary": np.array([self.t, -self.t, self.t % 4], np.float64)}


class SilentClock(Clock):
    """Declares targets that it never gives."""

    def info(self) -> dict[str, Any]:
        return {}


for probe in (*ProbeEnv.__subclasses__(), *MatchObservation.__subclasses__(), *Clock.__subclasses__(), RememberLong):
    gym.register(f"{probe.__name__}-v0", entry_point=probe, max_episode_steps=5 if probe is EndlessReward else None)
