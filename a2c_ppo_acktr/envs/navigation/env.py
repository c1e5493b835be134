"""`Navigation-v0`: find a hidden platform in a square arena, as a rat does in Morris's water maze (1984).

The agent sees the walls within 120 degrees ahead, which look alike but for one landmark, so that neither place nor
heading can be told from most single observations; the platform it never sees. Reaching it gives reward 1 and ends the
episode; every step costs a little (see `Arenas.step`). Where the agent is comes beside the observation, as auxiliary
targets that a policy does not read.

`NavigationEnv` is one arena for Gymnasium; `NavigationEnvs` steps N at once and gives the same numbers.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding

from a2c_ppo_acktr.envs.native import NativeEnvs
from a2c_ppo_acktr.envs.navigation.simulation import (
    ANGLES,
    FLOOR,
    LANDMARK,
    LANDMARK_HALF_WIDTH,
    PALETTE,
    PLATFORM_RADIUS,
    RADIUS,
    SIGNAL_SPACES,
    Arenas,
)
from a2c_ppo_acktr.interfaces import StepArrays
from a2c_ppo_acktr.spaces import assign, index

ENV_ID = "Navigation-v0"
PICTURE_SIZE, MARGIN = 300, 14
"""Pixels of the picture's side, and between its edge and the walls."""


class NavigationEnv(gym.Env):
    """One arena.

    `info` holds `auxiliary` (see `arena.SIGNAL_SPACES`) and, for plots, `position` and `platform` `[2]` in halves of
    the arena's side, and `heading` in radians, counter-clockwise from east.

    Args:
        render_mode: None, or `rgb_array` for pictures from above.
        arena: as the keyword arguments of `Arenas`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    signal_spaces = SIGNAL_SPACES

    def __init__(self, render_mode: str | None = None, **arena: Any) -> None:
        self.render_mode = render_mode
        self.arenas = Arenas(1, **arena)
        self.observation_space, self.action_space = self.arenas.observation_space, self.arenas.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """See `gym.Env`; there are no options."""
        super().reset(seed=seed)
        self.arenas.restart(0, self.np_random)
        return self._observe()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See `gym.Env`; actions are left, right, forward, stay."""
        reward, terminated, truncated = self.arenas.step(np.array([action]))
        obs, info = self._observe()
        return obs, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def _observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        arenas = self.arenas
        obs, signals = arenas.observe()
        info = index(signals, 0)
        info["position"], info["platform"] = arenas.position[0].copy(), arenas.platform[0].copy()
        info["heading"] = float(ANGLES[arenas.heading[0]])
        return obs[0], info

    def render(self) -> np.ndarray | None:
        """The arena from above, north up: `[300, 300, 3]` RGB uint8; None without `rgb_array`."""
        return draw(self.arenas) if self.render_mode == "rgb_array" else None

    def get_state(self) -> dict[str, np.ndarray]:
        """See `env_state`."""
        return self.arenas.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_state`."""
        self.arenas.set_state(state)


class NavigationEnvs(NativeEnvs):
    """N arenas, each with a generator of its own and reset in the step that ends its episode.

    Args:
        num_envs: N.
        arena: as the keyword arguments of `Arenas`.
    """

    def __init__(self, num_envs: int, **arena: Any) -> None:
        self.arenas = Arenas(num_envs, **arena)
        super().__init__(num_envs, self.arenas.observation_space, self.arenas.action_space)
        self.signal_spaces = SIGNAL_SPACES
        self.generators = [seeding.np_random()[0] for _ in range(num_envs)]

    def _reset(self, seeds: Sequence[int | None]) -> np.ndarray:
        for row, seed in enumerate(seeds):
            if seed is not None:
                self.generators[row] = seeding.np_random(seed)[0]
            self.arenas.restart(row, self.generators[row])
        obs, self._signals = self.arenas.observe()
        return obs

    def step_arrays(self, actions: np.ndarray) -> StepArrays:
        """See `Envs`."""
        reward, terminated, truncated = self.arenas.step(actions)
        obs, signals = self.arenas.observe()
        ended = self._count(obs, reward, terminated, truncated)
        if ended is not None:
            rows = ended.indices
            ended = ended._replace(final_signals=index(signals, rows))
            for row in rows:
                self.arenas.restart(row, self.generators[row])
            obs[rows], first_signals = self.arenas.observe(rows)
            assign(signals, rows, first_signals)
        self._signals = signals
        return StepArrays(obs, reward, terminated, truncated, ended, signals)

    def get_state(self) -> Any:
        """See `Envs`."""
        return {
            "arenas": self.arenas.get_state(),
            "returns": self.returns.copy(),
            "lengths": self.lengths.copy(),
            "rng": [generator.bit_generator.state for generator in self.generators],
        }

    def set_state(self, state: Any) -> None:
        """See `Envs`."""
        self.arenas.set_state(state["arenas"])
        self.returns, self.lengths = np.array(state["returns"]), np.array(state["lengths"])
        for generator, rng in zip(self.generators, state["rng"], strict=True):
            generator.bit_generator.state = rng

    def close(self) -> None:
        """Nothing is held."""


def draw(arenas: Arenas) -> np.ndarray:
    """The first arena from above, north up, with what its agent sees: `[PICTURE_SIZE, PICTURE_SIZE, 3]` RGB uint8."""
    scale = PICTURE_SIZE / 2 - MARGIN

    def pixel(point: Any) -> tuple[int, int]:
        x, y = point
        return round(PICTURE_SIZE / 2 + scale * x), round(PICTURE_SIZE / 2 - scale * y)

    image = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), FLOOR, np.uint8)
    position, heading = arenas.position[0], arenas.heading[0]
    centre, antialiased = pixel(position), cv2.LINE_AA
    cv2.circle(image, pixel(arenas.platform[0]), round(scale * PLATFORM_RADIUS), (150, 146, 140), -1, antialiased)
    distance, wall, landmark = arenas.fan.cast(arenas.position, arenas.heading)
    colours = PALETTE[np.where(landmark, LANDMARK, arenas.colours[wall])[0]].tolist()
    ends = position + distance[0, :, None] * arenas.fan.directions[heading].T
    for end, colour in zip(ends[:-1], colours[:-1], strict=True):
        cv2.line(image, centre, pixel(end), colour, 1, antialiased)
    corners = [(1, -1), (1, 1), (-1, 1), (-1, -1)]
    for wall_colour, start, end in zip(arenas.colours, corners, corners[1:] + corners[:1], strict=True):
        cv2.line(image, pixel(start), pixel(end), PALETTE[wall_colour].tolist(), MARGIN // 2)
    stripe = pixel((-LANDMARK_HALF_WIDTH, 1)), pixel((LANDMARK_HALF_WIDTH, 1))
    cv2.line(image, *stripe, PALETTE[LANDMARK].tolist(), MARGIN // 2)
    cv2.circle(image, centre, round(scale * RADIUS), (236, 236, 236), -1, antialiased)
    nose = position + RADIUS * arenas.fan.directions[heading, :, -1]
    cv2.line(image, centre, pixel(nose), (32, 32, 32), 2, antialiased)
    return image


gym.register(ENV_ID, entry_point=NavigationEnv)
