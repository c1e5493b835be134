"""TensorBoard and W&B: the same tags at the same steps; no account, no connection and no server stop a run."""

import json
import re
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.run import checkpoint, histograms, tracking
from a2c_ppo_acktr.run.clock import Clock
from a2c_ppo_acktr.run.run import HISTOGRAM_SECONDS, HISTOGRAM_SHARE

wandb = pytest.importorskip("wandb")
LINE = "--algo ppo --env-name CartPole-v1 --num-env-steps 1280 --num-mini-batch 4 --log-interval 4 --log-dir run"


@pytest.fixture(autouse=True)
def _no_account(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    yield
    wandb.teardown()


def train(*flags):
    main.execute(arguments.parse([*LINE.split(), "--save-dir=", "--torch-threads", "1", *flags]))


def records_of(run):
    """Every record of a run's newest offline file, which is a log as LevelDB's: blocks of 32 kB, records in pieces."""
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # the library's process writes the end of a finished run in its own time
    data, at, whole, records = max(Path(run).glob("wandb/offline-run-*/*.wandb")).read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # the only piece, or the last
            records.append(Record.FromString(whole))
            whole = b""
    return records


def history_of(records):
    """Tag -> step -> value."""
    found = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for tag, value in items.items():
                found.setdefault(tag, {})[items.get("_step", record.history.step.num)] = value
    return {tag: values for tag, values in found.items() if not tag.startswith("_")}


def events_of(run):
    events = EventAccumulator(run)
    events.Reload()
    return events


def test_without_an_account_a_tracked_run_is_kept_on_disk_with_tensorboards_numbers(capsys):
    pytest.importorskip("imageio_ffmpeg")
    names = "--exp-name trial --config-file-name queue-7 --wandb-project-name mine".split()
    train("--track", *names, "--capture-video", "2", "--upload-video")
    lines = [line for line in capsys.readouterr().out.splitlines() if "W&B" in line]
    assert len(lines) == 1
    assert "wandb sync run/wandb/offline-" in lines[0]
    records, events = records_of("run"), events_of("run")
    history = history_of(records)
    for tag in events.Tags()["scalars"]:
        ours = {event.step: event.value for event in events.Scalars(tag)}
        assert ours == pytest.approx({step: float(value) for step, value in history[tag].items()}, nan_ok=True), tag
    assert set(events.Tags()["histograms"]) <= set(history)
    assert history["videos/episode"]
    assert len(list(Path("run/wandb").rglob("media/videos/**/*.mp4"))) == len(list(Path("run/videos").iterdir()))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.project, run.run_group, run.display_name) == ("mine", "trial", "run")
    assert config["config_file_name"] == "queue-7"
    assert config["num_mini_batch"] == 4
    assert {"commit", "command", "packages"} <= set(config)
    assert any(record.WhichOneof("record_type") == "environment" for record in records)


def test_tracking_and_films_change_nothing_that_is_learned():
    train("--track", "--capture-video", "1")
    train("--log-dir", "plain")
    tracked, plain = (checkpoint.load(f"{run}/checkpoints/latest.pt")["algorithm"] for run in ("run", "plain"))
    assert all(torch.equal(tracked["policy"][name], value) for name, value in plain["policy"].items())


def test_a_continued_run_keeps_its_id(capsys):
    train("--track")
    first = checkpoint.load("run/checkpoints/latest.pt")["tracking"]
    main.execute(arguments.parse("--resume run --num-env-steps 1600".split()))
    assert checkpoint.load("run/checkpoints/latest.pt")["tracking"] == first
    ids = {record.run.run_id for record in records_of("run") if record.WhichOneof("record_type") == "run"}
    assert ids == {first}
    assert min(min(values) for values in history_of(records_of("run")).values()) > 1280


