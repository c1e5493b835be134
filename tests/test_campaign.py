"""Learning results: metrics, states of runs, resumption, the table."""

import dataclasses
import io
import shlex
import signal
import time

import numpy as np
import pytest
from rich.console import Console

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.jobs import launcher
from benchmarks import campaign, curves, records, runs
from benchmarks.rows import ROWS

ROW = ROWS["ppo-reacher-limits"]


def write_monitor(path, rows):
    lines = "".join(f"{r},{length},{t}\n" for r, length, t in rows)
    path.write_text('#{"t_start": 0.0, "env_id": "Probe-v0"}\nr,l,t\n' + lines)


def make_record(seed, value, *, row=ROW, finished=True, steps=None):
    return records.Record(
        row=row.name,
        seed=seed,
        steps=row.steps if steps is None else steps,
        seconds=1.0,
        commit="abc",
        command=row.command(seed),
        metric=row.metric,
        value=value,
        finished=finished,
    )


def make_started_run(tmp_path, row=ROW, seed=1):
    run = runs.Run(row, seed, tmp_path)
    run.begin()
    run.checkpoint.parent.mkdir(parents=True)
    write_monitor(run.folder / "0.monitor.csv", [(float(i), 50, i) for i in range(150)])
    (run.folder / "progress.csv").write_text("update,step,seconds\n1,2048,1.5\n2,7500,3.25\n")
    return run


# metric and curves


def test_training_return_is_the_mean_of_the_100_episodes_that_ended_last_over_all_ranks(tmp_path):
    write_monitor(tmp_path / "0.monitor.csv", [(1.0, 10, 2 * i) for i in range(80)])
    write_monitor(tmp_path / "1.monitor.csv", [(3.0, 10, 2 * i + 1) for i in range(60)])

    episodes = curves.read_episodes(tmp_path)

    # times 40..119 alternate between the ranks (40 each), 120..158 are rank 0's last 20
    assert len(episodes.returns) == 140
    assert curves.training_return(episodes) == pytest.approx((60 * 1.0 + 40 * 3.0) / 100)


def test_training_return_needs_100_episodes(tmp_path):
    write_monitor(tmp_path / "0.monitor.csv", [(1.0, 10, i) for i in range(99)])
    assert curves.training_return(curves.read_episodes(tmp_path)) is None


def test_a_monitor_row_that_is_still_being_written_is_left_out(tmp_path):
    write_monitor(tmp_path / "0.monitor.csv", [(1.0, 10, 0.5)])
    with (tmp_path / "0.monitor.csv").open("a") as file:
        file.write("-12.")
    assert curves.read_episodes(tmp_path).returns.tolist() == [1.0]


