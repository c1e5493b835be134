"""Runs as researchers find them: some without an episode, of different lengths, tasks and settings."""

import json
import shlex

import matplotlib as mpl
import numpy as np
import pytest

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.utils import UsageError
from tests.test_notebooks import ROOT
from write_and_test import plots, runs

CARTPOLE = "--env-name CartPole-v1"


@pytest.fixture(autouse=True)
def _no_window(monkeypatch):
    mpl.use("agg")
    yield
    plots.plt.close("all")


def make_run(folder, flags, values=(), step=None, length=10):
    """The files of a run with these returns, one of ten steps after another; `step` is where it stands."""
    folder.mkdir(parents=True)
    settings = arguments.to_plain(arguments.parse([*shlex.split(flags), "--log-dir", str(folder)]))
    (folder / "config.json").write_text(json.dumps({"settings": settings}))
    (folder / "command.txt").write_text("main.py\n")
    rows = "".join(f"{value},{length},{t}.0\n" for t, value in enumerate(values))
    (folder / "0.monitor.csv").write_text(f"#{{}}\nr,l,t\n{rows}")
    now = length * len(values) if step is None else step
    (folder / "progress.csv").write_text(f"update,step,seconds\n1,{now},1.0\n" if now else "update,step,seconds\n")
    return folder


def legend(ax):
    return [" ".join(text.get_text().split()) for text in ax.get_legend().get_texts()]


def test_each_curve_goes_to_its_own_end_and_the_mean_is_of_the_runs_that_are_left(tmp_path):
    flags = f"--algo ppo {CARTPOLE} --seed"
    long = [make_run(tmp_path / f"long{s}", f"{flags} {s}", [s] * 100, step=1004) for s in (1, 3)]
    short = make_run(tmp_path / "short", f"{flags} 8", [8] * 30, step=304)
    frame = runs.curves([*long, short])
    assert frame.groupby("run")["step"].max().to_dict() == {"long1": 1004, "long3": 1004, "short": 304}
    assert frame["group"].unique().tolist() == ["ppo"]
    means = frame.groupby("step")["value"].agg(["mean", "count"])
    assert means.loc[:304]["mean"].to_numpy() == pytest.approx(4)
    assert means.loc[305:]["mean"].to_numpy() == pytest.approx(2)
    figure = plots.learning_curves(frame)
    assert legend(figure.axes[0]) == ["ppo (3 seeds to 304, 2 to 1,004)"]
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in dots] == [[304]]
    alone = plots.single_runs(frame).axes[0]
    assert {line.get_label(): line.get_xdata()[-1] for line in alone.lines} == dict(long1=1004, long3=1004, short=304)


def test_runs_without_an_episode_are_named_and_keep_no_others_out(tmp_path, capsys):
    there = make_run(tmp_path / "there", f"--algo ppo {CARTPOLE}", [1.0, 2.0])
    begun = make_run(tmp_path / "begun", f"--algo ppo {CARTPOLE} --seed 2")
    frame = runs.curves(runs.find(tmp_path))
    assert capsys.readouterr().out == "no return yet in begun\n"
    assert set(frame["folder"]) == {str(there)}
    nothing = runs.curves([begun])
    assert nothing.empty
    for draw in (plots.learning_curves, plots.single_runs):
        assert draw(nothing).axes[0].texts[0].get_text() == "no return yet"


@pytest.mark.parametrize("text", ["", '{"settings": ', "[]", "{}", '{"settings": {}}', "\udcff"])
def test_a_damaged_run_is_named(tmp_path, text):
    run = make_run(tmp_path / "broken", f"--algo ppo {CARTPOLE}", [1.0])
    (run / "config.json").write_text(text, errors="surrogateescape")
    with pytest.raises(UsageError, match=r"broken/config.json: damaged"):
        runs.curves([run])


