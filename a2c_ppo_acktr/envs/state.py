"""Reading and setting the whole state of one environment as plain values, so that a resumed run is exact.

Known are Gymnasium's classic control, MuJoCo and the Arcade Learning Environment, through every wrapper that this
project puts around them; any other environment joins by defining `get_state() -> plain values` and `set_state(values)`.
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
    """The state of `env` and of its random generator; None where it cannot be read."""
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
    return {"layers": layers, "core": accessors[0](), "rng": env.np_random.bit_generator.state}


def set_state(env: gym.Env, state: State) -> None:
    """Inverse of `get_state`, for an environment built the same way that has been reset once."""
    for layer in state["layers"]:
        env = env.env if isinstance(env, FrameTap) else env
        assert isinstance(env, gym.Wrapper)
        for name, value in layer.items():
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
        return env.get_state, env.set_state
    return None


def _attributes_accessors(env: gym.Env, names: tuple[str, ...]) -> tuple[Callable[[], State], Callable[[State], None]]:
    names = tuple(name for name in names if hasattr(env, name))

    def set_attributes(state: State) -> None:
        for name in names:
            value = state[name]
            setattr(env, name, value.numpy() if hasattr(value, "numpy") else value)

    return lambda: {name: getattr(env, name) for name in names}, set_attributes


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
        mujoco.mj_setState(env.model, env.data, np.asarray(state["integration"]), kind)
        for name, value in arrays().items():
            saved = np.asarray(state["arrays"][name])
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
