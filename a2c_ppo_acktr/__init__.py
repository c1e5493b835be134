"""Reinforcement learning from one command line: one loop, one file per algorithm."""

__version__ = "0.1.0"
