"""Environments: from a name to N of them in step; no learner is known here."""

from a2c_ppo_acktr.envs.config import EnvConfig
from a2c_ppo_acktr.envs.make import describe, make_vec_envs, remarks
from a2c_ppo_acktr.envs.vector import Envs

__all__ = ["EnvConfig", "Envs", "describe", "make_vec_envs", "remarks"]
