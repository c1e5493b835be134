"""What a command line does to its process: device, threads, memory. No library code calls this by itself."""

import ctypes
import math
import os
import platform
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def pick_device(cuda: bool) -> torch.device:
    """The GPU where there is one and `cuda` allows it, else the CPU."""
    return torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")


def lacks_bfloat16() -> bool:
    """Whether bfloat16 would be emulated here, more slowly than float32: no GPU, an x86 without its instructions."""
    on_x86 = platform.machine() in ("x86_64", "AMD64")
    return on_x86 and not torch.cuda.is_available() and not torch.cpu._is_avx512_bf16_supported()


def available_cores() -> int:
    """Cores that this process may use: not those that its affinity or its container's share of time leaves out."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = CPU_QUOTA.read_text().partition(" ") if CPU_QUOTA.is_file() else ("max", "", "")
    return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))


def default_threads(images: bool) -> int:
    """CPU threads where nobody says how many: all cores for convolutions, one for small networks."""
    return available_cores() if images else 1


def set_threads(num: int) -> None:
    """Use `num` CPU threads in torch, and one in NumPy's linear algebra.

    Torch's idle threads and BLAS's wait in loops, each for the other: on two cores of which another process used one,
    products by two BLAS threads between torch's operations took seven times as long as by one.
    """
    torch.set_num_threads(num)
    threadpool_limits(1, user_api="blas")


def tune_process() -> None:
    """Spare this process two costs that have nothing to do with learning; call it before anything starts threads.

    glibc keeps what is freed for the next tensor. By default it gives the memory of large tensors back to the system,
    and page faults of the next ones take up to half the time of a convolutional network.

    Numbers below 1e-38 count as 0. Where gradients stay 0, at units of ReLU that never fire, Adam's first moment decays
    to such numbers and rounding keeps it there; a step over them takes four times as long.
    """
    torch.set_flush_denormal(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest value that it accepts
