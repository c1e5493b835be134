"""One run of a campaign: its files, its state, and the processes that bring it forward.

<work>/<row>/seed<k>/              the run folder of main.py; result.json in it marks a finished run
<work>/<row>/seed<k>.json          the command that began it and the commits that ran it
<work>/<row>/seed<k>.log  .lock    output of its processes; held by them while they live
"""

import json
import shlex
import sys
from pathlib import Path

from a2c_ppo_acktr.jobs import launcher
from a2c_ppo_acktr.run import folder
from benchmarks.curves import curve, read_episodes, training_return, write_curve
from benchmarks.provenance import commit
from benchmarks.records import METRICS, Record
from benchmarks.rows import Row

EVALUATION_EPISODES = 100
TEST_SEED = 10_000
"""Of the environments in which results are measured: far from those of training, which begin at a run's seed, and from
those of the evaluations that choose its best checkpoint, which follow them."""


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
        self.checkpoint = folder.latest_checkpoint(self.folder)
        self.note = self.folder.with_suffix(".json")
        self.lock_file, self.log_file = self.folder.with_suffix(".lock"), self.folder.with_suffix(".log")

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
        return folder.train_command(self.folder, [*shlex.split(self.command)[2:], "--save-dir", ""])

    def evaluate_command(self) -> list[str]:
        """Evaluate the finished training, or the best checkpoint that it kept."""
        agent = self.folder / "checkpoints" / "best.pt" if self.row.metric == "best" else self.folder
        target = ["--load-dir", str(agent), "--trust", "--json", str(self.folder / "evaluation.json")]
        episodes = ["--num-episodes", str(EVALUATION_EPISODES), "--seed", str(TEST_SEED)]
        return [sys.executable, "evaluate.py", *target, *episodes]

    def begin(self) -> list[list[str]]:
        """Note command and commit; set a run aside that died before its first checkpoint; the commands to run."""
        self.check()
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        commits = json.loads(self.note.read_text())["commits"] if self.note.is_file() else []
        if folder.set_aside(self.folder):
            commits = []
        if (now := commit()) not in commits:
            commits.append(now)
        launcher.write_json(self.note, {"command": self.command, "commits": commits})
        return [self.train_command()] + ([self.evaluate_command()] if self.row.metric != "training" else [])

    def end(self, code: int, stopped: bool) -> None:
        """Nothing: `finish` takes the results."""

    def progress(self) -> tuple[int, float]:
        """Environment steps and seconds so far."""
        row = folder.progress(self.folder)
        return int(row.get("step", 0)), float(row.get("seconds", 0.0))

    def finish(self, results: Path) -> None:
        """Take the metrics and the curve of a run whose processes have succeeded, then mark it as finished."""
        episodes = read_episodes(self.folder)
        steps, seconds = self.progress()
        values: dict[str, float | None] = {"training": training_return(episodes)}
        if self.row.metric != "training":
            values[self.row.metric] = json.loads((self.folder / "evaluation.json").read_text())["mean"]
        write_curve(results / f"{self.row.name}_curves.csv", self.row.name, self.seed, curve(episodes))
        launcher.write_json(self.result_file, {"steps": steps, "seconds": seconds, "values": values})

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