def test_an_unreachable_server_costs_one_line_and_a_bounded_wait(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(tracking, "START_SECONDS", 1)
    before = time.monotonic()
    train("--track")
    assert time.monotonic() - before < 30
    lines = [line for line in capsys.readouterr().out.splitlines() if "W&B" in line]
    assert len(lines) == 1
    assert "cannot be reached" in lines[0]
    assert history_of(records_of("run"))["losses/value_loss"]


def test_a_refused_key_is_no_reason_to_stop(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    tracker = tracking.Tracker(Path("."), arguments.parse(LINE.split()).log, {}, None, print)
    tracker.close(0)
    assert "refuses the API key" in capsys.readouterr().out


def test_a_connection_that_breaks_costs_one_line(capsys):
    tracker = tracking.Tracker(Path("."), arguments.parse(LINE.split()).log, {}, None, print)
    capsys.readouterr()
    run = tracker.run

    def broken(*args, **kwargs):
        raise ConnectionResetError("Connection lost")

    tracker.run = type("Broken", (), {"log": broken, "finish": broken})()
    for step in range(3):
        tracker.scalars({"charts/SPS": 1.0}, step)
    tracker.close(0)
    run.finish()
    assert capsys.readouterr().out.splitlines() == ["W&B stopped working (Connection lost): the run goes on untracked"]


def test_a_run_that_is_not_tracked_does_without_wandb(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    train()
    assert Path("run/progress.csv").is_file()
    with pytest.raises(ImportError):
        tracking.Tracker(Path("."), arguments.parse(LINE.split()).log, {}, None, print)


def test_tensorboard_has_the_settings_as_a_table_and_the_distribution_of_every_parameter():
    train()
    events = events_of("run")
    text = events.Tensors("hyperparameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "|num_mini_batch|4|" in text
    assert re.search(r"\|commit\|\w+", text)
    weights = checkpoint.load("run/checkpoints/latest.pt")["algorithm"]["policy"]
    tags = set(events.Tags()["histograms"])
    assert tags == {f"{kind}/policy.{name}" for kind in ("parameters", "gradients") for name in weights}
    for name, values in weights.items():
        (event,) = events.Histograms(f"parameters/policy.{name}")
        assert event.step == 1280
        assert event.histogram_value.num == values.numel()
        assert event.histogram_value.sum == pytest.approx(float(values.sum()), abs=1e-3)
        assert event.histogram_value.min == pytest.approx(float(values.min()), abs=0.51)


def test_histograms_are_what_numpy_counts_without_what_is_not_finite():
    found = histograms.of_tensor(torch.tensor([0.0, 1.0, 2.0, float("nan"), float("inf")]))
    assert (found.counts.sum(), found.edges[0], found.edges[-1]) == (3, 0.0, 2.0)
    assert (found.total, found.squares) == (3.0, 5.0)
    assert len(found.counts) == histograms.BINS
    assert not np.isnan(histograms.of_tensor(torch.tensor([float("nan")])).edges).any()


def test_the_clock_of_histograms_bounds_their_share_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock, spent = Clock(None, HISTOGRAM_SECONDS, HISTOGRAM_SHARE), 0.0
    while now[0] < 36_000:
        now[0] += 1.0
        if clock.due(update=1):
            now[0] += 2.0
            spent += 2.0
            clock.took(2.0)
    assert spent <= 0.01 * now[0]


def test_the_copy_below_save_dir_and_the_run_folder_take_the_given_names():
    line = (
        "--env-name CartPole-v1 --num-env-steps 80 --exp-name my/trial --save-dir saved --save-subdir a/b --save-name c"
    )
    main.execute(arguments.parse(line.split()))
    assert Path("saved/a/b/c.pt").is_file()
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("my-trial__CartPole-v1__a2c__1__")
    assert json.loads((folder / "config.json").read_text())["settings"]["exp_name"] == "my/trial"
    main.execute(arguments.parse("--env-name CartPole-v1 --num-env-steps 160 --exp-name my/trial --resume".split()))
    assert len(list(Path("runs").iterdir())) == 1


@pytest.mark.parametrize("flag", ["--save-name /x", "--save-subdir ../x", "--save-name="])
def test_names_that_leave_the_folder_are_refused(flag, capsys):
    assert main.main(["--env-name", "CartPole-v1", *flag.split()]) == 2
    assert "below --save-dir" in capsys.readouterr().err
