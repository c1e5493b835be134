"""Runs of bc: resuming, what is logged and left, bad flags."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.experts.files import save
from a2c_ppo_acktr.utils import UsageError
from evaluate import evaluate, load_agent
from tests.demonstrations import trajectory
from tests.test_bc import CUES, DARK, one_step_episodes
from tests.test_loop import assert_same_state, final_state


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_cartpole():
    """Demonstrations of CartPole that are noise, in 20 episodes."""
    generator = np.random.default_rng(0)
    save(
        "shown.npz",
        [trajectory(e, 12, make=lambda clock: generator.normal(size=(len(clock), 4))) for e in range(20)],
    )


SHIPPED = Path("gail_experts").resolve()


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ("CartPole-v1", None),
        ("CartPole-v0", "recorded in CartPole-v1, not in this CartPole-v0"),
        ("CartPole-v1 --env-kwargs sutton_barto_reward=True", "recorded in CartPole-v1, not in this CartPole-v1"),
    ],
)
def test_demonstrations_of_another_environment_of_the_same_name_are_said_to_be_that(env, says, capsys):
    main.load_demonstrations(arguments.parse(f"--algo bc --env-name {env} --gail-experts-dir {SHIPPED}".split()))
    err = capsys.readouterr().err
    assert (says in err and err.count("\n") == 1) if says else err == ""


CARTPOLE = "--algo bc --env-name CartPole-v1 --demonstrations shown.npz --torch-threads 1 --no-cuda --save-dir= "


@pytest.mark.parametrize("flags", ["--epochs 12 --patience 12", "--patience 4 --lr 0.03", "--validation 0 --epochs 12"])
def test_resuming_equals_never_having_stopped_bit_for_bit(tmp_path, flags):
    write_cartpole()
    argv = f"{CARTPOLE} {flags} --eval-interval 3 --eval-episodes 1"
    main.execute(arguments.parse([*argv.split(), "--log-dir", "whole"]))
    main.execute(arguments.parse([*argv.split(), "--log-dir", "parts", "--checkpoint-interval", "2"]))
    main.execute(arguments.parse(["--resume", "parts/checkpoints/2.pt"]))
    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert whole["update"] > 4
    assert whole["algorithm"]["fit"]["finished"]
    for key in ("algorithm", "collector", "normalizer", "rng", "update"):
        assert_same_state(whole[key], parts[key], key)


def test_a_finished_run_that_is_resumed_learns_nothing_more(tmp_path):
    write_cartpole()
    main.execute(arguments.parse([*CARTPOLE.split(), "--epochs", "3", "--log-dir", "run"]))
    before = final_state(tmp_path / "run")
    main.execute(arguments.parse(["--resume", "run"]))
    assert_same_state(before["algorithm"], final_state(tmp_path / "run")["algorithm"])


def test_a_run_takes_no_step_logs_its_losses_and_leaves_a_policy_that_imitates(tmp_path):
    save("shown.npz", one_step_episodes(CUES, DARK))
    argv = "--algo bc --env-name tests.probe_envs:MatchObservation-v0 --demonstrations shown.npz --lr 1e-2 --epochs 20"
    assert main.main([*argv.split(), *"--torch-threads 1 --save-dir= --log-interval 1 --log-dir run".split()]) == 0
    state = final_state(tmp_path / "run")
    assert state["collector"]["env_steps"] == 0
    with open("run/progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["losses/bc_loss"]) < float(rows[0]["losses/bc_loss"])
    assert {"losses/validation_loss", "losses/accuracy", "losses/entropy", "losses/grad_norm"} < rows[-1].keys()
    assert float(rows[-1]["losses/accuracy"]) == 1.0
    assert any(row["eval/return_mean"] == "0.0" for row in rows)
    agent, envs = load_agent(tmp_path / "run" / "checkpoints" / "latest.pt", num_envs=4, trusted=True)
    np.testing.assert_allclose(envs.normalizer.obs_rms.mean, CUES.mean(0), atol=1e-3)
    assert evaluate(agent, envs, 16)["returns"].mean() == 0


BAD = [
    ("--demonstrations shown.npz --num-steps 5", "--num-steps 5"),
    ("--demonstrations shown.npz --nn-base-kwargs auxiliary_heads=[(-1,-1,0,2)]", "auxiliary_heads"),
    ("--demonstrations nothing.npz", "no such file"),
    ("", "none of CartPole-v1"),
    ("--demonstrations shown.npz --validation 1", "between 0 and 0.9"),
    ("--demonstrations shown.npz --batch-size 0", "at least 1"),
    ("--demonstrations shown.npz --entropy-coef 0", "unknown flag for bc"),
    ("--demonstrations shown.npz --gail", "--gail"),
    ("--demonstrations shown.npz --nn-base tests.test_bc_runs:Remembering", "recurrent state"),
    ("--demonstrations shown.npz --env-name Acrobot-v1", "do not fit"),
]


class Remembering(torch.nn.Module):
    """A base that is recurrent whatever it is told."""

    def __init__(self, space, *, recurrent=False):
        super().__init__()
        self.output_size, self.carry_size = 4, 3
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, obs, carry, masks):
        return obs.sum(-1), obs, carry


@pytest.mark.parametrize(("flags", "says"), BAD, ids=[row[0] or "nothing" for row in BAD])
def test_bad_input_is_one_line_and_exit_code_2_and_creates_nothing(flags, says, capsys, tmp_path):
    write_cartpole()
    assert main.main([*CARTPOLE.split()[:4], *flags.split(), "--log-dir", "run"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("main.py: error: ")
    assert says in errors[0]
    assert [path.name for path in tmp_path.iterdir()] == ["shown.npz"]


def test_flags_without_effect_are_one_warning_line(capsys):
    arguments.parse([*CARTPOLE.split(), *"--validation 0 --patience 3 --gail-experts-dir x".split()])
    (line,) = capsys.readouterr().err.splitlines()
    assert "--patience has no effect with --validation 0" in line
    assert "--gail-experts-dir has no effect with --demonstrations" in line


def test_nothing_is_said_of_flags_that_are_not_given(capsys):
    arguments.parse(CARTPOLE.split())
    assert capsys.readouterr().err == ""


def test_other_algorithms_still_refuse_demonstrations():
    with pytest.raises(UsageError, match="unknown flag"):
        arguments.parse("--algo dqn --env-name CartPole-v1 --demonstrations shown.npz".split())
