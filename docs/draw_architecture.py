"""Draws architecture.png, the rooms of the package: `python docs/draw_architecture.py`.

The rooms and their arrows are those of `tests/test_layers.py`; only where each stands is said here.
"""

import sys
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
from tests.test_layers import ALLOWED, COMMAND_LINE, PACKAGE

HERE = Path(__file__).resolve().parent
ROOMS = {
    "arguments": (9.0, 6.2, "the command line"),
    "algo": (4.0, 5.1, "one file per algorithm:\nact, loss, update"),
    "optim": (1.0, 3.8, "Adam, K-FAC"),
    "fast": (3.0, 3.8, "the same results,\nfaster"),
    "model": (1.0, 2.5, "policies and\nQ-networks"),
    "distributions": (1.0, 1.2, "of actions"),
    "storage": (3.0, 1.2, "rollout, replay"),
    "acting": (5.0, 1.2, "T steps of N\nenvironments"),
    "experts": (7.0, 1.2, "demonstrations"),
    "envs": (9.0, 1.2, "from a name\nto N of them"),
    "presets": (11.0, 1.2, "published\nsettings"),
    "run": (13.0, 1.2, "folder, logs,\ncheckpoints"),
    "jobs": (14.3, 2.5, "many runs,\na few at a time"),
}
"""Center of each room, and what is in it."""
WIDTHS, WIDTH, HEIGHT = {"algo": 3.2, "arguments": 2.4}, 1.8, 0.84
PROGRAMS = "main.py   evaluate.py   enjoy.py   write_and_test/   gail_experts/   benchmarks/   tests/"
FREE, GREEN, BLUE, GREY = "#f3e3c3", "#eef3e6", "#dfe9f5", "#e8e8e8"


def reached(room: str) -> set[str]:
    """What can be imported from a room, directly or over others."""
    return ALLOWED[room].union(*map(reached, ALLOWED[room]))


def arrows(room: str) -> set[str]:
    """What a room may import, without what follows from other arrows where all that follows is allowed."""
    below = ALLOWED[room]
    return below - set().union(*map(reached, below)) if reached(room) <= below else below


def box(axes: plt.Axes, x: float, y: float, width: float, name: str, text: str, color: str) -> None:
    """A box around its center, with a name over a text."""
    corner = x - width / 2, y - HEIGHT / 2
    axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, "round,pad=0,rounding_size=0.1", fc=color, ec="#333333"))
    axes.text(x, y + 0.22, name, ha="center", va="center", weight="bold", fontsize=9.5)
    axes.text(x, y - 0.14, text, ha="center", va="center", fontsize=8, linespacing=1.0)


def arrow(axes: plt.Axes, room: str, below: str) -> None:
    """From the lower edge of one room to the upper edge of another, or to its side where it is little lower."""
    (x, y, _), (to_x, to_y, _) = ROOMS[room], ROOMS[below]
    lean, half = (to_x > x) - (to_x < x), WIDTHS.get(room, WIDTH) / 2
    start = x + lean * min(abs(to_x - x) / 2, 0.8 * half), y - HEIGHT / 2
    end = to_x - lean * min(abs(to_x - x) / 4, 0.5), to_y + HEIGHT / 2
    if y - to_y < 1.2:
        start, end = (x + lean * half, y), (to_x - lean * WIDTHS[below] / 2, to_y + HEIGHT / 4)
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color="#333333", shrinkA=0, shrinkB=1)
    )


def draw() -> None:
    """Write architecture.png beside this file."""
    figure, axes = plt.subplots(figsize=(12.8, 6.6))
    box(axes, 7.6, 7.5, 15.2, PROGRAMS, "may import every room; no room imports them", FREE)
    axes.add_patch(FancyBboxPatch((-0.2, -0.65), 15.6, 7.5, "round,pad=0", fill=False, ls="--", ec="#888888"))
    axes.text(15.2, 6.55, f"{PACKAGE}/", ha="right", va="center", fontsize=10, color="#555555", weight="bold")
    for name, (x, y, text) in ROOMS.items():
        box(axes, x, y, WIDTHS.get(name, WIDTH), name, text, BLUE if name == "fast" else GREEN)
        for below in arrows(name):
            arrow(axes, name, below)
    ground = {path.stem for path in (HERE.parent / PACKAGE).glob("*.py")} - COMMAND_LINE - {"__init__"}
    text = "the ground floor: every room may import it; it imports none"
    box(axes, 7.6, -0.1, 15.2, "   ".join(sorted(ground)), text, GREY)
    axes.set(xlim=(-0.3, 15.5), ylim=(-0.75, 8.0), aspect="equal")
    axes.axis("off")
    figure.savefig(HERE / "architecture.png", dpi=110, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    assert ROOMS.keys() == ALLOWED.keys() - {"ground"}, "a room has no place in the picture, or is gone"
    draw()
