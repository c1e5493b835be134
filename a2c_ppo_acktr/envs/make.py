"""From an environment's name to vectorized environments."""

import contextlib
import dataclasses
import functools

import gymnasium as gym

from a2c_ppo_acktr.envs.config import EnvConfig
from a2c_ppo_acktr.envs.declared import check_mask, read_bounds
from a2c_ppo_acktr.envs.families import ATARI, FAMILIES, MUJOCO, NAVIGATION, make_env, observe_spaces, resolve
from a2c_ppo_acktr.envs.filmed import FilmedEnvs, JointEnvs
from a2c_ppo_acktr.envs.native import AleEnvs, CartPoleEnvs, EnvPoolEnvs
from a2c_ppo_acktr.envs.navigation.env import NavigationEnvs
from a2c_ppo_acktr.envs.subproc import SubprocEnvs
from a2c_ppo_acktr.envs.targets import AuxiliaryEnvs
from a2c_ppo_acktr.envs.vec_wrappers import FrameStackEnvs, NormalizedEnvs
from a2c_ppo_acktr.envs.vector import DummyEnvs, Envs
from a2c_ppo_acktr.envs.video.camera import Camera
from a2c_ppo_acktr.envs.video.rendering import prepare_rendering
from a2c_ppo_acktr.interfaces import ACTION_MASK, AUXILIARY
from a2c_ppo_acktr.normalization import is_normalized
from a2c_ppo_acktr.process import available_cores
from a2c_ppo_acktr.spaces import is_image, named_leaves
from a2c_ppo_acktr.utils import UsageError

