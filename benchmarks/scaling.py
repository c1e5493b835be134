"""How environment steps per second grow with the number of environments: `python benchmarks/scaling.py`.

One process per point, as in `throughput.py`: the project end to end, and its environments alone with random actions.
Rollouts keep their number of steps and of minibatches, so minibatches grow with the environments. Points are appended
to `scaling.csv`, newer ones in the place of older; `--plot FILE` draws what is there.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
from benchmarks.cells import CELLS
from benchmarks.provenance import machine
from benchmarks.records import write_rows
from benchmarks.throughput import run_worker

CSV = Path(__file__).resolve().parent / "scaling.csv"
POINTS = {"ppo-cartpole": (1, 2, 4, 8, 16, 32, 64, 128, 256), "ppo-pong": (1, 2, 4, 8, 16, 32)}
COLUMNS = (
    "cell",
    "who",
    "num_envs",
    "threads",
    "steps_per_second",
    "seconds",
    "other_cores",
    "torch",
    "cpus",
    "commit",
)


def measure_point(cell: str, who: str, num_envs: int, threads: int, seconds: float) -> dict[str, Any]:
    """One row of the CSV."""
    found = run_worker(cell, who, threads=threads, seconds=seconds, seed=1, device="cpu", num_envs=num_envs)
    row = {"cell": cell, "who": who, "num_envs": num_envs, "threads": threads, **found, **machine()}
    row["steps_per_second"], row["seconds"] = round(found["steps_per_second"], 1), round(found["seconds"], 2)
    return row


def read() -> list[dict[str, Any]]:
    """Points measured so far."""
    if not CSV.exists():
        return []
    with CSV.open(newline="") as file:
        return list(csv.DictReader(file))


def store(row: dict[str, Any]) -> None:
    """Put a point into the CSV, in the place of an older one."""
    name = (row["cell"], row["who"], str(row["num_envs"]))
    kept = [old for old in read() if (old["cell"], old["who"], old["num_envs"]) != name]
    rows = sorted([*kept, row], key=lambda r: (r["cell"], r["who"], int(r["num_envs"])))
    write_rows(CSV, [COLUMNS, *([one.get(name, "") for name in COLUMNS] for one in rows)])


def plot(target: Path) -> None:
    """One panel per cell: the project, and its environments alone."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator

    rows, names = read(), list(POINTS)
    figure = Figure(figsize=(6 * len(names), 3.6), layout="constrained")
    for panel, cell in zip(figure.subplots(1, len(names)), names, strict=True):
        for who, label in (("project", "training, end to end"), ("bound", "environments alone")):
            points = [
                (int(r["num_envs"]), float(r["steps_per_second"])) for r in rows if (r["cell"], r["who"]) == (cell, who)
            ]
            panel.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
        panel.set(title=cell, xlabel="environments", ylabel="steps per second", xscale="log", yscale="log")
        panel.set_xticks(POINTS[cell], [str(n) for n in POINTS[cell]])
        panel.minorticks_off()
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(EngFormatter(sep=""))
        panel.legend()
        panel.grid(alpha=0.3)
    figure.savefig(target, dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--cells", nargs="*", choices=POINTS, default=list(POINTS))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each point (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the stored points and measure nothing")
    options = parser.parse_args(argv)
    if options.plot is not None:
        plot(options.plot)
        return 0
    console = Console()
    for cell in options.cells:
        threads = 2 if CELLS[cell].atari else 1
        for num_envs in POINTS[cell]:
            for who in ("project", "bound"):
                row = measure_point(cell, who, num_envs, threads, options.seconds)
                store(row)
                console.print(f"{cell} {num_envs} environments, {who}: {row['steps_per_second']:,.0f} steps/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
