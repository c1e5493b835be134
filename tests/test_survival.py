"""What a run has learned is kept, and goes on as the flags say, whatever happens to it and to its files."""

import copy
import csv
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from a2c_ppo_acktr import arguments, process
from a2c_ppo_acktr.algo import ALGORITHMS
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.run.run import Run
from a2c_ppo_acktr.signals import Interrupted, StopOnSignals
from a2c_ppo_acktr.state import _reached
from a2c_ppo_acktr.utils import UsageError
from tests.probe_envs import Unreadable
from tests.test_loop import final_state

A2C = "--algo a2c --env-name CartPole-v1 --num-processes 2 --num-steps 8 --save-dir= --torch-threads 1 --log-interval 1"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gail_experts").symlink_to(Path(__file__).parents[1] / "gail_experts")


def run(line, code=0):
    assert main.main(line.split()) == code


def rows(folder="run"):
    with open(f"{folder}/progress.csv") as file:
        return list(csv.DictReader(file))


def one_line(capsys, *parts):
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert all(part in errors[0] for part in parts), errors


# When checkpoints are written


def written(monkeypatch, seconds_per_update, *flags, updates=130):
    """Names and updates of what a run of invented time writes."""
    now, found, write, after = [0.0], [], Run._write, Run.after_update
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def tick(run, *args):
        now[0] += seconds_per_update
        after(run, *args)

    monkeypatch.setattr(Run, "after_update", tick)
    monkeypatch.setattr(
        Run, "_write", lambda run, path, *a: found.append((path.name, run.update)) or write(run, path, *a)
    )
    run(" ".join([A2C, f"--num-env-steps {16 * updates} --log-dir run", *flags]))
    return found


def test_latest_is_there_from_the_start_and_every_minute_whatever_else_is_saved(monkeypatch):
    found = written(monkeypatch, 1.0, "--checkpoint-interval 20", "--eval-interval 10 --eval-episodes 1")
    assert [update for name, update in found if name == "latest.pt"] == [0, 60, 120, 130]
    assert [update for name, update in found if name[0].isdigit()] == [20, 40, 60, 80, 100, 120]
    assert any(name == "best.pt" for name, _ in found)


def test_latest_is_written_after_every_update_in_which_a_signal_may_end_the_run(monkeypatch):
    found = written(monkeypatch, 4.0, updates=5)
    assert [update for name, update in found if name == "latest.pt"] == [0, 1, 2, 3, 4, 5, 5]


def test_a_run_is_saved_after_the_evaluation_of_its_update(monkeypatch):
    returns = iter([400.0, 100.0, 50.0])
    monkeypatch.setattr(main, "evaluate_now", lambda *_: (np.full(2, next(returns)), np.ones(2)))
    flags = f"{A2C} --eval-interval 2 --checkpoint-interval 2 --log-dir run"
    run(f"{flags} --num-env-steps 32")
    state = checkpoint.load("run/checkpoints/2.pt")
    assert (state["best"], state["evaluated"]) == (400.0, 2)
    run("--resume run/checkpoints/2.pt --num-env-steps 64")
    assert [row["eval/return_mean"] for row in rows()] == ["", "", "400.0", "", "", "100.0"]
    assert checkpoint.load("run/checkpoints/best.pt")["update"] == 2


def test_the_last_update_is_evaluated_too():
    run(f"{A2C} --eval-interval 10 --eval-episodes 1 --num-env-steps 48 --log-dir run")
    assert [row["update"] for row in rows() if row["eval/return_mean"]] == ["3"]


def test_a_continued_run_loses_no_point_of_its_curves():
    run(f"{A2C} --num-env-steps 160 --log-dir run")
    run("--resume run --num-env-steps 320")
    events = EventAccumulator("run")
    events.Reload()
    assert [event.step for event in events.Scalars("losses/value_loss")] == [16 * k for k in range(1, 21)]


# What the flags of a resumed run do


