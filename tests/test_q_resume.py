"""Runs that keep a replay: stopped and resumed, their files, and their flags."""

import csv
import os
import signal

import gymnasium as gym
import pytest
import torch

import main
from a2c_ppo_acktr import algo, arguments
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.run.run import Run
from a2c_ppo_acktr.signals import Interrupted
from a2c_ppo_acktr.storage.replay import Replay
from tests.probe_envs import MatchObservation
from tests.q_learning import THREE_STATES, a_step
from tests.test_loop import assert_same_state, final_state, parse

SMALL = "--num-steps 8 --batch-size 8 --learning-starts 30 --hidden-size 8 8 --eval-interval 100000 --save-dir= "
CARTPOLE = f"--env-name CartPole-v1 --target-update-interval 7 --epsilon-steps 150 --buffer-size 150 {SMALL}"
PONG = (
    "--env-name PongNoFrameskip-v4 --vec-env dummy --batch-size 4 --learning-starts 40 --buffer-size 200 "
    "--hidden-size 16 --target-update-interval 7 --save-dir= "
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def interrupt_at(update, monkeypatch):
    """Press Ctrl-C during an update."""
    original = Run.after_update

    def after_update(run, *args):
        original(run, *args)
        if run.update == update:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Run, "after_update", after_update)


def run_in_parts(argv, cut, monkeypatch, folder="parts"):
    with monkeypatch.context() as context:
        interrupt_at(cut, context)
        with pytest.raises(Interrupted):
            main.execute(parse(*argv.split(), "--log-dir", folder))


def replay_of(folder):
    (path,) = (folder / "checkpoints").glob("replay-*.pt")
    assert path.name == final_state(folder)["replay"]
    return checkpoint.read(path)


SHORT = "--burn-in 2 --sequence-length 5 --sequence-interval 4 --core-size 6 --update-to-data 0.25"
EXACT = [
    ("dqn", CARTPOLE, "", 24),
    ("dqn", CARTPOLE, "--num-processes 3 --n-step 3 --prioritized --double --use-linear-lr-decay", 24),
    ("rainbow", CARTPOLE, "", 24),
    ("rainbow", CARTPOLE, "--num-processes 3 --normalize-env --update-to-data 0.25", 24),
    ("qr_dqn", CARTPOLE, "--num-processes 2", 24),
    ("iqn", CARTPOLE, "--num-processes 2 --tau 0.1", 24),
    ("c51", CARTPOLE, "--num-steps 5 --update-to-data 0.3", 40),
    ("r2d1", CARTPOLE, f"{SHORT} --num-processes 3", 24),
    ("r2d1", CARTPOLE, f"{SHORT} --core gru --num-processes 1", 24),
    ("rainbow", PONG, "--num-processes 2", 28),
    ("dqn", PONG, "--num-processes 2 --bfloat16", 28),
]


