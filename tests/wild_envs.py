"""Environments as people write them, each odd in one way; registered under `tests.wild_envs:`."""

import copy
import fractions
import sys
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (40, 40, 3), np.uint8)
PAIR = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(2)})


class Wild(gym.Env):
    """Episodes of six steps; what is odd about it is in its attributes, which registration sets."""

    metadata: Any = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space: Any = VECTOR
    action_space: Any = spaces.Discrete(2)
    horizon = 6

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.seen: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), self.tell()

    def step(self, action: Any) -> Any:
        self.seen.append(copy.copy(action))
        self.t += 1
        return self.observe(), self.pay(), *self.end(), self.tell()

    def observe(self) -> Any:
        return np.full(3, self.t, np.float32)

    def pay(self) -> Any:
        return 1.0

    def end(self) -> tuple[Any, Any]:
        return self.t >= self.horizon, False

    def tell(self) -> Any:
        return {}


def wild(name: str, base: type = Wild, **attributes: Any) -> None:
    """Register `base` with other attributes; a function is a method."""
    gym.register(f"{name}-v0", entry_point=type(name, (base,), attributes), disable_env_checker=True)


def always(value: Any) -> Any:
    return lambda env: value


def at(time: int, value: Any, before: Any) -> Any:
    return lambda env: value if env.t == time else before


def crash(error: BaseException) -> Any:
    def method(*args: Any, **kwargs: Any) -> Any:
        raise error

    return method


ZERO = np.zeros(3, np.float32)
OBSERVATIONS: dict[str, tuple[Any, Any, str]] = {
    "OneForAll": (VECTOR, always(0.5), "observation is 0.5 (float), expected float32 numbers of shape [3]"),
    "OneInAList": (VECTOR, always([0.5]), "shape [3]"),
    "Column": (VECTOR, always(np.zeros((3, 1), np.float32)), "shape [3, 1], expected float32 numbers of shape [3]"),
    "Row": (VECTOR, always(np.zeros((1, 3), np.float32)), "shape [1, 3]"),
    "Longer": (VECTOR, always(np.zeros(4, np.float32)), "shape [4]"),
    "Nothing": (VECTOR, always(None), "observation is None"),
    "Nones": (VECTOR, always([None] * 3), "observation is [None, None, None]"),
    "Ragged": (VECTOR, always([[1.0], [1.0, 2.0], 3.0]), "expected float32 numbers of shape [3]"),
    "Words": (VECTOR, always(["a", "b", "c"]), "expected float32 numbers"),
    "Complex": (VECTOR, always(np.zeros(3, np.complex64)), "complex64"),
    "WithGradient": (VECTOR, always(torch.zeros(3, requires_grad=True)), "expected float32 numbers"),
    "Fractions": (spaces.Box(0, 255, (3,), np.uint8), always(np.array([0.2, 0.7, 0.9])), "expected uint8 numbers"),
    "FractionsLater": (spaces.Box(0, 9, (3,), np.int64), at(3, np.array([0.5, 0, 0]), np.zeros(3)), "expected int64"),
    "TooBright": (PICTURE, always(np.full((40, 40, 3), 300)), "int64 numbers of shape [40, 40, 3], expected uint8"),
    "Negative": (spaces.Box(0, 255, (3,), np.uint8), always(np.array([-1, 0, 0])), "expected uint8"),
    "NaNInBytes": (spaces.Box(0, 255, (3,), np.uint8), always(np.array([np.nan, 0, 0])), "expected uint8"),
    "Planar": (
        PICTURE,
        always(np.zeros((40, 40), np.uint8)),
        "shape [40, 40], expected uint8 numbers of shape [40, 40",
    ),
    "Transposed": (PICTURE, always(np.zeros((3, 40, 40), np.uint8)), "shape [3, 40, 40]"),
    "NaN": (VECTOR, at(4, np.array([0, np.nan, 1], np.float32), ZERO), "observation[1] is nan, expected a finite"),
    "Infinite": (VECTOR, at(4, np.array([0, 0, -np.inf], np.float32), ZERO), "observation[2] is -inf"),
    "NaNAtTheEnd": (VECTOR, at(6, np.array([np.nan, 0, 0], np.float32), ZERO), "observation[0] is nan"),
    "FromOne": (spaces.Discrete(3), at(2, 3, 0), "observation is 3 (int), expected an integer from 0 to 2"),
    "BeforeTheStart": (spaces.Discrete(3, start=1), always(np.int64(0)), "expected an integer from 1 to 3"),
    "Half": (spaces.Discrete(3), always(0.5), "expected an integer from 0 to 2"),
    "OneInAnArray": (spaces.Discrete(3), always(np.array([1])), "shape [1], expected an integer from 0 to 2"),
    "ChoiceTooHigh": (spaces.MultiDiscrete([2, 3]), at(2, np.array([0, 3]), np.array([1, 2])), "MultiDiscrete([2 3])"),
    "Two": (spaces.MultiBinary(2), always(np.array([0, 2])), "MultiBinary(2)"),
    "NoKey": (PAIR, always({"a": np.zeros(2, np.float32)}), "observation has no 'b', expected 'a', 'b'"),
    "NoDict": (PAIR, always(ZERO), "expected a dictionary of 'a', 'b'"),
    "WrongLeaf": (PAIR, always({"a": ZERO, "b": 0}), "observation['a'] is"),
    "NaNInALeaf": (PAIR, at(2, {"a": [np.nan, 0], "b": 0}, {"a": [0, 0], "b": 0}), "observation['a'][0] is nan"),
    "ShortTuple": (spaces.Tuple((VECTOR, VECTOR)), always((ZERO,)), "expected a tuple of 2"),
    "DeepMisfit": (
        spaces.Dict({"x": spaces.Tuple((VECTOR, spaces.Discrete(2)))}),
        always({"x": (ZERO, 2)}),
        "observation['x'][1] is 2 (int), expected an integer from 0 to 1",
    ),
}
"""What does not fit: space, observations, what is said."""
for _name, (_space, _observe, _) in OBSERVATIONS.items():
    wild(f"Obs{_name}", observation_space=_space, observe=_observe)

