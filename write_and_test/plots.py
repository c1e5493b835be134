"""Pictures of learning, and of what agents do; the latter draw into the axes they are given, or into new ones."""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import EngFormatter

from a2c_ppo_acktr.envs.navigation.simulation import PLATFORM, PLATFORM_RADIUS
from write_and_test.analysis import Probe, Projection, activation_map, rows


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def learning_curves(frame: pd.DataFrame, *, by: str = "group", label: str = "return") -> Figure:
    """Mean over runs with the 95 % confidence interval of the mean (bootstrap); a line per group.

    Every environment has a panel. The legend says how many seeds a line is the mean of, and up to which step; a dot is
    where one of several ends.

    Args:
        frame: of `runs.curves`, with a column `by` added where other groups are compared.
        by: column of the groups.
        label: what the values are.
    """
    figure, panels = _panels(frame, label)
    for ax, part in panels:
        colours = _colours(part[by].nunique())
        for colour, (name, group) in zip(colours, part.groupby(by, sort=False), strict=True):
            text = _wrapped(f"{name} ({_seeds(group)})")
            sns.lineplot(group, x="step", y="value", errorbar=("ci", 95), seed=0, ax=ax, color=colour, label=text)
            means, ends = group.groupby("step")["value"].mean(), group.groupby("folder")["step"].max()
            early = sorted({end for end in ends if end < ends.max()})
            ax.plot(early, means.loc[early], "o", color=colour, markersize=5)
    figure.suptitle("mean over seeds and its 95 % interval", fontsize=10)
    return _finished(figure)


def single_runs(frame: pd.DataFrame, *, label: str = "return") -> Figure:
    """One line per run of `runs.curves`, a panel per environment."""
    figure, panels = _panels(frame, label)
    for ax, part in panels:
        for colour, (_, run) in zip(
            _colours(part["folder"].nunique()), part.groupby("folder", sort=False), strict=False
        ):
            ax.plot(run["step"], run["value"], color=colour, label=_wrapped(run["run"].iloc[0]))
    return _finished(figure)


