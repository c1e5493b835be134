"""From an environment's name to vectorized environments."""

import contextlib
import ctypes
import functools
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import parse_env_id
from gymnasium.wrappers import FlattenObservation

from a2c_ppo_acktr.joint import FilmedEnvs, JointEnvs
from a2c_ppo_acktr.native import AleEnvs, CartPoleEnvs, EnvPoolEnvs
from a2c_ppo_acktr.rendering import prepare_rendering
from a2c_ppo_acktr.subproc import SubprocEnvs
from a2c_ppo_acktr.utils import UsageError
from a2c_ppo_acktr.vec_env import DummyEnvs, Envs
from a2c_ppo_acktr.vec_wrappers import FrameStackEnvs, NormalizedEnvs
from a2c_ppo_acktr.video import Camera
from a2c_ppo_acktr.wrappers import ImageToChannelsFirst, has_channels_last, with_statistics, wrap_atari

ATARI = re.compile(r"(ALE/.+-v5|\w+NoFrameskip-v4)$")
MUJOCO = re.compile(r"(Ant|HalfCheetah|Hopper|Humanoid\w*|Inverted\w*|Pusher|Reacher|Swimmer|Walker2d)-v\d+$")
PYBULLET = re.compile(r"\w+BulletEnv-v\d+$")
DM_CONTROL = re.compile(r"dm\.(\w+)\.(\w+)$")
ATARI_FRAME_STACK = 4
COSTLY_FAMILIES = ("atari", "dm_control", "pybullet")
MANY_COSTLY = 4


def _import_atari() -> None:
    ale_py = importlib.import_module("ale_py")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner per environment
    gym.register_envs(ale_py)


def _import_dm_control() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glfw says that there is no display; pictures come from EGL or OSMesa
        importlib.import_module("shimmy")
        importlib.import_module("dm_control.suite")


def _import_mujoco() -> None:
    importlib.import_module("mujoco").set_mju_user_warning(_drop_mujoco_warning)


def _import_pybullet() -> None:
    with silenced_output():
        importlib.import_module("pybullet")
        importlib.import_module("pybullet_envs_gymnasium")


@contextlib.contextmanager
def silenced_output() -> Iterator[None]:
    """Keep compiled code, such as PyBullet's, from writing to standard output and standard error."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush(), sys.stderr.flush(), libc.fflush(None)
    saved, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1), os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush(), libc.fflush(None)
        os.dup2(saved[0], 1), os.dup2(saved[1], 2)
        for descriptor in (*saved, nowhere):
            os.close(descriptor)


def _drop_mujoco_warning(message: str) -> None:
    """MuJoCo would write MUJOCO_LOG.TXT into the working directory for a deprecated attribute in Gymnasium's files."""
    if "deprecated" not in message:
        warnings.warn(f"MuJoCo: {message}", stacklevel=2)


BACKENDS = {
    "native": "stepped natively",
    "dummy": "one after the other in this process",
    "subproc": "in worker processes",
    "envpool": "stepped by EnvPool",
}

FAMILIES: list[tuple[re.Pattern[str], str, Callable[[], Any]]] = [
    (ATARI, "atari", _import_atari),
    (re.compile(r"dm(\.|_control/)"), "dm_control", _import_dm_control),
    (MUJOCO, "mujoco", _import_mujoco),
    (PYBULLET, "pybullet", _import_pybullet),
    (
        re.compile(r"(LunarLander\w*|BipedalWalker\w*|CarRacing)-v\d+$"),
        "box2d",
        lambda: importlib.import_module("Box2D"),
    ),
    (re.compile(r"MiniGrid-"), "minigrid", lambda: importlib.import_module("minigrid")),
    (re.compile(r"MinAtar/"), "minatar", lambda: importlib.import_module("minatar.gym").register_envs()),
]
"""Families of environments: ids, the extra of setup.py that installs them, and what registers them."""


@functools.cache
def resolve(env_id: str) -> str:
    """The registered id that `env_id` stands for, after importing what registers it.

    `dm.<domain>.<task>` becomes shimmy's id; a retired id the newest version of the same task, with one line.

    Raises:
        UsageError: an unknown id, or an extra that is not installed.
    """
    for pattern, extra, register in FAMILIES:
        if pattern.match(env_id):
            try:
                register()
            except ImportError as error:
                raise UsageError(
                    f"--env-name {env_id} needs the {extra} extra ({error}): pip install -e '.[{extra}]'"
                ) from error
    dm = DM_CONTROL.match(env_id)
    module, colon, registered = (f"dm_control/{dm[1]}-{dm[2]}-v0" if dm else env_id).rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"--env-name {env_id}: cannot import {module}: {error}") from error
    try:
        newest = _newest_if_retired(registered)
        gym.spec(newest)
    except gym.error.Error as error:
        raise UsageError(f"--env-name {env_id}: {' '.join(str(error).split())}") from error
    return f"{module}{colon}{newest}"  # with its module, so that a worker process imports it too


def _newest_if_retired(env_id: str) -> str:
    """The newest version of a task whose asked version Gymnasium has retired; any other id as it is."""
    namespace, name, version = parse_env_id(env_id)
    spec = gym.registry.get(env_id)
    moved_out = spec is not None and getattr(spec.entry_point, "__name__", "") == "_raise_mujoco_py_error"
    versions = [s.version for s in gym.registry.values() if (s.namespace, s.name) == (namespace, name)]
    newest = max((v for v in versions if v is not None), default=None)
    if version is None or newest is None or newest <= version or (spec is not None and not moved_out):
        return env_id
    current = f"{f'{namespace}/' if namespace else ''}{name}-v{newest}"
    print(f"{env_id} has been retired by Gymnasium: running {current}", flush=True)
    return current


