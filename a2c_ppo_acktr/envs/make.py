"""From an environment's name to vectorized environments."""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from a2c_ppo_acktr.envs.families import ATARI, FAMILIES, MUJOCO, NAVIGATION, make_env, resolve
from a2c_ppo_acktr.envs.filmed import FilmedEnvs, JointEnvs
from a2c_ppo_acktr.envs.native import AleEnvs, CartPoleEnvs, EnvPoolEnvs
from a2c_ppo_acktr.envs.navigation.env import NavigationEnvs
from a2c_ppo_acktr.envs.subproc import SubprocEnvs
from a2c_ppo_acktr.envs.targets import AuxiliaryEnvs
from a2c_ppo_acktr.envs.vec_wrappers import FrameStackEnvs, NormalizedEnvs
from a2c_ppo_acktr.envs.vector import DummyEnvs, Envs
from a2c_ppo_acktr.envs.video.camera import Camera
from a2c_ppo_acktr.envs.video.rendering import prepare_rendering
from a2c_ppo_acktr.interfaces import AUXILIARY
from a2c_ppo_acktr.utils import UsageError

ATARI_FRAME_STACK = 4
COSTLY_FAMILIES = ("atari", "dm_control", "pybullet")
MANY_COSTLY = 4
PLAIN = "takes none of --env-kwargs, --time-feature and --hide-observations, and shows no pictures"
CARTPOLES, MANY_CARTPOLES = ("CartPole-v0", "CartPole-v1"), 6

BACKENDS = {
    "native": "stepped natively",
    "dummy": "one after the other in this process",
    "subproc": "in worker processes",
    "envpool": "stepped by EnvPool",
}


def choose_backend(env_id: str, num_envs: int, plain: bool) -> str:
    """The fastest backend for an environment.

    Native stepping where it matches single environments, unless there are so few that they are faster in turn; worker
    processes for at least `MANY_COSTLY` environments of a family whose steps take a third of a millisecond or more,
    where there are cores to share them; else a loop in this process. The loop and the workers give the same numbers.

    Args:
        env_id: a resolved id.
        num_envs: N.
        plain: no pictures were asked for, nor arguments that only single environments take.
    """
    if plain and fits_native(env_id) and not (env_id in CARTPOLES and num_envs < MANY_CARTPOLES):
        return "native"
    costly = any(pattern.match(env_id) for pattern, family, _ in FAMILIES if family in COSTLY_FAMILIES)
    return "subproc" if costly and num_envs >= MANY_COSTLY and (os.cpu_count() or 1) > 1 else "dummy"


@functools.cache
def fits_native(env_id: str) -> bool:
    """Whether a native backend matches the single environment."""
    if ATARI.match(env_id):
        with contextlib.closing(gym.make(env_id)) as env:
            env.reset(seed=0)
            return AleEnvs.fits(env.unwrapped)
    return env_id in (NAVIGATION, *CARTPOLES)


def _make_native(env_id: str, num_envs: int, plain: bool, env_kwargs: dict[str, Any]) -> Envs:
    if not plain or not fits_native(env_id):
        reason = "there is none for it" if plain else f"it {PLAIN}"
        raise UsageError(f"--vec-env native: {env_id} cannot use it: {reason}")
    if env_id == NAVIGATION:
        return _make_navigation(num_envs, env_kwargs)
    if not ATARI.match(env_id):
        return CartPoleEnvs(env_id, num_envs)
    kwargs = gym.spec(env_id).kwargs
    return AleEnvs(
        kwargs["game"],
        num_envs,
        sticky=kwargs["repeat_action_probability"],
        max_frames=kwargs["max_num_frames_per_episode"],
    )


def _make_navigation(num_envs: int, env_kwargs: dict[str, Any]) -> Envs:
    try:
        return NavigationEnvs(num_envs, **env_kwargs)
    except TypeError as error:
        raise UsageError(f"--env-name {NAVIGATION}: {error}") from error


def _make_envpool(env_id: str, num_envs: int, plain: bool, clip_actions: bool) -> Envs:
    try:
        known = EnvPoolEnvs.knows(env_id)
    except ImportError as error:
        raise UsageError(f"--vec-env envpool needs the envpool extra ({error}): pip install -e '.[envpool]'") from error
    if not plain or not known:
        reason = PLAIN if known else "does not have it"
        raise UsageError(f"--vec-env envpool: {env_id} cannot use it: EnvPool {reason}")
    return EnvPoolEnvs(env_id, num_envs, clip_actions)


def _make_backend(
    vec_env: str,
    factory: Callable[[], gym.Env],
    env_id: str,
    env_kwargs: dict[str, Any],
    plain: bool,
    clip_actions: bool,
    num_envs: int,
) -> Envs:
    if vec_env == "native":
        return _make_native(env_id, num_envs, plain, env_kwargs)
    if vec_env == "envpool":
        return _make_envpool(env_id, num_envs, plain, clip_actions)
    if vec_env == "subproc":
        return SubprocEnvs([factory] * num_envs, min(num_envs, os.cpu_count() or 1), clip_actions)
    return DummyEnvs([factory] * num_envs, clip_actions)