def _panels(frame: pd.DataFrame, label: str) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel for each environment and unit of its steps; one that is empty where there is nothing to draw."""
    parts = list(frame.groupby(["env_name", "unit"], sort=True))
    figure, axes = plt.subplots(
        max(1, len(parts)), figsize=(9, 3.6 * max(1, len(parts))), squeeze=False, layout="constrained"
    )
    for ax, ((env_name, unit), _) in zip(axes[:, 0], parts, strict=False):
        ax.set(title=env_name, xlabel=unit, ylabel=label)
    if not parts:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.5, f"no {label} yet", ha="center", va="center")
    return figure, [(ax, part) for ax, (_, part) in zip(axes[:, 0], parts, strict=False)]


def _finished(figure: Figure) -> Figure:
    """With legends beside the panels, where they cover nothing."""
    for ax in figure.axes:
        ax.xaxis.set_major_formatter(EngFormatter())
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    return figure


def _colours(count: int) -> Any:
    return sns.color_palette("tab10" if count <= 10 else "husl", count)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 44, break_on_hyphens=False))


def _seeds(group: pd.DataFrame) -> str:
    """How many seeds there are, and to which step, such as `3 seeds to 50,000, 1 to 80,000`."""
    ends = group.groupby("folder").agg(step=("step", "max"), seed=("seed", "first"))
    left = [(int(step), ends[ends["step"] >= step]) for step in sorted(ends["step"].unique())]
    parts: list[str] = []
    for step, runs in left:
        seeds = runs["seed"].nunique()
        of_runs = f"{len(runs)} runs of " if len(runs) > seeds else ""
        word = (" seed" if seeds == 1 else " seeds") if not parts or of_runs else ""
        parts.append(f"{of_runs}{seeds}{word}" + (f" to {step:,}" if len(left) > 1 else ""))
    return ", ".join(parts)


def arena(ax: Axes, platform: Sequence[float] | None = PLATFORM) -> Axes:
    """The walls of the navigation task and its platform; None draws no platform."""
    ax.add_patch(Rectangle((-1, -1), 2, 2, fill=False, color="0.3", linewidth=1.5))
    if platform is not None:
        ax.add_patch(Circle((platform[0], platform[1]), PLATFORM_RADIUS, color="0.75", zorder=0))
    ticks = [-1, -0.5, 0, 0.5, 1]
    ax.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xlabel="x", ylabel="y", xticks=ticks, yticks=ticks)
    return ax


def trajectories(
    result: dict[str, Any],
    *,
    colour: str = "time",
    episodes: int = 12,
    position: str = "position",
    platform: Sequence[float] | None = PLATFORM,
    ax: Axes | None = None,
) -> Axes:
    """Paths of the first `episodes` episodes in the arena, from their starts (dots).

    Args:
        result: a recording.
        colour: `time`, or a recorded number per step such as `values`.
        episodes: how many.
        position: auxiliary truth of where the agent is.
        platform: where it is drawn, or None.
        ax: where to draw.
    """
    ax = arena(_axes(ax, (5.5, 4.6)), platform)
    paths = [truth[position] for truth in result["auxiliary_truths"][:episodes]]
    shades = [np.arange(len(path)) if colour == "time" else result[colour][e] for e, path in enumerate(paths)]
    low, high = min(shade.min() for shade in shades), max(shade.max() for shade in shades)
    for path, shade in zip(paths, shades, strict=True):
        segments = np.stack([path[:-1], path[1:]], 1)
        lines = LineCollection(list(segments), cmap="viridis", norm=plt.Normalize(low, high), linewidth=1.8)
        lines.set_array(shade[1:])
        ax.add_collection(lines)
        ax.plot(*path[0], "o", color="black", markersize=4)
    ax.figure.colorbar(lines, ax=ax, label="step of the episode" if colour == "time" else colour)
    ax.set_title(f"{len(paths)} episodes; dots are starts")
    return ax


def activation_maps(result: dict[str, Any], name: str, units: Sequence[int], **kwargs: Any) -> Figure:
    """Mean activation over places of some units, each on its own scale; white where the agent hardly went.

    Args:
        result: a recording.
        name: of the activity.
        units: which.
        kwargs: as of `analysis.activation_map`.
    """
    columns = min(6, len(units))
    lines = -(-len(units) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(1.8 * columns, 2.0 * lines), squeeze=False, layout="constrained"
    )
    for panel in panels.flat[len(units) :]:
        panel.set_axis_off()
    for panel, unit in zip(panels.flat, units, strict=False):
        low, high = kwargs.get("extent", (-1.0, 1.0))
        picture = activation_map(result, name, unit, **kwargs)
        panel.imshow(picture, origin="lower", extent=(low, high, low, high), cmap="viridis", interpolation="nearest")
        panel.set(xticks=[], yticks=[])
        panel.set_title(f"{unit}: {picture.min():.2f} to {picture.max():.2f}", fontsize=8)
    figure.suptitle(f"{name}: mean activation over places", fontsize=10)
    return figure


def projection(
    found: Projection, shade: np.ndarray, label: str, *, cmap: str = "viridis", ax: Axes | None = None
) -> Axes:
    """The first two principal components, coloured by `shade: [R]`."""
    ax = _axes(ax, (5.2, 4.2))
    x, y = found.coordinates[:, 0], found.coordinates[:, 1]
    points = ax.scatter(x, y, c=shade, cmap=cmap, s=6, linewidths=0)
    ax.figure.colorbar(points, ax=ax, label=label)
    first, second = 100 * found.explained[:2]
    ax.set(xlabel=f"component 1 ({first:.0f} % of variance)", ylabel=f"component 2 ({second:.0f} %)")
    return ax


def decoded(found: Probe, title: str, *, labels: Sequence[str] = ("x", "y"), ax: Axes | None = None) -> Axes:
    """Predictions of a probe against the truth on held-out episodes, one colour per dimension."""
    ax = _axes(ax, (4.6, 4.4))
    for dimension, score in enumerate(found.scores):
        name = labels[dimension] if dimension < len(labels) else str(dimension)
        ax.plot(
            found.truths[:, dimension],
            found.predictions[:, dimension],
            ".",
            markersize=3,
            alpha=0.5,
            label=f"{name}: R² {score:.2f}",
        )
    ends = [found.truths.min(), found.truths.max()]
    ax.plot(ends, ends, color="black", linewidth=1)
    ax.set(xlabel="truth", ylabel="decoded", title=title)
    ax.legend(markerscale=3)
    return ax


def probe_scores(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Bars of `analysis.probe_table`: one group per target, one colour per agent."""
    ax = _axes(ax, (7, 3.6))
    shown = frame.assign(target=frame["target"].str.split("/").str[-1])
    sns.barplot(shown, x="target", y="score", hue="agent", errorbar=None, ax=ax)
    for bars in ax.containers:
        if isinstance(bars, BarContainer):
            ax.bar_label(bars, fmt="%.2f", fontsize=8)
    ax.set(xlabel="", ylabel="score on held-out episodes", ylim=(min(0.0, frame["score"].min()), 1.1))
    return ax


def along_episode(result: dict[str, Any], episode: int, truth: str, prediction: str, *, ax: Axes | None = None) -> Axes:
    """A target (lines) and its head's prediction (dashed) along one episode, one colour per dimension."""
    ax = _axes(ax, (7, 3.2))
    wanted = result["auxiliary_truths"][episode][truth].reshape(result["lengths"][episode], -1)
    found = result["auxiliary_preds"][episode][prediction].reshape(len(wanted), -1)
    for dimension in range(wanted.shape[1]):
        (line,) = ax.plot(wanted[:, dimension], label=f"{truth} {dimension}")
        ax.plot(found[:, dimension], "--", color=line.get_color())
    ax.set(xlabel="step of the episode", ylabel=truth, title="lines: truth; dashed: predicted")
    ax.legend()
    return ax


def cosines(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Bars of `analysis.gradient_cosines`."""
    ax = _axes(ax, (7, 3.4))
    sns.barplot(frame, x="group", y="cosine", hue="head", errorbar=None, ax=ax)
    ax.axhline(0, color="black", linewidth=1)
    ax.set(xlabel="", ylabel="cosine with the learner's own gradient", ylim=(-1, 1))
    return ax


def occupancy(result: dict[str, Any], *, position: str = "auxiliary_truths/position", ax: Axes | None = None) -> Axes:
    """How often the agent was where."""
    ax = arena(_axes(ax, (5, 4.4)), None)
    places = rows(result, position)
    counts, *_, picture = ax.hist2d(places[:, 0], places[:, 1], bins=20, range=[[-1, 1], [-1, 1]], cmap="viridis")
    ax.figure.colorbar(picture, ax=ax, label=f"steps of {int(np.sum(counts))}")
    return ax
