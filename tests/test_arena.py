"""The arena: what rays meet, what actions do, when an episode ends."""

import numpy as np
import pytest

from a2c_ppo_acktr.envs.navigation.env import NavigationEnv
from a2c_ppo_acktr.envs.navigation.simulation import (
    EAST,
    FORWARD,
    HEADINGS,
    LANDMARK,
    LEFT,
    NORTH,
    NUM_RAYS,
    PLATFORM,
    PLATFORM_RADIUS,
    RADIUS,
    RIGHT,
    SOUTH,
    STAY,
    STEP,
    WEST,
    Arenas,
)
from a2c_ppo_acktr.spaces import index

QUARTER = HEADINGS // 4


def placed(position, heading, **kwargs):
    """One arena with its agent at a place and a heading."""
    arenas = Arenas(1, **kwargs)
    arenas.restart(0, np.random.default_rng(0))
    arenas.position[0], arenas.heading[0] = position, heading
    return arenas


def seen(arenas):
    """Distances and colours of the twelve rays, left to right, and the auxiliary targets."""
    obs, signals = arenas.observe()
    return obs[0, :NUM_RAYS], obs[0, NUM_RAYS:] * LANDMARK, index(signals["auxiliary"], 0)


def test_rays_meet_the_walls_at_distances_worked_out_by_hand():
    # From the centre, facing east, the outermost rays point 60 degrees off: the north and south walls are at
    # 1 / sin 60, and 5 steps of 120 / 11 degrees inwards, 5.4545 degrees off, the east wall is at 1 / cos 5.4545.
    distance, _, auxiliary = seen(placed((0, 0), 0))
    assert distance[[0, 11]] == pytest.approx([1.154701] * 2)
    assert distance[[5, 6]] == pytest.approx([1.004549] * 2)
    np.testing.assert_allclose(distance, distance[::-1], rtol=1e-6)
    assert auxiliary["facing_wall"] == EAST
    # From (0.5, -0.2), facing north: the leftmost ray, at 150 degrees, to the west wall 1.5 / cos 30 = 1.732051,
    # to the north wall 1.2 / sin 30 = 2.4; the rightmost, at 30 degrees, to the east wall 0.5 / cos 30 = 0.577350.
    distance, _, auxiliary = seen(placed((0.5, -0.2), QUARTER))
    assert distance[[0, 11]] == pytest.approx([1.732051, 0.577350])
    assert distance[5] == pytest.approx(1.2 / np.cos(np.deg2rad(60 / 11)))
    assert auxiliary["facing_wall"] == NORTH


@pytest.mark.parametrize("heading", range(HEADINGS))
def test_every_ray_ends_on_the_wall_that_it_is_said_to_meet(heading):
    arenas = placed((0.31, -0.77), heading)
    distance, wall, landmark = (one[0] for one in arenas.fan.cast(arenas.position, arenas.heading))
    ends = arenas.position[0] + distance[:, None] * arenas.fan.directions[heading].T
    assert np.abs(ends).max() <= 1 + 1e-9
    for (x, y), w, marked in zip(ends, wall, landmark, strict=True):
        assert {EAST: x, NORTH: y, WEST: -x, SOUTH: -y}[w] == pytest.approx(1)
        assert marked == (w == NORTH and abs(x) < 0.3)


def test_colours_name_walls_and_the_landmark():
    north = placed((0, 0.2), QUARTER, walls="distinct")
    _, colour, _ = seen(north)
    # The wall is 0.8 away: a stripe of 0.3 to each side fills 20.6 degrees, two rays of 10.9 degrees to each side.
    assert colour.round().tolist() == [2, 1, 1, 1] + [LANDMARK] * 4 + [1, 1, 1, 0]
    _, colour, _ = seen(placed((0, 0.2), QUARTER))
    assert set(colour.round()) == {0, LANDMARK}


def test_poses_that_differ_by_a_quarter_turn_look_alike_unless_the_landmark_is_seen():
    views = [
        seen(placed(at, h))[0] for at, h in [((0.5, -0.3), 0), ((0.3, 0.5), 4), ((-0.5, 0.3), 8), ((-0.3, -0.5), 12)]
    ]
    np.testing.assert_allclose(views, np.broadcast_to(views[0], (4, NUM_RAYS)), rtol=1e-5)
    colours = [seen(placed(at, h))[1] for at, h in [((0.5, -0.3), 0), ((-0.5, 0.3), 8), ((-0.3, -0.5), 12)]]
    np.testing.assert_array_equal(colours, np.broadcast_to(colours[0], (3, NUM_RAYS)))
    assert (seen(placed((0.3, 0.5), 4))[1] != colours[0]).any()


def test_actions_turn_step_and_slide_along_walls():
    arenas = placed((0, 0), 0)
    arenas.step(np.array([LEFT]))
    assert arenas.heading[0] == 1
    arenas.step(np.array([RIGHT])), arenas.step(np.array([RIGHT]))
    assert arenas.heading[0] == HEADINGS - 1
    arenas.step(np.array([STAY]))
    assert arenas.position[0].tolist() == [0, 0]
    arenas.step(np.array([FORWARD]))
    turn = 2 * np.pi / HEADINGS
    assert arenas.position[0] == pytest.approx([STEP * np.cos(turn), -STEP * np.sin(turn)])
    for _ in range(40):
        arenas.step(np.array([FORWARD]))
    assert arenas.position[0] == pytest.approx([1 - RADIUS, RADIUS - 1])


def test_reaching_the_platform_ends_with_reward_one_less_the_cost_of_a_step_and_the_limit_cuts():
    env = NavigationEnv(max_steps=30)
    env.reset(seed=0)
    x, y = PLATFORM
    env.set_state(env.get_state() | {"position": [[x - PLATFORM_RADIUS - 1.5 * STEP, y]], "heading": [0]})
    assert env.step(FORWARD)[1:4] == (-1 / 30, False, False)
    _, reward, terminated, truncated, info = env.step(FORWARD)
    assert (reward, terminated, truncated) == (1 - 1 / 30, True, False)
    assert info["auxiliary"]["goal_distance"] == pytest.approx(PLATFORM_RADIUS - 0.5 * STEP)
    env.reset(seed=1)
    ends = [env.step(STAY)[1:4] for _ in range(30)]
    assert ends == [(-1 / 30, False, False)] * 29 + [(-1 / 30, False, True)]


def test_arriving_on_the_last_allowed_step_is_no_truncation():
    arenas = placed((PLATFORM[0] - PLATFORM_RADIUS - 0.5 * STEP, PLATFORM[1]), 0, max_steps=1)
    reward, terminated, truncated = arenas.step(np.array([FORWARD]))
    assert (reward[0], terminated[0], truncated[0]) == (0.0, True, False)
