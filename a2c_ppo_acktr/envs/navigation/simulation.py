"""N square arenas with a hidden platform, simulated at once: motion, ray casts, first-person views.

Lengths are in halves of the arena's side: walls stand at x, y = -1 and 1, x to the east, y to the north. Headings are
sixteenths of a turn, counter-clockwise from east, so that every direction comes from a table: a row of the simulation
then gives the same bits whatever N is, which NumPy's own sine does not promise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from a2c_ppo_acktr.utils import UsageError

EAST, NORTH, WEST, SOUTH = range(4)
LEFT, RIGHT, FORWARD, STAY = range(4)
HEADINGS = 16
STEP = 0.1
RADIUS = 0.1
"""Of the agent's body: how near its centre comes to a wall."""
PLATFORM = (0.65, -0.65)
PLATFORM_RADIUS = 0.15
LANDMARK_HALF_WIDTH = 0.3
"""The landmark is a stripe in the middle of the north wall."""
NUM_RAYS = 12
FIELD_OF_VIEW = np.deg2rad(120.0)
VIEW_SHAPE = (3, 36, 48)

WALLS = {"alike": (0, 0, 0, 0), "paired": (0, 1, 0, 1), "distinct": (0, 1, 2, 3)}
"""Colours of the east, north, west and south wall."""
LANDMARK = 4
PALETTE = np.array([(196, 92, 80), (88, 140, 196), (120, 176, 96), (164, 116, 188), (244, 208, 72)], np.uint8)
"""RGB by colour."""
CEILING, FLOOR = (40, 44, 52), (112, 106, 98)

TURNS = np.array([1, -1, 0, 0])
STRIDES = np.array([0.0, 0.0, STEP, 0.0])
ANGLES = np.arange(HEADINGS) * (2 * np.pi / HEADINGS)
DIRECTIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1)