ATARI_FRAME_STACK = 4
COSTLY_FAMILIES = ("atari", "dm_control", "pybullet")
MANY_COSTLY = 4
PLAIN = "takes no flags that wrap single environments (--env-kwargs, --time-feature, ...) and shows no pictures"
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
    where there are cores to share them; else a loop in this process. The loop and the workers give the same numbers,
    but for environments that draw from generators of the whole process, such as NumPy's: these repeat with the run's
    seed and the number of workers.

    Args:
        env_id: a resolved id.
        num_envs: N.
        plain: no pictures were asked for, nor arguments that only single environments take.
    """
    if plain and fits_native(env_id) and not (env_id in CARTPOLES and num_envs < MANY_CARTPOLES):
        return "native"
    costly = any(pattern.match(env_id) for pattern, family, _ in FAMILIES if family in COSTLY_FAMILIES)
    return "subproc" if costly and num_envs >= MANY_COSTLY and available_cores() > 1 else "dummy"


@functools.cache
def fits_native(env_id: str) -> bool:
    """Whether a native backend matches the single environment."""
    if ATARI.match(env_id):
        with contextlib.closing(gym.make(env_id)) as env:
            env.reset(seed=0)
            return AleEnvs.fits(env.unwrapped)
    return env_id in (NAVIGATION, *CARTPOLES)


def make_vec_envs(
    config: EnvConfig,
    num_envs: int,
    seed: int,
    *,
    gamma: float = 0.99,
    training: bool = True,
    render_mode: str | None = None,
    capture_video: int = 0,
) -> Envs:
    """N environments behind `Envs`, seeded `seed`, `seed + 1`, ... (see `seeding.env_seed`).

    Args:
        config: which ones, and what is changed about them.
        num_envs: N.
        seed: of the first environment.
        gamma: discount of reward normalization.
        training: False freezes the normalizer and leaves rewards as they are.
        render_mode: as Gymnasium's.
        capture_video: film every so many episodes of the first environment, then stepped in this process; 0 films none.

    Raises:
        UsageError: there are no such environments, or what `config` asks for does not fit them.
    """
    if capture_video or render_mode == "rgb_array":
        prepare_rendering()  # before anything that draws is imported
    config = dataclasses.replace(config, env_name=resolve(config.env_name))
    if config.vec_env == "auto":
        backend = choose_backend(config.env_name, num_envs, _is_plain(config, render_mode))
        config = dataclasses.replace(config, vec_env=backend)
    if capture_video:
        first = DummyEnvs([functools.partial(make_env, config, "rgb_array")], _clips_actions(config))
        envs: Envs = first
        if num_envs > 1:
            envs = JointEnvs(first, _make_backend(config, num_envs - 1, render_mode, seed, first=1))
        envs = FilmedEnvs(envs, Camera(capture_video))
    else:
        envs = _make_backend(config, num_envs, render_mode, seed)
    envs.seed(seed)
    try:
        envs = _wrap(envs, config, gamma, training)
    except UsageError:
        envs.close()
        raise
    envs.clip_actions = _clips_actions(config)
    return envs


def _is_plain(config: EnvConfig, render_mode: str | None) -> bool:
    """Whether nothing is asked for that only single environments can do."""
    return config.plain and (not config.env_kwargs or config.env_name == NAVIGATION) and render_mode is None


def _clips_actions(config: EnvConfig) -> bool:
    """Whether continuous actions are kept within their bounds.

    By default everywhere but in MuJoCo, whose motors saturate by themselves and whose rewards price the action as sent.
    """
    return not MUJOCO.match(config.env_name) if config.clip_actions is None else config.clip_actions


def _make_backend(config: EnvConfig, num_envs: int, render_mode: str | None, seed: int, first: int = 0) -> Envs:
    """N environments with nothing around them, of a resolved id, stepped as `config.vec_env` says.

    `seed` is of the generators that the whole of a worker process shares, `first` the number of the first environment.
    """
    if config.vec_env in ("native", "envpool"):
        make = _make_native if config.vec_env == "native" else _make_envpool
        return make(config, num_envs, _is_plain(config, render_mode))
    factories = [functools.partial(make_env, config, render_mode)] * num_envs
    if config.vec_env == "subproc":
        return SubprocEnvs(factories, min(num_envs, available_cores()), _clips_actions(config), seed, first)
    return DummyEnvs(factories, _clips_actions(config), first)


def _make_native(config: EnvConfig, num_envs: int, plain: bool) -> Envs:
    env_id = config.env_name
    if not plain or not fits_native(env_id):
        reason = "there is none for it" if plain else f"it {PLAIN}"
        raise UsageError(f"--vec-env native: {env_id} cannot use it: {reason}")
    if env_id == NAVIGATION:
        try:
            return NavigationEnvs(num_envs, **config.env_kwargs)
        except TypeError as error:
            raise UsageError(f"--env-name {NAVIGATION}: {error}") from error
    if not ATARI.match(env_id):
        return CartPoleEnvs(env_id, num_envs)
    kwargs = gym.spec(env_id).kwargs
    return AleEnvs(
        kwargs["game"],
        num_envs,
        sticky=kwargs["repeat_action_probability"],
        max_frames=kwargs["max_num_frames_per_episode"],
    )


def _make_envpool(config: EnvConfig, num_envs: int, plain: bool) -> Envs:
    env_id = config.env_name
    try:
        known = EnvPoolEnvs.knows(env_id)
    except ImportError as error:
        raise UsageError(f"--vec-env envpool needs the envpool extra ({error}): pip install -e '.[envpool]'") from error
    if not plain or not known:
        reason = PLAIN if known else "does not have it"
        raise UsageError(f"--vec-env envpool: {env_id} cannot use it: EnvPool {reason}")
    return EnvPoolEnvs(env_id, num_envs, _clips_actions(config))


def _wrap(envs: Envs, config: EnvConfig, gamma: float, training: bool) -> Envs:
    """What stands around every backend; arguments as of `make_vec_envs`."""
    check_mask(envs.signal_spaces.get(ACTION_MASK), envs.action_space, config.env_name)
    if config.aux_wrapper_kwargs or AUXILIARY in envs.signal_spaces:
        try:
            envs = AuxiliaryEnvs(envs, config.auxiliary_truth_sizes, **config.aux_wrapper_kwargs)
        except TypeError as error:
            raise UsageError(f"--aux-wrapper-kwargs {config.aux_wrapper_kwargs}: {error}") from error
    frame_stack = config.frame_stack
    if frame_stack is None:
        frame_stack = ATARI_FRAME_STACK if ATARI.match(config.env_name) else 1
    leaves = [leaf for _, leaf in named_leaves(envs.observation_space)]
    if frame_stack > 1:
        if not any(map(is_image, leaves)):
            raise UsageError(f"--frame-stack {frame_stack}: only images can be stacked, not {envs.observation_space}")
        envs = FrameStackEnvs(envs, frame_stack)
    if config.normalize_env and any(map(is_normalized, leaves)):
        envs = NormalizedEnvs(envs, gamma=gamma, training=training)
    return envs


def remarks(config: EnvConfig, envs: Envs) -> list[str]:
    """How pictures are read, and what of the actions one should know before waiting for results: a line each."""
    pictures = [] if envs.state_kind == "native" else observe_spaces(config).pictures
    bounds = read_bounds(envs.action_space)
    return pictures if bounds is None else [*pictures, bounds]


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
