"""What a command line does to its process: device, threads, memory, signals. No library code calls this by itself."""

import ctypes
import os
import platform
import signal

import torch
from threadpoolctl import threadpool_limits

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def pick_device(cuda: bool) -> torch.device:
    """The GPU where there is one and `cuda` allows it, else the CPU."""
    return torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")


def lacks_bfloat16() -> bool:
    """Whether bfloat16 would be emulated here, more slowly than float32: no GPU, an x86 without its instructions."""
    on_x86 = platform.machine() in ("x86_64", "AMD64")
    return on_x86 and not torch.cuda.is_available() and not torch.cpu._is_avx512_bf16_supported()


def default_threads(images: bool) -> int:
    """CPU threads where nobody says how many: all cores for convolutions, one for small networks."""
    return (os.cpu_count() or 1) if images else 1


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


class Interrupted(Exception):
    """A signal asked the program to end; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopOnSignals:
    """While entered, Ctrl-C and SIGTERM set `requested`, so that a loop can leave at its next boundary.

    If that does not come within `patience` seconds, or a second signal arrives, `Interrupted` is raised wherever the
    program is.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, patience: float = 3.0) -> None:
        self.patience = patience
        self.requested: int | None = None

    def __enter__(self) -> "StopOnSignals":
        self._previous = {signum: signal.signal(signum, self._request) for signum in self.SIGNALS}
        self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._give_up)
        return self

    def __exit__(self, *exception: object) -> None:
        self.boundary_reached()
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def boundary_reached(self) -> None:
        """The loop has been left: nothing will be raised any more for the first signal."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _request(self, signum: int, frame: object) -> None:
        if self.requested is not None:
            raise Interrupted(signum)
        self.requested = signum
        signal.setitimer(signal.ITIMER_REAL, self.patience)

    def _give_up(self, signum: int, frame: object) -> None:
        raise Interrupted(self.requested or signum)