REWARDS: dict[str, tuple[Any, str]] = {
    "InAnArray": (np.array([1.0]), "reward is [1.], ndarray of float64 numbers of shape [1], expected a number"),
    "Two": (np.array([1.0, 2.0]), "expected a number"),
    "InAList": ([1.0], "reward is [1.0] (list)"),
    "ByAgent": ({"me": 1.0}, "reward is a dictionary of 'me'"),
    "Word": ("1.0", "reward is '1.0' (str)"),
    "None": (None, "reward is None"),
    "Complex": (1j, "expected a number"),
    "NaN": (float("nan"), "reward is nan, expected a finite number"),
    "Infinite": (np.float32("inf"), "reward is inf"),
    "Tensor": (torch.ones(2), "expected a number"),
}
for _name, (_reward, _) in REWARDS.items():
    wild(f"Reward{_name}", pay=at(3, _reward, 0.0))

STEPS: dict[str, tuple[Any, str]] = {
    "Old": (lambda env, action: (ZERO, 1.0, False, {}), "step gave a tuple of 4, expected 5 values: step(action) -> ("),
    "Nothing": (lambda env, action: None, "step gave None"),
    "FlagWord": (lambda env, action: (ZERO, 1.0, "no", False, {}), "terminated is 'no' (str), expected True or False"),
    "FlagOfAll": (lambda env, action: (ZERO, 1.0, False, np.array([True, False]), {}), "truncated is"),
    "Raises": (crash(ValueError("the arm\nis stuck")), "ValueError: the arm is stuck (wild_envs.py:"),
    "Exits": (crash(SystemExit(0)), "SystemExit: 0"),
    "Silent": (crash(AssertionError()), "AssertionError ("),
}
for _name, (_step, _) in STEPS.items():
    wild(f"Step{_name}", step=_step)

RESETS: dict[str, tuple[Any, str]] = {
    "Old": (lambda env: ZERO, "unexpected keyword argument 'seed'; expected reset(seed=..., options=...) -> ("),
    "NoInfo": (lambda env, seed=None, options=None: ZERO, "expected 2 values: reset("),
    "Three": (lambda env, seed=None, options=None: (ZERO, {}, {}), "reset gave a tuple of 3"),
    "Nothing": (lambda env, seed=None, options=None: None, "reset gave None"),
    "Raises": (crash(KeyError("map")), "KeyError: 'map' (wild_envs.py:"),
    "Exits": (crash(SystemExit(0)), "SystemExit: 0"),
}
for _name, (_reset, _) in RESETS.items():
    wild(f"Reset{_name}", reset=_reset)


def spaceless(env: Any, render_mode: Any = None) -> None:
    raise AssertionError("not called")


CONSTRUCTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "Raises": (
        {"__init__": crash(ValueError("size must be odd"))},
        "cannot be made: ValueError: size must be odd (wild_",
    ),
    "NoFile": ({"__init__": crash(FileNotFoundError("no such level: 7"))}, "FileNotFoundError: no such level: 7"),
    "OwnTypeError": ({"__init__": lambda env: 1 + "a"}, "unsupported operand type(s) for +: 'int' and 'str' (wild_"),  # type: ignore[operator]
    "Exits": ({"__init__": lambda env: sys.exit(0)}, "cannot be made: SystemExit: 0"),
    "NoSpace": ({"observation_space": None}, "observation is None, expected Box, Discrete"),
    "NoActions": ({"action_space": None}, "the action is None"),
    "Class": ({"observation_space": spaces.Discrete}, "expected Box, Discrete"),
    "Empty": ({"observation_space": spaces.Box(-1, 1, (0,))}, "which has no numbers"),
    "EmptyDict": (
        {"observation_space": spaces.Dict({"a": VECTOR, "b": spaces.Dict({})})},
        "observation['b'] is Dict()",
    ),
    "NoChoice": ({"action_space": spaces.MultiDiscrete([])}, "which has no numbers"),
    "ManyChoices": ({"action_space": spaces.Discrete(10**12)}, "1,000,000,000,000 values, expected at most 1,000,000"),
    "ManyStates": ({"observation_space": spaces.Discrete(10**12)}, "expected at most 1,000,000"),
    "Text": ({"observation_space": spaces.Dict({"v": VECTOR, "say": spaces.Text(9)})}, "observation['say'] is Text"),
    "Matrix": ({"action_space": spaces.Box(-1, 1, (2, 3))}, "of shape [2, 3], expected one axis"),
    "Scalar": ({"action_space": spaces.Box(-1, 1, ())}, "of shape [], expected one axis"),
    "Bits": ({"action_space": spaces.MultiBinary((2, 3))}, "of shape [2, 3], expected one axis"),
    "Nested": ({"action_space": PAIR}, "the action is Dict"),
    "MaskOfBox": (
        {"action_space": spaces.Box(-1, 1, (2,)), "signal_spaces": {"action_mask": spaces.MultiBinary(2)}},
        "action_mask is for Discrete and MultiDiscrete actions, not Box",
    ),
    "LongMask": ({"signal_spaces": {"action_mask": spaces.MultiBinary(3)}}, "expected shape [2] for Discrete(2)"),
    "SignalList": ({"signal_spaces": ["action_mask"]}, "signal_spaces is ['action_mask'], expected a dictionary"),
}
for _name, (_attributes, _) in CONSTRUCTIONS.items():
    wild(f"Made{_name}", **_attributes)