def make_vec_envs(
    env_id: str,
    num_envs: int,
    *,
    seed: int,
    gamma: float = 0.99,
    env_kwargs: dict[str, Any] | None = None,
    vec_env: str = "auto",
    normalize: bool = True,
    frame_stack: int | None = None,
    clip_actions: bool | None = None,
    training: bool = True,
    render_mode: str | None = None,
    aux_wrapper_kwargs: dict[str, Any] | None = None,
    auxiliary_truth_sizes: Sequence[int] | None = None,
    capture_video: int = 0,
    time_feature: bool = False,
    hide_observations: Sequence[int] = (),
) -> Envs:
    """N environments behind `Envs`, seeded `seed`, `seed + 1`, ...

    Args:
        env_id: any registered id, `module:EnvId`, or `dm.<domain>.<task>`.
        num_envs: N.
        seed: of the first environment.
        gamma: discount of reward normalization.
        env_kwargs: keyword arguments of the environment.
        vec_env: `native` (batched stepping), `dummy` (a loop in this process), `subproc` (one worker per core),
            `envpool`, or `auto`, which picks one of the first three (see `choose_backend`).
        normalize: normalize observations and rewards where observations are vectors.
        frame_stack: images to stack; None stacks 4 for Atari and none elsewhere.
        clip_actions: keep continuous actions within their bounds; None does so everywhere but in MuJoCo, whose motors
            saturate by themselves and whose rewards price the action as it was sent.
        training: False freezes the normalizer and leaves rewards as they are.
        render_mode: as Gymnasium's.
        aux_wrapper_kwargs: auxiliary targets beside the environment's own (see `AuxiliaryEnvs`).
        auxiliary_truth_sizes: how to cut a flat `info['auxiliary']` into targets.
        capture_video: film every so many episodes of the first environment, then stepped in this process; 0 films none.
        time_feature: append the share of the time limit that has passed to vector observations.
        hide_observations: numbers to leave out of vector observations, by their places.
    """
    if capture_video or render_mode == "rgb_array":
        prepare_rendering()  # before anything that draws is imported
    resolved = resolve(env_id)
    make_one = functools.partial(
        make_env,
        resolved,
        env_kwargs,
        auxiliary_truth_sizes=auxiliary_truth_sizes,
        time_feature=time_feature,
        hide_observations=hide_observations,
    )
    factory = functools.partial(make_one, render_mode)
    if clip_actions is None:
        clip_actions = not MUJOCO.match(resolved)
    plain = (not env_kwargs or resolved == NAVIGATION) and render_mode is None
    plain = plain and not auxiliary_truth_sizes and not time_feature and not hide_observations
    if vec_env == "auto":
        vec_env = choose_backend(resolved, num_envs, plain)
    make = functools.partial(_make_backend, vec_env, factory, resolved, env_kwargs or {}, plain, clip_actions)
    if capture_video:
        drawn = functools.partial(make_one, "rgb_array")
        first = DummyEnvs([drawn], clip_actions)
        envs: Envs = JointEnvs(first, make(num_envs - 1)) if num_envs > 1 else first
        envs = FilmedEnvs(envs, Camera(capture_video))
    else:
        envs = make(num_envs)
    envs.seed(seed)
    try:
        envs = _wrap(envs, resolved, gamma, normalize, frame_stack, training, aux_wrapper_kwargs, auxiliary_truth_sizes)
    except UsageError:
        envs.close()
        raise
    envs.clip_actions = clip_actions
    return envs


def _wrap(
    envs: Envs,
    env_id: str,
    gamma: float,
    normalize: bool,
    frame_stack: int | None,
    training: bool,
    aux_wrapper_kwargs: dict[str, Any] | None,
    auxiliary_truth_sizes: Sequence[int] | None,
) -> Envs:
    """What stands around every backend; arguments as of `make_vec_envs`."""
    if aux_wrapper_kwargs or AUXILIARY in envs.signal_spaces:
        try:
            envs = AuxiliaryEnvs(envs, auxiliary_truth_sizes, **(aux_wrapper_kwargs or {}))
        except TypeError as error:
            raise UsageError(f"--aux-wrapper-kwargs {aux_wrapper_kwargs}: {error}") from error
    if frame_stack is None:
        frame_stack = ATARI_FRAME_STACK if ATARI.match(env_id) else 1
    shape = envs.observation_space.shape
    if frame_stack > 1:
        if shape is None or len(shape) != 3:
            raise UsageError(f"--frame-stack {frame_stack}: only images can be stacked, not {envs.observation_space}")
        envs = FrameStackEnvs(envs, frame_stack)
    if normalize and isinstance(envs.observation_space, spaces.Box) and len(shape or ()) == 1:
        envs = NormalizedEnvs(envs, gamma=gamma, training=training)
    return envs


def describe(env_id: str, envs: Envs) -> str:
    """What a user should know of the environments before comparing numbers."""
    resolved = resolve(env_id)
    text = f"{resolved}: {envs.num_envs} environments, {BACKENDS[envs.backend]}"
    if envs.camera is not None and envs.num_envs > 1 and envs.backend != "dummy":
        text += ", but the filmed one in this process"
    if ATARI.match(resolved):
        sticky = gym.spec(resolved).kwargs["repeat_action_probability"]
        text += f"; frame skip 4, sticky actions {f'with probability {sticky}' if sticky else 'off'}"
    return text
