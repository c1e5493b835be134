"""Weights & Biases: what TensorBoard gets, at the same steps. It never asks, stops or slows a run."""

import importlib
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from a2c_ppo_acktr.run.config import LogConfig
from a2c_ppo_acktr.run.histograms import Histogram

START_SECONDS, FINISH_SECONDS = 10, 30
ID = re.compile(r"[\w-]{1,64}")
WANDB_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
"""What the library reads in the environment's WANDB_MODE."""


class Tracker:
    """A run of W&B; offline where there is no account or no connection, to be uploaded later with `wandb sync`.

    The library collects in a process of its own, so a call costs about 0.1 ms whatever the connection does. It is
    imported here, since only a tracked run needs it.

    Args:
        folder: run folder; W&B writes into `wandb/` in it.
        config: the flags of what is told and kept.
        facts: every flag and what else config.json holds: command, versions, commit.
        run_id: of the run that is continued, or None.
        say: prints one line for the user.
    """

    def __init__(
        self,
        folder: Path,
        config: LogConfig,
        facts: Mapping[str, Any],
        run_id: str | None,
        say: Callable[[str], None],
    ) -> None:
        self.wandb: Any = importlib.import_module("wandb")
        mailbox: Any = importlib.import_module("wandb.sdk.mailbox")
        self.failures = (self.wandb.errors.Error, mailbox.MailboxClosedError, OSError)
        self.upload_video, self.say, self.later = config.upload_video, say, f"wandb sync {folder}/wandb/offline-*"
        known = run_id is not None and ID.fullmatch(run_id)  # a file's word, which becomes part of a path
        self.id = run_id if known and run_id else secrets.token_hex(4)
        mode = self._mode()
        online = {"resume": "allow"} if mode == "online" else {}
        common = {
            "project": config.wandb_project_name,
            "entity": config.wandb_entity,
            "group": config.exp_name,
            "name": folder.resolve().name,
            "id": self.id,
            "dir": str(folder),
            "config": dict(facts),
            "settings": self.wandb.Settings(
                init_timeout=START_SECONDS, finish_timeout=FINISH_SECONDS, console="off", silent=True
            ),
        }
        try:
            self.run = self.wandb.init(mode=mode, **online, **common)
        except self.failures as error:
            self.say(f"W&B cannot be reached ({_first_line(error)}): tracking offline; upload later: {self.later}")
            self.wandb.teardown()  # the failed attempt holds the id
            self.run = self.wandb.init(mode="offline", **common)

    def _mode(self) -> str:
        """What WANDB_MODE asks for; otherwise, and for online, whether there is an account decides."""
        asked = os.environ.get("WANDB_MODE", "online")
        if asked != "online":
            return asked
        self.wandb.setup(self.wandb.Settings(silent=True))
        try:
            logged_in = self.wandb.login(prompt=False, verify=False)
        except self.failures as error:
            self.say(f"W&B refuses the API key ({_first_line(error)})")
            logged_in = False
        if not logged_in:
            self.say(f"no W&B account is set up (wandb login): tracking offline; upload later: {self.later}")
        return "online" if logged_in else "offline"

    def scalars(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers under their tags."""
        self._log(dict(metrics), step)

    def histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """Distributions under their tags."""
        histogram = self.wandb.Histogram
        self._log({tag: histogram(np_histogram=(h.counts, h.edges)) for tag, h in histograms.items()}, step)

    def film(self, path: Path, step: int) -> None:
        """A finished film, where --upload-video says so."""
        if self.upload_video and self.run is not None:
            self._log({"videos/episode": self.wandb.Video(str(path), format="mp4")}, step)

    def _log(self, values: dict[str, Any], step: int) -> None:
        if self.run is None:
            return
        try:
            self.run.log(values, step=step)
        except self.failures as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.run = None
        self.say(f"W&B stopped working ({_first_line(error)}): the run goes on untracked")

    def close(self, exit_code: int) -> None:
        """End the run; what is not uploaded within `FINISH_SECONDS` stays on disk."""
        if self.run is None:
            return
        try:
            self.run.finish(exit_code=exit_code)
        except self.failures as error:
            self._give_up(error)
        self.run = None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
