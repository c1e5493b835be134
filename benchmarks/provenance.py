"""Which code and machine a number came from."""

import os
import resource
import subprocess
import time
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


class OtherProcesses:
    """How many cores everything else on the machine kept busy while our child processes ran.

    With a thread per core, one foreign process can slow a measurement many times: its ratio means nothing.
    """

    def __init__(self) -> None:
        self.start, self.busy, self.own = time.perf_counter(), _busy_seconds(), _children_seconds()

    def cores(self) -> float:
        """Since construction, our children that have ended taken off; NaN where the system does not tell."""
        elapsed = time.perf_counter() - self.start
        busy, own = _busy_seconds() - self.busy, _children_seconds() - self.own
        return max((busy - own) / elapsed, 0.0) if busy == busy else busy


def _busy_seconds() -> float:
    """CPU seconds of all processes and, on a virtual machine, what its host took away."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return float("nan")
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
