"""Reading and setting the whole state of one environment as plain values, so that a resumed run is exact.

Known are Gymnasium's classic control, MuJoCo and the Arcade Learning Environment, through every wrapper that this
project puts around them; any other environment joins by defining `get_state()`, which gives plain values and arrays,
and `set_state(values)`, which takes them. An environment may have methods of these names for a purpose of its own, so
what fails there, or could not be saved, is no error: its episodes begin anew.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import wrappers as gym_wrappers
from stable_baselines3.common import atari_wrappers

from a2c_ppo_acktr.envs.border import Border
from a2c_ppo_acktr.envs.wrappers import (
    DeclareAuxiliary,
    FrameTap,
    HideObservations,
    ImageToChannelsFirst,
    RescaleActions,
)
from a2c_ppo_acktr.interfaces import UnreadableState
from a2c_ppo_acktr.plain import to_arrays, to_plain

State = dict[str, Any]

WRAPPER_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    gym_wrappers.TimeLimit: ("_elapsed_steps",),
    gym_wrappers.OrderEnforcing: ("_has_reset",),
    gym_wrappers.PassiveEnvChecker: ("checked_reset", "checked_step"),
    gym_wrappers.RecordEpisodeStatistics: ("episode_returns", "episode_lengths"),
    gym_wrappers.FlattenObservation: (),
    gym_wrappers.TimeAwareObservation: ("timesteps",),
    atari_wrappers.NoopResetEnv: (),
    atari_wrappers.FireResetEnv: (),
    atari_wrappers.MaxAndSkipEnv: (),
    atari_wrappers.WarpFrame: (),
    atari_wrappers.ClipRewardEnv: (),
    atari_wrappers.EpisodicLifeEnv: ("lives", "was_real_done"),
    Border: ("episode_returns", "episode_lengths"),
    FrameTap: (),
    ImageToChannelsFirst: (),
    RescaleActions: (),
    HideObservations: (),
    DeclareAuxiliary: (),
}
"""Wrappers that are known, and the attributes in which each keeps its state."""

CLASSIC_CONTROL_ATTRIBUTES = ("state", "steps_beyond_terminated", "last_u")


def get_state(env: gym.Env) -> State | None:
    """The state of `env` and of its random generator; None where nobody knows how to read it.

    Raises:
        UnreadableState: the environment's own `get_state` fails, or gives what cannot be saved.
    """
    layers: list[State] = []
    while isinstance(env, gym.Wrapper):
        names = WRAPPER_ATTRIBUTES.get(type(env))
        if names is None:
            return None
        if not isinstance(env, FrameTap):  # so that a run is resumed with and without pictures alike
            layers.append({name: getattr(env, name) for name in names})
        env = env.env
    accessors = _core_accessors(env)
    if accessors is None:
        return None
    try:
        rng = env.np_random.bit_generator.state
    except AttributeError as error:
        raise UnreadableState(f"{type(env).__name__}.np_random: {error}") from error
    return {"layers": layers, "core": accessors[0](), "rng": rng}


def set_state(env: gym.Env, state: State) -> None:
    """Inverse of `get_state`, for an environment built the same way that has been reset once; arrays may be tensors.

    Raises:
        UnreadableState: the environment's own `set_state` fails.
    """
    state = to_arrays(state)
    for layer in state["layers"]:
        env = env.env if isinstance(env, FrameTap) else env
        assert isinstance(env, gym.Wrapper)
        for name, value in layer.items():
            _check_alike(f"{type(env).__name__}.{name}", getattr(env, name), value)
            setattr(env, name, value)
        env = env.env
    accessors = _core_accessors(env)
    assert accessors is not None, f"{env} has no readable state"
    accessors[1](state["core"])
    env.np_random.bit_generator.state = state["rng"]


def _core_accessors(env: Any) -> tuple[Callable[[], State], Callable[[State], None]] | None:
    """Functions that read and set the state of an unwrapped environment; None for an unknown kind."""
    module = type(env).__module__
    if module.startswith("gymnasium.envs.classic_control"):
        return _attributes_accessors(env, CLASSIC_CONTROL_ATTRIBUTES)
    if module.startswith("gymnasium.envs.mujoco"):
        return _mujoco_accessors(env)
    if module.startswith("ale_py"):
        return _ale_accessors(env)
    if callable(getattr(env, "get_state", None)) and callable(getattr(env, "set_state", None)):
        return _own_accessors(env)
    return None


def _own_accessors(env: Any) -> tuple[Callable[[], State], Callable[[State], None]]:
    """Those of the environment itself, where they are for this purpose."""
    name = type(env).__name__

    def get() -> State:
        try:
            state = env.get_state()
            to_plain(state)
        except Exception as error:  # code of the user's own
            raise UnreadableState(f"{name}.get_state(): {error}") from error
        return state

    def set_(state: State) -> None:
        try:
            env.set_state(state)
        except Exception as error:
            raise UnreadableState(f"{name}.set_state(...): {error}") from error

    return get, set_


def _attributes_accessors(env: gym.Env, names: tuple[str, ...]) -> tuple[Callable[[], State], Callable[[State], None]]:
    names = tuple(name for name in names if hasattr(env, name))

    def set_attributes(state: State) -> None:
        for name in names:
            _check_alike(name, getattr(env, name), state[name])
            setattr(env, name, state[name])

    return lambda: {name: getattr(env, name) for name in names}, set_attributes


def _check_alike(name: str, own: Any, value: Any) -> None:
    """`ValueError` where a value from a file is no number, or not of the shape and kind of the environment's own."""
    if own is None and value is None:
        return
    found, expected = np.asarray(value), np.asarray(0.0 if own is None else own)
    fits = found.dtype.kind in "biuf" and (found.dtype.kind == "f") <= (expected.dtype.kind == "f")
    if not fits or found.shape != expected.shape:
        raise ValueError(f"the environment's {name} is {value!r}, expected something like {own!r}")


def _mujoco_accessors(env: Any) -> tuple[Callable[[], State], Callable[[State], None]]:
    """Physics state, and every derived array of fixed size, since some environments read those before they step."""
    import mujoco

    kind = int(mujoco.mjtState.mjSTATE_INTEGRATION)

    def arrays() -> dict[str, np.ndarray]:
        named = {name: getattr(env.data, name) for name in dir(env.data) if not name.startswith("_")}
        return {name: value for name, value in named.items() if isinstance(value, np.ndarray)}

    def get() -> State:
        integration = np.empty(mujoco.mj_stateSize(env.model, kind))
        mujoco.mj_getState(env.model, env.data, integration, kind)
        return {"integration": integration, "arrays": {name: value.copy() for name, value in arrays().items()}}

    def set_(state: State) -> None:
        mujoco.mj_setState(env.model, env.data, state["integration"], kind)
        for name, value in arrays().items():
            saved = state["arrays"][name]
            if saved.shape == value.shape:  # contact and constraint arrays vary in size and are made anew by a step
                value[...] = saved

    return get, set_


def _ale_accessors(env: Any) -> tuple[Callable[[], State], Callable[[State], None]]:
    from ale_py import ALEState

    def set_(state: State) -> None:
        emulator = ALEState.__new__(ALEState)
        emulator.__setstate__(state["ale"])
        env.restore_state(emulator)

    return lambda: {"ale": env.clone_state(include_rng=True).__getstate__()}, set_
