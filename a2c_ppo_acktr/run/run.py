"""A run: its folder, its clocks, what is saved and when."""

import contextlib
import json
import math
import shlex
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from a2c_ppo_acktr import trust
from a2c_ppo_acktr.files import check_no_links, drop_temporaries, open_to_append, write_atomically
from a2c_ppo_acktr.interfaces import Episode
from a2c_ppo_acktr.run import checkpoint, histograms, resume
from a2c_ppo_acktr.run.clock import Clock
from a2c_ppo_acktr.run.config import LogConfig, hyperparameters
from a2c_ppo_acktr.run.folder import claim, latest_checkpoint
from a2c_ppo_acktr.run.logger import Logger
from a2c_ppo_acktr.run.provenance import provenance
from a2c_ppo_acktr.run.tracking import Tracker
from a2c_ppo_acktr.seeding import get_rng_state, set_rng_state
from a2c_ppo_acktr.signals import PATIENCE
from a2c_ppo_acktr.utils import Diverged

LINE_SECONDS, CHECKPOINT_SECONDS, BEST_SECONDS = 1.0, 60.0, 10.0
SLOW_UPDATE = PATIENCE
"""Seconds; a signal may end a run in the middle of an update that takes longer, so what was before it is saved."""
HISTOGRAM_SECONDS, HISTOGRAM_SHARE = 60.0, 0.005


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
        as_before: the environments and the random states of `resumed` are those of now; else they begin anew.

    Raises:
        UsageError: the checkpoint is not of such a run; nothing has been written.
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
        *,
        as_before: bool = True,
    ) -> None:
        self.config, self.settings = config, settings
        self.algorithm, self.collector, self.normalizer = algorithm, collector, normalizer
        self.update, self.written, self.evaluated, self.best = 0, 0, 0, -math.inf
        self.metrics: Mapping[str, SupportsFloat] = {}
        self.saved = 0
        self.replay: str | None = None
        self.whole = True
        """Whether the state is that of the end of an update: not of a middle, from which nobody could go on."""
        episodes_continue = resumed is None or self._restore(resumed, as_before)
        self.held = contextlib.ExitStack()
        own_folder = checkpoint.continued_folder(config)
        self.folder = own_folder or checkpoint.new_run_folder(settings)
        check_no_links(self.folder, within=("checkpoints", "videos"))
        if own_folder is None:
            self.held.enter_context(claim(self.folder))
        for place in (self.folder, self.latest.parent):
            drop_temporaries(place)
        logger_state = resumed["logger"] if resumed is not None else None
        total = settings["num_env_steps"]
        every = config.log_interval is not None
        self.logger = Logger(self.folder, settings["env_name"], collector.num_envs, total, logger_state, tell_all=every)
        self.tracker = self._track(self._describe(), resumed if own_folder is not None else None)
        if camera is not None:
            episodes = self.logger.monitor_rows[0]
            on_film = self.tracker.film if self.tracker is not None else None
            camera.start(self.folder / "videos", episodes=episodes, env_steps=collector.env_steps, on_film=on_film)
        self.histogram_clock = Clock(None, HISTOGRAM_SECONDS, HISTOGRAM_SHARE)
        self.line_clock = Clock(config.log_interval, LINE_SECONDS)
        self.save_clock = Clock(config.save_interval, CHECKPOINT_SECONDS)
        self.best_clock = Clock(None, BEST_SECONDS)
        self.boundary = time.monotonic()
        if resumed is None or Path(config.resume or "").resolve() != self.latest.resolve():
            self.save(copy=False)  # the copy is of another run still, which has learned something
        if resumed is not None:
            self._say_how_it_continues(resumed["settings"])
        if not episodes_continue or collector.unreadable is not None:
            self.logger.say(resume.anew(resumed is not None, collector.unreadable))

    def _say_how_it_continues(self, before: Mapping[str, Any]) -> None:
        self.logger.say(f"continuing {self.folder} at {self.collector.env_steps} steps")
        if self.algorithm.finished:
            self.logger.say("nothing is left to learn: raise what ended it, such as --epochs or --patience, to go on")
        elif self.steps_done:
            self.logger.say(f"nothing is left of its {self.logger.total_steps} steps: raise --num-env-steps to go on")
        for line in resume.changes(self.settings, before):
            self.logger.say(line)

    @property
    def latest(self) -> Path:
        """The newest checkpoint."""
        return latest_checkpoint(self.folder)

    @property
    def step(self) -> int:
        """What metrics are drawn over: environment steps, or updates where the algorithm takes none."""
        return self.collector.env_steps if self.settings["num_steps"] > 0 else self.update

    @property
    def steps_done(self) -> bool:
        """Whether all environment steps have been taken, where there are any to take."""
        return self.settings["num_steps"] > 0 and self.collector.env_steps >= self.settings["num_env_steps"]

    def _describe(self) -> dict[str, Any]:
        """Write what the run is, and return it: every flag beside command, versions and commit."""
        description = provenance()
        text = json.dumps({"settings": self.settings, **description}, indent=2, default=str)
        write_atomically(
            self.folder / "config.json", lambda temporary: temporary.write_text(text + "\n", encoding="utf-8")
        )
        with open_to_append(self.folder / "command.txt") as file:
            file.write(description["command"] + "\n")
        facts = {**description, **self.settings, **self.settings["config"]}
        del facts["config"]
        self.logger.describe(facts)
        self.logger.hyperparameters(hyperparameters(self.settings))
        return facts

    def _track(self, facts: dict[str, Any], continued: dict[str, Any] | None) -> Tracker | None:
        """W&B's side of the run, where --track asks for it; `continued` is the checkpoint whose run goes on."""
        if not self.config.track:
            return None
        run_id = continued.get("tracking") if continued is not None else None
        self.logger.tracker = Tracker(self.folder, self.config, facts, run_id, self.logger.say)
        return self.logger.tracker

    def begin_update(self) -> None:
        """From here to `after_update` the learner's state is that of no moment to go on from."""
        self.whole = False

    def after_update(self, episodes: Iterable[Episode], metrics: Mapping[str, SupportsFloat]) -> None:
        """Count the update, take in its episodes and write what is due."""
        self.update += 1
        self.metrics = metrics
        self.whole = True
        self.logger.episodes(episodes, self.step)
        if self.line_clock.due(self.update):
            self.write_line()
        if self.histogram_clock.due(self.update):
            self.write_histograms()
        if self.config.eval_interval is None:
            mean_return = self.logger.mean_return()
            if mean_return is not None and mean_return > self.best and self.best_clock.due(self.update):
                self._save_best(mean_return)

    def evaluation_due(self) -> bool:
        """Whether this update asks for an evaluation; where there are any, the last update of all does."""
        interval = self.config.eval_interval
        if interval is None or self.evaluated == self.update:
            return False
        return self.update % interval == 0 or self.algorithm.finished or self.steps_done

    def save_due(self) -> None:
        """Write the checkpoints that are due, each by a clock of its own; after the evaluation of the same update."""
        now = time.monotonic()
        slow, self.boundary = now - self.boundary > SLOW_UPDATE, now
        if self.save_clock.due(self.update, soon=slow):
            self.save()
        numbered = self.config.checkpoint_interval
        if numbered and self.update % numbered == 0:
            self._write(self.folder / "checkpoints" / f"{self.update}.pt")

    def record_evaluation(self, returns: Any, lengths: Any) -> None:
        """Log an evaluation, and keep the checkpoint if it is the best so far."""
        self.evaluated, mean = self.update, float(returns.mean())
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

    def save(self, copy: bool = True) -> None:
        """Write `latest.pt`, with the replay that belongs to it, and upstream's copy of it."""
        begun, folder = time.monotonic(), self.latest.parent
        replay = self.collector.storage.state_dict() if self.whole else None
        if replay is not None:  # under a name of its own: whichever of the two files is the last, they belong together
            self.replay = checkpoint.save_replay(folder, self.update, replay)
        self._write(self.latest, self.replay)
        self.saved = self.update
        if replay is not None:
            checkpoint.drop_replays(folder, keep=self.replay)
        self.save_clock.took(time.monotonic() - begun)
        if copy and self.config.save_dir:
            place = checkpoint.upstream_path(self.config.save_dir, *checkpoint.copy_name(self.settings))
            checkpoint.copy(self.latest, place)

    def _write(self, path: Path, replay: str | None = None) -> None:
        self._finite_metrics()
        checkpoint.save(path, {**self.state_dict(), "replay": replay})

    def _save_best(self, mean_return: float) -> None:
        self.best, begun = mean_return, time.monotonic()
        self._write(self.folder / "checkpoints" / "best.pt")
        self.best_clock.took(time.monotonic() - begun)

    def rescue(self) -> None:
        """Save what can be, where the training was left before its end.

        In the middle of an update: if the environments were still being stepped, nothing has been learned since the
        last one, and a resumed run begins new episodes. If learning had begun, the last checkpoint stands.
        """
        if self.metrics and (self.whole or self.collector.collecting):
            self.save()

    def finish(self, interrupted: bool) -> None:
        """Write the last line and checkpoint, and tell the user where things are."""
        if self.metrics and not interrupted:
            if self.written != self.update:
                self.write_line()
            self.write_histograms()
        mean_return = self.logger.mean_return()
        by_training = self.config.eval_interval is None and self.whole
        if by_training and mean_return is not None and mean_return > self.best:
            self._save_best(mean_return)
        self.rescue()
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
            if self.saved != self.update:
                rows["saved"] = f"update {self.saved}: learning was in the middle of the next one"
            if interrupted:
                trusted = trust.repeat(self.settings)
                rows["continue with"] = shlex.join(["python", "main.py", "--resume", str(self.folder), *trusted])
        self.logger.table(rows)

    def close(self) -> None:
        """Close the logger, however the run ended; a tracked run that did not `finish` counts as failed."""
        with self.held:
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
            "evaluated": self.evaluated,
            "best": self.best,
            "replay": None,
        }

    def _restore(self, state: dict[str, Any], as_before: bool) -> bool:
        """Inverse of `state_dict`; returns whether running episodes continue."""
        path = Path(self.config.resume or "")
        with checkpoint.taking_in(f"--resume {path}: {resume.misfit(self.settings, state['settings'])}"):
            self.algorithm.load_state_dict(state["algorithm"])
            if self.normalizer is not None and state["normalizer"] is not None:
                self.normalizer.load_state_dict(state["normalizer"])
            if not as_before:
                state["collector"]["stepper"]["envs"] = None
            episodes_continue = self.collector.load_state_dict(state["collector"])
            if self.settings["seed"] == state["settings"]["seed"]:
                set_rng_state(state["rng"])
        if self.collector.storage.outlasts_updates:
            self.replay = resume.load_replay(path.parent, state.get("replay"), self.collector.storage)
        self.update, self.best = state["update"], state["best"]
        self.saved, self.evaluated = self.update, state.get("evaluated", self.update)
        return episodes_continue
