"""What made a run: command, versions and commit."""

import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from a2c_ppo_acktr import __version__

PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "mujoco", "ale-py")


def provenance() -> dict[str, Any]:
    """Of this process, as config.json has it."""
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "command": shlex.join(sys.argv),
        "version": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": packages,
    }


def _commit() -> str | None:
    """The commit of the code that runs, with `+` where the tree differs from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty.stdout else "")
