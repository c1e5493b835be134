"""A run folder seen from outside: how far its run came, whether it can go on, and the command that does it."""

import contextlib
import csv
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from a2c_ppo_acktr import files, trust
from a2c_ppo_acktr.utils import UsageError

BLOCK = 4096
"""Bytes that hold the last row of `progress.csv` but for very long ones."""


def train_command(folder: Path, flags: list[str]) -> list[str]:
    """What begins the run of `flags` in `folder`, or continues it from its checkpoint, with the same modules."""
    if latest_checkpoint(folder).is_file():
        return [sys.executable, "main.py", "--resume", str(folder), *trust.repeat_flags(flags)]
    return [sys.executable, "main.py", *flags, "--log-dir", str(folder)]


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold a run, so that no other process goes on with it meanwhile.

    Raises:
        UsageError: another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.claim(folder))
        except BlockingIOError:
            raise UsageError(f"{folder}: another process is at this run; wait for its end, or stop it") from None
        yield


def latest_checkpoint(folder: Path) -> Path:
    """Where the run in `folder` continues from."""
    return folder / "checkpoints" / "latest.pt"


def set_aside(folder: Path) -> bool:
    """Rename a run folder that has no checkpoint, so that its run can begin again; whether there was one."""
    if not folder.exists() or latest_checkpoint(folder).is_file():
        return False
    folder.rename(folder.with_name(f"{folder.name}-dead-{time.time_ns()}"))
    return True


def progress(folder: Path) -> dict[str, str]:
    """The last whole row of the run's `progress.csv`; empty before the first.

    Only the ends of the file are read: a queue asks every run again and again, and the file grows as long as it runs.
    """
    path = folder / "progress.csv"
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        header = file.readline()
        end, tail = file.seek(0, os.SEEK_END), b""
        while tail.count(b"\n") < 2 and (start := max(len(header), end - 2 * len(tail) - BLOCK)) < end - len(tail):
            file.seek(start)
            tail = file.read(end - start)
    rows = tail[: tail.rfind(b"\n") + 1].splitlines()
    if not rows:
        return {}
    return next(csv.DictReader([header.decode(errors="replace"), rows[-1].decode(errors="replace")]))
