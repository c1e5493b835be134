"""From an environment's name to one environment, wrapped as its family needs."""

import contextlib
import ctypes
import functools
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.registration import parse_env_id
from gymnasium.wrappers import FlattenObservation, TimeAwareObservation

from a2c_ppo_acktr.envs.border import close, reason, with_border
from a2c_ppo_acktr.envs.config import EnvConfig
from a2c_ppo_acktr.envs.declared import check_spaces, read_pictures, render_modes
from a2c_ppo_acktr.envs.navigation import env as navigation
from a2c_ppo_acktr.envs.wrappers import (
    DeclareAuxiliary,
    HideObservations,
    ImageToChannelsFirst,
    RescaleActions,
    tapped,
    wrap_atari,
)
from a2c_ppo_acktr.spaces import has_channels_last, is_image, kind_of, named_leaves
from a2c_ppo_acktr.utils import UsageError, import_from_here

ATARI = re.compile(r"(ALE/.+-v5|\w+NoFrameskip-v4)$")
MUJOCO = re.compile(r"(Ant|HalfCheetah|Hopper|Humanoid\w*|Inverted\w*|Pusher|Reacher|Swimmer|Walker2d)-v\d+$")
NAVIGATION = navigation.ENV_ID
ATARI_ARGUMENTS = ("frameskip", "obs_type", "continuous")
"""What the preprocessing of Mnih et al. 2015 needs as it is."""
PYBULLET = re.compile(r"\w+BulletEnv-v\d+$")
DM_CONTROL = re.compile(r"dm\.(\w+)\.(\w+)$")


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

    `dm.<domain>.<task>` becomes shimmy's id; a retired id the newest version of the same task, with one line. The
    module of `module:EnvId` may lie in the working directory.

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
        if not all(part.isidentifier() for part in module.split(".")):
            raise UsageError(f"--env-name {env_id}: expected module:EnvId, the module as in an import statement")
        import_from_here(module, f"--env-name {env_id}: cannot import")
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


def make_env(config: EnvConfig, render_mode: str | None = None) -> gym.Env:
    """One environment, wrapped so that what it gives is checked, images are channels first and statistics are kept.

    Raises:
        UsageError: there is no such environment, or it does not accept `env_kwargs`, or lacks something to start, a
            time to show or numbers to hide, or has spaces that nothing here can read or act in.
    """
    env_id = resolve(config.env_name)  # registers it, in a worker process too
    atari = ATARI.match(env_id) is not None
    env = _construct(env_id, _constructor_arguments(config, render_mode, atari), config.env_kwargs)
    with closed_on_error(env):
        env = _adapt(env, env_id)
        check_spaces(env, env_id)
        modes = render_modes(env)
        if render_mode is not None and (render_mode not in modes or env.render_mode != render_mode):
            known = ", ".join(modes) or "none"
            raise UsageError(f"--env-name {env_id}: cannot be shown: needs render mode {render_mode} and has {known}")
        env = wrap_atari(env) if atari else _wrap_other(env, env_id, config.channels)
        if config.hide_observations:
            env = _hide(env, env_id, config.hide_observations)
        if config.time_feature:
            env = _add_time(env, env_id)
        if config.rescale_actions:
            env = _rescale(env, env_id)
        return DeclareAuxiliary(env, config.auxiliary_truth_sizes) if config.auxiliary_truth_sizes else env


@contextlib.contextmanager
def closed_on_error(env: gym.Env) -> Iterator[None]:
    """Close an environment that turns out not to be fit for use."""
    try:
        yield
    except UsageError:
        close(env, "an environment")
        raise


def _constructor_arguments(config: EnvConfig, render_mode: str | None, atari: bool) -> dict[str, Any]:
    """What the constructor gets: the user's arguments and the trainer's, of which none silently replaces another."""
    own: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    if atari:
        own |= dict.fromkeys(ATARI_ARGUMENTS) | {"frameskip": 1}
    for name in own.keys() & config.env_kwargs.keys():
        why = "Atari's preprocessing decides it" if name in ATARI_ARGUMENTS else "pictures were asked for"
        raise UsageError(f"--env-kwargs {name}={config.env_kwargs[name]}: has no effect, since {why}")
    return config.env_kwargs | {name: value for name, value in own.items() if value is not None}


