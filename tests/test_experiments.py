"""Queues of experiments: settings, files, and runs that happen exactly once whatever is killed."""

import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console

from a2c_ppo_acktr.jobs import launcher, waiter
from a2c_ppo_acktr.run import folder
from tests.queues import CARTPOLE, ONCE, make_queue, start_scheduler, states, traces, wait_until
from write_and_test import experiments
from write_and_test.experiment import Attempt, Settled
from write_and_test.experiments import Queue


@pytest.fixture
def run_instead(monkeypatch):
    """Runs become real processes of a shell script, whose `$1` is the run folder."""

    def replace(script):
        monkeypatch.setattr(folder, "train_command", lambda folder, flags: ["sh", "-c", script, "sh", str(folder)])

    return replace


def test_two_schedulers_share_a_queue_and_start_nothing_twice(tmp_path, run_instead):
    run_instead(ONCE)
    queue = make_queue(tmp_path, runs=6)
    schedulers = [start_scheduler(queue, slots=2) for _ in range(2)]
    for scheduler in schedulers:
        scheduler.join()
    assert [scheduler.exitcode for scheduler in schedulers] == [0, 0]
    assert traces(queue, "begun") == traces(queue, "done") == [1] * 6
    assert [row.attempts for row in queue.status()] == [1] * 6


def test_an_experiment_that_was_finished_meanwhile_is_not_begun(tmp_path, run_instead):
    run_instead(ONCE)
    queue = make_queue(tmp_path)
    seen_before = queue.experiments()[0]
    assert queue.run() == 0
    with pytest.raises(Settled):
        launcher.Job(Attempt(seen_before, retries=1, timeout=None))
    assert not launcher.is_held(seen_before.lock_file)
    assert traces(queue, "begun") == [1]


def test_every_run_happens_once_although_schedulers_are_killed(tmp_path, run_instead):
    run_instead(ONCE)
    queue = make_queue(tmp_path, runs=6)
    for begun in (1, 3):
        scheduler = start_scheduler(queue, slots=2)
        wait_until(lambda begun=begun: sum(traces(queue, "begun")) >= begun)
        scheduler.kill()
        scheduler.join()
    assert states(queue) != ["finished"] * 6
    assert queue.run(slots=2) == 0
    assert queue.run(slots=2) == 0
    assert traces(queue, "begun") == traces(queue, "done") == [1] * 6
    assert [(row.state, row.exit_code, row.attempts) for row in queue.status()] == [("finished", 0, 1)] * 6


def test_a_run_that_died_with_its_scheduler_is_begun_again(tmp_path, run_instead):
    run_instead("echo begun >> $1.begun; mkdir -p $1; [ -e $1.once ] || { touch $1.once; exec sleep 60; }")
    queue = make_queue(tmp_path)
    scheduler = start_scheduler(queue)
    wait_until(lambda: traces(queue, "begun") == [1])
    assert states(queue) == ["running"]
    waiter_pid = int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(scheduler.pid)]))
    scheduler.kill()
    os.killpg(waiter_pid, signal.SIGKILL)
    scheduler.join()
    wait_until(lambda: states(queue) == ["waiting"])
    assert queue.run(retries=0) == 0  # a death that nobody saw is not held against it
    assert [(row.state, row.attempts) for row in queue.status()] == [("finished", 2)]
    assert len(list(queue.experiments()[0].folder.glob("run-dead-*"))) == 1


def test_a_run_whose_waiter_was_killed_is_not_started_beside_itself(tmp_path, run_instead):
    run_instead(ONCE)
    queue = make_queue(tmp_path)
    scheduler = start_scheduler(queue, slots=2)
    wait_until(lambda: traces(queue, "begun") == [1])
    os.kill(int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(scheduler.pid)])), signal.SIGKILL)
    scheduler.join()
    assert scheduler.exitcode == 0
    assert traces(queue, "begun") == traces(queue, "done") == [2]
    assert traces(queue, "overlap") == [0]


def test_a_failure_is_tried_again_so_many_times_over_all_schedulers(tmp_path, run_instead, capsys):
    run_instead("echo out of luck; exit 3")
    queue = make_queue(tmp_path)
    for retries, attempts in ((2, 3), (2, 3), (3, 4)):
        assert queue.run(retries=retries) == 1
        assert [(row.state, row.exit_code, row.attempts) for row in queue.status()] == [("failed", 3, attempts)]
    assert "failed at 0 steps: exit code 3\n" in (out := capsys.readouterr().out)
    assert out.count("  out of luck\n") >= 4


def test_a_retry_that_succeeds_makes_up_for_the_failure(tmp_path, run_instead):
    run_instead("[ -e $1.flag ] || { touch $1.flag; kill -9 $$; }")
    queue = make_queue(tmp_path)
    assert queue.run(retries=0) == 1
    assert queue.status()[0].exit_code == 128 + signal.SIGKILL
    assert queue.run(retries=1) == 0
    assert [(row.state, row.attempts) for row in queue.status()] == [("finished", 2)]


