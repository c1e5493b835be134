"""What Ctrl-C and SIGTERM do: end a program where it is whole. It imports nothing that takes time."""

import os
import signal
import threading
from collections.abc import Sequence

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 3.0
"""Seconds in which a loop has to come to its next boundary."""


class Interrupted(BaseException):
    """A signal asked the program to end; `signum` says which. Like KeyboardInterrupt it is no `Exception`."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def end_at_once() -> None:
    """Until something else is said, a signal ends the process without a word: while a program imports, say."""
    for signum in SIGNALS:
        signal.signal(signum, lambda received, frame: os._exit(128 + received))


def in_main_thread() -> bool:
    """Whether signals arrive here; Python handles them in no other thread."""
    return threading.current_thread() is threading.main_thread()


class StopOnSignals:
    """While entered, in the main thread, signals set `requested`, so that a loop can leave at its next boundary.

    If that does not come within `patience` seconds, or a second signal arrives, `error` is raised wherever the program
    is. No alarm is set for it: `SIGALRM` is free for environments that limit their own time.

    Args:
        signals: which ones.
        patience: seconds.
        error: raised with the signal's number.
    """

    def __init__(
        self,
        signals: Sequence[signal.Signals] = SIGNALS,
        patience: float = PATIENCE,
        error: type[BaseException] = Interrupted,
    ) -> None:
        self.signals, self.patience, self.error = signals, patience, error
        self.requested: int | None = None
        self.at_once = False
        """Whether the program stands at a boundary, so that there is nothing to wait for."""
        self.late = False
        self.timer: threading.Timer | None = None

    def __enter__(self) -> "StopOnSignals":
        handled = self.signals if in_main_thread() else ()
        self.previous = {signum: signal.signal(signum, self._request) for signum in handled}
        return self

    def __exit__(self, *exception: object) -> None:
        self.boundary_reached()
        for signum, handler in self.previous.items() if in_main_thread() else ():
            signal.signal(signum, handler)

    def boundary_reached(self) -> None:
        """The loop has been left: nothing will be raised any more for the first signal."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def boundary(self, standing: bool) -> None:
        """The program comes to a boundary, where a signal that waited is raised, or leaves it (not `standing`)."""
        self.at_once = standing
        if standing and self.requested is not None:
            self.boundary_reached()
            raise self.error(self.requested)

    def _request(self, signum: int, frame: object) -> None:
        if self.at_once:
            raise self.error(signum)
        late, self.late = self.late, False
        if self.requested is None:
            self.requested = signum
            self.timer = threading.Timer(self.patience, self._lose_patience, (signum,))
            self.timer.daemon = True
            self.timer.start()
        elif self.timer is not None or not late:  # else the boundary was reached in the very last moment
            raise self.error(signum)

    def _lose_patience(self, signum: int) -> None:
        """On the timer's thread: interrupt whatever the main thread is doing, as a second signal would."""
        self.late = True
        signal.pthread_kill(threading.main_thread().ident or 0, signum)


def ctrl_c_waits() -> StopOnSignals:
    """Lets KeyboardInterrupt wait for the next `boundary`, which leaves something whole; 3 s long, or till a second.

    It does nothing where somebody else handles Ctrl-C, and outside the main thread.
    """
    is_pythons = in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return StopOnSignals((signal.SIGINT,) if is_pythons else (), error=KeyboardInterrupt)
