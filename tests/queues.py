"""What the tests of queues share."""

import multiprocessing
import sys
import time

from write_and_test.experiments import Queue, product

CARTPOLE = {"algo": "ppo", "env_name": "CartPole-v1", "num_env_steps": 1000}
FORK = multiprocessing.get_context("fork")
ONCE = "echo begun >> $1.begun; mkdir $1.alive || echo >> $1.overlap; sleep 0.4; rmdir $1.alive; echo done >> $1.done"
"""A run that leaves traces beside its folder: how often it began, ended, and was there twice."""


def make_queue(tmp_path, runs=1):
    queue = Queue(tmp_path / "queue")
    queue.add(product(CARTPOLE, {"seed": range(1, runs + 1)}))
    return queue


def start_scheduler(queue, **options):
    """A process of its own that inherits what `run_instead` has replaced."""
    process = FORK.Process(target=lambda: sys.exit(queue.run(**options)))
    process.start()
    return process


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def traces(queue, kind):
    """Lines that the runs left, by experiment."""
    paths = [experiment.run_folder.with_suffix(f".{kind}") for experiment in queue.experiments()]
    return [len(path.read_text().splitlines()) if path.exists() else 0 for path in paths]


def states(queue):
    return [row.state for row in queue.status()]


# settings
