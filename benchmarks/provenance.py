"""Which code and machine a number came from."""

import os
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """The commit of the working tree, with `+` where tracked files differ from it; `none` before the first one."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        status = [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/*.csv"]
        dirty = subprocess.run(status, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def machine() -> dict[str, str]:
    """Versions and size, as columns of a CSV."""
    return {
        "torch": metadata.version("torch"),
        "stable_baselines3": metadata.version("stable-baselines3"),
        "cpus": str(os.cpu_count()),
        "commit": commit(),
    }
