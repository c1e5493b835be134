"""Where results are written: found out before training or playing, devices as they are, films by any name."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import enjoy
import evaluate
import main
from a2c_ppo_acktr.envs.video.camera import Film
from a2c_ppo_acktr.files import check_writable, open_to_append, write_atomically, write_named
from a2c_ppo_acktr.utils import UsageError
from gail_experts import record

ROOT = Path(__file__).parent.parent
SMALL = "--algo a2c --env-name CartPole-v1 --num-processes 2 --num-env-steps 40 --torch-threads 1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert main.main([*SMALL.split(), "--save-dir=", "--log-dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--log-dir", ""], "--log-dir ''"),
        (["--log-dir", "/dev/null/x"], "--log-dir /dev/null/x"),
        (["--log-dir", "~nosuchuser/x"], "--log-dir"),
        (["--log-dir", LONG], "--log-dir xxx"),
        (["--log-dir", "loop"], "--log-dir loop"),
        (["--log-dir", "dangling"], "--log-dir dangling: is a link that leads nowhere"),
        (["--log-dir", "/proc/nothing"], "--log-dir /proc/nothing"),
        (["--save-dir", "file"], "--save-dir file: is a file"),
        (["--save-dir", "/proc/nothing"], "--save-dir /proc/nothing"),
        (["--save-name", LONG], "--save-name"),
        (["--save-subdir", LONG], "--save-subdir"),
        (["--exp-name", LONG], "--exp-name"),
        (["--exp-name", "a\udcff"], "a\\udcff: expected text in utf-8"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_said_before_anything_is_made(words, flag, capsys, tmp_path):
    Path("file").touch()
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nothing")
    before = sorted(tmp_path.iterdir())
    assert main.main([*SMALL.split(), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"main.py: error: {flag}")
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("place", ["", ".", "~nosuchuser", LONG, "/dev/null/x.npz", "x.txt", "loop/x.npz"])
@pytest.mark.parametrize("program", ["--record", "--json", "enjoy", "record"])
def test_programs_that_play_find_it_out_before_they_play(program, place, trained, tmp_path, capsys):
    Path("loop").symlink_to("loop")
    if program == "--json" and place == "x.txt":
        return
    if program in ("--record", "--json"):
        code = evaluate.main(["--load-dir", str(trained), f"{program}={place}"])
    elif program == "enjoy":
        code = enjoy.main(["--load-dir", str(trained), f"--video={place}"])
    else:
        code = record.main(["--checkpoint", str(trained), f"--out={place}"])
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [one.name for one in tmp_path.iterdir()] == ["loop"]


def test_a_working_directory_can_be_a_run_folder_twice(tmp_path, monkeypatch):
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    for _ in range(2):
        assert main.main([*SMALL.split(), "--save-dir=", "--log-dir", "."]) == 0
    assert (place / "checkpoints").is_dir()
    assert (tmp_path / "here-2" / "checkpoints").is_dir()


def test_shipped_demonstrations_are_replaced_by_name_only(trained, capsys):
    shipped = ROOT / "gail_experts" / "trajs_cartpole.npz"
    before = shipped.stat().st_mtime_ns
    assert record.main(["--checkpoint", str(trained), "--num-trajectories", "1"]) == 2
    assert "is there already: --out FILE.npz names another file" in capsys.readouterr().err
    assert shipped.stat().st_mtime_ns == before


# devices, pipes and links


def test_a_device_is_written_to_and_stays_one(trained):
    assert evaluate.main(["--load-dir", str(trained), "--num-episodes", "1", "--json", "/dev/null"]) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_pipe_gets_what_is_written(tmp_path):
    os.mkfifo("pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE) as reader:
        write_named(Path("pipe"), lambda path: path.write_text("{}"))
        assert reader.communicate(timeout=10)[0] == b"{}"
    assert Path("pipe").is_fifo()


def test_standard_output_keeps_what_it_has(trained):
    Path("out").write_text("before\n")
    words = [sys.executable, str(ROOT / "evaluate.py"), "--load-dir", str(trained), "--num-episodes", "1"]
    with open("out", "r+") as out:
        out.seek(0, os.SEEK_END)
        subprocess.run([*words, "--json", "/dev/stdout"], stdout=out, check=True)
    before, result, summary = Path("out").read_text().splitlines()
    assert before == "before"
    assert json.loads(result)["n"] == 1
    assert summary.startswith("mean ")


def test_a_link_that_a_user_names_is_written_through_and_one_in_a_run_is_replaced():
    Path("target").write_text("old")
    Path("link").symlink_to("target")
    write_named(Path("link"), lambda path: path.write_text("new"))
    assert Path("link").is_symlink()
    assert Path("target").read_text() == "new"
    write_atomically(Path("link"), lambda path: path.write_text("other"))
    assert not Path("link").is_symlink()
    assert Path("target").read_text() == "new"


def test_a_temporary_name_that_is_a_link_is_not_followed():
    Path("target").write_text("kept")
    Path(f".file.{os.getpid()}.tmp").symlink_to("target")
    write_atomically(Path("file"), lambda path: path.write_text("new"))
    assert (Path("file").read_text(), Path("target").read_text()) == ("new", "kept")
    assert sorted(path.name for path in Path().iterdir()) == ["file", "target"]


def test_lines_are_added_to_plain_files_alone():
    with open_to_append(Path("log")) as file:
        file.write("a\n")
    with open_to_append(Path("log")) as file:
        file.write("b\n")
    assert Path("log").read_text() == "a\nb\n"
    os.link("log", "second")
    Path("link").symlink_to("log")
    os.mkfifo("pipe")
    for name in ("log", "link", "pipe"):
        with pytest.raises(UsageError, match=f"{name}: a link, or no plain file"):
            open_to_append(Path(name))
    with pytest.raises(FileNotFoundError):
        open_to_append(Path("nowhere/log"))


def test_checking_a_destination_makes_nothing(tmp_path):
    assert check_writable("--json", "a/b/c.json") == Path("a/b/c.json")
    assert check_writable("--log-dir", "a/b", folder=True) == Path("a/b")
    assert list(tmp_path.iterdir()) == []


# films


@pytest.mark.parametrize(
    "name", ["-films/x.mp4", "http:x/a.mp4", "file:x.mp4", "pipe:1.mp4", "a b/$(x);%d.mkv", "concat:a|b.avi"]
)
def test_a_films_name_is_neither_option_nor_protocol(name):
    film = Film(Path(name), 30)
    for shade in (0, 100, 200):
        film.add(np.full((96, 96, 3), shade, np.uint8))
    film.close()
    assert Path(name).stat().st_size > 0
    assert [path.name for path in Path().rglob("*") if path.is_file()] == [Path(name).name]


def test_a_film_is_not_written_through_a_link():
    Path("target").write_text("kept")
    Path(f".x.mp4.{os.getpid()}.tmp").symlink_to("target")
    film = Film(Path("x.mp4"), 30)
    film.add(np.zeros((96, 96, 3), np.uint8))
    film.close()
    assert Path("target").read_text() == "kept"


# pipes that close, names in other locales


@pytest.mark.parametrize("program", ["evaluate.py", "enjoy.py"])
def test_a_reader_that_has_gone_is_no_traceback(program, trained):
    words = [sys.executable, str(ROOT / program), "--load-dir", str(trained), "--num-episodes", "1"]
    words += ["--video", "film.mp4"] if program == "enjoy.py" else []
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


def test_names_that_the_locale_does_not_know_are_one_line(trained, tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    words = [sys.executable, str(ROOT / "main.py"), *SMALL.split(), "--log-dir", "für"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", [evaluate, enjoy])
def test_a_home_of_nobodys_is_no_checkpoint(program, capsys):
    assert program.main(["--load-dir", "~nosuchuser"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--load-dir ~nosuchuser: " in line
