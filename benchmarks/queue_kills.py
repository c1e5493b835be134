"""Exactly once under SIGKILL: `python benchmarks/queue_kills.py`.

A queue of real runs, whose scheduler is killed twice in the middle: once alone, so that its runs go on without it, once
together with its runs. Another scheduler continues each time. At the end every run must have completed once, never two
processes at a time, and its episodes must equal those of a queue that nobody disturbed.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
from a2c_ppo_acktr.jobs.launcher import ROOT
from benchmarks.curves import read_episodes
from write_and_test.experiment import Experiment
from write_and_test.experiments import Queue, product

SETTINGS = {"algo": "ppo", "env_name": "CartPole-v1", "preset": "classic", "save_interval": 5}
SECONDS = 600.0


class Watch:
    """How many processes of main.py each run folder has had at once, seen ten times a second."""

    def __init__(self, queue: Queue) -> None:
        self.folders = {str(experiment.run_folder) for experiment in queue.experiments()}
        self.most: Counter[str] = Counter()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self) -> None:
        while not self.done.wait(0.1):
            now = Counter(folder for words in command_lines() if words[1:2] == ["main.py"] for folder in words[2:])
            for folder in self.folders & now.keys():
                self.most[folder] = max(self.most[folder], now[folder])


def command_lines() -> list[list[str]]:
    """Of every process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace").split("\0"))
        except OSError:  # it has ended
            continue
    return found


def start_scheduler(queue: Queue, slots: int) -> subprocess.Popen:
    command = [sys.executable, "write_and_test/experiments.py", "run", str(queue.folder), "--slots", str(slots)]
    return subprocess.Popen(command, cwd=ROOT)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the queue does not move")
        time.sleep(0.1)


def in_the_middle(queue: Queue, finished: int) -> bool:
    """Whether so many runs have finished and one is halfway."""
    rows = queue.status()
    halfway = any(row.state == "running" and row.total * 0.3 < row.steps < row.total * 0.7 for row in rows)
    return halfway and sum(row.state == "finished" for row in rows) >= finished


def kill(scheduler: subprocess.Popen, and_runs: bool) -> None:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(scheduler.pid)], capture_output=True, text=True).stdout
    scheduler.kill()
    scheduler.wait()
    for pid in map(int, listed.split()) if and_runs else []:
        os.killpg(pid, signal.SIGKILL)
    print(f"KILLED the scheduler{' and its runs' if and_runs else ''}", flush=True)


def episodes(experiment: Experiment) -> list[list[str]]:
    """Return and length of each episode, per environment; the third column is the time."""
    paths = sorted(experiment.run_folder.glob("*.monitor.csv"))
    return [[line.rpartition(",")[0] for line in path.read_text().splitlines()[2:]] for path in paths]


def report(queue: Queue, reference: Queue, most: Counter[str]) -> bool:
    """Print the table; whether all is as it should be."""
    columns = ("experiment", "attempts", "completed", "at once", "steps", "in episodes", "episodes", "as undisturbed")
    table = Table(*columns, title=f"{len(queue.experiments())} runs")
    good = True
    for experiment, undisturbed in zip(queue.experiments(), reference.experiments(), strict=True):
        completed = sum(event.get("exit_code") == 0 for event in experiment.events())
        equal = episodes(experiment) == episodes(undisturbed) and experiment.settings == undisturbed.settings
        lengths, status = read_episodes(experiment.run_folder).lengths, experiment.status()
        at_once = most[str(experiment.run_folder)]
        good &= completed == 1 and equal and at_once == 1 and status.state == "finished"
        numbers = (status.attempts, completed, at_once, status.steps, int(lengths.sum()), len(lengths))
        table.add_row(experiment.name, *map(str, numbers), "yes" if equal else "NO")
    Console(width=140).print(table)
    return good


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=12, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="(default: %(default)s)")
    parser.add_argument("--slots", type=int, default=2, help="(default: %(default)s)")
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="queue-kills-"))
    settings = product(SETTINGS | {"num_env_steps": options.steps}, {"seed": range(1, options.runs + 1)})
    queue, reference = Queue(folder / "killed"), Queue(folder / "undisturbed")
    queue.add(settings)
    reference.add(settings)

    watch = Watch(queue)
    for finished, and_runs in ((options.runs // 6, False), (options.runs // 2, True)):
        scheduler = start_scheduler(queue, options.slots)
        wait_until(lambda finished=finished: in_the_middle(queue, finished))
        kill(scheduler, and_runs)
    codes = [start_scheduler(queue, options.slots).wait() for _ in range(2)]  # the second one finds nothing to do
    watch.done.set()
    print("UNDISTURBED", flush=True)
    codes.append(start_scheduler(reference, options.slots).wait())
    good = report(queue, reference, watch.most) and codes == [0, 0, 0]
    print(f"{'passed' if good else 'FAILED'}; exit codes {codes}; files in {folder}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
