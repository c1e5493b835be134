"""Real processes, real signals: what was saved stays, nothing is left running."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from a2c_ppo_acktr.run import checkpoint

PROMPT = 10.0
"""Seconds that an end by signal may take here: 5 on an idle machine, and other tests run beside these."""
MAIN = str(Path(__file__).parent.parent / "main.py")
FLAGS = "--env-name CartPole-v1 --num-env-steps 1e9 --torch-threads 1 --log-dir run --save-dir saved".split()
ROOT = str(Path(__file__).parent.parent)


def start(folder, *flags):
    command = [sys.executable, MAIN, *FLAGS, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT}
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def say(process, text):
    """Read what it prints until `text` comes; all of it so far."""
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, seen + process.stderr.read()
        seen += line
    return seen


def update_of(folder):
    return checkpoint.load(folder / "run" / "checkpoints" / "latest.pt")["update"]


def wait_for(path, timeout=60):
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)


def alive_in_session(pid):
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(pid)], capture_output=True, text=True).stdout
    return [line for line in found.splitlines() if " Z" not in line]


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_signal_ends_the_run_promptly_with_a_checkpoint_and_no_process_left(tmp_path, sig, backend):
    """To the program, or to all that it started, as Ctrl-C, `timeout` and batch systems send it."""
    process = start(tmp_path, "--save-interval", "20", "--vec-env", backend)
    say(process, "Updates")
    asked = time.monotonic()
    if backend == "subproc":
        os.killpg(process.pid, sig)
    else:
        process.send_signal(sig)
    out, err = process.communicate(timeout=20)
    assert time.monotonic() - asked < PROMPT
    assert process.returncode == 128 + sig
    assert "continue with" in out
    assert not err.strip()
    done = int(re.search(r"updates\W+(\d+)", out)[1])
    assert update_of(tmp_path) == done > 0
    assert checkpoint.load(tmp_path / "saved" / "a2c" / "CartPole-v1.pt")["update"] == done
    time.sleep(0.3)
    assert not alive_in_session(process.pid)


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_a_signal_in_a_step_of_ten_seconds_is_no_crash_and_what_was_learned_is_kept(tmp_path, backend):
    slow = "--env-name tests.probe_envs:Slow-v0 --env-kwargs seconds=10 since=15 --num-processes 2 --log-interval 1"
    process = start(tmp_path, *slow.split(), "--vec-env", backend)
    say(process, "Updates 3")
    time.sleep(0.5)  # the fourth update of five steps begins with the step that takes so long
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert not err.strip()
    assert "continue with" in out
    assert update_of(tmp_path) == 3
    if backend == "dummy":
        quick = f"{slow} --env-kwargs seconds=0 --resume run --num-env-steps 60"
        resumed = start(tmp_path, *quick.split())
        out, err = resumed.communicate(timeout=60)
        assert resumed.returncode == 0, err
        assert "every running episode begins anew" in out
        assert update_of(tmp_path) == 6


def test_a_signal_in_an_evaluation_keeps_the_update_and_a_resumed_run_evaluates_it(tmp_path):
    never = "--env-name tests.probe_envs:Never-v0 --lr 0.05 --eval-interval 50 --eval-max-steps 1000000"
    process = start(tmp_path, *never.split())
    say(process, "Evaluating")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert not err.strip()
    assert update_of(tmp_path) == 50
    shorter = f"{never} --resume run --eval-max-steps 20 --num-env-steps 4000"
    resumed = start(tmp_path, *shorter.split())
    out, err = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, err
    assert out.count("Evaluation using 10 episodes") == 1
    assert "cut after 20 steps" in out


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_signal_while_it_imports_ends_it_without_a_word(tmp_path, sig):
    process = start(tmp_path)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():  # the first of what takes seconds
        time.sleep(0.01)
    process.send_signal(sig)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 128 + sig


def test_a_signal_in_a_slow_update_still_ends_the_run_and_the_last_checkpoint_stands(tmp_path):
    slow = "--algo ppo --num-steps 4096 --num-mini-batch 1024 --ppo-epoch 1000"
    process = start(tmp_path, *slow.split())
    wait_for(tmp_path / "run" / "config.json")
    time.sleep(4)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert 2.5 < time.monotonic() - asked < PROMPT  # the update would take minutes
    assert process.returncode == 128 + signal.SIGTERM
    assert not alive_in_session(process.pid)


def test_workers_end_when_the_run_is_killed(tmp_path):
    process = start(tmp_path, "--save-interval", "20", "--vec-env", "subproc")
    wait_for(tmp_path / "run" / "checkpoints" / "latest.pt")
    assert len(alive_in_session(process.pid)) >= 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while alive_in_session(process.pid):
        assert time.monotonic() < deadline, alive_in_session(process.pid)
        time.sleep(0.05)


def test_sigkill_at_random_moments_leaves_a_checkpoint_that_loads_and_resumes(tmp_path):
    """Four kills, or as many as the environment variable KILLS says."""
    rng = random.Random(0)
    latest, update = tmp_path / "run" / "checkpoints" / "latest.pt", 0
    process = start(tmp_path, "--save-interval", "1")
    wait_for(latest)
    for _ in range(int(os.environ.get("KILLS", "4"))):
        time.sleep(rng.uniform(0.0, 0.4))
        process.kill()
        process.communicate()
        now = checkpoint.load(latest)["update"]
        assert now > update
        update = now
        before = latest.stat().st_mtime_ns
        process = start(tmp_path, "--resume", "run", "--save-interval", "1")
        deadline = time.monotonic() + 60
        while latest.stat().st_mtime_ns == before:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    process.kill()
    process.communicate()
