"""What a run tells: monitor files that SB3 reads, TensorBoard's tags, the console's lines, the progress bar."""

import csv
import math
import re
import shlex
from pathlib import Path

import pytest
from stable_baselines3.common.monitor import load_results
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.interfaces import Episode
from a2c_ppo_acktr.run.clock import Clock
from a2c_ppo_acktr.run.config import hyperparameters
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
    blocks = [line for line in out.splitlines() if line.startswith("Updates ")]
    assert len(blocks) == 4  # one line each
    assert out.splitlines()[-6].startswith("environment steps")


@pytest.mark.parametrize(("tell_all", "expected"), [(False, [1, 11, 21, 25]), (True, list(range(1, 26)))])
def test_a_pipe_gets_the_first_line_the_last_and_few_between(tmp_path, monkeypatch, capsys, tell_all, expected):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    logger = Logger(tmp_path, "CartPole-v1", 1, 1000, tell_all=tell_all)
    for update in range(1, 26):
        now[0] += 1.0
        logger.write({"losses/value_loss": 1.0}, update, update * 10)
    logger.close()
    logger.table({"updates": "25"})
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1].rstrip(",")) for line in lines if line.startswith("Updates")] == expected
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 26


def test_a_terminal_gets_a_bar_instead_of_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    logger = Logger(tmp_path, "CartPole-v1", 2, 1000)
    logger.episodes([Episode(1, 12.0, 12)], 500)
    logger.write({"losses/value_loss": 1.25, "losses/entropy": 0.5}, 5, 500)
    logger.say("hello")
    logger.close()
    out = capsys.readouterr().out
    assert "Updates" not in out
    assert "value_loss 1.25, entropy 0.5" in out
    assert "return 12.0" in out
    assert "500/1000" in out
    assert "hello" in out


@pytest.mark.parametrize("terminal", [False, True])
def test_the_table_at_the_end_can_be_copied(tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setenv("COLUMNS", "80")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    path = f"runs/{'long' * 20}/a [bold]name[/] :smile:"
    logger = Logger(tmp_path, "CartPole-v1", 1, 1000)
    logger.say(f"continuing {path} at 0 steps")
    logger.close()
    logger.table({"run folder": path, "continue with": f"python main.py --resume '{path}'"})
    lines = [re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", line) for line in capsys.readouterr().out.splitlines()]
    assert f"continuing {path} at 0 steps" in lines
    assert lines[-2:] == [f"run folder     {path}", f"continue with  python main.py --resume '{path}'"]


def test_the_table_names_what_exists(tmp_path, monkeypatch, capsys):
    folder = "a run's folder"
    arguments_ = ["--env-name", "CartPole-v1", "--num-env-steps", "1e6", "--log-dir", folder, "--save-dir="]
    training = main.train(arguments.parse(arguments_))
    next(training)
    training.close()
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines()[-6:])
    assert Path(rows["checkpoint"].strip()).is_file()
    assert shlex.split(rows["continue with"]) == ["python", "main.py", "--resume", folder]


def test_hyperparameters_are_what_is_learned_with():
    line = "--algo ppo --env-name CartPole-v1 --env-kwargs a=1 --nn-base-kwargs hidden_size=32 --exp-name x"
    plain = hyperparameters(arguments.to_plain(arguments.parse(line.split())))
    assert plain["env_kwargs.a"] == 1
    assert plain["nn_base_kwargs.hidden_size"] == 32
    assert plain["clip_param"] == 0.2
    assert plain["seed"] == 1
    imitating = hyperparameters(arguments.to_plain(arguments.parse([*line.split(), "--gail"])))
    assert "gail_epoch" in imitating
    told = {"exp_name", "log_dir", "save_interval", "track", "config", "gail_config", "gail_epoch", "env_kwargs"}
    assert not told & set(plain)


def hparams_of(folder):
    """What TensorBoard's HPARAMS tab is made of, by its own code: an experiment and the sessions."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request = RequestContext()
    metadata, other = context.hparams_metadata(request, ""), context.hparams_from_data_provider(request, "", None)
    experiment = context.experiment_from_metadata(request, "", True, metadata, other)
    wanted = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS],
        col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
        slice_size=100,
        aggregation_type=api_pb2.AGGREGATION_AVG,
    )
    found = list_session_groups.Handler(request, context, "", wanted).run()
    return experiment, found.session_groups


def test_tensorboards_hparams_tab_has_the_hyperparameters_with_the_final_metrics():
    for lr, folder in (("1e-3", "runs/a"), ("3e-3", "runs/b")):
        train("ppo", "--lr", lr, "--nn-base-kwargs", "hidden_size=32", "--log-dir", folder)
    main.execute(arguments.parse(["--resume", "runs/b", "--num-env-steps", "4000"]))
    train("a2c", "--log-dir", "runs/c")
    experiment, groups = hparams_of("runs")
    names = {info.name for info in experiment.hparam_infos}
    assert {"lr", "algo", "env_name", "seed", "gamma", "clip_param", "alpha", "nn_base_kwargs.hidden_size"} <= names
    assert not names & {"log_dir", "save_dir", "log_interval", "track", "command", "config"}
    assert {info.name for info in experiment.hparam_infos if info.differs} >= {"lr", "algo"}
    assert len(groups) == 3
    for group in groups:
        settings = {name: value.string_value or value.number_value for name, value in group.hparams.items()}
        (session,) = group.sessions
        run = Path("runs") / session.name
        last = list(csv.DictReader((run / "progress.csv").read_text().splitlines()))[-1]
        values = {value.name.tag: value.value for value in group.metric_values}
        assert settings["lr"] == {"a": 1e-3, "b": 3e-3, "c": 7e-4}[run.name]
        assert settings["normalize_env"] == "True"
        for tag in ("charts/episodic_return", "losses/value_loss"):
            assert values[tag] == pytest.approx(float(last[tag]), rel=1e-5)


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
