"""What a run tells: monitor files that SB3 reads, TensorBoard's tags, the console's lines, the progress bar."""

import csv
import math

import pytest
from stable_baselines3.common.monitor import load_results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.interfaces import Episode
from a2c_ppo_acktr.run.clock import Clock
from a2c_ppo_acktr.run.logger import Logger


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(algorithm, *flags):
    line = f"--algo {algorithm} --env-name CartPole-v1 --num-env-steps 3200 --log-interval 10 --log-dir run --save-dir="
    main.execute(arguments.parse([*line.split(), "--torch-threads", "1", *flags]))


COMMON = {"charts/episodic_return", "charts/episodic_length", "charts/learning_rate", "charts/SPS"} | {
    f"losses/{name}" for name in ("value_loss", "policy_loss", "entropy", "explained_variance", "grad_norm")
}


@pytest.mark.parametrize("algorithm", ["a2c", "ppo"])
def test_tensorboard_has_the_specified_tags_and_a_continued_run_purges_what_is_newer(algorithm):
    train(algorithm, "--checkpoint-interval", "20")
    main.execute(arguments.parse(["--resume", "run/checkpoints/20.pt"]))
    events = EventAccumulator("run")
    events.Reload()
    wanted = COMMON | ({"losses/approx_kl", "losses/clipfrac"} if algorithm == "ppo" else set())
    assert wanted == set(events.Tags()["scalars"])
    steps = [event.step for event in events.Scalars("charts/episodic_return")]
    assert steps == sorted(steps)
    assert all(math.isfinite(event.value) for event in events.Scalars("losses/value_loss"))


def test_monitor_files_are_sb3s_and_hold_every_episode_raw(capsys):
    train("a2c")
    frame = load_results("run")
    assert (frame["r"] == frame["l"]).all()  # CartPole's return is its length, whatever was normalized
    assert 3200 - 16 * 500 < frame["l"].sum() <= 3200
    assert frame["t"].is_monotonic_increasing


def test_console_lines_are_upstreams_with_the_losses(capsys):
    train("ppo")
    out = capsys.readouterr().out
    assert "Updates 10, num timesteps 800, FPS" in out
    assert " training episodes: mean/median reward " in out
    assert all(name in out for name in ("value_loss ", "policy_loss ", "entropy ", "approx_kl ", "clipfrac "))
    assert "environment steps" in out.splitlines()[-7]


def test_a_terminal_gets_a_bar_instead_of_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    logger = Logger(tmp_path, "CartPole-v1", 2, 1000)
    logger.episodes([Episode(1, 12.0, 12)], 500)
    logger.write({"losses/value_loss": 1.0}, 5, 500)
    logger.say("hello")
    logger.close()
    out = capsys.readouterr().out
    assert "Updates" not in out
    assert "return 12.0" in out
    assert "500/1000" in out
    assert "hello" in out


def test_a_metric_that_comes_later_gets_a_column(tmp_path):
    logger = Logger(tmp_path, "CartPole-v1", 1, 1000)
    logger.write({"a": 1.0}, 1, 10)
    logger.write({"a": 2.0, "b": 3.0}, 2, 20)
    logger.close()
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    assert lines[0].startswith("update,step,seconds,charts/SPS,a,b")
    assert lines[1].endswith(",1.0,")
    assert lines[2].endswith(",2.0,3.0")


def test_clocks_go_by_updates_when_asked_and_by_seconds_otherwise(monkeypatch):
    assert [Clock(3, 1.0).due(update) for update in range(1, 7)] == [False, False, True, False, False, True]
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock, due = Clock(None, 1.0), []
    for now[0] in (0.5, 1.0, 1.5, 1.9, 2.0, 5.0, 5.5):
        due.append(clock.due(1))
    assert due == [False, True, False, False, True, True, False]


@pytest.mark.parametrize("interval", ["1", "7"])
def test_every_line_is_written_once_the_last_update_included(interval):
    train("a2c", "--log-interval", interval)
    with open("run/progress.csv") as file:
        updates = [int(row["update"]) for row in csv.DictReader(file)]
    assert updates == sorted(set(updates))
    assert updates[-1] == 40