@pytest.mark.parametrize(
    ("flags", "changed"),
    [
        ("--algo a2c", {"lr": 1e-5, "eps": 1e-3, "alpha": 0.5}),
        ("--algo ppo --num-mini-batch 2", {"lr": 1e-5, "eps": 1e-3}),
        ("--algo ppo --num-mini-batch 2 --policy-lr 1e-3 --value-lr 1e-3", {"policy_lr": 1e-5, "value_lr": 2e-5}),
        ("--algo acktr", {"lr": 0.01}),
        ("--algo dqn --learning-starts 16", {"lr": 1e-5}),
        ("--algo a2c --gail --gail-warm-up 0", {"gail_lr": 1e-5}),
        ("--algo bc --num-steps 0 --epochs 2 --num-trajectories 2", {"lr": 1e-5, "eps": 1e-3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_of_optimizers_are_those_of_the_flags(flags, changed):
    first = f"{A2C} {flags} --log-dir run --num-env-steps 32"
    run(first)
    given = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changed.items())
    more = "--epochs 4" if "bc" in flags else "--num-env-steps 64"
    with main.build(arguments.parse(f"--resume run {given} {more}".split())) as parts:
        for _ in main.loop(parts):
            pass
        groups = [one.param_groups[0] for one in _reached(parts.algorithm) if isinstance(one, torch.optim.Optimizer)]
    for name, value in changed.items():
        assert any(group[name.split("_")[-1]] == value for group in groups), name
    assert parts.run.update == 4
    if "lr" in changed:
        assert float(rows()[-1]["charts/learning_rate"]) == changed["lr"]


@pytest.mark.parametrize(
    "flags",
    [
        "--nn-base-kwargs hidden_size=32",
        "--optimizer adam",
        "--env-name Acrobot-v1",
        "--env-name Pendulum-v1",
        "--algo dqn",
        "--recurrent-policy",
        "--hide-observations 1",
        "--clone-parameter-experiment run",
    ],
)
def test_flags_that_do_not_fit_the_run_are_named_in_one_line_and_change_nothing(flags, capsys):
    run(f"{A2C} --num-env-steps 32 --log-dir run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    run(f"--resume run --num-env-steps 64 {flags}", code=2)
    one_line(capsys, flags.split("=")[0])
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_another_seed_is_obeyed_and_said(capsys):
    run(f"{A2C} --num-env-steps 32 --log-dir run")
    state = {}
    for seed in ("1", "7", "8"):
        capsys.readouterr()
        run(f"--resume run/checkpoints/latest.pt --log-dir {seed} --seed {seed} --num-env-steps 96")
        assert ("random states begin anew" in capsys.readouterr().out) == (seed != "1")
        state[seed] = final_state(Path(seed))["algorithm"]["policy"]["base.value.weight"]
    assert not torch.equal(state["1"], state["7"])
    assert not torch.equal(state["7"], state["8"])


def test_a_log_dir_beside_resume_branches_the_run_and_leaves_the_old_one_alone():
    run(f"{A2C} --num-env-steps 32 --log-dir run")
    before = Path("run/progress.csv").read_bytes(), Path("run/checkpoints/latest.pt").read_bytes()
    run("--resume run --log-dir branch --num-env-steps 64")
    assert before == (Path("run/progress.csv").read_bytes(), Path("run/checkpoints/latest.pt").read_bytes())
    assert [row["update"] for row in rows("branch")] == ["3", "4"]


def test_a_run_folder_that_was_moved_goes_on_where_it_is():
    run(f"{A2C} --num-env-steps 32 --log-dir run")
    Path("run").rename("moved")
    run("--resume moved --num-env-steps 64")
    assert len(rows("moved")) == 4
    assert not Path("run").exists()


@pytest.mark.parametrize("learner", ["--algo a2c", "--algo a2c --gail --gail-warm-up 0"])
@pytest.mark.parametrize("processes", [1, 5])
def test_a_run_goes_on_with_other_numbers_of_processes(learner, processes):
    run(f"{A2C} {learner} --num-env-steps 32 --log-dir run")
    run(f"--resume run --num-processes {processes} --num-env-steps 200")
    assert final_state(Path("run"))["collector"]["env_steps"] >= 200


def test_more_epochs_or_patience_go_on_where_behavioral_cloning_ended(capsys):
    line = "--algo bc --env-name CartPole-v1 --num-trajectories 2 --save-dir= --torch-threads 1"
    run(f"{line} --epochs 6 --log-dir whole")
    run(f"{line} --epochs 2 --log-dir parts")
    run("--resume parts")
    assert "nothing is left to learn" in capsys.readouterr().out
    run("--resume parts --epochs 6")
    whole, parts = (final_state(Path(folder)) for folder in ("whole", "parts"))
    assert parts["update"] == 6
    for name, weight in whole["algorithm"]["policy"].items():
        assert torch.equal(weight, parts["algorithm"]["policy"][name]), name


def test_a_longer_decay_is_said(capsys):
    run(f"{A2C} --use-linear-lr-decay --num-env-steps 32 --log-dir run")
    capsys.readouterr()
    run("--resume run --num-env-steps 64")
    assert "--num-env-steps 64, before 32: the learning rate decays over all of them" in capsys.readouterr().out


def test_names_with_brackets_are_found_again():
    run("--env-name CartPole-v1 --num-env-steps 80 --exp-name lr[1]*? --save-dir=")
    args = arguments.parse("--env-name CartPole-v1 --exp-name lr[1]*? --resume".split())
    assert "lr[1]*?" in args.log.resume


# Where episodes begin anew

UNREADABLE = "--env-name tests.probe_envs:Unreadable-v0 --num-processes 2 --num-steps 8 --save-dir= --torch-threads 1"


class Point(tuple):
    """A class that a checkpoint cannot hold."""


TOLD = {
    "takes an argument": lambda: lambda env, agent: {},
    "gives a class": lambda: lambda env: {"at": Point((1, 2))},
    "gives a deque": lambda: lambda env: {"at": __import__("collections").deque([1])},
    "gives objects": lambda: lambda env: [object()],
    "is taken otherwise": lambda: lambda env: {"t": np.arange(3)},
}


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
@pytest.mark.parametrize("told", TOLD)
def test_states_that_cannot_be_saved_or_set_never_cost_the_run(told, backend, monkeypatch, capsys):
    if backend == "subproc" and told != "gives a class":
        pytest.skip("one is enough")
    monkeypatch.setattr(Unreadable, "told", TOLD[told]())
    run(f"{UNREADABLE} --num-env-steps 64 --log-dir run")
    out = capsys.readouterr().out
    assert out.count("states cannot be saved") == (told != "is taken otherwise")
    run("--resume run --trust --num-env-steps 128")
    assert capsys.readouterr().out.count("every running episode begins anew") == 1
    assert final_state(Path("run"))["update"] == 8


def test_episodes_that_begin_anew_are_seen_by_the_runs_statistics_and_are_none_that_were_played():
    run(f"{UNREADABLE} --num-env-steps 640 --log-dir run --normalize-env")
    starts = {tuple(np.ravel(obs)) for obs in first_observations("run", resumed=False)}
    with main.build(arguments.parse("--resume run --trust --num-env-steps 1280".split())) as parts:
        raw, seen = parts.envs.original[0], parts.collector.stepper.obs
        before = copy.deepcopy(parts.envs.normalizer)
        np.testing.assert_allclose(seen, before.normalize_obs(raw), rtol=1e-6)
        assert np.abs(before.obs_rms.mean - 1050).max() < 60  # not what two first observations would say
        assert (before.returns == 0).all()
        assert before.obs_rms.count > 640
        anew = parts.envs.original[0].copy()
    assert not starts & {tuple(one) for one in anew}


def first_observations(folder, resumed):
    """What the environments of a run that begins see first."""
    settings = checkpoint.load(f"{folder}/checkpoints/latest.pt")["settings"]
    args = arguments.from_plain(settings)
    envs = main.make_vec_envs(args.env, args.num_processes, args.seed)
    envs.reset()
    return envs.original[0]


def test_every_resume_begins_with_other_episodes():
    run(f"{UNREADABLE} --num-env-steps 64 --log-dir run")
    seen = set()
    for steps in (128, 192):
        with main.build(arguments.parse(f"--resume run --trust --num-env-steps {steps}".split())) as parts:
            seen |= {tuple(one) for one in parts.envs.original[0]}
            for _ in main.loop(parts):
                pass
            parts.run.finish(interrupted=False)
    assert len(seen) == 4


def test_every_wrapper_of_the_project_is_known_to_those_who_read_states():
    import gymnasium as gym

    from a2c_ppo_acktr.envs import state, wrappers

    own = {one for one in vars(wrappers).values() if isinstance(one, type) and issubclass(one, gym.Wrapper)}
    assert {one for one in own if one.__module__ == wrappers.__name__} <= state.WRAPPER_ATTRIBUTES.keys()


# Evaluations


def test_an_evaluation_that_never_ends_is_cut_and_training_goes_on(capsys):
    line = "--algo a2c --env-name tests.probe_envs:Never-v0 --lr 0.05 --num-env-steps 8000 --save-dir= --log-dir run"
    run(f"{line} --eval-interval 25 --eval-max-steps 30")
    assert capsys.readouterr().out.count("cut after 30 steps without an end") == 1
    assert len([row for row in rows() if row["eval/length_mean"]]) == 4
    assert final_state(Path("run"))["update"] == 100


# Damage


def test_no_flipped_bit_is_read(capsys):
    run(f"{A2C} --num-env-steps 32 --log-dir run")
    path, rng = Path("run/checkpoints/latest.pt"), random.Random(0)
    whole = path.read_bytes()
    places = [rng.randrange(8 * len(whole)) for _ in range(200)] + list(range(8 * len(whole) - 800, 8 * len(whole)))
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="checkpoint run"):
            checkpoint.load(path)
    path.write_bytes(whole)
    assert checkpoint.load(path, mmap=True)["update"] == 2


def test_checkpoints_of_before_the_checksum_are_read_and_their_damage_is_seen_by_the_archives_own():
    run(f"{A2C} --num-env-steps 32 --log-dir run")
    contents = checkpoint.load("run/checkpoints/latest.pt")
    torch.save(contents, "old.pt")
    assert checkpoint.load("old.pt")["update"] == 2
    raw = bytearray(Path("old.pt").read_bytes())
    at = raw.index(contents["algorithm"]["policy"]["base.actor.0.weight"].numpy().tobytes())
    raw[at] ^= 1
    Path("old.pt").write_bytes(raw)
    with pytest.raises(UsageError, match="damaged"):
        checkpoint.load("old.pt")


def parts_of(tree, path=()):
    """Every place of a checkpoint but for its flags, which are read as a command line's are."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if (*path, key)[0] not in ("settings", "format", "version", "torch"):
            yield (*path, key)
            if isinstance(value, dict) or (isinstance(value, list) and len(value) < 6):
                yield from parts_of(value, (*path, key))


WRONG = [None, "x", [], {}, torch.zeros(7, 3)]


@pytest.mark.parametrize(
    "line", [A2C, f"{A2C} --algo ppo --num-mini-batch 2 --env-name Pendulum-v1", f"{A2C} --algo acktr"]
)
def test_a_checkpoint_of_wrong_contents_is_one_line(line, capsys, tmp_path):
    """Each place of it in turn is missing, or something else than it should be; where that is no matter, it goes on."""
    run(f"{line} --num-env-steps 32 --log-dir run")
    whole, places = checkpoint.load("run/checkpoints/latest.pt"), 0
    for number, path in enumerate(parts_of(whole)):
        contents = copy.deepcopy(whole)
        at = contents
        for key in path[:-1]:
            at = at[key]
        if number % 3 == 0 and isinstance(at, dict):
            del at[path[-1]]
        else:
            at[path[-1]] = WRONG[number % len(WRONG)]
        torch.save(contents, "bad.pt")
        capsys.readouterr()
        code = main.main("--resume bad.pt --num-env-steps 48 --save-dir= --log-dir further".split())
        assert code in (0, 2), path
        if code == 2:
            one_line(capsys, "bad.pt")
            places += 1
    assert places > 50


def test_files_that_are_no_text_and_temporary_ones_are_no_obstacle():
    run(f"{A2C} --num-env-steps 320 --log-dir run")
    for name in ("progress.csv", "0.monitor.csv"):
        with open(f"run/{name}", "ab") as file:
            file.write(b"\xff\xfe,1\n")
    Path("run/checkpoints/.latest.pt.4711.tmp").write_bytes(b"half")
    run("--resume run --num-env-steps 640")
    assert len(rows()) == 40
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["latest.pt"]


# One at a time


def test_a_run_that_another_process_is_at_is_refused_in_one_line(capsys):
    with main.build(arguments.parse(f"{A2C} --num-env-steps 1e6 --log-dir run".split())):
        before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
        run("--resume run", code=2)
        one_line(capsys, "run: another process is at this run")
        assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    run("--resume run --num-env-steps 32")


# Those who end the program, and those who set alarms


@pytest.mark.parametrize(("where", "code"), [("step", 1), ("reset", 2), ("constructor", 2)])
def test_an_environment_that_calls_exit_is_one_line(where, code, capsys):
    line = (
        f"--algo a2c --env-name tests.probe_envs:Leaves-v0 --env-kwargs where={where} --num-env-steps 1e4 --save-dir="
    )
    run(f"{line} --log-dir run", code)
    one_line(capsys, "SystemExit: 0")
    assert where != "step" or final_state(Path("run"))["update"] == 4


def test_a_network_that_calls_exit_is_one_line(capsys, tmp_path, monkeypatch):
    (tmp_path / "leaving.py").write_text(
        "import sys, torch\nclass Net(torch.nn.Module):\n def __init__(self, *a, **k): sys.exit(3)\n"
    )
    run("--algo a2c --env-name CartPole-v1 --nn-base leaving:Net --num-env-steps 100 --save-dir=", code=2)
    one_line(capsys, "SystemExit: 3")


def test_a_crash_of_an_environment_costs_no_update():
    run(
        "--algo a2c --env-name tests.probe_envs:Crash-v0 --num-steps 2 --num-env-steps 1e4 --save-dir= --log-dir run", 1
    )
    assert final_state(Path("run"))["update"] == 1


def test_an_alarm_of_the_environments_own_is_left_to_it():
    rang = []
    signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    with StopOnSignals(patience=60.0) as stop:
        signal.raise_signal(signal.SIGALRM)
        assert stop.requested is None
        os.kill(os.getpid(), signal.SIGTERM)
        signal.raise_signal(signal.SIGALRM)
    assert len(rang) == 2
    assert stop.requested == signal.SIGTERM


def test_nothing_that_catches_exceptions_swallows_a_signal():
    with pytest.raises(Interrupted), StopOnSignals(patience=0.05):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            try:
                time.sleep(0.1)
            except Exception:
                pytest.fail("swallowed")


def test_ctrl_c_in_a_loop_of_the_users_own_saves_at_the_end_of_the_update():
    seen = []
    args = arguments.parse(f"{A2C} --num-env-steps 1e6 --log-dir run".split())
    training = main.train(args)
    for progress in training:
        seen.append(progress.update)
        if progress.update == 3:
            break
    kind = ALGORITHMS["a2c"]
    update = kind.update

    def pressed(learner, storage):
        os.kill(os.getpid(), signal.SIGINT)
        return update(learner, storage)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, "update", pressed)
        for progress in training:
            seen.append(progress.update)
    assert seen == [1, 2, 3]
    assert final_state(Path("run"))["update"] == 4
    assert final_state(Path("run"))["collector"]["stepper"]["envs"] is not None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_between_the_updates_of_a_loop_ctrl_c_is_not_kept_waiting():
    training = main.train(arguments.parse(f"{A2C} --num-env-steps 1e6 --log-dir run".split()))
    next(training)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    training.close()
    assert final_state(Path("run"))["update"] == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_cores_that_a_process_may_not_use_are_not_counted(monkeypatch, tmp_path):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    assert process.available_cores() == 1
    os.sched_setaffinity(0, before)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for text, cores in (("250000 100000", 3), ("max 100000", 64), ("5000 100000", 1)):
        (tmp_path / "cpu.max").write_text(text)
        monkeypatch.setattr(process, "CPU_QUOTA", tmp_path / "cpu.max")
        assert process.available_cores() == cores
