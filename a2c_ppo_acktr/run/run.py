"""A run: its folder, its clocks, what is saved and when."""

import json
import math
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, SupportsFloat

from a2c_ppo_acktr import __version__, trust
from a2c_ppo_acktr.files import check_no_links, open_to_append, write_atomically
from a2c_ppo_acktr.interfaces import Episode
from a2c_ppo_acktr.run import checkpoint, histograms
from a2c_ppo_acktr.run.clock import Clock
from a2c_ppo_acktr.run.config import LogConfig, hyperparameters
from a2c_ppo_acktr.run.folder import latest_checkpoint
from a2c_ppo_acktr.run.logger import Logger
from a2c_ppo_acktr.run.tracking import Tracker
from a2c_ppo_acktr.seeding import get_rng_state, set_rng_state
from a2c_ppo_acktr.utils import Diverged, UsageError, printable

LINE_SECONDS, CHECKPOINT_SECONDS, BEST_SECONDS = 1.0, 60.0, 10.0
HISTOGRAM_SECONDS, HISTOGRAM_SHARE = 60.0, 0.005
RECORDED_PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "mujoco", "ale-py")


class Run:
    """Logs and saves a training; continues one where `resumed` is a checkpoint.

    Args:
        config: the flags of what is told and kept.
        settings: plain dictionary of every flag.
        algorithm: the learner.
        collector: what steps its environments.
        normalizer: running statistics of observations, or None.
        resumed: contents of a checkpoint, or None.
        camera: what films the first environment, or None.
    """

    def __init__(
        self,
        config: LogConfig,
        settings: dict[str, Any],
        algorithm: Any,
        collector: Any,
        normalizer: Any,
        resumed: dict[str, Any] | None,
        camera: Any = None,
    ) -> None:
        self.config, self.settings = config, settings
        self.algorithm, self.collector, self.normalizer = algorithm, collector, normalizer
        self.update, self.written, self.best = 0, 0, -math.inf
        self.metrics: Mapping[str, SupportsFloat] = {}
        own_folder = checkpoint.run_folder_of(config.resume) if config.resume is not None else None
        self.folder = own_folder or checkpoint.new_run_folder(settings)
        check_no_links(self.folder, within=("checkpoints", "videos"))
        episodes_continue = resumed is None or self._restore(resumed)
        logger_state = resumed["logger"] if resumed is not None else None
        total = settings["num_env_steps"]
        every = config.log_interval is not None
        self.logger = Logger(self.folder, settings["env_name"], collector.num_envs, total, logger_state, tell_all=every)
        self.tracker = self._track(self._describe(), resumed if own_folder is not None else None)
        if camera is not None:
            episodes = self.logger.monitor_rows[0]
            on_film = self.tracker.film if self.tracker is not None else None
            camera.start(self.folder / "videos", episodes=episodes, env_steps=collector.env_steps, on_film=on_film)
        if resumed is not None:
            self.logger.say(f"continuing {self.folder} at {collector.env_steps} steps")
            if collector.env_steps >= total:
                self.logger.say(f"nothing is left of its {total} steps: raise --num-env-steps to go on")
        if not episodes_continue:
            self.logger.say("the environments' states cannot be restored: every running episode begins anew")
        self.histogram_clock = Clock(None, HISTOGRAM_SECONDS, HISTOGRAM_SHARE)
        self.line_clock = Clock(config.log_interval, LINE_SECONDS)
        self.save_clock = Clock(config.save_interval, CHECKPOINT_SECONDS)
        self.best_clock = Clock(None, BEST_SECONDS)

    @property
    def latest(self) -> Path:
        """The newest checkpoint."""
        return latest_checkpoint(self.folder)

    @property
    def step(self) -> int:
        """What metrics are drawn over: environment steps, or updates where the algorithm takes none."""
        return self.collector.env_steps if self.settings["num_steps"] > 0 else self.update

    def _describe(self) -> dict[str, Any]:
        """Write what the run is, and return it: every flag beside command, versions and commit."""
        packages: dict[str, str | None] = {}
        for name in RECORDED_PACKAGES:
            try:
                packages[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                packages[name] = None
        command = shlex.join(sys.argv)
        description = {
            "command": command,
            "version": __version__,
            "commit": _commit(),
            "python": platform.python_version(),
            "packages": packages,
        }
        text = json.dumps({"settings": self.settings, **description}, indent=2, default=str)
        write_atomically(self.folder / "config.json", lambda temporary: temporary.write_text(text + "\n"))
        with open_to_append(self.folder / "command.txt") as file:
            file.write(command + "\n")
        facts = {**description, **self.settings, **self.settings["config"]}
        del facts["config"]
        self.logger.describe(facts)
        self.logger.hyperparameters(hyperparameters(self.settings))
        return facts

    def _track(self, facts: dict[str, Any], continued: dict[str, Any] | None) -> Tracker | None:
        """W&B's side of the run, where --track asks for it; `continued` is the checkpoint whose run goes on."""
        if not self.config.track:
            return None
        run_id = (continued or {}).get("tracking")
        self.logger.tracker = Tracker(self.folder, self.config, facts, run_id, self.logger.say)
        return self.logger.tracker

    def after_update(self, episodes: Iterable[Episode], metrics: Mapping[str, SupportsFloat]) -> None:
        """Count the update, take in its episodes and write what is due."""
        self.update += 1
        self.metrics = metrics
        self.logger.episodes(episodes, self.collector.env_steps)
        if self.line_clock.due(self.update):
            self.write_line()
        if self.histogram_clock.due(self.update):
            self.write_histograms()
        if self.config.eval_interval is None:
            mean_return = self.logger.mean_return()
            if mean_return is not None and mean_return > self.best and self.best_clock.due(self.update):
                self._save_best(mean_return)
        numbered = self.config.checkpoint_interval
        if self.save_clock.due(self.update):
            self.save()
        if numbered and self.update % numbered == 0:
            self.save(self.folder / "checkpoints" / f"{self.update}.pt")

    def evaluation_due(self) -> bool:
        """Whether this update asks for an evaluation; where there are any, the last update of all does."""
        interval = self.config.eval_interval
        return interval is not None and (self.update % interval == 0 or self.algorithm.finished)

    def record_evaluation(self, returns: Any, lengths: Any) -> None:
        """Log an evaluation, and keep the checkpoint if it is the best so far."""
        mean = float(returns.mean())
        self.metrics = {
            **self.metrics,
            "eval/return_mean": mean,
            "eval/return_std": float(returns.std()),
            "eval/length_mean": float(lengths.mean()),
        }
        self.write_line()
        self.logger.say(f" Evaluation using {len(returns)} episodes: mean reward {mean:.5f}")
        if mean >= self.best:  # where a task has a highest return, the latest that reaches it has learned the longest
            self._save_best(mean)

    def write_line(self) -> None:
        """Write the latest metrics."""
        self.logger.write(self._finite_metrics(), self.update, self.step)
        self.written = self.update

    def write_histograms(self) -> None:
        """Write how the numbers in the networks are distributed."""
        before = time.monotonic()
        self.logger.histograms(histograms.of_learner(self.algorithm), self.step)
        self.histogram_clock.took(time.monotonic() - before)

    def _finite_metrics(self) -> dict[str, float]:
        """Metrics as numbers.

        Raises:
            Diverged: a loss or gradient is not finite.
        """
        metrics = {tag: float(value) for tag, value in self.metrics.items()}
        for tag, value in metrics.items():
            if not math.isfinite(value) and tag != "losses/explained_variance":
                raise Diverged(
                    f"{tag} is {value} after {self.collector.env_steps} steps; the last good checkpoint stands: "
                    f"{self.latest if self.latest.exists() else 'none'}"
                )
        return metrics

    def save(self, path: Path | None = None) -> None:
        """Write a checkpoint, `latest.pt` by default, and upstream's copy of the latest."""
        self._finite_metrics()
        target, begun = path or self.latest, time.monotonic()
        state, replay = self.state_dict(), self.collector.storage.state_dict() if path is None else None
        if replay is not None:  # under a name of its own: whichever of the two files is the last, they belong together
            state["replay"] = checkpoint.save_replay(target.parent, self.update, replay)
        checkpoint.save(target, state)
        if replay is not None:
            checkpoint.drop_replays(target.parent, keep=state["replay"])
        self.save_clock.took(time.monotonic() - begun)
        if path is None and self.config.save_dir:
            checkpoint.copy(
                target, checkpoint.upstream_path(self.config.save_dir, *checkpoint.copy_name(self.settings))
            )

    def _save_best(self, mean_return: float) -> None:
        self.best = mean_return
        self.save(self.folder / "checkpoints" / "best.pt")

    def finish(self, interrupted: bool) -> None:
        """Write the last line and checkpoint, and tell the user where things are."""
        if self.metrics:
            if not interrupted:
                if self.written != self.update:
                    self.write_line()
                self.write_histograms()
            self.save()
        mean_return = self.logger.mean_return()
        if mean_return is not None and mean_return > self.best and self.config.eval_interval is None:
            self._save_best(mean_return)
        self.logger.close()
        recent = [episode_return for episode_return, _ in self.logger.recent]
        rows = {
            "environment steps": f"{self.collector.env_steps}",
            "updates": f"{self.update}",
            "time": f"{self.logger.seconds:.1f} s",
            f"return, last {len(recent)} episodes": f"{sum(recent) / len(recent):.1f}" if recent else "none finished",
            "run folder": str(self.folder),
        }
        if self.latest.exists():
            rows["checkpoint"] = str(self.latest)
            if interrupted:
                trusted = trust.repeat(self.settings)
                rows["continue with"] = shlex.join(["python", "main.py", "--resume", str(self.folder), *trusted])
        self.logger.table(rows)

    def close(self) -> None:
        """Close the logger, however the run ended; a tracked run that did not `finish` counts as failed."""
        self.logger.close(exit_code=1)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run continues from."""
        return {
            "settings": self.settings,
            "algorithm": self.algorithm.state_dict(),
            "collector": self.collector.state_dict(),
            "normalizer": self.normalizer.state_dict() if self.normalizer is not None else None,
            "logger": self.logger.state_dict(),
            "rng": get_rng_state(),
            "tracking": self.tracker.id if self.tracker is not None else None,
            "update": self.update,
            "best": self.best,
            "replay": None,
        }

    def _restore(self, state: dict[str, Any]) -> bool:
        """Inverse of `state_dict`; returns whether running episodes continue."""
        try:
            self.algorithm.load_state_dict(state["algorithm"])
        except KeyError as error:
            raise UsageError(f"--resume: the run is of another version, which kept no {error}") from error
        if self.normalizer is not None and state["normalizer"] is not None:
            self.normalizer.load_state_dict(state["normalizer"])
        episodes_continue = self.collector.load_state_dict(state["collector"])
        self._restore_replay(state.get("replay"))
        self.update, self.best = state["update"], state["best"]
        set_rng_state(state["rng"])
        return episodes_continue

    def _restore_replay(self, name: str | None) -> None:
        assert self.config.resume is not None
        storage, path = self.collector.storage, Path(self.config.resume).parent / (name or "")
        if not storage.outlasts_updates:
            return
        if name is None:
            why = "this checkpoint has none (latest.pt does, with --save-replay)"
        elif not path.is_file():
            why = f"{path} is gone"
        elif storage.load_state_dict(checkpoint.load(path, mmap=True)):
            return
        else:
            why = f"{path} was made with other flags"
        print(printable(f"the replay begins empty: {why}"), flush=True)


def _commit() -> str | None:
    """The commit of the code that runs, with `+` where the tree differs from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if dirty.stdout else "")