@pytest.mark.parametrize(
    ("algorithm", "base", "flags", "updates"), EXACT, ids=[f"{row[0]}-{row[1].split()[1]} {row[2]}" for row in EXACT]
)
def test_resuming_with_the_replay_equals_never_having_stopped(tmp_path, monkeypatch, algorithm, base, flags, updates):
    argv = f"--algo {algorithm} {base} {flags} --save-replay --no-cuda"
    args = parse(*argv.split())
    argv += f" --num-env-steps {args.num_processes * args.num_steps * updates}"
    main.execute(parse(*argv.split(), "--log-dir", "whole"))
    run_in_parts(argv, updates * 2 // 3, monkeypatch)
    stopped = final_state(tmp_path / "parts")
    assert stopped["update"] == updates * 2 // 3
    main.execute(arguments.parse(["--resume", "parts"]))

    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    assert whole["update"] == updates
    assert whole["algorithm"]["gradient_steps"] > stopped["algorithm"]["gradient_steps"] > 7
    biases = [
        state["algorithm"][name]["advantage.2.bias"] for state in (stopped, whole) for name in ("policy", "target")
    ]
    assert not (torch.equal(*biases[:2]) and torch.equal(*biases[2:]))
    for key in ("algorithm", "collector", "normalizer", "rng", "update", "best"):
        assert_same_state(whole[key], parts[key], key)
    assert_same_state(replay_of(tmp_path / "whole"), replay_of(tmp_path / "parts"), "replay")
    for rank in range(args.num_processes):
        columns = [
            [row.split(",")[:2] for row in open(tmp_path / name / f"{rank}.monitor.csv")][2:]
            for name in ("whole", "parts")
        ]
        assert columns[0] == columns[1]


def test_without_save_replay_a_resumed_run_begins_with_an_empty_one_and_fills_it_before_it_learns(
    tmp_path, monkeypatch, capsys
):
    argv = f"--algo dqn {CARTPOLE} --num-env-steps 320"
    run_in_parts(argv, 20, monkeypatch)
    assert not list((tmp_path / "parts" / "checkpoints").glob("replay-*"))
    stopped, seen, original = final_state(tmp_path / "parts")["algorithm"], [], algo.ALGORITHMS["dqn"].update

    def update(algorithm, storage):
        before = algorithm.gradient_steps
        metrics = original(algorithm, storage)
        seen.append((len(storage), algorithm.gradient_steps - before))
        return metrics

    monkeypatch.setattr(algo.ALGORITHMS["dqn"], "update", update)
    capsys.readouterr()
    main.execute(arguments.parse(["--resume", "parts"]))
    assert capsys.readouterr().out.count("the replay begins empty: this checkpoint has none") == 1
    assert seen[0][0] <= 8
    assert all((gradient_steps > 0) == (windows >= 30) for windows, gradient_steps in seen)
    assert final_state(tmp_path / "parts")["algorithm"]["gradient_steps"] > stopped["gradient_steps"] > 0


def test_a_run_keeps_the_replay_of_its_latest_checkpoint_alone(tmp_path):
    argv = f"--algo dqn {CARTPOLE} --num-env-steps 160 --save-interval 3 --checkpoint-interval 7 --save-replay"
    main.execute(parse(*argv.split(), "--log-dir", "run"))
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names - {"best.pt"} == {"latest.pt", "7.pt", "14.pt", "replay-20.pt"}
    assert final_state(tmp_path / "run")["replay"] == "replay-20.pt"


def test_a_crash_between_the_two_files_leaves_a_pair_that_belongs_together(tmp_path, monkeypatch):
    argv = f"--algo dqn {CARTPOLE} --num-env-steps 160 --save-interval 5 --save-replay --log-dir run"
    original = checkpoint.save

    def save(path, contents):
        if path.name == "latest.pt" and contents["update"] == 10:
            raise OSError(28, "No space left on device")
        original(path, contents)

    monkeypatch.setattr(checkpoint, "save", save)
    assert main.main(["--torch-threads", "1", *argv.split()]) == 1
    state = final_state(tmp_path / "run")
    assert (state["update"], state["replay"]) == (5, "replay-5.pt")
    assert checkpoint.read(tmp_path / "run" / "checkpoints" / "replay-5.pt")["valid"].sum() > 0


@pytest.mark.parametrize("which", ["best.pt", "7.pt"])
def test_other_checkpoints_are_resumable_with_an_empty_replay(tmp_path, capsys, which):
    argv = f"--algo rainbow {CARTPOLE} --num-env-steps 160 --eval-interval 5 --eval-episodes 1 --save-replay"
    main.execute(parse(*argv.split(), "--checkpoint-interval", "7", "--log-dir", "run"))
    capsys.readouterr()
    main.execute(arguments.parse(["--resume", f"run/checkpoints/{which}", "--num-env-steps", "200"]))
    assert capsys.readouterr().out.count("the replay begins empty") == 1
    assert final_state(tmp_path / "run")["collector"]["env_steps"] == 200
    assert replay_of(tmp_path / "run")["valid"].sum() > 30


def test_a_checkpoint_without_its_replay_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    argv = f"--algo dqn {CARTPOLE} --num-env-steps 320 --save-replay"
    run_in_parts(argv, 20, monkeypatch)
    (tmp_path / "parts" / "checkpoints" / "replay-20.pt").unlink()
    capsys.readouterr()
    main.execute(arguments.parse(["--resume", "parts"]))
    assert "replay-20.pt is gone" in capsys.readouterr().out
    assert final_state(tmp_path / "parts")["update"] == 40


@pytest.mark.parametrize("flags", ["--num-processes 2", "--buffer-size 400", "--buffer-size 90", "--prioritized"])
def test_a_replay_that_other_flags_do_not_fit_is_refused_or_left_out_in_one_line(monkeypatch, capsys, flags):
    run_in_parts(f"--algo dqn {CARTPOLE} --num-env-steps 320 --save-replay", 25, monkeypatch)
    capsys.readouterr()
    code = main.main(["--resume", "parts", *flags.split()])
    out, err = capsys.readouterr()
    assert (code, len(err.splitlines()), out.count("the replay begins empty")) in [(2, 1, 0), (0, 0, 1)]


def test_environments_that_begin_anew_cut_the_episodes_in_the_replay(tmp_path, monkeypatch, capsys):
    argv = f"--algo dqn --env-name LunarLander-v3 --num-env-steps 320 --save-replay {SMALL} --buffer-size 400"
    run_in_parts(argv, 20, monkeypatch)
    (before,) = replay_of(tmp_path / "parts")["slots"]["cursor"].tolist()
    capsys.readouterr()
    main.execute(arguments.parse(["--resume", "parts"]))
    out = capsys.readouterr().out
    assert out.count("every running episode begins anew") == 1
    assert "the replay begins empty" not in out
    slots = replay_of(tmp_path / "parts")["slots"]
    assert slots["ended"][before - 1]
    assert not slots["terminated"][before - 1]
    assert not slots["acted"][before]
    assert slots["first"][before + 1]


def test_no_window_reaches_from_an_episode_that_begins_anew_into_what_was_there_before():
    def replay():
        return Replay(12, 1, 1, THREE_STATES, n_step=3, saved=True)

    full, resumed = replay(), replay()
    for t in range(40):
        full.insert(a_step(min(t, 1), float(t), 1))
    resumed.load_state_dict(full.state_dict())
    resumed.insert(a_step(0, 100.0, 1))
    batch = resumed.sample(200)
    assert set(batch.obs.tolist()) == {1}  # the new episode, which is at state 0, is one step old
    assert len(resumed) == resumed.valid.sum()


def test_an_environment_that_needs_keyword_arguments_gets_them_before_defaults_are_chosen():
    gym.register("NeedsSize-v0", entry_point=lambda size, render_mode=None: MatchObservation(render_mode))
    argv = f"--algo dqn --env-name NeedsSize-v0 --env-kwargs size=3 {SMALL} --num-env-steps 80 --log-dir run"
    try:
        assert main.main(["--torch-threads", "1", *argv.split()]) == 0
    finally:
        del gym.registry["NeedsSize-v0"]


BAD = [
    ("--algo dqn --env-name CartPole-v1 --buffer-size 1000000000000", "GB are free"),
    ("--algo dqn --env-name CartPole-v1 --buffer-size 2000 --learning-starts 2001", "--learning-starts 2001"),
    ("--algo rainbow --env-name CartPole-v1 --num-processes 300 --buffer-size 1000", "expected at least"),
    ("--algo dqn --env-name CartPole-v1 --num-steps 0", "at least 1 step"),
    ("--algo dqn --env-name CartPole-v1 --use-gae", "--use-gae: unknown flag for dqn"),
    ("--algo dqn --env-name CartPole-v1 --num-atoms 51", "--num-atoms"),
    ("--algo dqn --env-name CartPole-v1 --num-mini-batch 2", "--num-mini-batch"),
    ("--algo c51 --env-name CartPole-v1 --v-min 3 --v-max 3", "--v-min 3"),
    ("--algo dqn --env-name Pendulum-v1", "Q-learning chooses among Discrete actions"),
    ("--algo iqn --env-name tests.probe_envs:MatchBits-v0", "Q-learning chooses among Discrete actions"),
    ("--algo rainbow --env-name tests.probe_envs:MaskedActions-v0", "no action masks"),
    ("--algo dqn --env-name NoSuchEnv-v0", "NoSuchEnv-v0"),
    ("--algo dqn --env-name CartPole-v1 --tau 1.5", "between 0 and 1"),
    ("--algo dqn --env-name CartPole-v1 --n-step 0", "at least 1"),
]


@pytest.mark.parametrize(("line", "says"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2_and_creates_nothing(line, says, capsys, tmp_path):
    assert main.main([*line.split(), "--log-dir", "run"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("main.py: error: ")
    assert says in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--algo dqn --sigma 0.1", "--sigma has no effect without --noisy"),
        ("--algo c51 --noisy-epsilon 0.1", "--noisy-epsilon has no effect without --noisy"),
        ("--algo dqn --priority-beta 0.1", "--priority-beta has no effect without --prioritized"),
        ("--algo dqn --noisy --epsilon-end 0.1", "--epsilon-end has no effect with --noisy"),
        ("--algo rainbow --epsilon-steps 10", "--epsilon-steps has no effect with --noisy"),
        ("--algo rainbow --no-prioritized --priority-alpha 1", "--priority-alpha has no effect without --prioritized"),
    ],
)
def test_flags_without_effect_are_one_warning_line(line, says, capsys):
    arguments.parse([*line.split(), "--env-name", "CartPole-v1"])
    assert capsys.readouterr().err == f"warning: {says}\n"


def test_flags_with_effect_are_no_warning(capsys):
    for line in ("--algo dqn --noisy --sigma 0.1 --prioritized --priority-alpha 1", "--algo rainbow --sigma 0.1"):
        arguments.parse([*line.split(), "--env-name", "CartPole-v1"])
    assert capsys.readouterr().err == ""


def test_defaults_follow_the_kind_of_observations_and_flags_win():
    vector = arguments.parse("--algo qr_dqn --env-name CartPole-v1".split())
    image = arguments.parse("--algo qr_dqn --env-name PongNoFrameskip-v4".split())
    given = arguments.parse("--algo qr_dqn --env-name PongNoFrameskip-v4 --buffer-size 50_000 --num-steps 16".split())
    assert (vector.num_steps, vector.config.num_quantiles, vector.config.buffer_size) == (256, 10, 100_000)
    assert (image.num_steps, image.config.num_quantiles, image.config.buffer_size) == (4, 200, 1_000_000)
    assert (given.num_steps, given.config.buffer_size, given.config.lr) == (16, 50_000, 5e-5)


def test_a_resumed_run_keeps_the_settings_of_its_kind(monkeypatch):
    run_in_parts(f"--algo dqn {CARTPOLE} --num-env-steps 320 --lr 0.01", 3, monkeypatch)
    config = arguments.parse(["--resume", "parts", "--epsilon-end", "0.2"]).config
    assert (config.lr, config.buffer_size, config.hidden_size, config.epsilon_end) == (0.01, 150, [8, 8], 0.2)


def test_metrics_of_the_replay_are_logged():
    main.execute(parse(*f"--algo rainbow {CARTPOLE} --num-env-steps 160 --log-interval 1 --log-dir run".split()))
    with open("run/progress.csv") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["charts/replay_fill"]) == 1.0
    assert int(float(last["charts/gradient_steps"])) > 0
    assert float(last["charts/replay_ratio"]) == pytest.approx(8 * float(last["charts/gradient_steps"]) / 160)
