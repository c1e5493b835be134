"""What a run tells: console, CSV files, TensorBoard and, through its tracker, W&B."""

import contextlib
import csv
import json
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from a2c_ppo_acktr.files import open_to_append, write_atomically
from a2c_ppo_acktr.run.clock import Clock
from a2c_ppo_acktr.utils import printable

RECENT_EPISODES = 100
BAR_INTERVAL = 0.2
CONSOLE_SECONDS = 10.0
"""The least time between two lines of metrics where these go to a file or pipe."""


class Bar(Progress):
    """A progress bar with a line of losses below it."""

    losses = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bar, and what fits of the losses."""
        yield from super().get_renderables()
        yield Text(self.losses, style="dim", no_wrap=True, overflow="ellipsis")


AS_IT_IS: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
"""How files are read and written again that may have been damaged: what is no text stays what it is."""


def quiet_writers() -> None:
    """Let TensorBoard's threads fail without a traceback: what failed there is raised at the next line again."""
    tell = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not (isinstance(failed.exc_value, OSError) and type(failed.thread).__module__.startswith("tensorboard.")):
            tell(failed)

    threading.excepthook = hook


class Logger:
    """Episodes and metrics of a run.

    Args:
        folder: run folder.
        env_name: for the header of the monitor files.
        num_envs: monitor files to write, `<rank>.monitor.csv`.
        total_steps: where the progress bar ends.
        state: what `state_dict` gave, to continue a run: rows that are newer are dropped.
        tell_all: print every line of metrics, instead of one in `CONSOLE_SECONDS` and the last one.
    """

    def __init__(
        self,
        folder: Path,
        env_name: str,
        num_envs: int,
        total_steps: int,
        state: dict[str, Any] | None = None,
        *,
        tell_all: bool = False,
    ) -> None:
        self.folder, self.total_steps, self.tell_all = folder, total_steps, tell_all
        purge_step = state["step"] + 1 if state is not None else None  # the points at `step` itself are not newer
        state = state or {"step": 0, "progress_rows": 0, "monitor_rows": [0] * num_envs, "seconds": 0.0, "recent": []}
        self.step = self.first_step = state["step"]
        self.seconds_before = state["seconds"]
        self.recent: deque[tuple[float, int]] = deque((tuple(e) for e in state["recent"]), maxlen=RECENT_EPISODES)
        self.start = time.monotonic()
        self.columns, self.progress_rows = _keep_rows(folder / "progress.csv", 1, state["progress_rows"])
        header = json.dumps({"t_start": time.time(), "env_id": env_name})
        self.monitors, self.monitor_rows = [], []
        for rank in range(num_envs):
            path, rows = folder / f"{rank}.monitor.csv", (state["monitor_rows"] + [0] * num_envs)[rank]
            self.monitor_rows.append(_keep_rows(path, 2, rows)[1])
            monitor = open_to_append(path)
            if monitor.tell() == 0:
                monitor.write(f"#{header}\nr,l,t\n")
                monitor.flush()
            self.monitors.append(monitor)
        self.tensorboard = SummaryWriter(str(folder), purge_step=purge_step)
        self.tracker: Any = None
        self.said: set[str] = set()
        self.console = Console(highlight=False)
        self.bar: Bar | None = None
        self.next_line, self.untold = self.start, ""
        if self.console.is_terminal:
            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
            self.bar = Bar(*columns, console=self.console, refresh_per_second=2)
            self.bar.start()
            self.task = self.bar.add_task("training", total=total_steps, completed=self.step)
            self.bar_clock = Clock(None, BAR_INTERVAL)

    @property
    def seconds(self) -> float:
        """Time spent on the run, earlier parts of a resumed one included."""
        return self.seconds_before + time.monotonic() - self.start

    def episodes(self, episodes: Iterable[Any], step: int) -> None:
        """Take in the episodes that finished, and where the run stands."""
        self.step = step
        for episode in episodes:
            self.recent.append((episode.episode_return, episode.length))
            row = f"{round(episode.episode_return, 6)},{episode.length},{round(self.seconds, 6)}\n"
            self.monitors[episode.env].write(row)
            self.monitor_rows[episode.env] += 1
        if self.bar is not None and self.bar_clock.due(step):
            self.bar.update(self.task, completed=step)

    def write(self, metrics: dict[str, float], update: int, step: int) -> None:
        """One line of metrics, everywhere."""
        returns = [episode_return for episode_return, _ in self.recent]
        charts = {"charts/SPS": (step - self.first_step) / max(time.monotonic() - self.start, 1e-9)}
        if returns:
            charts["charts/episodic_return"] = statistics.fmean(returns)
            charts["charts/episodic_length"] = statistics.fmean(length for _, length in self.recent)
        metrics = charts | metrics
        for tag, value in metrics.items():
            self.tensorboard.add_scalar(tag, value, step)
        if self.tracker is not None:
            self.tracker.scalars(metrics, step)
        self._write_progress({"update": update, "step": step, "seconds": round(self.seconds, 3)} | metrics)
        self._tell(metrics, update, step, returns)
        self.flush()

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Settings and whatever else describes the run, as a table on TensorBoard's page of texts."""
        rows = [f"|{name}|{printable(str(value))}|" for name, value in facts.items()]
        self.tensorboard.add_text("hyperparameters", "\n".join(["|name|value|", "|-|-|", *rows]), self.step)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """For TensorBoard's HPARAMS tab, which shows them beside the last value of every metric."""
        plain = {name: value if type(value) in (int, float) else str(value) for name, value in values.items()}
        _, session, _ = hparams(plain, {})
        assert self.tensorboard.file_writer is not None
        self.tensorboard.file_writer.add_summary(session, self.step)

    def histograms(self, histograms: Mapping[str, Any], step: int) -> None:
        """Distributions (see `histograms.py`) under their tags."""
        for tag, one in histograms.items():
            self.tensorboard.add_histogram_raw(
                tag,
                min=one.edges[0],
                max=one.edges[-1],
                num=one.counts.sum(),
                sum=one.total,
                sum_squares=one.squares,
                bucket_limits=one.edges[1:].tolist(),
                bucket_counts=one.counts.tolist(),
                global_step=step,
            )
        if self.tracker is not None:
            self.tracker.histograms(histograms, step)

    def _tell(self, metrics: dict[str, float], update: int, step: int, returns: list[float]) -> None:
        rest = [(tag.partition("/")[2], value) for tag, value in metrics.items() if not tag.startswith("charts/")]
        losses = ", ".join(f"{name} {value:.4g}" for name, value in rest if not math.isnan(value))
        if self.bar is not None:
            mean = f"return {statistics.fmean(returns):.1f} · " if returns else ""
            self.bar.losses = losses
            self.bar.update(self.task, completed=step, description=f"{mean}{metrics['charts/SPS']:.0f} steps/s")
            return
        parts = [f"Updates {update}, num timesteps {step}, FPS {metrics['charts/SPS']:.0f}"]
        if returns:
            parts.append(
                f"Last {len(returns)} training episodes: mean/median reward "
                f"{statistics.fmean(returns):.1f}/{statistics.median(returns):.1f}, "
                f"min/max reward {min(returns):.1f}/{max(returns):.1f}"
            )
        self.untold = " | ".join([*parts, losses])
        if self.tell_all or time.monotonic() >= self.next_line:
            self._catch_up()

    def _catch_up(self) -> None:
        """Print the latest line of metrics, if it was not."""
        if self.untold:
            print(self.untold, flush=True)
            self.untold, self.next_line = "", time.monotonic() + CONSOLE_SECONDS

    def _write_progress(self, row: dict[str, Any]) -> None:
        path = self.folder / "progress.csv"
        new = [key for key in row if key not in self.columns]
        if new:
            self.columns += new
            _rewrite_with_columns(path, self.columns)
        with open_to_append(path) as file:
            csv.DictWriter(file, self.columns, restval="").writerow(row)
        self.progress_rows += 1

    def say_once(self, key: str, text: str) -> None:
        """`say`, the first time that there is something to say of `key`."""
        if key not in self.said:
            self.said.add(key)
            self.say(text)

    def say(self, text: str) -> None:
        """One line for the user, above the progress bar."""
        text = printable(text)
        if self.bar is not None:
            self.bar.console.print(Text(text), soft_wrap=True)
        else:
            print(text, flush=True)

    def table(self, rows: dict[str, str]) -> None:
        """The end of a run: a line for each row, whole, so that paths and commands can be copied."""
        self._catch_up()
        width = max(map(len, rows))
        for name, value in rows.items():
            self.console.print(Text.assemble((name.ljust(width), "bold"), "  ", printable(value)), soft_wrap=True)

    def mean_return(self) -> float | None:
        """Mean training return of the last 100 episodes; None before 100."""
        if len(self.recent) < RECENT_EPISODES:
            return None
        return statistics.fmean(episode_return for episode_return, _ in self.recent)

    def flush(self) -> None:
        """Push everything to the files."""
        for monitor in self.monitors:
            monitor.flush()
        self.tensorboard.flush()

    def state_dict(self) -> dict[str, Any]:
        """Where every file ends."""
        self.flush()
        return {
            "step": self.step,
            "progress_rows": self.progress_rows,
            "monitor_rows": self.monitor_rows,
            "seconds": self.seconds,
            "recent": [list(episode) for episode in self.recent],
        }

    def close(self, exit_code: int = 0) -> None:
        """Close files and bar, and end what is tracked; each of them, though the disk be full."""
        with contextlib.ExitStack() as stack:
            if self.tracker is not None:
                stack.callback(self.tracker.close, exit_code)
            stack.callback(self.tensorboard.close)
            for monitor in self.monitors:
                stack.callback(monitor.close)
            if self.bar is not None:
                self.bar.update(self.task, completed=self.step)
                self.bar.stop()


def _keep_rows(path: Path, header_lines: int, rows: int) -> tuple[list[str], int]:
    """Cut a CSV file down to its header and first `rows` rows; the columns of its last header line, and its rows."""
    if not path.exists():
        return [], 0
    lines = path.read_bytes().splitlines(keepends=True)
    kept = lines[: header_lines + rows]
    if len(kept) < len(lines):
        write_atomically(path, lambda temporary: temporary.write_bytes(b"".join(kept)))
    header = b"".join(kept[header_lines - 1 : header_lines]).decode("utf-8", "replace")
    return next(csv.reader([header]), []), max(0, len(kept) - header_lines)


def _rewrite_with_columns(path: Path, columns: list[str]) -> None:
    """Give a CSV file further columns, empty in the rows that it has."""
    rows: list[dict[str, str]] = []
    if path.exists():
        with path.open(newline="", **AS_IT_IS) as file:
            rows = list(csv.DictReader(file))

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", **AS_IT_IS) as file:
            writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)