def test_a_curve_has_cumulative_steps_and_means_of_the_last_100_episodes():
    returns = np.arange(1000, dtype=float)
    points = curves.curve(curves.Episodes(returns, np.full(1000, 20)), points=10)
    assert [step for step, _ in points] == [2000 * k for k in range(1, 11)]
    for step, value in points:
        assert value == pytest.approx(returns[: step // 20][-100:].mean())


def test_a_curve_of_few_long_episodes_repeats_no_point():
    points = curves.curve(curves.Episodes(np.array([1.0, 3.0]), np.array([1000, 1000])))
    assert points == [(1000, 1.0), (2000, 2.0)]
    assert curves.curve(curves.Episodes(np.array([]), np.array([], np.int64))) == []


def test_curves_of_seeds_are_kept_and_replaced_one_by_one(tmp_path):
    path = tmp_path / "row_curves.csv"
    curves.write_curve(path, "row", 2, [(10, 1.0)])
    curves.write_curve(path, "row", 1, [(10, 2.0), (20, 3.0)])
    curves.write_curve(path, "row", 2, [(10, 4.0)])
    assert curves.read_curves(path) == {1: [(10, 2.0), (20, 3.0)], 2: [(10, 4.0)]}


def test_the_band_covers_the_steps_that_all_seeds_have():
    steps, mean, low, high = curves.band([[(0, 0.0), (100, 10.0)], [(50, 2.0), (200, 2.0)]])
    assert (steps[0], steps[-1]) == (50, 100)
    assert (mean[0], low[0], high[0]) == (3.5, 2.0, 5.0)


def test_plot_draws_only_rows_with_curves(tmp_path):
    pytest.importorskip("matplotlib")
    curves.write_curve(tmp_path / f"{ROW.name}_curves.csv", ROW.name, 1, [(10, -60.0), (20, -50.0)])
    assert curves.plot([ROW.name, "ppo-cheetah"], tmp_path, tmp_path / "plot.png") == [ROW.name]
    assert (tmp_path / "plot.png").stat().st_size > 0
    assert curves.plot(["ppo-cheetah"], tmp_path, tmp_path / "none.png") == []


def test_plot_draws_the_results_of_other_code_beside_these(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    labels = []
    monkeypatch.setattr(curves, "_draw", lambda panel, points, whose: labels.append((whose, points)))
    for folder, value in (("here", 1.0), ("before", 2.0)):
        curves.write_curve(tmp_path / folder / f"{ROW.name}_curves.csv", ROW.name, 1, [(10, value), (20, value)])
    curves.plot([ROW.name], tmp_path / "here", tmp_path / "plot.png", against=tmp_path / "before")
    assert labels == [("this code", {1: [(10, 1.0), (20, 1.0)]}), ("before", {1: [(10, 2.0), (20, 2.0)]})]


# states of runs


def test_a_run_is_new_then_resumable_then_finished(tmp_path):
    run = runs.Run(ROW, 1, tmp_path)
    assert run.state == "new"
    assert run.records() == []
    command = run.train_command()
    assert command[1] == "main.py"
    assert command[command.index("--log-dir") + 1] == str(run.folder)
    assert arguments.parse(command[2:]).num_env_steps == ROW.steps

    run = make_started_run(tmp_path)
    run.checkpoint.touch()
    assert run.state == "resumable"
    assert run.train_command()[1:] == ["main.py", "--resume", str(run.folder)]
    assert [(r.steps, r.finished, r.value) for r in run.records()] == [(7500, False, 99.5)]

    run.finish(tmp_path / "results")
    assert run.state == "finished"
    assert [(r.steps, r.seconds, r.finished, r.value) for r in run.records()] == [(7500, 3.25, True, 99.5)]
    assert curves.read_curves(tmp_path / "results" / f"{ROW.name}_curves.csv")[1][-1] == (7500, 99.5)


def test_a_run_that_died_before_its_first_checkpoint_is_set_aside_and_begun_again(tmp_path):
    run = make_started_run(tmp_path)
    run.begin()
    assert not run.folder.exists()
    assert len(list(run.folder.parent.glob("seed1-dead-*/0.monitor.csv"))) == 1


def test_a_folder_of_another_command_is_never_continued(tmp_path):
    run = make_started_run(tmp_path)
    run.checkpoint.touch()
    changed = runs.Run(dataclasses.replace(ROW, steps=5), 1, tmp_path)
    with pytest.raises(runs.Changed, match="begun by another command"):
        launcher.Job(changed)


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_training_selection_and_test_have_seeds_of_their_own(row, tmp_path):
    for seed in row.seeds:
        args = arguments.parse(shlex.split(row.command(seed))[2:])
        training = {seed + i for i in range(args.num_processes)}
        selection = {seed + args.num_processes + i for i in range(max(args.num_processes, main.EVAL_ENVS))}
        command = runs.Run(row, seed, tmp_path).evaluate_command()
        first = int(command[command.index("--seed") + 1])
        test = {first + i for i in range(runs.EVALUATION_EPISODES)}
        assert not training & selection
        assert not test & (training | selection)


def test_two_campaigns_do_not_run_the_same_seed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.Run, "train_command", lambda self: ["sleep", "60"])
    job = launcher.Job(runs.Run(ROW, 1, tmp_path))
    with pytest.raises(launcher.Busy):
        launcher.Job(runs.Run(ROW, 1, tmp_path))
    job.stop()
    while job.poll() is None:
        time.sleep(0.01)
    again = launcher.Job(runs.Run(ROW, 1, tmp_path))
    again.stop()
    again.process.wait()
    again.poll()


def test_an_evaluation_row_trains_then_evaluates_and_an_interrupted_one_does_not(tmp_path, monkeypatch):
    row = ROWS["a2c-cartpole"]
    monkeypatch.setattr(runs.Run, "train_command", lambda self: ["true"])
    monkeypatch.setattr(runs.Run, "evaluate_command", lambda self: ["sleep", "60"])
    job = launcher.Job(runs.Run(row, 1, tmp_path))
    job.process.wait()
    assert job.poll() is None
    job.stop()
    assert (code := job.process.wait()) == -signal.SIGTERM
    assert job.poll() == code
    assert not job.complete(code)


def test_the_scheduler_saves_a_failed_run_as_unfinished_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs.Run, "train_command", lambda self: ["sh", "-c", "echo out of luck; exit 3"])
    plan = campaign.make_plan(["ppo-cheetah"], [1], None, tmp_path)
    assert campaign.Scheduler(plan, jobs=1).run() == 1
    assert "ppo-cheetah seed 1: failed with exit code 3\n  out of luck" in capsys.readouterr().out


def test_the_scheduler_writes_the_csv_and_the_curve_of_a_finished_run(tmp_path, monkeypatch):
    def fake(run):
        make = (
            f"mkdir -p {run.folder} && cd {run.folder} && printf 'update,step,seconds\\n1,5000,2.0\\n' > progress.csv"
        )
        monitor = "(echo '#{}'; echo r,l,t; seq 100 | sed 's/.*/2.5,50,&/') > 0.monitor.csv"
        return ["sh", "-c", f"{make} && {monitor}"]

    monkeypatch.setattr(runs.Run, "train_command", fake)
    plan = campaign.make_plan([ROW.name], [1, 2], None, tmp_path)
    assert campaign.Scheduler(plan, jobs=2).run() == 0
    found = records.read(tmp_path / "results" / f"{ROW.name}.csv")
    assert [(record.seed, record.steps, record.value, record.finished) for record in found] == [
        (1, 5000, 2.5, True),
        (2, 5000, 2.5, True),
    ]
    assert set(curves.read_curves(tmp_path / "results" / f"{ROW.name}_curves.csv")) == {1, 2}
    assert campaign.Scheduler(plan, jobs=2).waiting == []


# plans and records


def test_a_trial_is_kept_apart_from_the_results(tmp_path):
    plan = campaign.make_plan(["ppo-cheetah"], None, 100, tmp_path)
    assert plan.trial
    assert plan.rows[0].steps == 100
    assert (tmp_path / "work") in plan.results.parents
    real = campaign.make_plan(["ppo-cheetah"], None, None, tmp_path)
    assert real.results == tmp_path / "results"
    assert not {run.folder for run in plan.runs} & {run.folder for run in real.runs}


@pytest.mark.parametrize(("text", "seeds"), [("3", (1, 2, 3)), ("4,7", (4, 7)), ("4,", (4,))])
def test_seeds_are_a_number_or_a_list(text, seeds):
    assert campaign.parse_seeds(text) == seeds


def test_records_survive_a_csv(tmp_path):
    rows = [make_record(1, -4.5), make_record(2, None, finished=False, steps=10)]
    records.write(tmp_path / "row.csv", rows)
    assert records.read(tmp_path / "row.csv") == rows
    assert records.read(tmp_path / "missing.csv") == []


def test_results_are_whole_at_every_moment(tmp_path, monkeypatch):
    """A kill in the middle of writing leaves what was there."""
    records.write(tmp_path / "row.csv", [make_record(1, -4.5)])
    before = (tmp_path / "row.csv").read_bytes()

    def broken():
        yield make_record(1, -4.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        records.write(tmp_path / "row.csv", broken())
    monkeypatch.setattr(records, "write_atomically", lambda path, write: write(tmp_path / "beside"))
    records.write(tmp_path / "row.csv", [make_record(2, -1.0)])
    assert (tmp_path / "row.csv").read_bytes() == before
    assert [one.seed for one in records.read(tmp_path / "beside")] == [2]


def test_a_finished_record_gives_way_only_to_a_finished_one():
    finished, running, newer = make_record(1, -4.5), make_record(1, -60.0, finished=False), make_record(1, -4.0)
    assert records.merge([finished], [running]) == [finished]
    assert records.merge([running], [finished]) == [finished]
    assert records.merge([finished], [newer]) == [newer]


# the table


def test_mean_and_spread_are_over_finished_seeds():
    line = records.line(ROW, [make_record(k, v) for k, v in ((1, -4.0), (2, -5.0), (3, -6.0))], (1, 2, 3))
    assert (line.mean, line.spread, line.state) == (-5.0, 1.0, "finished")


def test_the_table_marks_unfinished_rows():
    found = [make_record(1, -4.0), make_record(2, -60.0, finished=False, steps=20_000)]
    line = records.line(ROW, found, (1, 2, 3))
    assert (line.mean, line.spread) == (-4.0, None)
    assert line.state == "UNFINISHED 1/3 seeds, one at 20,000 steps"
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(records.table([line], "title"))
    assert "UNFINISHED 1/3" in console.export_text()


def test_a_finished_run_of_few_episodes_gives_no_value_and_says_so():
    line = records.line(ROW, [make_record(1, -4.0), make_record(2, None)], (1, 2))
    assert (line.mean, line.state) == (-4.0, "finished, 1 with too few episodes for a value")


def test_results_of_a_command_that_has_changed_do_not_count():
    line = records.line(dataclasses.replace(ROW, steps=2_000_000), [make_record(1, -4.0)], (1,))
    assert (line.mean, line.state) == (None, "UNFINISHED 0/1 seeds")


def test_results_of_settings_that_have_changed_under_the_same_command_are_marked():
    row = dataclasses.replace(ROW, stale="another rate")
    line = records.line(row, [make_record(k, -4.0, row=row) for k in (1, 2, 3)], (1, 2, 3))
    assert line.state == "finished; OF BEFORE: another rate"


def test_the_page_of_results_has_every_row_and_is_what_the_results_say():
    """FAIL means: `python benchmarks/campaign.py --page` is to be run, or a row was left out."""
    page = (campaign.HERE / "results" / "README.md").read_text()
    assert page == campaign.page()
    for name in ROWS:
        assert f"| {name} | " in page


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_commands_of_rows_are_accepted(row):
    args = arguments.parse(shlex.split(row.command(1))[2:])
    assert (args.num_env_steps, args.seed, args.torch_threads) == (row.steps, 1, row.threads)


def test_the_reacher_rows_differ_in_the_time_limit_alone():
    with_limits, without = (
        arguments.parse(shlex.split(ROWS[name].command(1))[2:])
        for name in ("ppo-reacher-limits", "ppo-reacher-no-limits")
    )
    assert with_limits.config == dataclasses.replace(without.config, use_proper_time_limits=True)
    assert with_limits == dataclasses.replace(without, config=with_limits.config, preset="mujoco")


def test_the_first_command_of_the_readme_is_a_row_of_ten_seeds():
    readme = (campaign.HERE.parent / "README.md").read_text()
    command = next(part for part in readme.split(" && ") if part.startswith("python main.py"))
    row = ROWS["ppo-cartpole"]
    assert f"{command} --seed 3 --torch-threads 1" == row.command(3)
    assert row.seeds == tuple(range(1, 11))
