"""Demonstrations: the arrays that imitation learns from, and their files."""

from a2c_ppo_acktr.experts.demonstrations import Demonstrations, ImitationConfig, file_name, find, load

__all__ = ["Demonstrations", "ImitationConfig", "file_name", "find", "load"]
