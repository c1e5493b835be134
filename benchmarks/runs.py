"""One run of a campaign: its files, its state, and the processes that bring it forward.

<work>/<row>/seed<k>/              the run folder of main.py; result.json in it marks a finished run
<work>/<row>/seed<k>.json          the command that began it and the commits that ran it
<work>/<row>/seed<k>.log  .lock    output of its processes; held by them while they live
"""

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.curves import curve, read_episodes, training_return, write_curve
from benchmarks.provenance import ROOT, commit
from benchmarks.records import METRICS, Record
from benchmarks.rows import Row

EVALUATION_EPISODES = 100
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Busy(Exception):
    """Another process is bringing this run forward."""


class Changed(Exception):
    """The folder holds a run of another command."""


class Run:
    """One seed of one row.

    Args:
        row: what to run.
        seed: of the run.
        work: folder of all rows.
    """

    def __init__(self, row: Row, seed: int, work: Path) -> None:
        self.row, self.seed, self.work = row, seed, work
        self.folder = work / row.name / f"seed{seed}"
        self.result_file = self.folder / "result.json"
        self.checkpoint = self.folder / "checkpoints" / "latest.pt"
        self.note = self.folder.with_suffix(".json")

    def __str__(self) -> str:
        return f"{self.row.name} seed {self.seed}"

    @property
    def state(self) -> str:
        """`finished`, `resumable`, or `new`."""
        if self.result_file.is_file():
            return "finished"
        return "resumable" if self.checkpoint.is_file() else "new"

    def check(self) -> None:
        """Raise `Changed` where the folder holds a run of other settings than the row's present ones."""
        if self.note.is_file() and (made_by := json.loads(self.note.read_text())["command"]) != self.command:
            raise Changed(f"{self.folder} was begun by another command: move it away\n  {made_by}")

    @property
    def command(self) -> str:
        """The command to publish."""
        return self.row.command(self.seed)

    def train_command(self) -> list[str]:
        """Begin or continue; the same run as `command`, with its files in `folder`."""
        if self.state == "resumable":
            return [sys.executable, "main.py", "--resume", str(self.folder)]
        flags = self.command.split()[2:]
        return [sys.executable, "main.py", *flags, "--log-dir", str(self.folder), "--save-dir", ""]

    def evaluate_command(self) -> list[str]:
        """Evaluate the finished training."""
        target = ["--load-dir", str(self.folder), "--json", str(self.folder / "evaluation.json")]
        return [sys.executable, "evaluate.py", *target, "--num-episodes", str(EVALUATION_EPISODES)]

    def prepare(self) -> None:
        """Note command and commit; set a run aside that died before its first checkpoint."""
        self.check()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        commits = json.loads(self.note.read_text())["commits"] if self.note.is_file() else []
        if self.state == "new" and self.folder.exists():
            self.folder.rename(self.folder.with_name(f"{self.folder.name}-dead-{time.time_ns()}"))
            commits = []
        if (now := commit()) not in commits:
            commits.append(now)
        _write_json(self.note, {"command": self.command, "commits": commits})

    def progress(self) -> tuple[int, float]:
        """Environment steps and seconds so far, from `progress.csv`."""
        path = self.folder / "progress.csv"
        if not path.is_file():
            return 0, 0.0
        text = path.read_text()
        rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
        return (int(rows[-1]["step"]), float(rows[-1]["seconds"])) if rows else (0, 0.0)

    def finish(self, results: Path) -> None:
        """Take the metrics and the curve of a run whose processes have succeeded, then mark it as finished."""
        episodes = read_episodes(self.folder)
        steps, seconds = self.progress()
        values: dict[str, float | None] = {"training": training_return(episodes)}
        if self.row.metric == "evaluation":
            values["evaluation"] = json.loads((self.folder / "evaluation.json").read_text())["mean"]
        write_curve(results / f"{self.row.name}_curves.csv", self.row.name, self.seed, curve(episodes))
        _write_json(self.result_file, {"steps": steps, "seconds": seconds, "values": values})

    def records(self) -> list[Record]:
        """What the run's files say; nothing before it has begun."""
        if not self.note.is_file() or not self.folder.is_dir():
            return []
        made_by = json.loads(self.note.read_text())
        finished = self.state == "finished"
        if finished:
            result = json.loads(self.result_file.read_text())
            steps, seconds, values = result["steps"], result["seconds"], result["values"]
        else:
            steps, seconds = self.progress()
            values = {"training": training_return(read_episodes(self.folder))}
            if self.row.metric != "training":
                values[self.row.metric] = None
        commits = " ".join(made_by["commits"])
        return [
            Record(self.row.name, self.seed, steps, seconds, commits, made_by["command"], name, value, finished)
            for name, value in values.items()
            if name in METRICS
        ]


class Job:
    """The processes of one run, one after the other: train, evaluate where the row asks for it.

    Args:
        run: what to bring forward.

    Raises:
        Busy: another campaign, or a process that outlived one, holds the run.
        Changed: see `Run.check`.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.stopped, self.start = run, False, time.monotonic()
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        self.lock = run.folder.with_suffix(".lock").open("w")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the processes inherit it, so it lives as they do
            run.prepare()
        except BlockingIOError as error:
            self.lock.close()
            raise Busy(f"{run} is being run by another process") from error
        except Changed:
            self.lock.close()
            raise
        self.log: IO[Any] = run.folder.with_suffix(".log").open("a")
        self.commands = [run.train_command()]
        if run.row.metric == "evaluation":
            self.commands.append(run.evaluate_command())
        self.process = self._launch()

    def _launch(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.commands.pop(0),
            cwd=ROOT,
            env=os.environ | ONE_THREAD,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches it once, from `stop`: main.py takes a second signal as "at once"
            pass_fds=[self.lock.fileno()],
        )

    def poll(self) -> int | None:
        """The exit code once all processes have ended or one has failed; None before."""
        code = self.process.poll()
        if code == 0 and self.commands and not self.stopped:
            self.process = self._launch()
            return None
        if code is not None:
            self.log.close()
            self.lock.close()
        return code

    def complete(self, code: int) -> bool:
        """Whether `code` ends the whole run, as against an interrupted or failed one."""
        return code == 0 and not self.commands

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Ask the process, once, to save and end; or kill it."""
        if self.stopped and signum == signal.SIGTERM:
            return
        self.stopped = True
        if self.process.poll() is None:
            self.process.send_signal(signum)

    def last_words(self, lines: int = 5) -> str:
        """The end of the log."""
        text = self.run.folder.with_suffix(".log").read_text(errors="replace")
        return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def _write_json(path: Path, contents: dict[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(contents, indent=2) + "\n")
    temporary.replace(path)
