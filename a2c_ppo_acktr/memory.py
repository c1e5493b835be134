"""How much memory there is left."""

import resource
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that this process can still get, a container's limit and the process's own (`ulimit -v`) included."""
    free = psutil.virtual_memory().available
    limit, stat = CGROUP / "memory.max", CGROUP / "memory.stat"
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
        used = int((CGROUP / "memory.current").read_text()) - int(counts.get("inactive_file", 0))  # files read once
        free = min(free, int(text) - used)
    older = CGROUP / "memory"  # version 1
    if (limit := older / "memory.limit_in_bytes").is_file():  # a number beyond every machine where there is none
        free = min(free, int(limit.read_text()) - int((older / "memory.usage_in_bytes").read_text()))
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        free = min(free, most - psutil.Process().memory_info().vms)
    return max(0, free)