def make_env(env_id: str, env_kwargs: dict[str, Any] | None = None, render_mode: str | None = None) -> gym.Env:
    """One environment by its resolved id, wrapped so that images are channels first and statistics are kept.

    Raises:
        UsageError: the environment does not accept `env_kwargs`, or lacks something to start.
    """
    kwargs: dict[str, Any] = dict(env_kwargs or {})
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    atari = ATARI.match(env_id) is not None
    if atari:
        kwargs["frameskip"] = 1
    resolve(env_id)  # registers it, in a worker process too
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of date.*")
        warnings.filterwarnings("ignore", message=".*obs_type.*")
        try:
            env = gym.make(env_id, disable_env_checker=True, **kwargs)
        except (TypeError, gym.error.Error, ImportError) as error:
            raise UsageError(f"--env-name {env_id}: {' '.join(str(error).split())}") from error
    modes = env.metadata.get("render_modes", ())
    if render_mode not in (None, *modes):
        env.close()
        known = ", ".join(str(mode) for mode in modes) or "none"
        raise UsageError(f"--env-name {env_id}: cannot be shown: needs render mode {render_mode} and has {known}")
    return wrap_atari(env) if atari else _wrap_other(env, env_id)


def _wrap_other(env: gym.Env, env_id: str) -> gym.Env:
    if env_id.startswith("dm_control/"):
        env = FlattenObservation(env)
    if PYBULLET.match(env_id):
        with silenced_output():
            env.reset()  # connects to the simulator, which announces itself
    if env_id.startswith("MiniGrid-"):
        env = importlib.import_module("minigrid.wrappers").ImgObsWrapper(env)  # the mission is a text
    env = with_statistics(env)
    return ImageToChannelsFirst(env) if has_channels_last(env.observation_space) else env


def choose_backend(env_id: str, num_envs: int, plain: bool) -> str:
    """The fastest backend for an environment.

    Native stepping where it matches single environments; worker processes for at least `MANY_COSTLY` environments of a
    family whose steps take a third of a millisecond or more, where there are cores to share them; else a loop in this
    process. The loop and the workers give the same numbers.

    Args:
        env_id: a resolved id.
        num_envs: N.
        plain: no arguments and no pictures were asked for.
    """
    if plain and fits_native(env_id):
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
    return env_id in ("CartPole-v0", "CartPole-v1")


def _make_native(env_id: str, num_envs: int, plain: bool) -> Envs:
    if not plain or not fits_native(env_id):
        reason = "there is none for it" if plain else "it takes no --env-kwargs and shows no pictures"
        raise UsageError(f"--vec-env native: {env_id} cannot use it: {reason}")
    if not ATARI.match(env_id):
        return CartPoleEnvs(env_id, num_envs)
    kwargs = gym.spec(env_id).kwargs
    return AleEnvs(
        kwargs["game"],
        num_envs,
        sticky=kwargs["repeat_action_probability"],
        max_frames=kwargs["max_num_frames_per_episode"],
    )


def _make_envpool(env_id: str, num_envs: int, plain: bool, clip_actions: bool) -> Envs:
    try:
        known = EnvPoolEnvs.knows(env_id)
    except ImportError as error:
        raise UsageError(f"--vec-env envpool needs the envpool extra ({error}): pip install -e '.[envpool]'") from error
    if not plain or not known:
        reason = "takes no --env-kwargs and shows no pictures" if known else "does not have it"
        raise UsageError(f"--vec-env envpool: {env_id} cannot use it: EnvPool {reason}")
    return EnvPoolEnvs(env_id, num_envs, clip_actions)


def _make_backend(
    vec_env: str, factory: Callable[[], gym.Env], env_id: str, num_envs: int, *, plain: bool, clip_actions: bool
) -> Envs:
    if vec_env == "native":
        return _make_native(env_id, num_envs, plain)
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
    capture_video: int = 0,
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
        capture_video: film every so many episodes of the first environment, then stepped in this process; 0 films none.
    """
    if capture_video or render_mode == "rgb_array":
        prepare_rendering()  # before anything that draws is imported
    resolved = resolve(env_id)
    factory = functools.partial(make_env, resolved, env_kwargs, render_mode)
    if clip_actions is None:
        clip_actions = not MUJOCO.match(resolved)
    plain = not env_kwargs and render_mode is None
    if vec_env == "auto":
        vec_env = choose_backend(resolved, num_envs, plain)
    make = functools.partial(_make_backend, vec_env, factory, resolved, plain=plain, clip_actions=clip_actions)
    if capture_video:
        first = DummyEnvs([functools.partial(make_env, resolved, env_kwargs, "rgb_array")], clip_actions)
        envs: Envs = JointEnvs(first, make(num_envs - 1)) if num_envs > 1 else first
        envs = FilmedEnvs(envs, Camera(capture_video))
    else:
        envs = make(num_envs)
    envs.seed(seed)
    if frame_stack is None:
        frame_stack = ATARI_FRAME_STACK if ATARI.match(resolved) else 1
    shape = envs.observation_space.shape
    if frame_stack > 1:
        if shape is None or len(shape) != 3:
            envs.close()
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
