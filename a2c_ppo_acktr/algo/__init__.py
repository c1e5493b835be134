"""The registry: one line per algorithm."""

from typing import Any

import torch

from a2c_ppo_acktr.algo.a2c import A2C
from a2c_ppo_acktr.algo.acktr import ACKTR
from a2c_ppo_acktr.algo.base import Algorithm
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


def make(
    name: str, config: Any, spaces: EnvSpaces, device: torch.device | str = "cpu", gail: GAILConfig | None = None
) -> Algorithm:
    """Build algorithm `name` from an instance of its own `Config`, with `gail` as the learner within `GAIL`."""
    algorithm = ALGORITHMS[name](spaces, config, torch.device(device))
    return algorithm if gail is None else GAIL(algorithm, gail)
