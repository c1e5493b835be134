"""Nothing that was saved is lost under SIGKILL: `python benchmarks/kills.py --kills 200`.

Runs of PPO, DQN with its replay, BC and GAIL, with the default save settings and with a checkpoint after every update,
are killed at random moments, one time in four while they start, and with default settings once after a minute or more.
After each kill the newest checkpoint and every copy must load, none may be older than before, and the run must go on.
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script, the repository is not on the path
from a2c_ppo_acktr.run import checkpoint  # noqa: E402
from a2c_ppo_acktr.run.folder import latest_checkpoint  # noqa: E402

EXPERTS = f"--gail-experts-dir {ROOT / 'gail_experts'}"
LEARNERS = {
    "ppo": "--algo ppo --num-mini-batch 4 --num-steps 128 --num-processes 8",
    "dqn": "--algo dqn --save-replay --buffer-size 20000 --learning-starts 500",
    "bc": f"--algo bc --validation 0 --num-trajectories 4 --epochs 1000000 {EXPERTS}",
    "gail": f"--algo ppo --gail --gail-warm-up 1 --num-mini-batch 4 --num-steps 64 {EXPERTS}",
}
SAVING = {"default": "", "every update": "--save-interval 1"}
COMMON = "--env-name CartPole-v1 --num-env-steps 1000000000 --torch-threads 1 --no-cuda --log-interval 2"
PLACES = "--log-dir run --save-dir saved"
STARTING, MINUTE, SECONDS = 0.25, 65.0, 180.0


class Victim:
    """A run that is killed again and again, in a folder of its own."""

    def __init__(self, folder: Path, learner: str, saving: str, seed: int) -> None:
        self.folder, self.learner, self.saving, self.rng = folder, learner, saving, random.Random(seed)
        self.flags = " ".join((LEARNERS[learner], SAVING[saving], COMMON, PLACES)).split()
        self.latest = latest_checkpoint(folder / "run")
        self.lives, self.update, self.faults = 0, -1, Counter[str]()
        folder.mkdir()

    def live(self, seconds: float) -> None:
        """Start it, or go on with it, and kill it: while it starts, or up to `seconds` after its first line."""
        known = self.latest.exists()
        flags = ["--resume", "run"] if known else self.flags
        told = self.folder / f"output-{self.lives}.txt"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with told.open("w") as output:
            command = [sys.executable, str(ROOT / "main.py"), *flags]
            process = subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=output, env=environment)
        a_minute = self.saving == "default" and self.lives == 1
        if not a_minute and self.rng.random() < STARTING:
            time.sleep(self.rng.uniform(0.0, 4.0))
        else:
            deadline = time.monotonic() + SECONDS
            while "Updates" not in told.read_text() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            self.faults["did not go on"] += "Updates" not in told.read_text()
            time.sleep(MINUTE if a_minute else self.rng.uniform(0.0, seconds))
        self.faults["ended by itself"] += process.poll() is not None
        process.kill()
        process.wait()
        self.lives += 1
        self.check(known or "Updates" in told.read_text())
        self.faults["nothing kept after a minute"] += a_minute and self.update <= 0

    def check(self, expected: bool) -> None:
        """What lies on the disk: everything loads, nothing has gone back."""
        self.faults["no checkpoint"] += expected and not self.latest.exists()
        for path in (path for path in self.folder.rglob("*.pt") if not path.name.startswith(".")):
            try:
                state = checkpoint.read(path)
            except Exception as error:
                self.faults[f"{path.name}: {error}"] += 1
                continue
            if path == self.latest:
                self.faults["went back"] += state["update"] < self.update
                self.update, replay = state["update"], state["replay"]
                self.faults["lost its replay"] += replay is not None and not path.with_name(replay).exists()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=40, help="of all runs together (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="that a run trains, at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--slots", type=int, default=2, help="runs at once (default: %(default)s)")
    options = parser.parse_args(argv)
    folder, kinds = Path(tempfile.mkdtemp(prefix="kills-")), list(itertools.product(LEARNERS, SAVING))
    victims = [Victim(folder / f"{a}-{b.split()[0]}", a, b, options.seed + i) for i, (a, b) in enumerate(kinds)]

    def torment(number: int) -> None:
        for _ in range(number, options.kills, len(victims)):
            victims[number].live(options.seconds)

    with ThreadPoolExecutor(options.slots) as pool:
        list(pool.map(torment, range(len(victims))))
    table = Table("learner", "checkpoints", "kills", "newest update", "faults")
    for one in victims:
        faults = "; ".join(f"{count} x {what}" for what, count in one.faults.items() if count)
        table.add_row(one.learner, one.saving, str(one.lives), str(one.update), faults or "none")
    Console(width=160).print(table)
    bad = sum(sum(one.faults.values()) for one in victims)
    print(f"{sum(one.lives for one in victims)} kills, {bad} faults; files in {folder}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
