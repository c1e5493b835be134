"""Environment steps per second against peers: `python benchmarks/throughput.py`.

Acting, stepping, learning and logging, end to end. Project and peer alternate, each measurement in a process of its
own after a warm-up of two updates; the table shows medians and their ratio. Both sides get the number of threads that
is better for them, found by a short probe. A cell is marked where other processes disturbed it: with a thread per core
they slow the two sides by very different factors. `--profile CELL` shows where the time of a step goes instead.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
from a2c_ppo_acktr import RUNTIME
from benchmarks.cells import CELLS, Cell
from benchmarks.provenance import ROOT, OtherProcesses, machine
from benchmarks.records import write_rows

DEFAULT_OUT = Path(__file__).resolve().parent / "throughput.csv"
LEAST_SECONDS, LEAST_REPEATS = 10.0, 3
BOUND_SHARE = 0.9
DISTURBED_CORES = 0.1
COLUMNS = (
    *("cell", "who", "kind", "repeat", "threads", "steps_per_second", "seconds", "parameters", "gradient_steps"),
    *("peak_mib", "other_cores", "ratio", "goal", "met", "torch", "stable_baselines3", "cpus", "commit"),
)
"""kind: probe, run or median; peak_mib: most memory of the process; other_cores: what other processes used meanwhile;
a median row has the largest of both; ratio, goal and met are filled in the project's median row."""


class Measurement(NamedTuple):
    """One process's result."""

    cell: str
    who: str
    kind: str
    repeat: int
    threads: int
    steps_per_second: float
    seconds: float
    parameters: int
    gradient_steps: float
    peak_mib: int
    other_cores: float


class Summary(NamedTuple):
    """Medians of one cell, steps per second."""

    project: float
    peer: float
    bound: float
    ratio: float
    met: bool


def summarize(project: Iterable[float], peer: Iterable[float], bound: Iterable[float], goal: float) -> Summary:
    """Ratio of medians; the goal is met at `goal` times the peer or 90 % of the bound, whichever is smaller."""
    ours, theirs, most = (statistics.median(rates) for rates in (project, peer, bound))
    return Summary(ours, theirs, most, ours / theirs, ours >= min(goal * theirs, BOUND_SHARE * most))


def run_worker(
    cell: str, who: str, *, threads: int, seconds: float, seed: int, device: str, num_envs: int | None = None
) -> dict[str, Any]:
    """One measurement in its own process; `num_envs` other than the cell's where given."""
    command = [sys.executable, "-m", "benchmarks.measure", cell, who, "--threads", str(threads)]
    command += ["--seconds", str(seconds), "--seed", str(seed), "--device", device]
    command += ["--num-envs", str(num_envs)] if num_envs is not None else []
    environ = {name: value for name, value in os.environ.items() if name not in RUNTIME}
    environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | (RUNTIME if who != "peer" else {})
    others = OtherProcesses()
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"throughput.py: {' '.join(command[1:])} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"other_cores": round(others.cores(), 3)}


def measure(who: str, cell: Cell, kind: str, repeat: int, threads: int, seconds: float, device: str) -> Measurement:
    """Run a worker, tell its speed."""
    found = run_worker(cell.name, who, threads=threads, seconds=seconds, seed=1 + repeat, device=device)
    print(f"{cell.name} {who} {kind} {repeat + 1} ({threads} threads): {found['steps_per_second']:.0f}", flush=True)
    return Measurement(cell.name, who, kind, repeat, threads, **found)


def measure_cell(cell: Cell, options: argparse.Namespace) -> list[Measurement]:
    """Probe the threads, then alternate project, peer and bound."""
    rows: list[Measurement] = []
    threads = {"bound": 1}
    for who in ("project", "peer"):
        probes = []
        if len(options.threads) > 1:
            probes = [measure(who, cell, "probe", 0, n, options.probe_seconds, options.device) for n in options.threads]
        rows += probes
        threads[who] = max(probes, key=lambda probe: probe.steps_per_second).threads if probes else options.threads[0]
    for repeat in range(options.repeats):
        for who in ("project", "peer", "bound"):
            rows.append(measure(who, cell, "run", repeat, threads[who], options.seconds, options.device))
    return rows


def rates(rows: Iterable[Measurement], who: str) -> list[float]:
    """Steps per second of the runs of one side."""
    return [row.steps_per_second for row in rows if row.who == who and row.kind == "run"]


def disturbance(rows: Iterable[Measurement]) -> float:
    """The most cores that other processes used during one of the measurements."""
    return max(row.other_cores for row in rows)


def verdict(rows: Iterable[Measurement], met: bool) -> str:
    """Whether the goal is met, if the measurements can tell."""
    if disturbance(rows) > DISTURBED_CORES:
        return "disturbed"
    return "yes" if met else "no"


def check_equal_work(rows: Iterable[Measurement], unequal: str = "") -> list[str]:
    """One line per quantity that differs between project and peer; networks may where `unequal` says how."""
    rows = [row for row in rows if row.who != "bound"]
    names = ("gradient_steps",) if unequal else ("parameters", "gradient_steps")
    found = {name: sorted({(r.who, getattr(r, name)) for r in rows}) for name in names}
    return [f"{name} differ: {values}" for name, values in found.items() if len({value for _, value in values}) > 1]


