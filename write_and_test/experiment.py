"""One experiment of a queue: its files, what they say, and how an attempt at it begins and ends.

<queue>/<name>.json            its settings
<queue>/<name>/run/            run folder of main.py
               log.txt         output of every attempt
               journal.jsonl   when attempts began, and how they ended
               lock            held by the processes of an attempt while they live
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from a2c_ppo_acktr.jobs import launcher, waiter
from a2c_ppo_acktr.run import checkpoint, folder
from a2c_ppo_acktr.utils import UsageError
from write_and_test.settings import QUEUE_DEFAULTS, Settings, to_flags


class Settled(Exception):
    """Nothing is left to do for an experiment."""


@dataclasses.dataclass(frozen=True)
class Status:
    """How an experiment stands: a row of the table."""

    name: str
    state: str
    """`waiting`, `running`, `finished`, `failed`, or `resumable` where it ended early and continues."""
    steps: int
    total: int
    seconds: float
    last_return: float | None
    """Mean over the last 100 training episodes."""
    exit_code: int | None
    """Of the last attempt; 128 and the signal where one ended it, None where it runs or nobody saw it end."""
    attempts: int


class Experiment:
    """Settings and files of an experiment. What it says is read anew each time: other processes write the files.

    Args:
        file: its JSON file in the queue.

    Raises:
        UsageError: the file is not one of a queue's.
    """

    def __init__(self, file: Path) -> None:
        try:
            contents = json.loads(file.read_text())
            self.settings: Settings = contents["settings"]
            self.total, self.added = int(contents["num_env_steps"]), int(contents["added"])
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{file}: not an experiment that `add` wrote") from None
        self.name = file.name.removesuffix(".json")
        self.folder = file.with_name(self.name)
        self.run_folder = self.folder / "run"
        self.lock_file, self.log_file = self.folder / "lock", self.folder / "log.txt"
        self.journal = self.folder / "journal.jsonl"

    def events(self) -> list[dict[str, Any]]:
        """The journal; a line that a crash of the machine cut short is left out."""
        events = []
        for line in self.journal.read_text().splitlines() if self.journal.is_file() else []:
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events

    @property
    def running(self) -> bool:
        """Whether processes of an attempt live."""
        return launcher.is_held(self.lock_file)

    @property
    def state(self) -> str:
        """As in `Status`."""
        return "running" if self.running else self.outcome()

    def outcome(self) -> str:
        """What the files say of it while nobody is at it: `finished`, `failed`, `resumable` or `waiting`."""
        noted = self.noted()
        return "finished" if noted != "finished" and self.reached_its_end() else noted

    def noted(self) -> str:
        """The outcome as far as the journal knows it."""
        last = (self.events() or [{}])[-1]
        if last.get("exit_code") == 0:
            return "finished"
        if _is_failure(last):
            return "failed"
        return "resumable" if folder.latest_checkpoint(self.run_folder).is_file() else "waiting"

    def reached_its_end(self) -> bool:
        """Whether the checkpoint is of the last step: nobody may have been left to note the exit code."""
        if int(folder.progress(self.run_folder).get("step", 0)) < self.total:
            return False  # without the cost of loading a checkpoint
        try:
            saved = checkpoint.load(folder.latest_checkpoint(self.run_folder), mmap=True)
        except UsageError:
            return False
        return saved["logger"]["step"] >= self.total

    def startable(self, retries: int) -> bool:
        """Whether the journal leaves something to do; a failure does as long as there were at most `retries`.

        Schedulers ask this of every experiment several times a second, so no file is read that grows with the run.
        """
        noted = self.noted()
        if noted == "failed":
            return sum(map(_is_failure, self.events())) <= retries
        return noted != "finished"

    def status(self) -> Status:
        """A row of the table."""
        state, events, progress = self.state, self.events(), folder.progress(self.run_folder)
        last_return = progress.get("charts/episodic_return")
        return Status(
            name=self.name,
            state=state,
            steps=int(progress.get("step", 0)),
            total=self.total,
            seconds=float(progress.get("seconds", 0.0)),
            last_return=float(last_return) if last_return else None,
            exit_code=events[-1].get("exit_code") if events else None,
            attempts=sum(event["event"] == "start" for event in events),
        )


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What a job runs: the experiment under a waiter, which notes how it ended even when no scheduler is left."""

    experiment: Experiment
    retries: int
    timeout: float | None

    @property
    def lock_file(self) -> Path:
        """Of the experiment."""
        return self.experiment.lock_file

    @property
    def log_file(self) -> Path:
        """Of the experiment."""
        return self.experiment.log_file

    def begin(self) -> list[list[str]]:
        """Look again, now that nobody else can be at it; note the beginning.

        Raises:
            Settled: another scheduler was faster.
        """
        experiment = self.experiment
        if experiment.noted() != "finished" and experiment.reached_its_end():
            waiter.append(experiment.journal, event="end", exit_code=0, reason="checkpoint")
        if not experiment.startable(self.retries):
            raise Settled
        folder.set_aside(experiment.run_folder)
        command = folder.train_command(experiment.run_folder, to_flags(QUEUE_DEFAULTS | experiment.settings))
        waiter.append(experiment.journal, event="start", command=command[1:])
        return [waiter.command_line(experiment.journal, self.timeout, command)]

    def end(self, code: int, stopped: bool) -> None:
        """Note the end where the waiter could not: it was killed."""
        if self.experiment.events()[-1]["event"] == "start":
            reason = "stopped" if stopped else "ended"
            waiter.append(self.experiment.journal, event="end", exit_code=waiter.exit_code(code), reason=reason)


def _is_failure(event: dict[str, Any]) -> bool:
    """Whether an attempt ended badly and nobody had asked it to end."""
    return event.get("event") == "end" and event["exit_code"] != 0 and event["reason"] != "stopped"
