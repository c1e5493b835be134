"""A run folder seen from outside: how far its run came, whether it can go on, and the command that does it."""

import contextlib
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from a2c_ppo_acktr import files
from a2c_ppo_acktr.utils import UsageError


def train_command(folder: Path, flags: list[str]) -> list[str]:
    """What begins the run of `flags` in `folder`, or continues it from its checkpoint."""
    if latest_checkpoint(folder).is_file():
        return [sys.executable, "main.py", "--resume", str(folder)]
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
    """The last whole row of the run's `progress.csv`; empty before the first."""
    path = folder / "progress.csv"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    return rows[-1] if rows else {}