class Monitored(gym.Wrapper):
    """Notes episodes in `info` as Stable-Baselines3's Monitor does."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, info | {"episode": {"r": -5.0, "l": 1, "t": 0.0}}


FINE: dict[str, dict[str, Any]] = {
    "Lists": {"observe": always([0.1, 0.2, 0.3])},
    "Doubles": {"observe": always(np.zeros(3))},
    "BigEndian": {"observe": always(np.zeros(3, ">f4"))},
    "Integers": {"observe": always(np.zeros(3, np.int64))},
    "Tensors": {"observe": always(torch.zeros(3))},
    "Frozen": {"observe": lambda env: np.broadcast_to(np.float32(env.t), (3,))},
    "WholeFloats": {
        "observation_space": spaces.Box(0, 255, (3,), np.uint8),
        "observe": always(np.array([0.0, 7.0, 255.0])),
    },
    "FloatChoice": {"observation_space": spaces.Discrete(3), "observe": always(2.0)},
    "NoAxes": {"observation_space": spaces.Box(-1, 1, (), np.float32), "observe": always(0.5)},
    "ListForTuple": {"observation_space": spaces.Tuple((VECTOR, VECTOR)), "observe": always([ZERO, ZERO])},
    "MoreKeys": {"observation_space": PAIR, "observe": always({"a": [0, 0], "b": 1, "text": "hello"})},
    "RewardBool": {"pay": always(True)},
    "RewardInt": {"pay": always(np.int8(1))},
    "RewardNoAxes": {"pay": always(np.array(1.0))},
    "RewardTensor": {"pay": always(torch.tensor(1.0, requires_grad=True))},
    "RewardFraction": {"pay": always(fractions.Fraction(1))},
    "NumPyFlags": {"end": lambda env: (np.bool_(env.t >= 6), np.array([False]))},
    "NumberFlags": {"end": lambda env: (int(env.t >= 6), 0)},
    "NoneFlag": {"end": lambda env: (env.t >= 6, None)},
    "BothFlags": {"end": lambda env: (env.t >= 6, env.t >= 6)},
    "ListStep": {"step": lambda env, action: list(Wild.step(env, action))},
    "NoInfo": {"tell": always(None)},
    "OwnEpisode": {"tell": lambda env: {"episode": env.t}},
    "MetadataNone": {"metadata": {"render_modes": None}},
    "MetadataEmpty": {"metadata": {}},
    "MetadataOdd": {"metadata": {"render_modes": "rgb_array", "render_fps": "fast"}},
    "CloseRaises": {"close": crash(RuntimeError("already closed"))},
    "OneAction": {"action_space": spaces.Discrete(1)},
    "HalfPrecision": {"observation_space": spaces.Box(-1, 1, (3,), np.float16), "observe": always(ZERO)},
}
for _name, _attributes in FINE.items():
    wild(f"Fine{_name}", **_attributes)
gym.register("FineMonitored-v0", entry_point=lambda: Monitored(gym.wrappers.RecordEpisodeStatistics(Wild())))


class Reuse(Wild):
    """One buffer for every observation, mask and target, which a simulator writes into; pictures too."""

    observation_space = spaces.Dict({"deep": spaces.Tuple((VECTOR,)), "flat": VECTOR})
    action_space = spaces.Discrete(8)
    signal_spaces = {"action_mask": spaces.MultiBinary(8), "auxiliary": spaces.Dict({"clock": VECTOR})}

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.flat, self.deep, self.mask = ZERO.copy(), ZERO.copy(), np.zeros(8, np.int8)
        self.info = {"action_mask": self.mask, "auxiliary": {"clock": self.flat}}
        self.picture = np.zeros((96, 96, 3), np.uint8)

    def observe(self) -> Any:
        self.flat[:], self.deep[:] = self.t, -self.t
        self.mask[:] = 0
        self.mask[self.t] = 1
        return {"deep": (self.deep,), "flat": self.flat}

    def tell(self) -> Any:
        return self.info

    def render(self) -> Any:
        self.flat[:] = 99  # as where observations and pictures are drawn by one renderer
        self.mask[:] = 0
        self.picture[:] = 40 * self.t
        return self.picture


gym.register("Reuse-v0", entry_point=Reuse)
wild("ReuseFlat", observation_space=VECTOR, observe=lambda env: _fill(env), end=lambda env: (False, env.t >= 6))


def _fill(env: Any) -> np.ndarray:
    env.buffer = env.__dict__.setdefault("buffer", ZERO.copy())
    env.buffer[:] = env.t
    return env.buffer


def _masks(of: Any) -> Any:
    return lambda env: {"action_mask": np.array(of(env.t), np.int8)}


CHOICES = spaces.MultiDiscrete([2, 2])
wild("MaskZeroAtTheEnd", signal_spaces={"action_mask": spaces.MultiBinary(2)}, tell=_masks(lambda t: [t < 6, 0]))
wild("MaskZero", signal_spaces={"action_mask": spaces.MultiBinary(2)}, tell=_masks(lambda t: [t != 3, 0]))
wild(
    "MaskZeroInAPart",
    action_space=CHOICES,
    signal_spaces={"action_mask": spaces.MultiBinary(4)},
    tell=_masks(lambda t: [1, 1, t != 3, 0]),
)
wild("MaskLost", signal_spaces={"action_mask": spaces.MultiBinary(2)}, tell=always({}))
wild("MaskShort", signal_spaces={"action_mask": spaces.MultiBinary(2)}, tell=always({"action_mask": np.ones(1)}))

BOXES = {
    "BoxFar": spaces.Box(np.array([5, -1], np.float32), np.array([9, -0.5], np.float32)),
    "BoxWide": spaces.Box(0.0, 100.0, (1,), np.float64),
    "BoxTiny": spaces.Box(-0.01, 0.01, (1,), np.float32),
    "BoxWhole": spaces.Box(-2, 2, (1,), np.int64),
    "BoxHalfOpen": spaces.Box(7.0, np.inf, (1,), np.float32),
}
for _name, _space in BOXES.items():
    wild(_name, action_space=_space)


def _spoil(env: Any, action: Any) -> Any:
    action[:] = 0
    return Wild.step(env, action)


wild("WritesIntoBits", action_space=spaces.MultiBinary(2), step=_spoil)
wild("WritesIntoNumbers", action_space=spaces.Box(-np.inf, np.inf, (2,), np.float32), step=_spoil)


class Drawn(Wild):
    """What `draw` makes of a red picture that becomes bluer is its picture."""

    draw: Any = staticmethod(lambda picture, t: picture)

    def render(self) -> Any:
        picture = np.zeros((96, 128, 3), np.uint8)
        picture[..., 0], picture[..., 2] = 200, 40 * self.t
        return self.draw(picture, self.t)


def _with_alpha(picture: np.ndarray, t: int) -> np.ndarray:
    return np.concatenate([picture, np.full((96, 128, 1), 255, np.uint8)], 2)


DRAWN: dict[str, Any] = {
    "RGB": lambda picture, t: picture,
    "RGBA": _with_alpha,
    "Floats": lambda picture, t: picture / 255.0,
    "BigFloats": lambda picture, t: picture.astype(np.float32),
    "Integers": lambda picture, t: picture.astype(np.int64),
    "Unsigned": lambda picture, t: picture.astype(np.uint16),
    "Lists": lambda picture, t: picture.tolist(),
    "Flipped": lambda picture, t: picture[::-1, ::-1],
    "Grey": lambda picture, t: picture[..., 0],
    "GreyAxis": lambda picture, t: picture[..., :1],
    "Flags": lambda picture, t: picture > 100,
}
UNDRAWN: dict[str, tuple[Any, str]] = {
    "None": (lambda picture, t: None, "render() gave None"),
    "Frames": (lambda picture, t: [picture, picture], "render() gave"),
    "Object": (lambda picture, t: SimpleNamespace(pixels=picture), "render() gave"),
    "Planes": (lambda picture, t: np.moveaxis(picture, -1, 0), "shape [3, 96, 128], expected numbers of shape [height"),
    "NoneLater": (lambda picture, t: picture if t < 3 else None, "failed in step: render() gave None"),
    "Growing": (lambda picture, t: np.pad(picture, ((0, 10 * t), (0, 0), (0, 0))), "106 x 128 after 96 x 128"),
}
for _name, _draw in DRAWN.items():
    wild(f"Drawn{_name}", Drawn, draw=staticmethod(_draw))
for _name, (_draw, _) in UNDRAWN.items():
    wild(f"Undrawn{_name}", Drawn, draw=staticmethod(_draw))
wild("DrawnWithoutMode", Drawn, __init__=lambda env, **kwargs: Wild.__init__(env))


class Global(Wild):
    """Draws from NumPy's global generator, a level in its constructor and every observation."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.level = np.random.uniform()

    def observe(self) -> Any:
        return np.array([self.level, *np.random.uniform(-1, 1, 2)], np.float32)


