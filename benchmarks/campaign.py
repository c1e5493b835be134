"""Learning results against published figures: `python benchmarks/campaign.py --rows ppo-cheetah`.

Runs the rows of `rows.py`, a few processes at a time, of one thread each where the row does not say otherwise. Ctrl-C
saves and stops; the same command continues. Each row's results go to `results/<row>.csv`, its learning curves to
`results/<row>_curves.csv`. `--table`, `--page` and `--plot` show what there is. `--steps` makes a short trial, kept
apart from the results.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
from a2c_ppo_acktr.jobs import launcher
from a2c_ppo_acktr.jobs.launcher import Busy, Job
from benchmarks import curves, records
from benchmarks.rows import ROWS, Row
from benchmarks.runs import Changed, Run

HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run, and where it goes."""

    rows: list[Row]
    seeds: dict[str, tuple[int, ...]]
    work: Path
    results: Path
    trial: bool

    @property
    def runs(self) -> list[Run]:
        """Every seed of every row, row after row."""
        return [Run(row, seed, self.work) for row in self.rows for seed in self.seeds[row.name]]


def make_plan(names: Sequence[str], seeds: Sequence[int] | None, steps: int | None, folder: Path = HERE) -> Plan:
    """Rows by name; with `steps` a trial, whose runs and results stay in a work folder of its own."""
    rows = [ROWS[name] for name in names]
    work, results = folder / "work", folder / "results"
    if steps is not None:
        rows = [dataclasses.replace(row, steps=steps) for row in rows]
        work = work / f"trial-{steps}"
        results = work / "results"
    return Plan(rows, {row.name: tuple(seeds or row.seeds) for row in rows}, work, results, steps is not None)


def collect(plan: Plan, row: Row) -> list[records.Record]:
    """The row's CSV, brought up to date with the runs at hand."""
    runs = [run for run in plan.runs if run.row is row]
    stored = records.current(row, records.read(plan.results / f"{row.name}.csv"))
    found = [record for run in runs for record in run.records()]
    return records.merge(stored, records.current(row, found))


def save(plan: Plan, row: Row) -> None:
    """Write the row's CSV, if there is anything to say."""
    if found := collect(plan, row):
        records.write(plan.results / f"{row.name}.csv", found)


class Scheduler(launcher.Scheduler[Run]):
    """Brings every run of the plan forward that has not finished."""

    def __init__(self, plan: Plan, jobs: int) -> None:
        super().__init__(jobs)
        self.plan = plan
        self.waiting = [run for run in plan.runs if run.state != "finished"]
        self.failures = 0

    def next_job(self) -> Job[Run] | None:
        """The next run that nobody else is at and whose folder is its own."""
        while self.waiting:
            run = self.waiting.pop(0)
            begun = run.state
            try:
                job = Job(run)
            except (Busy, Changed) as reason:
                print(f"{run}: skipped: {reason}", flush=True)
                self.failures += 1
                continue
            print(f"{run}: {'continuing' if begun == 'resumable' else 'starting'}", flush=True)
            return job
        return None

    def unfinished(self) -> bool:
        """Whether runs wait."""
        return bool(self.waiting)

    def ended(self, job: Job[Run], code: int) -> None:
        """Take the results, or say why there are none."""
        run = job.task
        if job.complete(code):
            run.finish(self.plan.results)
            values = ", ".join(f"{record.metric} {record.value}" for record in run.records())
            print(f"{run}: finished, {values}", flush=True)
        elif job.stopped:
            print(f"{run}: stopped at {run.progress()[0]:,} steps", flush=True)
        else:
            self.failures += 1
            print(f"{run}: failed with exit code {code}\n{job.last_words()}", flush=True)
        save(self.plan, run.row)

    def failed(self) -> bool:
        """Whether a run failed or had to be skipped."""
        return self.failures > 0

    def tell(self) -> None:
        """Steps and time of every active run."""
        for job in self.active:
            steps, seconds = job.task.progress()
            print(f"{job.task}: {steps:,} of {job.task.row.steps:,} steps, {seconds:.0f} s", flush=True)


def report(plan: Plan, console: Console) -> None:
    """Print the table."""
    lines = [records.line(row, collect(plan, row), plan.seeds[row.name]) for row in plan.rows]
    title = "TRIAL, not a result" if plan.trial else "against published figures (std over seeds)"
    console.print(records.table(lines, title))


def page() -> str:
    """All rows and what they have given, from the results alone."""
    plan = make_plan(list(ROWS), None, None)
    stored = {row.name: records.read(plan.results / f"{row.name}.csv") for row in plan.rows}
    return records.markdown(records.line(row, stored[row.name], row.seeds) for row in plan.rows)


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` is seeds 1, 2, 3; `4,7` is these two, and `4,` is one."""
    numbers = tuple(int(part) for part in text.split(",") if part)
    if "," not in text:
        numbers = tuple(range(1, numbers[0] + 1))
    if not numbers:
        raise ValueError(text)
    return numbers


def parse_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated (default: all)")
    parser.add_argument("--seeds", type=parse_seeds, help="a number n for 1..n, or a list (default: each row's own)")
    parser.add_argument("--steps", type=lambda text: int(float(text)), help="a trial of so many steps, kept apart")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--page", action="store_true", help="only write results/README.md: the table of all rows")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="only draw the learning curves")
    parser.add_argument(
        "--against", type=Path, metavar="FOLDER", help="with --plot: results of other code beside these"
    )
    parser.add_argument("--together", action="store_true", help="with --plot: all rows in one panel")
    options = parser.parse_args(argv)
    options.rows = options.rows.split(",")
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"--rows {','.join(unknown)}: choose from {', '.join(ROWS)}")
    if options.jobs < 1 or (options.steps is not None and options.steps < 1):
        parser.error("--jobs and --steps must be at least 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(argv)
    plan = make_plan(options.rows, options.seeds, options.steps)
    console = Console()
    if options.page:
        (HERE / "results" / "README.md").write_text(page())
        return 0
    if options.plot is not None:
        drawn = curves.plot(options.rows, plan.results, options.plot, options.against, options.together)
        print(f"{options.plot}: {', '.join(drawn)}" if drawn else "no finished run of these rows: nothing drawn")
        return 0 if drawn else 1
    code = 0 if options.table else Scheduler(plan, options.jobs).run()
    report(plan, console)
    return code


if __name__ == "__main__":
    sys.exit(main())
