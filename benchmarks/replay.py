"""Milliseconds to sample from a full prioritized replay and to give priorities back: `python benchmarks/replay.py`."""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from gymnasium import spaces

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, the repository is not on the path
from a2c_ppo_acktr.interfaces import EnvSpaces
from a2c_ppo_acktr.process import set_threads
from a2c_ppo_acktr.seeding import seed_everything
from a2c_ppo_acktr.storage.replay import Replay

REPEATS = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--n-step", type=int, default=3)
    options = parser.parse_args()
    seed_everything(1)
    set_threads(1)
    space = spaces.Box(-1, 1, (4,), np.float32)
    replay = Replay(
        options.items, 1, 1, EnvSpaces(space, spaces.Discrete(2), {}), n_step=options.n_step, alpha=0.6, gamma=0.99
    )
    # Filled as a whole: what is measured does not depend on how the steps came in.
    replay.slots.cursor[:] = options.items
    replay.valid[: -options.n_step - 1] = True
    replay.size = int(replay.valid.sum())
    assert replay.tree is not None
    replay.tree.load(np.where(replay.valid, np.random.random_sample(options.items), 0.0))
    parts: dict[str, list[float]] = {"sample": [], "update": [], "both": []}
    for _ in range(REPEATS):
        begun = time.perf_counter()
        batch = replay.sample(options.batch_size, beta=0.4)
        sampled = time.perf_counter()
        replay.update_priorities(batch.rows, np.random.random_sample(options.batch_size))
        done = time.perf_counter()
        for name, seconds in zip(parts, (sampled - begun, done - sampled, done - begun), strict=True):
            parts[name].append(1000.0 * seconds)
    for name, times in parts.items():
        print(f"{name}: median {statistics.median(times):.3f} ms")


if __name__ == "__main__":
    main()
