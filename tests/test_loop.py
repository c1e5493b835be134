"""The loop's calls, and that a stopped run continues as if it had not been stopped."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.acting.collect import Collector
from a2c_ppo_acktr.algo.actor_critic import ActorCritic
from a2c_ppo_acktr.envs import EnvConfig, make_vec_envs
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.storage import RolloutStorage


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parse(*argv):
    return arguments.parse(["--torch-threads", "1", *argv])


def test_tape_of_the_loop(monkeypatch):
    """Which calls one training makes, in which order."""
    tape = []

    def record(owner, name, entry):
        original = getattr(owner, name)

        def wrapper(*args, **kwargs):
            tape.append(entry)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)

    record(main, "tune_process", "tune")
    record(ActorCritic, "schedule", "schedule")
    record(ActorCritic, "act", "act")
    record(Collector, "collect", "collect")
    record(RolloutStorage, "insert", "insert")
    record(RolloutStorage, "compute_returns", "returns")
    record(algo.ALGORITHMS["a2c"], "update", "update")
    record(RolloutStorage, "after_update", "after")
    record(main, "evaluate", "evaluate")
    record(checkpoint, "save", "save")
    argv = "--env-name CartPole-v1 --num-env-steps 12 --num-processes 2 --num-steps 3 --save-interval 1 "
    main.execute(parse(*(argv + "--eval-interval 2 --eval-episodes 1 --save-dir= ").split()))
    tape = [entry for i, entry in enumerate(tape) if not (entry == "act" and "evaluate" in tape[:i])]
    rollout = ["schedule", "collect", *["act", "insert"] * 3, "update", "returns", "after"]
    evaluation_and_best = ["evaluate", "save"]
    assert tape == ["tune", "save", *rollout, "save", *rollout, *evaluation_and_best, "save", "save"]


def final_state(folder):
    return checkpoint.load(folder / "checkpoints" / "latest.pt")


def assert_same_state(a, b, path=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same_state(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_state(x, y, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b or (a != a and b != b), path


EXACT = [
    ("CartPole-v1", "--num-processes 3 --num-steps 16", 40),
    ("Navigation-v0", "--num-processes 3 --num-steps 16 --env-kwargs max_steps=30", 40),
    ("HalfCheetah-v5", "--num-processes 2 --num-steps 16 --use-proper-time-limits", 40),
    ("PongNoFrameskip-v4", "--num-processes 2 --num-steps 8 --vec-env dummy", 6),
]
PPO = "--num-mini-batch 2 --use-gae --use-linear-lr-decay"


@pytest.mark.parametrize(("env_id", "flags", "updates"), EXACT, ids=[row[0] for row in EXACT])
@pytest.mark.parametrize(
    ("algorithm", "recurrent"),
    [("a2c", ""), ("a2c", "--recurrent-policy"), ("acktr", ""), ("ppo", ""), ("ppo", "--recurrent-policy")],
)
def test_resuming_equals_never_having_stopped_bit_for_bit(tmp_path, algorithm, recurrent, env_id, flags, updates):
    argv = (
        f"--algo {algorithm} --env-name {env_id} {flags} {recurrent} {PPO if algorithm == 'ppo' else ''} --save-dir= "
    )
    args = parse(*argv.split())
    per_update = args.num_processes * args.num_steps
    argv += f"--num-env-steps {per_update * updates} "
    cut = updates * 2 // 3

    main.execute(parse(*(argv + "--log-dir whole").split()))
    main.execute(parse(*(argv + f"--log-dir parts --checkpoint-interval {cut}").split()))
    numbered = tmp_path / "parts" / "checkpoints" / f"{cut}.pt"
    assert final_state(tmp_path / "parts")["update"] == updates
    main.execute(arguments.parse(["--resume", str(numbered)]))

    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert whole["update"] == updates
    for key in ("algorithm", "collector", "normalizer", "rng", "update"):
        assert_same_state(whole[key], parts[key], key)
    assert_same_state(whole["logger"]["recent"], parts["logger"]["recent"])
    for rank in range(args.num_processes):
        columns = [
            [row.split(",")[:2] for row in open(d / f"{rank}.monitor.csv")][2:]
            for d in (tmp_path / "whole", tmp_path / "parts")
        ]
        assert columns[0] == columns[1]


def test_a_resumed_run_drops_rows_newer_than_the_checkpoint_and_adds_its_own():
    base = "--env-name CartPole-v1 --num-processes 2 --num-steps 32 --log-interval 1 --save-dir= --log-dir run"
    main.execute(parse(*f"{base} --num-env-steps 640 --checkpoint-interval 4".split()))
    main.execute(arguments.parse(["--resume", "run/checkpoints/4.pt", "--num-env-steps", "512"]))
    with open("run/progress.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [64 * k for k in range(1, 9)]
    assert len(open("run/command.txt").read().splitlines()) == 2


def test_resume_without_a_value_continues_the_newest_run_of_the_name():
    first = "--env-name CartPole-v1 --num-env-steps 160 --seed 7"
    main.execute(parse(*first.split()))
    args = arguments.parse("--env-name CartPole-v1 --seed 7 --resume --num-env-steps 320".split())
    assert args.log.resume.startswith("runs")
    assert args.num_processes == 16
    main.execute(args)
    assert final_state(next(Path("runs").iterdir()))["collector"]["env_steps"] == 320


def test_environments_whose_state_cannot_be_read_begin_anew_with_one_line(capsys):
    argv = "--env-name LunarLander-v3 --num-env-steps 160 --save-dir= --log-dir run"
    main.execute(parse(*argv.split()))
    capsys.readouterr()
    main.execute(arguments.parse(["--resume", "run", "--num-env-steps", "320"]))
    assert capsys.readouterr().out.count("every running episode begins anew") == 1


def test_an_evaluation_leaves_no_trace_in_the_training():
    argv = "--algo ppo --env-name CartPole-v1 --num-env-steps 640 --num-mini-batch 2 --save-dir= --log-dir "
    main.execute(parse(*(argv + "plain").split()))
    main.execute(parse(*(argv + "evaluated --eval-interval 2").split()))
    plain, evaluated = (checkpoint.load(f"{d}/checkpoints/latest.pt") for d in ("plain", "evaluated"))
    for key in ("algorithm", "collector", "normalizer", "rng"):
        assert_same_state(plain[key], evaluated[key], key)
    with open("evaluated/progress.csv") as file:
        assert any(row["eval/return_mean"] for row in csv.DictReader(file))


@pytest.mark.parametrize("algorithm", ["a2c", "ppo"])
@pytest.mark.parametrize(
    "env_id",
    [
        "PongNoFrameskip-v4",
        "ALE/Pong-v5",
        "HalfCheetahBulletEnv-v0",
        "dm.cartpole.balance",
        "tests.probe_envs:MatchChoices-v0",
    ],
)
def test_every_family_trains_for_twenty_updates(env_id, algorithm):
    argv = f"--algo {algorithm} --env-name {env_id} --num-env-steps 200 --num-processes 2 --log-dir run"
    main.execute(parse(*argv.split(), *(["--num-mini-batch", "2"] if algorithm == "ppo" else [])))
    assert checkpoint.load("run/checkpoints/latest.pt")["update"] == 20
    assert checkpoint.upstream_path("trained_models", algorithm, env_id).is_file()


def test_a_second_run_into_the_same_folder_destroys_nothing(capsys):
    argv = "--env-name CartPole-v1 --num-env-steps 160 --save-dir= --log-dir run"
    main.execute(parse(*argv.split()))
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    main.execute(parse(*argv.split()))
    assert "run already holds a run: writing to run-2" in capsys.readouterr().out
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (final_state(Path("run-2")))["update"] == 2


def test_a_reward_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(capsys):
    argv = "--env-name tests.probe_envs:NotANumber-v0 --no-normalize-env --num-env-steps 1e5 --log-interval 1"
    code = main.main([*argv.split(), "--save-interval", "3", "--save-dir=", "--log-dir", "run"])
    assert code == 1
    error = capsys.readouterr().err
    assert "failed in step: reward is nan, expected a finite number" in error
    weights = checkpoint.load("run/checkpoints/latest.pt")["algorithm"]["policy"].values()
    assert all(torch.isfinite(w).all() for w in weights)


def test_a_crash_of_an_environment_stops_the_run_with_its_reason(capsys):
    argv = "--env-name tests.probe_envs:Crash-v0 --num-env-steps 1e4 --save-dir= --log-dir run"
    assert main.main(argv.split()) == 1
    assert "the gripper is stuck" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [30_000, 60_000, 90_000, 120_000])
def test_a_full_disk_stops_the_run_in_one_line_and_leaves_no_half_checkpoint(tmp_path, limit):
    """No file may grow beyond the limit: neither checkpoints nor logs, whichever comes to it first."""
    first = "--env-name CartPole-v1 --num-env-steps 1600 --save-dir= --log-dir run --torch-threads 1"
    main.execute(arguments.parse(first.split()))
    before = Path("run/checkpoints/latest.pt").read_bytes()
    code = (
        "import resource, sys, main; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}));"
        "sys.exit(main.main('--resume run --num-env-steps 1e6 --log-interval 1 --save-interval 5000'.split()))"
    )
    command = [sys.executable, "-c", code.format(limit)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 1, ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "File too large" in ended.stderr
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["latest.pt"]
    assert not list(Path("run").glob(".*"))
    assert checkpoint.load("run/checkpoints/latest.pt")["update"] >= 20
    assert limit > 60_000 or Path("run/checkpoints/latest.pt").read_bytes() == before


def test_same_seed_same_run_and_other_seed_other_run():
    def weights(seed, folder):
        main.execute(
            parse(*f"--env-name CartPole-v1 --num-env-steps 800 --save-dir= --log-dir {folder} --seed {seed}".split())
        )
        return checkpoint.load(f"{folder}/checkpoints/latest.pt")["algorithm"]["policy"]["base.value.weight"]

    assert torch.equal(weights(3, "a"), weights(3, "b"))
    assert not torch.equal(weights(3, "c"), weights(4, "d"))


def test_collector_steps_carry_masks_and_obs_of_the_acted_on_observation():
    """Recorded log-probabilities and values are those of a step-by-step replay with resets."""
    envs = make_vec_envs(EnvConfig("tests.probe_envs:Counter-v0", normalize_env=False), 3, seed=1)
    config = algo.ALGORITHMS["ppo"].Config(recurrent_policy=True, num_mini_batch=1)
    algorithm = algo.make("ppo", config, envs.spaces)
    storage = algorithm.make_storage(50, 3)
    collector = algorithm.make_collector(envs, storage)
    for _ in range(2):
        collector.collect()
        storage.compute_returns(algorithm.policy.get_value, kind="n-step", gamma=0.9, use_proper_time_limits=False)
        batch = storage.whole(recurrent=True)
        with torch.no_grad():
            replayed = algorithm.policy.evaluate_actions(*batch[:4], batch.actions)
        torch.testing.assert_close(replayed.value, batch.values, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(replayed.log_prob, batch.log_probs, atol=1e-4, rtol=1e-4)
        carry, carries = batch.carry, []
        for obs, masks in zip(batch.obs, batch.masks, strict=True):
            with torch.no_grad():
                carry = algorithm.policy.base(obs, carry, masks)[2]
            carries.append(carry)
        assert storage.ended
        for t, ended in storage.ended:
            torch.testing.assert_close(ended.carry, carries[t][ended.indices], atol=1e-4, rtol=1e-4)
            assert torch.equal(ended.final_obs[:, 0], batch.obs[t, ended.indices, 0] + 1)
        first = batch.obs[..., 0] == 0
        assert torch.equal(first, batch.masks == 0)
        expected = np.where(batch.masks[1:].numpy() == 0, 0, batch.obs[:-1, :, 0] + 1)
        np.testing.assert_array_equal(batch.obs[1:, :, 0], expected)
        storage.after_update()
