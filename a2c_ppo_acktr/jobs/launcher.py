"""Starts processes, a few at a time, and watches them: each holds a lock while it lives; signals save and stop them.

`benchmarks/campaign.py` and `write_and_test/experiments.py` say what is started and what its end means.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

from a2c_ppo_acktr.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
MODULES_FROM_HERE = {"PYTHONPATH": os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))}
"""So that modules of a user's own are found from where the jobs were started, though they run elsewhere."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
POLL_SECONDS, FIRST_STATUS_SECONDS, STATUS_SECONDS = 0.2, 10.0, 60.0


class Busy(Exception):
    """Another process is bringing this task forward."""


class Task(Protocol):
    """What a job brings forward."""

    @property
    def lock_file(self) -> Path:
        """Held by the processes of the task while they live."""

    @property
    def log_file(self) -> Path:
        """Where their output goes."""

    def begin(self) -> list[list[str]]:
        """Called once the lock is held: prepare the files; the commands to run one after the other."""

    def end(self, code: int, stopped: bool) -> None:
        """Called before the lock is let go: the last process has ended, `stopped` where it was asked to."""


TaskT = TypeVar("TaskT", bound=Task)


class Job(Generic[TaskT]):
    """The processes of a task, one after the other until one fails, in a session of their own.

    Args:
        task: what to bring forward.
        environment: further environment variables.

    Raises:
        Busy: another job, or a process that outlived one, holds the task.
        Exception: whatever `task.begin` raises.
    """

    def __init__(self, task: TaskT, environment: Mapping[str, str] | None = None) -> None:
        self.task, self.stopped = task, False
        self.asked: subprocess.Popen | None = None
        self.environment = {**ONE_THREAD, **(environment or {})}
        self.lock = take_lock(task.lock_file)
        try:
            self.commands = task.begin()
            self.log: IO[str] = task.log_file.open("a")
            self.process = self._launch()
        except BaseException:
            self.lock.close()
            raise

    def _launch(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.commands.pop(0),
            cwd=ROOT,
            env=os.environ | MODULES_FROM_HERE | self.environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it once, from `stop`: main.py takes a second signal as "at once"
            pass_fds=[self.lock.fileno()],  # so the lock is held until the last of us and the process has closed it
        )

    def poll(self) -> int | None:
        """The exit code once all processes have ended or one has failed; None before."""
        code = self.process.poll()
        if code == 0 and self.commands and not self.stopped:
            self.process = self._launch()
            if self.stopped:  # asked to while the next process was being started
                self._ask()
            return None
        if code is not None and not self.lock.closed:
            self.task.end(code, self.stopped)
            self.log.close()
            self.lock.close()
        return code

    def complete(self, code: int) -> bool:
        """Whether `code` ends the whole task, as against an interrupted or failed one."""
        return code == 0 and not self.commands

    def stop(self) -> None:
        """Ask the process, once, to save and end."""
        if not self.stopped:
            self.stopped = True
            self._ask()

    def _ask(self) -> None:
        if self.asked is not self.process:
            self.asked = self.process
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and whatever it started, now."""
        self.stopped = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def last_words(self, lines: int = 5) -> str:
        """The end of the log."""
        text = self.task.log_file.read_text(errors="replace")
        return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


class Scheduler(ABC, Generic[TaskT]):
    """Keeps `slots` jobs going until all have ended or a signal arrives; the first one saves, a second one kills."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.active: list[Job[TaskT]] = []
        self.signum: int | None = None

    @abstractmethod
    def next_job(self) -> Job[TaskT] | None:
        """Start what comes next; None where nothing can be started now."""

    @abstractmethod
    def unfinished(self) -> bool:
        """Whether `next_job` may have something to start, now or later, although nothing is active."""

    @abstractmethod
    def ended(self, job: Job[TaskT], code: int) -> None:
        """Take in that a job has ended."""

    @abstractmethod
    def failed(self) -> bool:
        """Whether a task has failed in the end."""

    @abstractmethod
    def tell(self) -> None:
        """Print where the active jobs stand."""

    def run(self) -> int:
        """Returns the exit code: 1 where a task has failed, 128 and more after a signal, else 0."""
        previous = {signum: signal.signal(signum, self._on_signal) for signum in self.SIGNALS}
        told, wait = time.monotonic(), FIRST_STATUS_SECONDS
        try:
            while self.active or (self.signum is None and self.unfinished()):
                self._fill_slots()
                time.sleep(POLL_SECONDS)
                self._poll()
                if time.monotonic() - told >= wait:
                    told, wait = time.monotonic(), min(2 * wait, STATUS_SECONDS)
                    self.tell()
        finally:
            for job in self.active:
                job.stop()
            for signum, handler in previous.items():
                signal.signal(signum, handler)
        if self.signum is not None:
            print("stopped: the same command continues", flush=True)
            return 128 + self.signum
        return int(self.failed())

    def _fill_slots(self) -> None:
        while len(self.active) < self.slots and self.signum is None and (job := self.next_job()) is not None:
            self.active.append(job)
            if self.signum is not None:  # the signal came while the job was being started
                job.stop()

    def _poll(self) -> None:
        for job in list(self.active):
            code = job.poll()
            if code is not None:
                self.active.remove(job)
                self.ended(job, code)

    def _on_signal(self, signum: int, frame: object) -> None:
        again, self.signum = self.signum is not None, signum
        for job in self.active:
            if again:
                job.kill()
            else:
                job.stop()


def take_lock(path: Path, wait: bool = False) -> IO[str]:
    """Hold the lock until the file is closed, here and in every process that inherits it.

    Raises:
        Busy: someone holds it, and we do not `wait`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    while not _locks(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
        if not _locks(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
            file.close()
            raise Busy("another process is running it")
        # Nobody holds it: someone only looks, which `is_held` does by sharing it for a moment.
    return file


def is_held(path: Path) -> bool:
    """Whether someone holds the lock."""
    if not path.exists():
        return False
    with path.open() as file:
        return not _locks(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _locks(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    return True


def write_json(path: Path, contents: dict[str, Any]) -> None:
    """Whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(contents, indent=2) + "\n"))
