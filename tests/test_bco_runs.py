"""Runs of bco: resuming, what is logged and left, bad flags."""

import csv
import math

import numpy as np
import pytest

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.experts.files import save
from evaluate import evaluate, load_agent
from tests.demonstrations import trajectory
from tests.test_bco import LEFT, walks
from tests.test_loop import assert_same_state, final_state
from tests.test_q_resume import run_in_parts


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


BCO = (
    "--algo bco --env-name CartPole-v1 --demonstrations shown.npz --torch-threads 1 --no-cuda --save-dir= "
    "--num-processes 2 --num-steps 40 --epochs 3 --eval-interval 2 --eval-episodes 1 --num-env-steps 280"
)


def write_cartpole():
    generator = np.random.default_rng(0)
    save(
        "shown.npz",
        [trajectory(e, 12, make=lambda clock: generator.normal(size=(len(clock), 4))) for e in range(20)],
    )


def test_resuming_equals_never_having_stopped_bit_for_bit(tmp_path, monkeypatch):
    write_cartpole()
    main.execute(arguments.parse([*BCO.split(), "--log-dir", "whole"]))
    run_in_parts(BCO, 3, monkeypatch)
    stopped = final_state(tmp_path / "parts")
    assert stopped["update"] == 3
    assert stopped["collector"]["env_steps"] == 80 + 40 + 40
    main.execute(arguments.parse(["--resume", "parts"]))
    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert whole["update"] == 6
    for key in ("algorithm", "collector", "normalizer", "rng", "update", "best"):
        assert_same_state(whole[key], parts[key], key)


def test_a_run_logs_both_models_and_leaves_a_policy_that_imitates(tmp_path):
    walks("Walk", lambda generator: LEFT["Walk"])
    argv = (
        "--algo bco --env-name tests.test_bco:Walk-v0 --demonstrations shown.npz --num-steps 100 --num-processes 4 "
        "--inverse-lr 1e-2 --lr 1e-2 --alpha 0 --torch-threads 1 --save-dir= --log-dir run --epochs 60"
    )
    assert main.main(argv.split()) == 0
    state = final_state(tmp_path / "run")
    assert (state["update"], state["collector"]["env_steps"]) == (1, 400)
    with open("run/progress.csv") as file:
        row = list(csv.DictReader(file))[-1]
    for name in ("bc_loss", "validation_loss", "accuracy", "inverse_loss", "inverse_validation_loss"):
        assert math.isfinite(float(row[f"losses/{name}"]))
    assert float(row["losses/inverse_accuracy"]) == 1.0
    assert 1 <= float(row["charts/inverse_epochs"]) <= 60
    assert float(row["eval/return_mean"]) < 0
    agent, envs = load_agent(tmp_path / "run" / "checkpoints" / "latest.pt", num_envs=4, trusted=True)
    assert evaluate(agent, envs, 8)["returns"].mean() < 0
    main.execute(arguments.parse(["--resume", "run", "--num-env-steps", "4000", "--trust"]))
    assert final_state(tmp_path / "run")["update"] == 1


def test_a_bare_command_line_has_defaults_that_fit():
    args = arguments.parse("--algo bco --env-name CartPole-v1".split())
    assert (args.num_steps, args.num_processes, args.log.eval_interval) == (250, 8, 1)
    assert args.num_env_steps == 10_000


BAD = [
    ("--num-steps 0", "--num-steps 0"),
    ("--alpha -1", "at least 0"),
    ("--buffer-size 3", "--buffer-size 3"),
    ("--inverse-hidden-size 0", "at least 1"),
    ("--nn-base-kwargs auxiliary_heads=[(-1,-1,0,2)]", "auxiliary_heads"),
    ("--demonstrations nothing.npz", "no such file"),
    ("--entropy-coef 0", "unknown flag for bco"),
]


@pytest.mark.parametrize(("flags", "says"), BAD, ids=[row[0] for row in BAD])
def test_bad_input_is_one_line_and_exit_code_2_and_creates_nothing(flags, says, capsys, tmp_path):
    write_cartpole()
    argv = "--algo bco --env-name CartPole-v1 --demonstrations shown.npz --log-dir run"
    assert main.main([*argv.split(), *flags.split()]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("main.py: error: ")
    assert says in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["shown.npz"]
