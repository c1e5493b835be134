"""The registry: one line per algorithm, and learners of the user's own."""

import inspect
import math
from typing import Any

import torch

from a2c_ppo_acktr.algo.a2c import A2C
from a2c_ppo_acktr.algo.acktr import ACKTR
from a2c_ppo_acktr.algo.base import Algorithm, AlgorithmConfig
from a2c_ppo_acktr.algo.bc import BC
from a2c_ppo_acktr.algo.bco import BCO
from a2c_ppo_acktr.algo.c51 import C51
from a2c_ppo_acktr.algo.crossq import CrossQ
from a2c_ppo_acktr.algo.ddpg import DDPG
from a2c_ppo_acktr.algo.dqn import DQN
from a2c_ppo_acktr.algo.gail import GAIL, GAILConfig
from a2c_ppo_acktr.algo.iqn import IQN
from a2c_ppo_acktr.algo.ppo import PPO
from a2c_ppo_acktr.algo.qr_dqn import QRDQN
from a2c_ppo_acktr.algo.r2d1 import R2D1
from a2c_ppo_acktr.algo.rainbow import Rainbow
from a2c_ppo_acktr.algo.sac import SAC
from a2c_ppo_acktr.algo.td3 import TD3
from a2c_ppo_acktr.algo.tqc import TQC
from a2c_ppo_acktr.flags import check_flags
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.spaces import UnsupportedSpace, leaf_shape, space_map, torch_dtype
from a2c_ppo_acktr.storage.replay import available_memory
from a2c_ppo_acktr.utils import UsageError, import_from_here, reason

ALGORITHMS: dict[str, type[Algorithm]] = {
    "a2c": A2C,
    "acktr": ACKTR,
    "ppo": PPO,
    "dqn": DQN,
    "c51": C51,
    "qr_dqn": QRDQN,
    "iqn": IQN,
    "rainbow": Rainbow,
    "r2d1": R2D1,
    "ddpg": DDPG,
    "td3": TD3,
    "sac": SAC,
    "tqc": TQC,
    "crossq": CrossQ,
    "bc": BC,
    "bco": BCO,
}


STORAGE = ("insert", "after_update", "describe", "state_dict", "outlasts_updates")
"""What collecting, saving and telling ask of a storage."""

__all__ = ["ALGORITHMS", "GAIL", "Algorithm", "AlgorithmConfig", "find", "make", "make_storage"]


def find(name: str) -> type[Algorithm]:
    """The class that `--algo` means: a name in `ALGORITHMS`, or `module:Class` from the working directory.

    Raises:
        UsageError: neither, or a class that is no whole `Algorithm`; the line says what it lacks.
    """
    if ":" not in name:
        if name not in ALGORITHMS:
            raise UsageError(f"--algo {name}: unknown; choose from {', '.join(ALGORITHMS)}, or name module:Class")
        return ALGORITHMS[name]
    found = import_from_here(name, "--algo")
    if not (inspect.isclass(found) and issubclass(found, Algorithm)):
        raise UsageError(f"--algo {name}: expected a class that extends a2c_ppo_acktr.algo.Algorithm")
    config = getattr(found, "Config", None)
    if not (inspect.isclass(config) and issubclass(config, AlgorithmConfig)):
        raise UsageError(
            f"--algo {name}: expected a Config, a dataclass that extends a2c_ppo_acktr.algo.AlgorithmConfig"
        )
    if inspect.isabstract(found):
        raise UsageError(f"--algo {name}: does not define {', '.join(sorted(found.__abstractmethods__))}")
    try:
        check_flags(config)
    except UsageError as error:
        raise UsageError(f"--algo {name}: {error}") from error
    return found


def make(
    name: str, config: Any, spaces: EnvSpaces, device: torch.device | str = "cpu", gail: GAILConfig | None = None
) -> Algorithm:
    """Build algorithm `name` from an instance of its own `Config`, with `gail` as the learner within `GAIL`.

    Raises:
        UsageError: it cannot be built; of a class of the user's own also what its constructor raised.
    """
    kind = find(name)
    try:
        algorithm = kind(spaces, config, torch.device(device))
    except (UsageError, UnsupportedSpace):
        raise
    except Exception as error:
        if name in ALGORITHMS:
            raise
        raise UsageError(f"--algo {name}: {kind.__name__}(spaces, config, device): {reason(error)}") from error
    return algorithm if gail is None else GAIL(algorithm, gail)


def _check_rollout(space: Any, num_steps: int, num_envs: int) -> None:
    """Refuse observations of a rollout that this machine's memory does not hold."""
    sizes: list[int] = []
    space_map(lambda leaf: sizes.append(math.prod(leaf_shape(leaf)) * torch_dtype(leaf).itemsize), space)
    needed, free = (num_steps + 1) * num_envs * sum(sizes), available_memory()
    if needed > free:
        raise UsageError(
            f"--num-steps {num_steps} --num-processes {num_envs}: the observations of a rollout need "
            f"{needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        )


def make_storage(algorithm: Algorithm, num_steps: int, num_envs: int) -> Any:
    """The algorithm's storage.

    Raises:
        UsageError: it makes none that can be stepped into, saved and told of, or a rollout would not fit into memory.
    """
    if algorithm.takes_gail:  # a replay says itself whether it fits
        _check_rollout(algorithm.spaces.observation, num_steps, num_envs)
    storage = algorithm.make_storage(num_steps, num_envs)
    if missing := [name for name in STORAGE if not hasattr(storage, name)]:
        kind, given = type(algorithm).__name__, type(storage).__name__
        raise UsageError(f"{kind}.make_storage gave {given}, which has no {', '.join(missing)} (see RolloutStorage)")
    return storage