def test_settings_that_differ_are_named_and_never_averaged(tmp_path):
    make_run(tmp_path / "plain", f"--algo dqn {CARTPOLE}", [1.0] * 5)
    make_run(tmp_path / "plain2", f"--algo dqn {CARTPOLE} --seed 2 --torch-threads 1 --save-dir x", [1.0] * 5)
    make_run(tmp_path / "double", f"--algo dqn {CARTPOLE} --double", [9.0] * 5)
    make_run(tmp_path / "gravity", f"--algo ppo {CARTPOLE} --env-kwargs sutton_barto_reward=True", [4.0] * 5)
    make_run(tmp_path / "wide", f"--algo ppo {CARTPOLE} --nn-base-kwargs hidden_size=128", [5.0] * 5)
    frame = runs.curves(runs.find(tmp_path))
    assert frame.groupby("group")["value"].agg(["min", "max"]).to_dict("index") == {
        "dqn, double=False": {"min": 1.0, "max": 1.0},
        "dqn, double=True": {"min": 9.0, "max": 9.0},
        "ppo, env_kwargs.sutton_barto_reward=True": {"min": 4.0, "max": 4.0},
        "ppo, nn_base_kwargs.hidden_size=128": {"min": 5.0, "max": 5.0},
    }
    seeds = legend(plots.learning_curves(frame).axes[0])
    assert {"dqn, double=True (1 seed)", "dqn, double=False (2 seeds)"} < set(seeds)

    asked = runs.curves(runs.find(tmp_path), by=["algo"])
    assert asked["group"].unique().tolist() == [
        "algo=dqn (over double)",
        "algo=ppo (over env_kwargs.sutton_barto_reward, nn_base_kwargs.hidden_size)",
    ]
    assert legend(plots.learning_curves(asked).axes[0])[0] == "algo=dqn (over double) (3 runs of 2 seeds)"


def test_where_rates_decay_the_length_of_the_whole_run_is_a_setting(tmp_path):
    for decays, expected in (
        ("", ["ppo"]),
        (" --use-linear-lr-decay", ["ppo, num_env_steps=50", "ppo, num_env_steps=90"]),
    ):
        place = tmp_path / (decays.strip() or "none")
        for steps in (50, 90):
            flags = f"--algo ppo {CARTPOLE} --num-env-steps {steps} --seed {steps}{decays}"
            make_run(place / str(steps), flags, [1.0] * (steps // 10))
        assert runs.curves(runs.find(place))["group"].unique().tolist() == expected


def test_every_task_has_a_panel_of_its_own(tmp_path):
    make_run(tmp_path / "a", f"--algo a2c {CARTPOLE}", [200.0] * 5)
    make_run(tmp_path / "b", "--algo a2c --env-name Pendulum-v1", [-900.0] * 5)
    frame = runs.curves(runs.find(tmp_path))
    for draw in (plots.learning_curves, plots.single_runs):
        panels = draw(frame).axes
        assert [ax.get_title() for ax in panels] == ["CartPole-v1", "Pendulum-v1"]
        assert [ax.lines[0].get_ydata()[-1] for ax in panels] == [200, -900]
        assert [ax.get_xlabel() for ax in panels] == ["environment steps"] * 2


def test_behavioral_cloning_counts_epochs_and_is_finished_when_it_has_ended(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    line = f"--algo bc {CARTPOLE} --num-trajectories 2 --save-dir= --torch-threads 1 --log-interval 1 --log-dir"
    assert main.main([*line.split(), str(tmp_path / "whole"), "--epochs", "2"]) == 0
    patience = ["--epochs", "200", "--patience", "1", "--lr", "1"]
    assert main.main([*line.split(), str(tmp_path / "patient"), *patience]) == 0
    make_run(tmp_path / "begun", f"--algo bc {CARTPOLE}")
    table = runs.table(tmp_path).set_index("run")
    assert table["of"].to_dict() == {"begun": 200, "patient": 200, "whole": 2}
    assert table["finished"].to_dict() == {"begun": False, "patient": True, "whole": True}
    assert table.loc["patient", "steps"] < 200
    assert table["unit"].unique().tolist() == ["epochs"]
    capsys.readouterr()
    frame = runs.curves(runs.find(tmp_path), "losses/bc_loss")
    assert capsys.readouterr().out == "no losses/bc_loss yet in begun; there is nothing\n"
    assert frame[frame["run"] == "whole"]["step"].max() == 2
    assert plots.learning_curves(frame).axes[0].get_xlabel() == "epochs"


def test_a_tag_that_no_run_has_is_answered_by_those_that_there_are(tmp_path, capsys):
    line = f"--algo a2c {CARTPOLE} --num-env-steps 400 --save-dir= --torch-threads 1 --log-dir"
    assert main.main([*line.split(), str(tmp_path / "one")]) == 0
    capsys.readouterr()
    assert runs.curves(runs.find(tmp_path), "losses/entropie").empty
    out = capsys.readouterr().out
    assert out.startswith("no losses/entropie yet in one; there is ")
    assert "losses/entropy" in out
    assert np.isfinite(runs.curves(runs.find(tmp_path), "losses/entropy")["value"]).all()