def test_a_timeout_ends_an_attempt_as_failed(tmp_path, run_instead, capsys):
    run_instead("exec sleep 60")
    queue = make_queue(tmp_path)
    assert queue.run(retries=1, timeout=0.3) == 1
    assert [(row.state, row.exit_code, row.attempts) for row in queue.status()] == [("failed", 143, 2)]
    assert "failed at 0 steps: timeout" in capsys.readouterr().out


def test_a_timeout_kills_what_does_not_listen(tmp_path, monkeypatch):
    monkeypatch.setattr(waiter, "GRACE_SECONDS", 0.2)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    code = waiter.main([str(tmp_path / "journal"), "0.3", "sh", "-c", "trap '' TERM; exec sleep 60"])
    for signum, handler in handlers.items():
        signal.signal(signum, handler)
    assert code == 128 + signal.SIGKILL
    assert json.loads((tmp_path / "journal").read_text())["reason"] == "timeout"


@pytest.mark.parametrize("signum", launcher.Scheduler.SIGNALS, ids=lambda signum: signum.name)
def test_a_signal_stops_the_runs_and_is_no_failure(tmp_path, run_instead, signum):
    run_instead("trap 'echo saved >> $1.done; kill $!; wait $!; exit 143' TERM; sleep 60 & echo >> $1.begun; wait")
    queue = make_queue(tmp_path, runs=3)
    scheduler = start_scheduler(queue, slots=2, retries=0)
    wait_until(lambda: sum(traces(queue, "begun")) == 2)
    os.kill(scheduler.pid, signum)
    scheduler.join()
    assert scheduler.exitcode == 128 + signum
    assert traces(queue, "begun") == traces(queue, "done") == [1, 1, 0]
    assert [(row.state, row.exit_code) for row in queue.status()] == [("waiting", 143)] * 2 + [("waiting", None)]


def test_a_second_signal_kills_the_runs(tmp_path, run_instead):
    run_instead("trap '' TERM; echo >> $1.begun; exec sleep 60")
    queue = make_queue(tmp_path)
    scheduler = start_scheduler(queue, retries=0)
    wait_until(lambda: traces(queue, "begun") == [1])
    for _ in range(2):
        os.kill(scheduler.pid, signal.SIGTERM)
        time.sleep(0.4)
    scheduler.join()
    wait_until(lambda: states(queue) == ["waiting"])
    assert queue.status()[0].exit_code == 128 + signal.SIGKILL


