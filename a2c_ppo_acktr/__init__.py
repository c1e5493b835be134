"""Reinforcement learning from one command line: one loop, one file per algorithm."""

import os

__version__ = "0.1.0"

RUNTIME = {"GOMP_SPINCOUNT": "3000"}
"""Settings of libraries that are read when torch is loaded, so this package is imported before it. Torch's idle threads
then leave the cores to the emulators' after microseconds, not milliseconds: some 7 % of a run on pixels."""

for name, value in RUNTIME.items():
    os.environ.setdefault(name, value)
