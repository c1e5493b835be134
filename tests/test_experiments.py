"""Queues of experiments: settings, files, and runs that happen exactly once whatever is killed."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from a2c_ppo_acktr import arguments, launcher, waiter
from a2c_ppo_acktr.utils import UsageError
from write_and_test import experiments
from write_and_test.experiment import Attempt, Settled
from write_and_test.experiments import Queue, product
from write_and_test.settings import LONGEST_NAME, to_flags, to_plain

CARTPOLE = {"algo": "ppo", "env_name": "CartPole-v1", "num_env_steps": 1000}
FORK = multiprocessing.get_context("fork")
ONCE = "echo begun >> $1.begun; mkdir $1.alive || echo >> $1.overlap; sleep 0.4; rmdir $1.alive; echo done >> $1.done"
"""A run that leaves traces beside its folder: how often it began, ended, and was there twice."""


def make_queue(tmp_path, runs=1):
    queue = Queue(tmp_path / "queue")
    queue.add(product(CARTPOLE, {"seed": range(1, runs + 1)}))
    return queue


@pytest.fixture
def run_instead(monkeypatch):
    """Runs become real processes of a shell script, whose `$1` is the run folder."""

    def replace(script):
        monkeypatch.setattr(launcher, "train_command", lambda folder, flags: ["sh", "-c", script, "sh", str(folder)])

    return replace


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


def test_a_product_has_every_combination_and_its_last_key_varies_fastest():
    found = product({"algo": "ppo", "lr": 1.0}, {"lr": [1e-3, 3e-4], "seed": range(1, 3)})
    assert found == [{"algo": "ppo", "lr": lr, "seed": seed} for lr in (1e-3, 3e-4) for seed in (1, 2)]
    assert product({"algo": "ppo"}, {}) == [{"algo": "ppo"}]


def test_a_product_varies_one_entry_of_a_dictionary():
    base = {"env_kwargs": {"sutton_barto_reward": True}}
    found = product(base, {"env_kwargs.gravity": [5, 9.8], "nn_base_kwargs.hidden_size": [32]})
    assert [one["env_kwargs"] for one in found] == [{"sutton_barto_reward": True, "gravity": g} for g in (5, 9.8)]
    assert found[0]["nn_base_kwargs"] == {"hidden_size": 32}
    assert base == {"env_kwargs": {"sutton_barto_reward": True}}


@pytest.mark.parametrize("values", [3, "abc", {"a": 1}, []])
def test_a_product_wants_lists(values):
    with pytest.raises(UsageError, match="lr: expected a list of values"):
        product(CARTPOLE, {"lr": values})


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 1e-3, "entropy_coef": -1e-05, "num_env_steps": 1e6},
        {"use_gae": True, "normalize_env": False, "cuda_deterministic": False},
        {"env_kwargs": {"gravity": 9.8, "name": "1", "sizes": [1, "True", None], "on": True, "text": "a b=c"}},
        {"env_name": "module:My/Env-v0", "save_dir": "", "env_kwargs": {}},
        {"nn_base_kwargs": {"auxiliary_heads": [[-1, 0, "hour"], [1, -1, "next:time", 0.5]], "more": {"a": 1}}},
        {"auxiliary_truth_sizes": [2, 1]},
        {"lr": np.float32(0.5), "num_steps": np.int64(7)},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_the_command_line_says_what_the_settings_say(settings):
    args = arguments.parse(to_flags(to_plain({"algo": "ppo", **settings})))
    read = {**vars(args), **vars(args.config)}
    assert {key: read[key] for key in settings} == settings


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"lr": "abc"}, "--lr abc: expected a number"),
        ({"lrr": 1}, "--lrr=1: unknown flag for ppo; did you mean --lr?"),
        ({"num_processes": 0}, "--num-processes 0: expected at least 1"),
        ({"algo": "none"}, "--algo none: unknown"),
        ({"lr": [1, 2]}, r"lr: \[1, 2\] is a list"),
        ({"lr": b"1"}, "lr: b'1' is not a number"),
        ({"log_dir": "here"}, "log_dir: the queue gives"),
        ({"resume": "run"}, "resume: the queue gives"),
        ({"help": True}, "help: is not a setting"),
        ({"lr": False}, "lr: False would be read as"),
        ({"preset": "classic", "use_gae": False}, "use_gae: False would be read as True"),
    ],
    ids=str,
)
def test_a_bad_setting_is_one_line_that_names_it_and_nothing_is_added(tmp_path, bad, message):
    queue = Queue(tmp_path / "queue")
    with pytest.raises(UsageError, match=f"^{message}") as caught:
        queue.add([CARTPOLE, {**CARTPOLE, **bad}])
    assert "\n" not in str(caught.value)
    assert not queue.folder.exists()


# the queue


def test_names_say_environment_algorithm_what_varies_and_the_seed(tmp_path):
    queue = Queue(tmp_path / "queue")
    base = {"env_name": "CartPole-v1", "gamma": 0.9}
    found = queue.add(product(base, {"algo": ["a2c", "ppo"], "env_kwargs.sutton_barto_reward": [True, False]}))
    assert found == [
        f"CartPole-v1__{algo}__env_kwargs.sutton_barto_reward={on}__seed=1"
        for algo in ("a2c", "ppo")
        for on in (True, False)
    ]
    assert queue.add({**CARTPOLE, "env_name": "my.module:Env/X-v0"}, name="../a b") == [
        "a-b__my.module-Env-X-v0__ppo__seed=1"
    ]
    assert sorted(path.name for path in queue.folder.glob("*.json")) == sorted(
        f"{experiment.name}.json" for experiment in queue.experiments()
    )


def test_long_names_are_cut_and_stay_unique(tmp_path):
    names = Queue(tmp_path / "queue").add(product(CARTPOLE, {"env_kwargs.text": ["x" * 300 + end for end in "ab"]}))
    assert len(set(names)) == 2
    assert max(map(len, names)) == LONGEST_NAME


def test_adding_the_same_again_changes_nothing_under_whatever_name(tmp_path):
    queue = make_queue(tmp_path, runs=2)
    before = {path: path.stat().st_mtime_ns for path in queue.folder.glob("*.json")}
    again = queue.add(product(CARTPOLE, {"seed": [1, 2]}), name="other")
    assert again == [experiment.name for experiment in queue.experiments()]
    assert {path: path.stat().st_mtime_ns for path in queue.folder.glob("*.json")} == before
    assert len(queue.add(product(CARTPOLE, {"gamma": [0.9], "seed": [3, 4]}))) == 2
    assert [experiment.settings["seed"] for experiment in queue.experiments()] == [1, 2, 3, 4]


def test_a_different_experiment_of_the_same_name_is_refused_and_nothing_is_added(tmp_path):
    queue = make_queue(tmp_path)
    with pytest.raises(UsageError, match=r"CartPole-v1__ppo__seed=1: .* another experiment .* differ in gamma"):
        queue.add([{**CARTPOLE, "gamma": 0.9, "seed": 2}, {**CARTPOLE, "gamma": 0.9, "seed": 1}])
    assert [experiment.settings for experiment in queue.experiments()] == [{**CARTPOLE, "seed": 1}]
    assert queue.add({**CARTPOLE, "gamma": 0.9, "seed": 1}, name="low") == ["low__CartPole-v1__ppo__seed=1"]


def test_an_addition_that_is_killed_at_any_file_leaves_whole_ones_and_can_be_repeated(tmp_path, monkeypatch):
    queue, settings = Queue(tmp_path / "queue"), product(CARTPOLE, {"seed": range(1, 5)})
    flushed = []

    def die_at_the_third(descriptor):
        flushed.append(descriptor)
        if len(flushed) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die_at_the_third)  # everything is written, nothing is renamed
        process = FORK.Process(target=queue.add, args=(settings,))
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [experiment.settings["seed"] for experiment in queue.experiments()] == [1, 2]
    assert len(queue.add(settings)) == 4
    assert [experiment.settings["seed"] for experiment in queue.experiments()] == [1, 2, 3, 4]


def test_additions_wait_for_one_another(tmp_path):
    queue, held, release = make_queue(tmp_path), FORK.Event(), FORK.Event()

    def hold():
        with launcher.take_lock(queue.folder / ".lock"):
            held.set()
            release.wait(30)

    holder, adder = FORK.Process(target=hold), FORK.Process(target=queue.add, args=({**CARTPOLE, "seed": 2},))
    holder.start()
    held.wait(30)
    adder.start()
    adder.join(0.5)
    assert len(queue.experiments()) == 1
    release.set()
    adder.join(30)
    assert len(queue.experiments()) == 2
    holder.join()


def test_a_file_that_is_no_experiment_is_named(tmp_path):
    queue = make_queue(tmp_path)
    (queue.folder / "stray.json").write_text('{"settings"')
    with pytest.raises(UsageError, match=r"stray.json: not an experiment"):
        queue.status()


# running


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
    run_instead("trap 'echo saved >> $1.done; kill $!; exit 143' TERM; sleep 60 & echo >> $1.begun; wait")
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
    wait_until(lambda: launcher.latest_checkpoint(experiment.run_folder).is_file())
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
