"""The registry: one line per algorithm, and learners of the user's own."""

import inspect
from typing import Any

import torch

from a2c_ppo_acktr.algo.a2c import A2C
from a2c_ppo_acktr.algo.acktr import ACKTR
from a2c_ppo_acktr.algo.base import Algorithm, AlgorithmConfig
from a2c_ppo_acktr.algo.bc import BC
from a2c_ppo_acktr.algo.bco import BCO
from a2c_ppo_acktr.algo.c51 import C51
from a2c_ppo_acktr.algo.dqn import DQN
from a2c_ppo_acktr.algo.gail import GAIL, GAILConfig
from a2c_ppo_acktr.algo.iqn import IQN
from a2c_ppo_acktr.algo.ppo import PPO
from a2c_ppo_acktr.algo.qr_dqn import QRDQN
from a2c_ppo_acktr.algo.r2d1 import R2D1
from a2c_ppo_acktr.algo.rainbow import Rainbow
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.utils import UsageError, import_from_here

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
    "bc": BC,
    "bco": BCO,
}


__all__ = ["ALGORITHMS", "GAIL", "Algorithm", "AlgorithmConfig", "find", "make"]


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
    return found


def make(
    name: str, config: Any, spaces: EnvSpaces, device: torch.device | str = "cpu", gail: GAILConfig | None = None
) -> Algorithm:
    """Build algorithm `name` from an instance of its own `Config`, with `gail` as the learner within `GAIL`."""
    algorithm = find(name)(spaces, config, torch.device(device))
    return algorithm if gail is None else GAIL(algorithm, gail)
