"""Runs with --gail: resuming, names, what is logged, bad settings."""

import numpy as np
import pytest

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.experts.files import Trajectory, save
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.utils import UsageError
from evaluate import evaluate, load_agent
from tests.test_loop import assert_same_state, final_state


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def record_cartpole(num=4, length=30):
    rng = np.random.default_rng(0)
    trajectories = []
    for _ in range(num):
        ends = np.arange(length) == length - 1
        obs = rng.normal(0, 0.1, (length + 1, 4)).astype(np.float32)
        trajectories.append(Trajectory(obs, rng.integers(0, 2, length), np.ones(length), ends, ~ends & False, length))
    save("gail_experts/trajs_cartpole.npz", trajectories)


LINE = "--env-name CartPole-v1 --gail --num-processes 2 --num-steps 16 --torch-threads 1 --save-dir saved"


@pytest.mark.parametrize("learner", ["a2c --gail-spectral-norm", "ppo --num-mini-batch 2 --recurrent-policy", "acktr"])
def test_resuming_equals_never_having_stopped(tmp_path, learner):
    record_cartpole()
    argv = f"--algo {learner} {LINE} --num-env-steps 640 --gail-warm-up 8 --subsample 4"
    main.execute(arguments.parse(f"{argv} --log-dir whole".split()))
    main.execute(arguments.parse(f"{argv} --log-dir parts --checkpoint-interval 13".split()))
    main.execute(arguments.parse(["--resume", "parts/checkpoints/13.pt"]))
    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert whole["algorithm"]["gail"]["updates"] == whole["update"] == 20
    for key in ("algorithm", "collector", "normalizer", "rng", "update"):
        assert_same_state(whole[key], parts[key], key)


def test_a_gail_run_has_names_of_its_own_and_can_be_played_without_demonstrations(tmp_path):
    record_cartpole()
    main.execute(arguments.parse(f"{LINE.replace('--gail ', '')} --num-env-steps 64".split()))
    before = (tmp_path / "saved" / "a2c" / "CartPole-v1.pt").read_bytes()
    main.execute(arguments.parse(f"{LINE} --num-env-steps 64".split()))
    assert (tmp_path / "saved" / "a2c" / "CartPole-v1.pt").read_bytes() == before
    runs = sorted(path.name.rsplit("__", 1)[0] for path in (tmp_path / "runs").iterdir())
    assert runs == ["CartPole-v1__a2c__1", "CartPole-v1__gail-a2c__1"]
    main.execute(arguments.parse(f"{LINE} --num-env-steps 96 --resume".split()))
    assert len(list((tmp_path / "runs").iterdir())) == 2
    (tmp_path / "gail_experts" / "trajs_cartpole.npz").unlink()
    agent, envs = load_agent(tmp_path / "saved" / "gail-a2c" / "CartPole-v1.pt")
    assert len(evaluate(agent, envs, 2)["returns"]) == 2


def test_a_run_that_learned_from_rewards_does_not_go_on_with_gail(capsys):
    record_cartpole()
    assert main.main(f"{LINE.replace('--gail ', '')} --num-env-steps 64 --log-dir run".split()) == 0
    assert main.main("--resume run --gail --num-env-steps 96".split()) == 2
    assert "trained without it" in capsys.readouterr().err


def test_a_checkpoint_of_another_version_is_refused_in_one_line_and_kept(tmp_path, capsys):
    record_cartpole()
    assert main.main(f"{LINE} --num-env-steps 64 --log-dir run".split()) == 0
    path = tmp_path / "run" / "checkpoints" / "latest.pt"
    state = checkpoint.load(path)
    del state["algorithm"]["gail"]["mortal"]
    checkpoint.save(path, state)
    files = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    capsys.readouterr()
    assert main.main("--resume run --num-env-steps 96".split()) == 2
    assert capsys.readouterr().err.splitlines() == [
        "main.py: error: --resume run/checkpoints/latest.pt: damaged, or of another version: it has no 'mortal'"
    ]
    assert files == {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}


def test_true_returns_are_logged_beside_the_imitation_reward(tmp_path):
    record_cartpole()
    main.execute(arguments.parse(f"{LINE} --num-env-steps 640 --log-interval 1 --log-dir run".split()))
    header, *rows = (tmp_path / "run" / "progress.csv").read_text().splitlines()
    names = "discriminator_loss gradient_penalty expert_logit policy_logit accuracy imitation_reward".split()
    assert {f"gail/{name}" for name in names} <= set(header.split(","))
    last = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert float(last["charts/episodic_return"]) >= 8
    assert 0 <= float(last["gail/accuracy"]) <= 1


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--demonstrations nowhere.npz", "nowhere.npz"),
        ("--gail-experts-dir nowhere", "trajs_cartpole.npz"),
        ("--num-trajectories 9", "holds 4 episodes, 9 were asked for"),
        ("--algo dqn", "goes around a2c, acktr, ppo, not dqn"),
        ("--gail-reward cost", "logit, positive, negative"),
    ],
)
def test_bad_settings_are_one_line_before_any_environment_starts(monkeypatch, capsys, flags, says):
    record_cartpole()
    started = []
    monkeypatch.setattr(main, "make_vec_envs", lambda *args, **kwargs: started.append(args))
    argv = LINE.split() if "dqn" not in flags else "--env-name CartPole-v1 --gail".split()
    assert main.main(argv + flags.split()) == 2
    assert not started
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert says in errors[0]


def test_demonstrations_of_another_environment_are_refused():
    record_cartpole()
    with pytest.raises(UsageError, match="do not fit"):
        main.execute(
            arguments.parse(
                f"{LINE.replace('CartPole', 'Acrobot')} --demonstrations gail_experts/trajs_cartpole.npz".split()
            )
        )
    assert not checkpoint.Path("runs").exists()
