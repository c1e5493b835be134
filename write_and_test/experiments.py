"""Queues of experiments: a cross product of settings, and a scheduler that runs each exactly once.

    python write_and_test/experiments.py add QUEUE --algo ppo --env-name CartPole-v1 --vary lr=1e-3,3e-4 --vary seed=1,2
    python write_and_test/experiments.py run QUEUE --slots 2 --retries 1
    python write_and_test/experiments.py status QUEUE

or, from a notebook:

    from write_and_test.experiments import Queue, product
    queue = Queue("queues/lr")
    queue.add(product(dict(algo="ppo", env_name="CartPole-v1"), dict(lr=[1e-3, 3e-4], seed=[1, 2])))
    queue.run(slots=2)
    queue.status()

Ctrl-C saves and stops every run, a second one kills. The same command continues, also after a crash. Several
schedulers may share a queue. What failed is tried again from its checkpoint; a larger --retries tries once more.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
from a2c_ppo_acktr import arguments, flags
from a2c_ppo_acktr.jobs import launcher
from a2c_ppo_acktr.jobs.launcher import Busy, Job
from a2c_ppo_acktr.utils import UsageError
from write_and_test import settings as plain_settings
from write_and_test.experiment import Attempt, Experiment, Settled, Status
from write_and_test.settings import product

__all__ = ["Queue", "Status", "product"]

COLORS = {"finished": "green", "running": "cyan", "resumable": "yellow", "failed": "red", "waiting": "dim"}


class Queue:
    """A folder of experiments.

    Args:
        folder: made when something is added.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser().resolve()

    def add(self, settings: Mapping[str, Any] | Sequence[Mapping[str, Any]], name: str = "") -> list[str]:
        """Add experiments, all or none; returns their names. One that is there already stays as it is.

        Args:
            settings: of one experiment or of several, named as the flags of main.py are.
            name: in front of the settings that vary, where these do not tell experiments of the queue apart.

        Raises:
            UsageError: with one line that names the bad setting, or the experiment that has this name.
        """
        several = [settings] if isinstance(settings, Mapping) else settings
        plain = [plain_settings.to_plain(one) for one in several]
        parsed = [plain_settings.validate(one) for one in plain]
        self.folder.mkdir(parents=True, exist_ok=True)
        with launcher.take_lock(self.folder / ".lock", wait=True):
            there = self.experiments()
            known = {json.dumps(one.settings, sort_keys=True): one.name for one in there}
            taken = {one.name: one.settings for one in there}
            added: dict[str, dict[str, Any]] = {}
            names = []
            for key, one, args in zip(plain_settings.names(plain, parsed, name), plain, parsed, strict=True):
                same = json.dumps(one, sort_keys=True)
                if same not in known and key in taken:
                    differing = plain_settings.difference(one, taken[key])
                    raise UsageError(
                        f"{key}: the queue has another experiment of this name; they differ in {differing}"
                    )
                if same not in known:
                    known[same], taken[key] = key, one
                    order = there[-1].added + 1 if there else 0
                    added[key] = {"settings": one, "num_env_steps": args.num_env_steps, "added": order + len(added)}
                names.append(known[same])
            for key, contents in added.items():
                launcher.write_json(self.folder / f"{key}.json", contents)
        return names

    def experiments(self) -> list[Experiment]:
        """In the order in which they were added.

        Raises:
            UsageError: there is no such queue.
        """
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder}: no such queue")
        return sorted(map(Experiment, self.folder.glob("*.json")), key=lambda one: (one.added, one.name))

    def status(self) -> list[Status]:
        """How every experiment stands."""
        return [experiment.status() for experiment in self.experiments()]

    def table(self) -> Table:
        """The status, to print; names come last, so that a long one breaks no other column."""
        rows = self.status()
        counts = {state: sum(row.state == state for row in rows) for state in COLORS}
        title = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "empty"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("state", no_wrap=True)
        for column in ("steps", "of", "seconds", "return", "code", "attempts"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("experiment", overflow="fold")
        for row in rows:
            state = f"[{COLORS[row.state]}]{row.state}[/]"
            last_return = "" if row.last_return is None else f"{row.last_return:.1f}"
            code = "" if row.exit_code is None else str(row.exit_code)
            numbers = (f"{row.steps:,}", f"{row.total:,}", f"{row.seconds:.0f}", last_return, code, str(row.attempts))
            table.add_row(state, *numbers, Text(row.name))
        return table

    def run(self, slots: int = 2, retries: int = 1, timeout: float | None = None, gpus: Sequence[str] = ()) -> int:
        """Run what is left to run, and return when nothing is: also not on other schedulers of the queue.

        Args:
            slots: runs at once; those of other schedulers do not count.
            retries: how often an experiment that failed is tried again, from its checkpoint if it has one.
            timeout: seconds after which an attempt is saved, stopped, and counts as failed.
            gpus: what runs get as `CUDA_VISIBLE_DEVICES`, evenly; none leaves it alone.

        Returns:
            the exit code: 1 where an experiment has failed, 128 and more after a signal, else 0.
        """
        return Scheduler(self, slots, retries, timeout, gpus).run()


class Scheduler(launcher.Scheduler[Attempt]):
    """Brings every experiment of a queue forward; what is left to do is read from the files each time."""

    def __init__(self, queue: Queue, slots: int, retries: int, timeout: float | None, gpus: Sequence[str]) -> None:
        super().__init__(slots)
        self.queue, self.retries, self.timeout, self.gpus = queue, retries, timeout, gpus

    def next_job(self) -> Job[Attempt] | None:
        """The next experiment that nobody is at and that is not settled."""
        for experiment in self.queue.experiments():
            if not experiment.startable(self.retries) or experiment.running:
                continue
            try:
                job = Job(Attempt(experiment, self.retries, self.timeout), self._environment())
            except (Busy, Settled):
                continue
            status = experiment.status()
            begun = f"continuing at {status.steps:,} steps" if status.steps else "starting"
            print(f"{experiment.name}: {begun}, attempt {status.attempts}", flush=True)
            return job
        return None

    def _environment(self) -> dict[str, str]:
        """The GPU that has the fewest runs."""
        if not self.gpus:
            return {}
        used = [job.environment["CUDA_VISIBLE_DEVICES"] for job in self.active]
        return {"CUDA_VISIBLE_DEVICES": min(self.gpus, key=used.count)}

    def unfinished(self) -> bool:
        """Whether anything is left to do, what other schedulers run included: it may die."""
        return any(one.startable(self.retries) or one.running for one in self.queue.experiments())

    def ended(self, job: Job[Attempt], code: int) -> None:
        """Say how."""
        experiment = job.task.experiment
        status, outcome, last = experiment.status(), experiment.outcome(), experiment.events()[-1]
        if outcome == "finished":
            value = "" if status.last_return is None else f", return {status.last_return:.1f}"
            print(f"{experiment.name}: finished at {status.steps:,} steps{value}", flush=True)
        elif outcome == "failed":
            reason = "timeout" if last["reason"] == "timeout" else f"exit code {last['exit_code']}"
            print(f"{experiment.name}: failed at {status.steps:,} steps: {reason}\n{job.last_words()}", flush=True)
        else:
            print(f"{experiment.name}: stopped at {status.steps:,} steps", flush=True)

    def failed(self) -> bool:
        """Whether an experiment is left that failed."""
        return any(experiment.outcome() == "failed" for experiment in self.queue.experiments())

    def tell(self) -> None:
        """Steps of what runs, here or elsewhere, and how much waits."""
        rows = self.queue.status()
        for row in rows:
            if row.state == "running":
                value = "" if row.last_return is None else f", return {row.last_return:.1f}"
                print(f"{row.name}: {row.steps:,} of {row.total:,} steps, {row.seconds:.0f} s{value}", flush=True)
        if waiting := sum(row.state in ("waiting", "resumable") for row in rows):
            print(f"{waiting} experiments wait", flush=True)


def make_parser() -> flags.Parser:
    """The command line; flags of main.py that follow `add` are left over."""
    parser = flags.Parser(prog="experiments.py", description="Queues of experiments.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{add,run,status}")
    add = commands.add_parser("add", help="add a cross product of settings", usage="%(prog)s QUEUE [flags of main.py]")
    add.add_argument("queue", metavar="QUEUE", help="folder")
    add.add_argument("--vary", action="append", default=[], metavar="SETTING=VALUE,VALUE", help="once per setting")
    add.add_argument("--name", default="", help="in front of the names of these experiments")
    run = commands.add_parser("run", help="run what is left; the same command continues")
    run.add_argument("queue", metavar="QUEUE", help="folder")
    run.add_argument("--slots", type=flags.bounded_int("--slots", 1), default=2, help="runs at once (default: 2)")
    run.add_argument("--retries", type=flags.bounded_int("--retries", 0), default=1, help="of what failed (default: 1)")
    run.add_argument("--timeout", type=flags.bounded_int("--timeout", 1), default=None, help="seconds per attempt")
    run.add_argument("--gpus", default="", help="such as 0,1: spread the runs over them")
    commands.add_parser("status", help="print the table").add_argument("queue", metavar="QUEUE", help="folder")
    return parser


def read_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`lr=1e-3,3e-4` into a name and values; commas within brackets belong to a value."""
    vary = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not key or not equals or not values:
            raise UsageError(f"--vary {text}: expected setting=value,value")
        vary[key.replace("-", "_")] = [flags.read_value(one) for one in _split(values)]
    return vary


def _split(text: str) -> list[str]:
    """The parts between commas that stand in no brackets."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter in "[({") - (letter in "])}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def add_command(queue: Queue, vary: dict[str, list[Any]], name: str, argv: list[str]) -> None:
    """What `add` does."""
    finder = flags.Parser(add_help=False)
    finder.add_argument("--algo", default=vary.get("algo", [arguments.RunConfig.algo])[0])
    algo = finder.parse_known_args(argv)[0].algo
    names = queue.add(product(arguments.read_flags(algo, argv), vary), name)
    print("\n".join(names))


def print_whole(table: Table) -> None:
    """Every row in one line, whatever the terminal's width: where it has to, the terminal breaks it, not the copy."""
    unbounded = Console(width=10_000)
    Console(width=Measurement.get(unbounded, unbounded.options, table).maximum).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        options, rest = make_parser().parse_known_args(argv)
        queue = Queue(options.queue)
        if options.command == "add":
            add_command(queue, read_vary(options.vary), options.name, rest)
            return 0
        if rest:
            raise UsageError(f"{rest[0]}: unknown to {options.command}")
        code = 0
        if options.command == "run":
            gpus = [gpu for gpu in options.gpus.split(",") if gpu]
            code = queue.run(options.slots, options.retries, options.timeout, gpus)
        print_whole(queue.table())
        return code
    except UsageError as error:
        print(f"experiments.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
