"""Results of rows: one small CSV each, and the table against published figures."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from a2c_ppo_acktr.files import write_atomically
from benchmarks.rows import Row

METRICS = {
    "training": "training return of the last 100 episodes",
    "evaluation": "evaluation over 100 episodes",
    "best": "evaluation of the best checkpoint over 100 episodes",
}


class Record(NamedTuple):
    """One metric of one run, as in the CSV."""

    row: str
    seed: int
    steps: int
    seconds: float
    commit: str
    command: str
    metric: str
    value: float | None
    finished: bool


def read(path: Path) -> list[Record]:
    """The records of a row; none where the file is missing."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            Record(
                row=line["row"],
                seed=int(line["seed"]),
                steps=int(line["steps"]),
                seconds=float(line["seconds"]),
                commit=line["commit"],
                command=line["command"],
                metric=line["metric"],
                value=float(line["value"]) if line["value"] else None,
                finished=line["finished"] == "True",
            )
            for line in csv.DictReader(file)
        ]


def current(row: Row, found: Iterable[Record]) -> list[Record]:
    """The records that the row's present command made; others are of a row that has changed since."""
    return [record for record in found if record.command == row.command(record.seed)]


def merge(old: Iterable[Record], new: Iterable[Record]) -> list[Record]:
    """The newer record of each seed and metric; a finished one gives way only to a finished one."""
    merged = {(record.seed, record.metric): record for record in old}
    for record in new:
        key = record.seed, record.metric
        if record.finished or key not in merged or not merged[key].finished:
            merged[key] = record
    return [merged[key] for key in sorted(merged)]


def write(path: Path, records: Iterable[Record]) -> None:
    """Write the records of a row."""
    rows: list[Iterable[object]] = [Record._fields]
    for record in records:
        value = "" if record.value is None else f"{record.value:.4f}"
        rows.append((record._asdict() | {"seconds": round(record.seconds, 1), "value": value}).values())
    write_rows(path, rows)


def write_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV so that it holds either the old rows or the new ones, whole, at every moment."""

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write)


class Line(NamedTuple):
    """One row of the table."""

    row: str
    compared: str
    mean: float | None
    spread: float | None
    values: list[float]
    published: str
    source: str
    steps: str
    state: str


def line(row: Row, found: Iterable[Record], seeds: Sequence[int]) -> Line:
    """Mean and standard deviation (n - 1) over the finished seeds, and whether all of `seeds` have finished."""
    own = [record for record in current(row, found) if record.metric == row.metric and record.seed in seeds]
    finished = [record for record in own if record.finished]
    values = [record.value for record in finished if record.value is not None]
    running = max((record.steps for record in own if not record.finished), default=None)
    state = "finished" if len(finished) == len(seeds) else f"UNFINISHED {len(finished)}/{len(seeds)} seeds"
    if len(values) < len(finished):
        state += f", {len(finished) - len(values)} with too few episodes for a value"
    if running is not None:
        state += f", one at {running:,} steps"
    if row.stale:
        state += f"; OF BEFORE: {row.stale}"
    return Line(
        row=row.name,
        compared=METRICS[row.metric],
        mean=statistics.fmean(values) if values else None,
        spread=statistics.stdev(values) if len(values) > 1 else None,
        values=values,
        published=row.published,
        source=row.source,
        steps=f"{row.steps:,}",
        state=state,
    )


def figures(one: Line) -> tuple[str, str]:
    """Mean and spread, and the value of each seed."""
    mean = "no value yet" if one.mean is None else f"{one.mean:.2f}"
    spread = "" if one.spread is None else f" ± {one.spread:.2f}"
    return mean + spread, ", ".join(f"{value:.2f}" for value in one.values)


def markdown(lines: Iterable[Line]) -> str:
    """The same as `table`, as a page."""
    page = [
        "# Every row",
        "",
        "Written by `python benchmarks/campaign.py --page`: all rows of `rows.py`, none chosen, finished or not, with",
        "every seed that counts. What is `OF BEFORE` was made by settings that have changed since.",
        "",
        "| row | steps | mean ± std | each seed | published | of what | state |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in lines:
        cells = one.row, one.steps, *figures(one), one.published, one.compared, one.state
        page.append(f"| {' | '.join(cells)} |")
    return "\n".join(page) + "\n"


def table(lines: Iterable[Line], title: str) -> Table:
    """Rows against published figures."""
    view = Table(title=title, show_lines=True)
    for name in ("row", "mean ± std (each seed)", "published", "state"):
        view.add_column(name)
    for one in lines:
        mean, values = figures(one)
        view.add_row(
            f"{one.row}\n{one.steps} steps, {one.compared}",
            mean + (f"\n({values})" if values else ""),
            f"{one.published}\n{one.source}",
            one.state,
            style=None if one.state == "finished" else "yellow",
        )
    return view
