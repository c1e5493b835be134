"""Locks that looking does not disturb, signals that reach a job in whatever moment, and polls that cost little."""

import csv
import fcntl
import os
import random
import signal
import threading
import tracemalloc

import pytest

from a2c_ppo_acktr.jobs import launcher, waiter
from a2c_ppo_acktr.run import checkpoint, folder
from tests.queues import FORK, make_queue
from write_and_test.experiments import Scheduler


def test_looking_at_a_lock_keeps_nobody_from_taking_it(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    looker = path.open()  # as `is_held` does, but for longer
    fcntl.flock(looker, fcntl.LOCK_SH)
    threading.Timer(0.1, looker.close).start()
    with launcher.take_lock(path):
        assert launcher.is_held(path)

    def look():
        while True:
            launcher.is_held(path)

    process = FORK.Process(target=look, daemon=True)
    process.start()
    for _ in range(2000):
        launcher.take_lock(path).close()
    process.kill()
    process.join()


def test_a_lock_has_one_holder_however_many_want_it(tmp_path):
    path, held, most, taken = tmp_path / "lock", [], [], []

    def take():
        for _ in range(300):
            launcher.is_held(path)
            try:
                lock = launcher.take_lock(path)
            except launcher.Busy:
                continue
            held.append(None)
            most.append(len(held))
            taken.append(launcher.is_held(path))
            held.pop()
            lock.close()

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert set(most) == {1}
    assert all(taken)
    assert not launcher.is_held(path)
    with launcher.take_lock(path), pytest.raises(launcher.Busy):
        launcher.take_lock(path)


class TwoSteps:
    """A task of two processes; the second leaves a file when it begins, and would go on for a minute."""

    def __init__(self, place):
        self.lock_file, self.log_file, self.begun = place / "lock", place / "log", place / "begun"
        self.ends = []

    def begin(self):
        return [["true"], ["sh", "-c", f"touch '{self.begun}'; exec sleep 60"]]

    def end(self, code, stopped):
        self.ends.append((code, stopped))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_while_the_second_process_is_started_stops_that_one_too(tmp_path, moment):
    job = launcher.Job(TwoSteps(tmp_path))
    job.process.wait()
    launch, sent = job._launch, []

    def interrupted():
        if moment == "before":
            job.stop()  # as the handler of a signal would, between two lines
        process = launch()
        tell = process.send_signal
        process.send_signal = lambda signum: (sent.append(signum), tell(signum))
        if moment == "after":
            job.stop()
        return process

    job._launch = interrupted
    assert job.poll() is None
    job.stop()
    assert job.process.wait(timeout=20) == -signal.SIGTERM
    assert sent == [signal.SIGTERM]  # a second one would mean: at once, without saving
    assert job.poll() == -signal.SIGTERM
    assert job.task.ends == [(-signal.SIGTERM, True)]


def test_a_poll_opens_no_checkpoint_and_finished_experiments_stay_so(tmp_path, monkeypatch):
    queue = make_queue(tmp_path, runs=4)
    experiments = queue.experiments()
    for experiment, code in zip(experiments[:3], (0, 0, 1), strict=True):
        (experiment.run_folder / "checkpoints").mkdir(parents=True)
        folder.latest_checkpoint(experiment.run_folder).touch()
        (experiment.run_folder / "progress.csv").write_text("update,step,seconds\n1,1000,2.0\n")
        waiter.append(experiment.journal, event="start")
        waiter.append(experiment.journal, event="end", exit_code=code, reason="ended")
    monkeypatch.setattr(checkpoint, "load", lambda *_, **__: pytest.fail("a checkpoint was opened"))
    scheduler = Scheduler(queue, slots=1, retries=0, timeout=None, gpus=())
    with launcher.take_lock(experiments[3].lock_file):
        assert scheduler.next_job() is None
        assert scheduler.unfinished()
    with launcher.take_lock(experiments[2].lock_file):  # failed, and another scheduler tries it once more
        assert scheduler.unfinished()
    assert [experiments[i].state for i in range(2)] == ["finished", "finished"]


def test_progress_is_the_last_whole_row_however_long_the_file(tmp_path):
    rng, path = random.Random(0), tmp_path / "progress.csv"
    assert folder.progress(tmp_path) == {}
    names = ["update", "step", "seconds", "losses/value_loss"]
    for length in (0, 1, 2, 3, 50, 500, 5000):
        for width in (1, 300, 9000 if length < 100 else 30):
            rows = [["".join(rng.choices("0123456789", k=width)) for _ in names] for _ in range(length)]
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([names, *rows])
            wanted = dict(zip(names, rows[-1], strict=True)) if rows else {}
            assert folder.progress(tmp_path) == wanted
            with path.open("a") as file:
                file.write("12,34")  # a row that is being written
            assert folder.progress(tmp_path) == wanted


def test_progress_does_not_read_what_lies_between(tmp_path):
    with (tmp_path / "progress.csv").open("wb") as file:
        file.write(b"update,step\n")
        file.truncate(2**26)
        file.seek(0, os.SEEK_END)
        file.write(b"\n7,8\n9,10\n")
    tracemalloc.start()
    try:
        assert folder.progress(tmp_path) == {"update": "9", "step": "10"}
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