def test_runs_have_one_thread_and_are_spread_over_the_gpus(tmp_path, run_instead, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run_instead("echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS > $1.gpu; sleep 0.4")
    queue = make_queue(tmp_path, runs=4)
    assert queue.run(slots=4, gpus=["0", "3"]) == 0
    found = [experiment.run_folder.with_suffix(".gpu").read_text() for experiment in queue.experiments()]
    assert sorted(found) == ["0 1\n"] * 2 + ["3 1\n"] * 2


def test_experiments_that_are_added_meanwhile_run_too(tmp_path, run_instead):
    run_instead(ONCE)
    queue = make_queue(tmp_path)
    scheduler = start_scheduler(queue)
    wait_until(lambda: traces(queue, "begun") == [1])
    queue.add({**CARTPOLE, "seed": 9})
    scheduler.join()
    assert traces(queue, "done") == [1, 1]


# the table and the command line


def test_the_table_says_how_each_experiment_stands(tmp_path, run_instead):
    rows = "update,step,seconds,charts/episodic_return\\n1,500,2.4,\\n2,1000,4.6,21.25\\n3,99"
    run_instead(f"mkdir -p $1/checkpoints; printf '{rows}' > $1/progress.csv; touch $1/checkpoints/latest.pt; exit 1")
    queue = make_queue(tmp_path, runs=2)
    failing = queue.experiments()[0]
    launcher.Job(Attempt(failing, retries=0, timeout=None)).process.wait()
    waiting, resumable = queue.status()[1], queue.experiments()[0]
    assert (waiting.state, waiting.steps, waiting.last_return, waiting.exit_code) == ("waiting", 0, None, None)
    failed = resumable.status()
    assert (failed.state, failed.steps, failed.total, failed.seconds) == ("failed", 1000, 1000, 4.6)
    assert (failed.last_return, failed.exit_code, failed.attempts) == (21.25, 1, 1)

    console = Console(record=True, width=120, file=io.StringIO())
    console.print(queue.table())
    text = console.export_text()
    assert "1 failed, 1 waiting" in text
    for value in (failing.name, "failed", "1,000", "21.2", "5"):
        assert value in text

    lines = failing.journal.read_text().splitlines()
    failing.journal.write_text(f"{lines[0]}\n{lines[1][:20]}")  # the machine went down within the last line
    assert resumable.state == "resumable"


def test_the_command_line_adds_a_cross_product(tmp_path, capsys):
    queue = str(tmp_path / "queue")
    flags = "--algo ppo --env-name CartPole-v1 --preset classic --no-cuda --num-env-steps 1e4 --env-kwargs a=[1,2]"
    vary = ["--vary", "lr=1e-3,3e-4", "--vary", "env-kwargs.b=x,[1,[2,(3,)]]", "--name", "first"]
    assert experiments.main(["add", queue, *flags.split(), *vary]) == 0
    names = capsys.readouterr().out.splitlines()
    assert len(names) == 4
    assert names[0] == "first__CartPole-v1__ppo__env_kwargs.b=x__lr=0.001__seed=1"
    settings = [experiment.settings for experiment in Queue(queue).experiments()]
    assert [(one["lr"], one["env_kwargs"]["b"]) for one in settings] == [
        (lr, b) for lr in (1e-3, 3e-4) for b in ("x", [1, [2, [3]]])
    ]
    assert settings[0]["cuda"] is False
    assert settings[0]["num_env_steps"] == 10_000
    assert experiments.main(["status", queue]) == 0
    assert "4 waiting" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_the_status_has_every_name_whole_and_in_one_line(tmp_path, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    queue = Queue(tmp_path / "queue")
    names = queue.add({**CARTPOLE, "nn_base_kwargs": {"hidden_size": 64}}, name="a-name-of-some-length" * 5)
    names += queue.add({**CARTPOLE, "seed": 2})
    assert experiments.main(["status", str(queue.folder)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[-1] for line in lines if line and line[0] == "waiting"] == names


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("add QUEUE --algo ppo --lr abc", "--lr abc: expected a number"),
        ("add QUEUE --algo none", "--algo none: unknown"),
        ("add QUEUE --vary lr", "--vary lr: expected setting=value,value"),
        ("add QUEUE --vary seed=1,x", "--seed x: expected an integer"),
        ("run QUEUE --slots 0", "--slots 0: expected at least 1"),
        ("run QUEUE --lr 1", "--lr: unknown to run"),
        ("run QUEUE", "QUEUE: no such queue"),
        ("status QUEUE", "QUEUE: no such queue"),
        ("", "the following arguments are required"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, command, message):
    monkeypatch.chdir(tmp_path)
    assert experiments.main(command.split()) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("QUEUE").exists()


def test_a_scheduler_says_how_far_its_runs_are(tmp_path, run_instead, monkeypatch, capsys):
    monkeypatch.setattr(launcher, "FIRST_STATUS_SECONDS", 0.2)
    rows = "update,step,seconds,charts/episodic_return\\n1,500,2.4,21.25\\n"
    told = "until [ -e $1.told ]; do sleep 0.1; done"
    run_instead(f"mkdir -p $1; printf '{rows}' > $1/progress.csv; {told}")
    queue = make_queue(tmp_path, runs=2)
    first, second = queue.experiments()
    tell = experiments.Scheduler.tell

    def tell_and_let_go(self):
        tell(self)
        if all(folder.progress(experiment.run_folder) for experiment in (first, second)):
            tell(self)
            for experiment in (first, second):
                experiment.run_folder.with_suffix(".told").touch()

    monkeypatch.setattr(experiments.Scheduler, "tell", tell_and_let_go)
    assert queue.run(slots=2) == 0
    out = capsys.readouterr().out
    for experiment in (first, second):
        assert f"{experiment.name}: 500 of 1,000 steps, 2 s, return 21.2\n" in out
    assert "experiments wait" not in out


def test_the_exit_code_says_whether_runs_failed(tmp_path, run_instead, capsys):
    queue = make_queue(tmp_path)
    run_instead("exit 3")
    assert experiments.main(["run", str(queue.folder), "--retries", "0"]) == 1
    run_instead("exit 0")
    assert experiments.main(["run", str(queue.folder), "--retries", "1"]) == 0
    assert "1 finished" in capsys.readouterr().out


def test_a_real_run_is_stopped_continued_and_finished_once(tmp_path):
    queue = Queue(tmp_path / "queue")
    queue.add({**CARTPOLE, "preset": "classic", "num_env_steps": 4000, "save_interval": 2})
    experiment = queue.experiments()[0]
    scheduler = start_scheduler(queue)
    wait_until(lambda: folder.latest_checkpoint(experiment.run_folder).is_file())
    os.kill(scheduler.pid, signal.SIGTERM)
    scheduler.join()
    assert scheduler.exitcode == 143
    assert states(queue) == ["resumable"]

    assert queue.run() == 0
    row = queue.status()[0]
    assert (row.state, row.steps, row.exit_code, row.attempts) == ("finished", 4096, 0, 2)
    assert f"continuing {experiment.run_folder}" in experiment.log_file.read_text()

    lines = experiment.journal.read_text().splitlines(keepends=True)
    experiment.journal.write_text("".join(lines[:-1]))  # as if nobody had been left to note the exit code
    assert states(queue) == ["finished"]
    assert queue.run() == 0
    assert (queue.status()[0].attempts, experiment.events()[-1]["reason"]) == (2, "checkpoint")