def to_csv_rows(rows: list[Measurement], summary: Summary, cell: Cell) -> list[dict[str, Any]]:
    """Every run and the medians, with the machine beside them."""
    found = [row._asdict() | {"repeat": row.repeat + 1} for row in rows]
    for who in ("project", "peer", "bound"):
        runs = [row for row in rows if row.who == who and row.kind == "run"]
        median = runs[0]._asdict() | {"kind": "median", "repeat": len(runs), "steps_per_second": getattr(summary, who)}
        median["seconds"] = min(row.seconds for row in runs)
        median["peak_mib"], median["other_cores"] = max(row.peak_mib for row in runs), disturbance(runs)
        if who == "project":
            median |= {"ratio": round(summary.ratio, 3), "goal": cell.goal, "met": verdict(rows, summary.met)}
        found.append(median)
    for row in found:
        row["steps_per_second"] = round(row["steps_per_second"], 1)
        row["seconds"] = round(row["seconds"], 2)
    return [row | machine() for row in found]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write `rows`; cells that were measured earlier and not now keep theirs."""
    measured = {row["cell"] for row in rows}
    kept: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["cell"] not in measured]
    order = list(CELLS)
    found = sorted(kept + rows, key=lambda row: order.index(row["cell"]) if row["cell"] in order else -1)
    write_rows(path, [COLUMNS, *([row.get(name, "") for name in COLUMNS] for row in found)])


def table(results: dict[str, tuple[list[Measurement], Summary]], title: str) -> Table:
    """The speed table."""
    view = Table(title=title)
    for name in ("cell", "project", "SB3", "ratio", "bound", "goal", "met", "MiB, project", "MiB, SB3"):
        view.add_column(name, justify="left" if name == "cell" else "right")
    for name, (rows, summary) in results.items():
        threads = {row.who: row.threads for row in rows if row.kind == "run"}
        view.add_row(
            name,
            f"{summary.project:,.0f} ({threads['project']}t)",
            f"{summary.peer:,.0f} ({threads['peer']}t)",
            f"{summary.ratio:.2f}",
            f"{summary.bound:,.0f}",
            f"{CELLS[name].goal:g} x",
            verdict(rows, summary.met),
            *(f"{max(row.peak_mib for row in rows if row.who == who):,}" for who in ("project", "peer")),
        )
    return view


def profile_table(name: str, found: dict[str, Any]) -> Table:
    """Where the time of a step of all environments goes."""
    steps = found["calls"]["env step"]
    total = sum(found["parts"].values())
    view = Table(title=f"{name}: {found['steps_per_second']:,.0f} steps/s, {found['num_envs']} environments")
    for column in ("part", "share", "us per step of all environments", "us per call", "calls"):
        view.add_column(column, justify="left" if column == "part" else "right")
    for part, seconds in sorted(found["parts"].items(), key=lambda item: -item[1]):
        calls = found["calls"].get(part)
        per_call = f"{1e6 * seconds / calls:,.1f}" if calls else ""
        view.add_row(part, f"{seconds / total:.1%}", f"{1e6 * seconds / steps:.1f}", per_call, f"{calls or ''}")
    return view


def parse_options(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--cells", default=",".join(CELLS), help="comma-separated (default: all)")
    parser.add_argument("--repeats", type=int, default=LEAST_REPEATS, help="runs of each side (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=LEAST_SECONDS, help="of each run (default: %(default)s)")
    parser.add_argument("--probe-seconds", type=float, default=3.0, help="of a thread probe (default: %(default)s)")
    parser.add_argument(
        "--threads",
        default="1,2",
        help="candidates (default: 1,2); a single one, or for --profile the first, is used as it is",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=None, help=f"CSV file (default: benchmarks/{DEFAULT_OUT.name})")
    parser.add_argument("--profile", metavar="CELL", choices=CELLS, help="show where the project's time goes")
    options = parser.parse_args(argv)
    options.cells = options.cells.split(",")
    if unknown := [name for name in options.cells if name not in CELLS]:
        parser.error(f"--cells {','.join(unknown)}: choose from {', '.join(CELLS)}")
    try:
        options.threads = [int(n) for n in options.threads.split(",")]
    except ValueError:
        parser.error(f"--threads {options.threads}: expected integers such as 1,2")
    if options.repeats < 1 or min(options.threads) < 1:
        parser.error("--repeats and --threads must be at least 1")
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    console = Console()
    if options.profile is not None:
        found = run_worker(
            options.profile,
            "profile",
            threads=options.threads[0],
            seconds=options.seconds,
            seed=1,
            device=options.device,
        )
        console.print(profile_table(options.profile, found))
        return 0
    trial = options.seconds < LEAST_SECONDS or options.repeats < LEAST_REPEATS
    out = options.out or (None if trial else DEFAULT_OUT)
    results: dict[str, tuple[list[Measurement], Summary]] = {}
    for name in options.cells:
        rows = measure_cell(CELLS[name], options)
        project, peer, bound = (rates(rows, who) for who in ("project", "peer", "bound"))
        summary = summarize(project, peer, bound, CELLS[name].goal)
        results[name] = rows, summary
        for line in check_equal_work(rows, CELLS[name].unequal):
            console.print(f"[red]{name}: {line}")
        if out is not None:
            write_csv(out, to_csv_rows(rows, summary, CELLS[name]))
    title = "environment steps per second, medians" + (" (short trial, not a result)" if trial else "")
    console.print(table(results, title))
    if any(disturbance(rows) > DISTURBED_CORES for rows, _ in results.values()):
        console.print("[yellow]disturbed: other processes were busy meanwhile: measure again on an idle machine")
    console.print(f"written to {out}" if out is not None else "too short to be a result: nothing written without --out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
