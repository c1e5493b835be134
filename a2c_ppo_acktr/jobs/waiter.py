"""Runs one command and notes how it ended, whoever is left to see it.

    python -I -S waiter.py JOURNAL TIMEOUT COMMAND...

One of these lives beside every queued run, so it needs the standard library alone. SIGTERM is passed on to the command.
After TIMEOUT seconds (0 is never) the command gets SIGTERM, and SIGKILL where that does not help within GRACE_SECONDS.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GRACE_SECONDS = 10.0


def append(journal: Path, **event: Any) -> None:
    """Add a line of JSON: one write, so that no reader sees half of it, flushed to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW  # a link in a queue leads elsewhere
    with open(os.open(journal, flags, 0o666), "ab", buffering=0) as file:
        file.write(json.dumps({**event, "time": round(time.time(), 3)}).encode() + b"\n")
        os.fsync(file.fileno())


def command_line(journal: Path, timeout: float | None, command: list[str]) -> list[str]:
    """How to start `command` under a waiter."""
    return [sys.executable, "-I", "-S", __file__, str(journal), str(timeout or 0), *command]


def exit_code(returncode: int) -> int:
    """As a shell counts: 128 and the signal for a process that one ended."""
    return returncode if returncode >= 0 else 128 - returncode


class Waiter:
    """The command and why it ends."""

    def __init__(self, command: list[str]) -> None:
        self.reason = "ended"
        self.child: subprocess.Popen | None = None
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, self._on_signal)
        print(f"$ {shlex.join(command)}", flush=True)
        self.child = subprocess.Popen(command, close_fds=False)  # it inherits the lock and holds it if we are killed
        if self.reason == "stopped":  # the signal came while it was being started
            self.child.terminate()

    def _on_signal(self, signum: int, frame: object) -> None:
        self.reason = "stopped"
        if self.child is not None:
            self.child.terminate()

    def wait(self, timeout: float | None) -> int:
        """The exit code; `reason` is `ended`, `stopped` or `timeout`."""
        assert self.child is not None
        try:
            return exit_code(self.child.wait(timeout))
        except subprocess.TimeoutExpired:
            self.reason = "timeout"
            self.child.terminate()
        try:
            return exit_code(self.child.wait(GRACE_SECONDS))
        except subprocess.TimeoutExpired:
            self.child.kill()
            return exit_code(self.child.wait())


def main(argv: list[str]) -> int:
    """Run the command line."""
    waiter = Waiter(argv[2:])
    code = waiter.wait(float(argv[1]) or None)
    append(Path(argv[0]), event="end", exit_code=code, reason=waiter.reason)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