class Fan:
    """Directions of rays for every heading: `num` from left to right over the field of view, then one straight ahead.

    Tables are `[HEADINGS, 2, num + 1]`.

    Args:
        num: K, without the one straight ahead.
    """

    def __init__(self, num: int) -> None:
        self.offsets = np.append(np.linspace(FIELD_OF_VIEW / 2, -FIELD_OF_VIEW / 2, num), 0.0)
        angles = ANGLES[:, None] + self.offsets
        self.directions = np.stack([np.cos(angles), np.sin(angles)], 1)
        self.directions[np.abs(self.directions) < 1e-9] = 1e-9  # so that nothing is divided by zero
        self.inverse = 1.0 / self.directions
        self.reach = np.abs(self.inverse)
        self.walls = np.where(self.directions > 0, [[EAST], [NORTH]], [[WEST], [SOUTH]])

    def cast(self, position: np.ndarray, heading: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What rays from `position: [N, 2]` with `heading: [N]` meet.

        Returns:
            Distance, wall, and whether it is at the landmark, each `[N, K + 1]`; the last column is straight ahead.
        """
        to_wall = self.reach.take(heading, 0) - position[..., None] * self.inverse.take(heading, 0)
        to_x, to_y = to_wall[:, 0], to_wall[:, 1]
        distance, walls = np.minimum(to_x, to_y), self.walls.take(heading, 0)
        wall = np.where(to_x < to_y, walls[:, 0], walls[:, 1])
        along = position[:, :1] + distance * self.directions[:, 0].take(heading, 0)
        return distance, wall, (wall == NORTH) & (np.abs(along) < LANDMARK_HALF_WIDTH)


class Arenas:
    """The simulation; `restart` must have been called for every row before anything else.

    Args:
        num: N.
        walls: which walls have equal colours; a key of `WALLS`.
        platform: its centre.
        random_platform: the platform has another place in each episode.
        view: observe a first-person picture instead of rays.
        max_steps: of an episode, before it is cut.
    """

    def __init__(
        self,
        num: int,
        *,
        walls: str = "alike",
        platform: Sequence[float] = PLATFORM,
        random_platform: bool = False,
        view: bool = False,
        max_steps: int = 200,
    ) -> None:
        if walls not in WALLS:
            raise UsageError(f"Navigation: walls={walls} is none of {', '.join(WALLS)}")
        if not isinstance(max_steps, int) or max_steps < 1:
            raise UsageError(f"Navigation: max_steps={max_steps} is no number of steps")
        centre = np.array(platform)
        if centre.shape != (2,) or centre.dtype.kind not in "if" or np.abs(centre).max() > 1:
            raise UsageError(f"Navigation: platform={platform} is no place [x, y] between -1 and 1")
        self.random_platform, self.view, self.max_steps = bool(random_platform), bool(view), max_steps
        self.colours = np.array(WALLS[walls])
        self.fan = Fan(VIEW_SHAPE[2] if view else NUM_RAYS)
        self.position, self.platform = np.zeros((num, 2)), np.tile(centre.astype(np.float64), (num, 1))
        self.heading, self.steps = np.zeros(num, np.int64), np.zeros(num, np.int64)
        self.observation_space: spaces.Box
        if view:
            self.observation_space = spaces.Box(0, 255, VIEW_SHAPE, np.uint8)
        else:
            high = np.repeat(np.array([np.sqrt(8), 1], np.float32), NUM_RAYS)
            self.observation_space = spaces.Box(np.zeros_like(high), high, dtype=np.float32)
        self.action_space = spaces.Discrete(4)

    def restart(self, row: int, generator: np.random.Generator) -> None:
        """Begin an episode in one arena: a random pose off the platform."""
        free = 1 - RADIUS
        if self.random_platform:
            self.platform[row] = generator.uniform(-free, free, 2)
        while True:
            position = generator.uniform(-free, free, 2)
            if ((position - self.platform[row]) ** 2).sum() > (2 * PLATFORM_RADIUS) ** 2:
                break
        self.position[row], self.heading[row] = position, generator.integers(HEADINGS)
        self.steps[row] = 0

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Move by `actions: [N]`; reward, terminated and truncated, each `[N]`. Walls are slid along.

        The platform gives 1 and every step costs 1 / max_steps: a return is 1 - length / max_steps, or -1.
        """
        self.heading = (self.heading + TURNS.take(actions)) % HEADINGS
        moved = self.position + STRIDES.take(actions)[:, None] * DIRECTIONS.take(self.heading, 0)
        self.position = np.minimum(np.maximum(moved, RADIUS - 1), 1 - RADIUS)
        self.steps += 1
        offset = self.position - self.platform
        terminated = offset[:, 0] ** 2 + offset[:, 1] ** 2 <= PLATFORM_RADIUS**2
        return terminated - 1.0 / self.max_steps, terminated, (self.steps >= self.max_steps) & ~terminated

    def observe(self, rows: Any = slice(None)) -> tuple[np.ndarray, dict[str, Any]]:
        """Observations `[n, ...]` and signals of some rows, in new arrays.

        Without `view` an observation is the distances along `NUM_RAYS` rays, then the colours that they meet, of which
        0 is the first and 1 the landmark's.
        """
        position, heading = self.position[rows], self.heading[rows]
        distance, wall, landmark = self.fan.cast(position, heading)
        distance, facing = distance[:, :-1], wall[:, -1]
        colour = np.where(landmark, LANDMARK, self.colours.take(wall))[:, :-1]
        if self.view:
            obs = picture(distance, colour, self.fan.offsets[:-1])
        else:
            obs = np.concatenate([distance, colour / LANDMARK], 1, dtype=np.float32)
        offset = position - self.platform[rows]
        auxiliary = {
            "heading": DIRECTIONS.take(heading, 0).astype(np.float32),
            "position": position.astype(np.float32),
            "goal_distance": np.sqrt(offset[:, :1] ** 2 + offset[:, 1:] ** 2).astype(np.float32),
            "facing_wall": facing,
        }
        return obs, {"auxiliary": auxiliary}

    def get_state(self) -> dict[str, np.ndarray]:
        """Plain arrays that `set_state` takes."""
        return {name: getattr(self, name).copy() for name in ("position", "heading", "platform", "steps")}

    def set_state(self, state: dict[str, Any]) -> None:
        """Inverse of `get_state`."""
        for name, value in state.items():
            setattr(self, name, np.array(value))


SIGNAL_SPACES: dict[str, spaces.Space] = {
    "auxiliary": spaces.Dict(
        {
            "heading": spaces.Box(-1, 1, (2,), np.float32),
            "position": spaces.Box(-1, 1, (2,), np.float32),
            "goal_distance": spaces.Box(0, np.sqrt(8), (1,), np.float32),
            "facing_wall": spaces.Discrete(4),
        }
    )
}
"""What comes with each observation: cosine and sine of the heading, position, distance to the platform's centre, and
the wall straight ahead (east, north, west, south)."""


def picture(distance: np.ndarray, colour: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """First-person pictures `[N, *VIEW_SHAPE]` of walls as high as the arena's side is half, darker with distance.

    Args:
        distance: `[N, columns]`.
        colour: `[N, columns]`, into `PALETTE`.
        offsets: `[columns]` radians from straight ahead.
    """
    rows = np.arange(VIEW_SHAPE[1]) - (VIEW_SHAPE[1] - 1) / 2
    half_height = 0.25 * VIEW_SHAPE[1] / (distance * np.cos(offsets))
    shade = (PALETTE.T.take(colour, 1) * (1.0 / (1.0 + 0.4 * distance))).astype(np.uint8)
    backdrop = np.where(rows[:, None] < 0, CEILING, FLOOR).T.astype(np.uint8)
    inside = np.abs(rows)[:, None] < half_height[:, None]
    return np.where(inside[:, None], shade.swapaxes(0, 1)[:, :, None], backdrop[None, :, :, None])