def _construct(env_id: str, kwargs: dict[str, Any], given: dict[str, Any]) -> gym.Env:
    """The bare environment; whatever its constructor raises is one line that names what was given to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of date.*")
        warnings.filterwarnings("ignore", message=".*obs_type.*")
        warnings.filterwarnings("ignore", message=".*render_modes.*")  # of use only where pictures are asked for
        try:
            return gym.make(env_id, disable_env_checker=True, **kwargs)
        except (Exception, SystemExit) as error:
            raised = error.__cause__ if isinstance(error.__cause__, TypeError) else error  # Gymnasium says it again
            words = " ".join(f"{name}={value}" for name, value in given.items())
            flags = f"--env-name {env_id}{f' --env-kwargs {words}' if words else ''}"
            raise UsageError(f"{flags}: cannot be made: {reason(raised)}") from error


class Observed(NamedTuple):
    """What is known of an environment's observations once one has been built."""

    kind: str
    """See `spaces.kind_of`."""
    pictures: list[str]
    """How each picture among them is read, in words."""


def observe_spaces(config: EnvConfig) -> Observed:
    """Of an environment, which is built once, however often one asks.

    Raises:
        UsageError: as of `make_env`.
    """
    asked = repr(config)
    if asked not in _KINDS:
        env = make_env(config)
        _, border = with_border(env)
        atari = ATARI.match(resolve(config.env_name)) is not None
        pictures = [] if atari else read_pictures(border.observation_space, config.channels)
        _KINDS[asked] = Observed(kind_of(env.observation_space), pictures)
        close(env, "an environment")
    return _KINDS[asked]


_KINDS: dict[str, Observed] = {}


def kind_of_observations(config: EnvConfig) -> str:
    """See `observe_spaces`."""
    return observe_spaces(config).kind


def _add_time(env: gym.Env, env_id: str) -> gym.Env:
    """Append the share of the time limit that has passed to the observation (Pardo et al. 2018)."""
    space = env.observation_space
    limited = env.spec is not None and env.spec.max_episode_steps is not None
    if not limited or not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise UsageError(f"--time-feature: {env_id} needs a time limit and vector observations")
    return TimeAwareObservation(env, normalize_time=True)


def _hide(env: gym.Env, env_id: str, hidden: Sequence[int]) -> gym.Env:
    """Leave numbers out of the observation, such as velocities, so that only memory can tell them."""
    space = env.observation_space
    size = space.shape[0] if isinstance(space, spaces.Box) and len(space.shape) == 1 else 0
    if not all(0 <= i < size for i in hidden) or len(set(hidden)) >= size:
        limit = f"has numbers 0 to {size - 1} and must keep one" if size else "has no vector observations"
        raise UsageError(f"--hide-observations {' '.join(map(str, hidden))}: {env_id} {limit}")
    return HideObservations(env, hidden)


def _rescale(env: gym.Env, env_id: str) -> gym.Env:
    """Let a policy act in -1 to 1, whatever the bounds are."""
    space = env.action_space
    if not isinstance(space, spaces.Box) or not space.is_bounded():
        raise UsageError(f"--rescale-actions: {env_id} needs continuous actions within finite bounds, and has {space}")
    return RescaleActions(env)


def _adapt(env: gym.Env, env_id: str) -> gym.Env:
    """What a family's environments need before they are like any others."""
    if env_id.startswith("dm_control/"):
        env = FlattenObservation(env)
    if PYBULLET.match(env_id):
        with silenced_output():
            env.reset()  # connects to the simulator, which announces itself
    if env_id.startswith("MiniGrid-"):
        env = importlib.import_module("minigrid.wrappers").ImgObsWrapper(env)  # the mission is a text
    return env


def _wrap_other(env: gym.Env, env_id: str, channels: str | None) -> gym.Env:
    env = tapped(env)
    leaves = [leaf for _, leaf in named_leaves(env.observation_space)]
    if channels is not None and not any(map(is_image, leaves)):
        raise UsageError(f"--channels {channels}: {env_id} has no pictures, but {env.observation_space}")
    lying = any(has_channels_last(leaf, channels) for leaf in leaves)
    return ImageToChannelsFirst(env, channels) if lying else env