class Seeds(Wild):
    """Shows the seed of its first reset."""

    observation_space = spaces.Box(0, 2**31, (1,), np.int64)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.number = seed if seed is not None else self.number
        return super().reset(seed=seed)

    def observe(self) -> Any:
        return np.array([self.number])


gym.register("Global-v0", entry_point=Global)
gym.register("Seeds-v0", entry_point=Seeds)


def camera(shape: tuple[int, ...]) -> spaces.Box:
    """A space of pictures."""
    return spaces.Box(0, 255, shape, np.uint8)


def _colours(env: Any) -> Any:
    """Pictures whose red is 10 times the time, at the top, in a Dict and in a Tuple within it."""
    picture = np.zeros((40, 48, 3), np.uint8)
    picture[..., 0] = 10 * env.t
    return {"camera": picture, "both": (picture.copy(), np.full(4, 1000.0 * env.t, np.float32))}


NUMBERS = spaces.Box(-1e4, 1e4, (4,), np.float32)
wild("Alone", observation_space=camera((40, 48, 3)), observe=lambda env: _colours(env)["camera"])
BOTH = spaces.Tuple((camera((40, 48, 3)), NUMBERS))
wild("Nested", observation_space=spaces.Dict({"camera": camera((40, 48, 3)), "both": BOTH}), observe=_colours)
wild("Cube", observation_space=camera((10, 10, 10)), observe=lambda env: np.zeros((10, 10, 10), np.uint8))
wild(
    "Scores",
    observation_space=spaces.Box(-1e4, 1e4, (2, 2), np.float64),
    observe=lambda env: env.np_random.normal(5e3, 1.0, (2, 2)),
    pay=always(100.0),
)
