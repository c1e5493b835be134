"""Learning curves: from a run's monitor files to a number, a compact CSV and a picture."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.records import write_rows
from benchmarks.rows import ROWS

RECENT_EPISODES = 100
POINTS = 200
CURVE_COLUMNS = ("row", "seed", "step", "value")

Curve = list[tuple[int, float]]
"""(environment steps, mean return of the last 100 episodes), increasing in steps."""


class Episodes(NamedTuple):
    """The episodes of a run in the order in which they ended, over all environments."""

    returns: np.ndarray
    lengths: np.ndarray


def read_episodes(folder: Path) -> Episodes:
    """Merge `<rank>.monitor.csv` (a `#json` line, `r,l,t`, rows) by time; a row that is still being written is left."""
    rows: list[tuple[float, int, float]] = []
    for path in sorted(folder.glob("*.monitor.csv")):
        text = path.read_text()
        complete = text[: text.rfind("\n") + 1].splitlines()
        rows += [(float(row["r"]), int(row["l"]), float(row["t"])) for row in csv.DictReader(complete[1:])]
    rows.sort(key=lambda row: row[2])
    return Episodes(np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=np.int64))


def training_return(episodes: Episodes) -> float | None:
    """Mean return of the last 100 episodes; None where there are fewer."""
    if len(episodes.returns) < RECENT_EPISODES:
        return None
    return float(episodes.returns[-RECENT_EPISODES:].mean())


def curve(episodes: Episodes, points: int = POINTS) -> Curve:
    """At most `points` evenly spaced points; the first 99 episodes average over what there is."""
    if len(episodes.returns) == 0:
        return []
    steps = episodes.lengths.cumsum()
    sums = np.concatenate([[0.0], episodes.returns.cumsum()])
    last = np.arange(1, len(steps) + 1)
    first = np.maximum(last - RECENT_EPISODES, 0)
    means = (sums[last] - sums[first]) / (last - first)
    chosen = np.searchsorted(steps, np.linspace(0, steps[-1], points + 1)[1:], side="right") - 1
    return [(int(steps[i]), float(means[i])) for i in np.unique(chosen[chosen >= 0])]


def read_curves(path: Path) -> dict[int, Curve]:
    """The curves of a row by seed; none where the file is missing."""
    curves: dict[int, Curve] = {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                curves.setdefault(int(row["seed"]), []).append((int(row["step"]), float(row["value"])))
    return curves


def write_curve(path: Path, row: str, seed: int, points: Curve) -> None:
    """Add or replace the curve of one seed."""
    curves = read_curves(path) | {seed: points}
    found = [(row, one, step, f"{value:.4f}") for one in sorted(curves) for step, value in curves[one]]
    write_rows(path, [CURVE_COLUMNS, *found])


def band(curves: Iterable[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean, smallest and largest value over seeds, where all of them have values."""
    arrays = [np.array(one, dtype=float) for one in curves]
    start, end = max(one[0, 0] for one in arrays), min(one[-1, 0] for one in arrays)
    steps = np.linspace(start, end, POINTS)
    values = np.stack([np.interp(steps, one[:, 0], one[:, 1]) for one in arrays])
    return steps, values.mean(0), values.min(0), values.max(0)


def plot(
    names: Sequence[str], results: Path, target: Path, against: Path | None = None, together: bool = False
) -> list[str]:
    """Draw the rows that have curves, one panel each, with the published figure dashed; returns their names.

    Args:
        names: of rows.
        results: folder of their CSV files.
        target: picture to write.
        against: results of other code, drawn beside these under the folder's name.
        together: one panel for all, without published figures.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SystemExit(f"--plot needs matplotlib ({error}): pip install matplotlib") from error
    found = {name: curves for name in names if (curves := read_curves(results / f"{name}_curves.csv"))}
    if not found:
        return []
    if together:
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        panel = figure.subplots()
        for name, curves in found.items():
            _draw(panel, curves, name)
        return _save(figure, [panel], target, found)
    columns = min(2, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(6 * columns, 3.6 * lines), layout="constrained")
    for panel, (name, curves) in zip(figure.subplots(lines, columns, squeeze=False).flat, found.items(), strict=False):
        _draw(panel, curves, "this code" if against is not None else "")
        if against is not None and (others := read_curves(against / f"{name}_curves.csv")):
            _draw(panel, others, against.name)
        reference = ROWS[name].reference
        if reference is not None:
            panel.axhline(reference, linestyle="--", color="black", linewidth=1, label=_label(name))
        panel.set(title=name)
    for panel in figure.axes[len(found) :]:
        panel.set_axis_off()
    return _save(figure, figure.axes[: len(found)], target, found)


def _save(figure: Any, panels: Sequence[Any], target: Path, found: Iterable[str]) -> list[str]:
    for panel in panels:
        panel.set(xlabel="environment steps", ylabel="return, last 100 episodes")
        panel.legend(fontsize="small")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)
    return list(found)


def _draw(panel: Any, curves: dict[int, Curve], whose: str) -> None:
    steps, mean, low, high = band(curves.values())
    seeds = f"mean of {len(curves)} seeds, band from lowest to highest" if len(curves) > 1 else "1 seed"
    panel.fill_between(steps, low, high, alpha=0.25, linewidth=0)
    panel.plot(steps, mean, label=f"{whose}: {seeds}" if whose else seeds)


def _label(name: str) -> str:
    published = ROWS[name].published
    return published if published.startswith("our expert") else f"published: {published}"
