"""Run folders and queues of a stranger: no module is imported, nothing is written outside, nothing is printed raw."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import enjoy
import evaluate
import main
from a2c_ppo_acktr import arguments, trust
from a2c_ppo_acktr.run import checkpoint, folder, tracking
from a2c_ppo_acktr.utils import UsageError
from gail_experts import record
from write_and_test import experiments, runs

ROOT = Path(__file__).parent.parent
SMALL = "--algo a2c --env-name CartPole-v1 --num-processes 2 --num-env-steps 40 --torch-threads 1 --save-dir="
EVIL = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
import gymnasium
from a2c_ppo_acktr.algo.a2c import A2C as Learner
from a2c_ppo_acktr.model.bases import MLPBase as Net
gymnasium.register("Evil-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=20)
"""
NAMES = {
    "algo": "shared.evil:Learner",
    "nn_base": "shared.evil:Net",
    "env_name": "shared.evil:Evil-v0",
}


@pytest.fixture(autouse=True)
def _a_run_from_a_stranger(tmp_path, monkeypatch):
    """`shared/` holds a run and a module beside it, in the working directory, which is on the path as at a prompt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert main.main([*SMALL.split(), "--log-dir", "shared"]) == 0
    Path("shared/evil.py").write_text(EVIL)
    yield
    for name in ("shared", "shared.evil"):
        sys.modules.pop(name, None)


def rewrite(**settings):
    """Change settings within the stranger's checkpoint."""
    path = Path("shared/checkpoints/latest.pt")
    contents = checkpoint.load(path)
    for name, value in settings.items():
        (contents["settings"] if name in contents["settings"] else contents["settings"]["config"])[name] = value
    checkpoint.save(path, contents)
    return path


PROGRAMS = {
    "resume": lambda *more: main.main(["--resume", "shared", "--num-env-steps", "80", *more]),
    "evaluate": lambda *more: evaluate.main(["--load-dir", "shared", "--num-episodes", "1", *more]),
    "enjoy": lambda *more: enjoy.main(["--load-dir", "shared", "--video", "film.mp4", *more]),
    "record": lambda *more: record.main(
        ["--checkpoint", "shared", "--num-trajectories", "1", "--out", "shown.npz", *more]
    ),
}


@pytest.mark.parametrize("setting", NAMES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_module_that_a_checkpoint_names_is_not_imported(program, setting, capsys):
    rewrite(**{setting: NAMES[setting]})
    assert PROGRAMS[program]() == 2
    error = capsys.readouterr().err.strip()
    flag = f"--{setting.replace('_', '-')} {NAMES[setting]}"
    assert error.endswith(
        f"error: shared/checkpoints/latest.pt names the module {NAMES[setting]}, which importing would run: "
        f"repeat {flag} if you trust it, or give --trust"
    )
    assert not Path("shared/ran").exists()
    assert "shared.evil" not in sys.modules


@pytest.mark.parametrize("setting", NAMES)
@pytest.mark.parametrize("program", ["resume", "evaluate", "record"])
def test_repeating_its_name_or_trusting_the_file_imports_it(program, setting, capsys):
    rewrite(**{setting: NAMES[setting]})
    assert PROGRAMS[program](f"--{setting.replace('_', '-')}", NAMES[setting]) == 0
    assert Path("shared/ran").exists()
    assert "--trust" not in capsys.readouterr().err
    assert PROGRAMS[program]("--trust") == 0
    assert capsys.readouterr().err == f"importing '{NAMES[setting]}', since --trust is given\n"


def test_repeating_another_name_imports_nothing():
    rewrite(nn_base=NAMES["nn_base"])
    assert PROGRAMS["evaluate"]("--nn-base", "shared.other:Net") == 2
    assert not Path("shared/ran").exists()


def test_a_trusted_checkpoint_does_not_trust_itself():
    """`trust` among the settings of a file is not the flag."""
    path = rewrite(nn_base=NAMES["nn_base"])
    contents = checkpoint.load(path)
    contents["settings"]["trust"] = True
    checkpoint.save(path, contents)
    assert PROGRAMS["resume"]() == 2
    assert not Path("shared/ran").exists()


def test_notebooks_and_cloning_import_nothing_either():
    rewrite(nn_base=NAMES["nn_base"], env_name=NAMES["env_name"])
    with pytest.raises(UsageError, match=r"names the module shared\.evil"):
        runs.load("shared")
    runs.table("shared")
    assert main.main([*SMALL.split(), "--clone-parameter-experiment", "shared"]) == 0
    assert not Path("shared/ran").exists()
    _, envs = runs.load("shared", trusted=True)
    envs.close()
    assert Path("shared/ran").exists()


def test_an_environments_arguments_may_name_modules_too():
    """Some environments make another one, by an id of the form `module:Env`."""
    settings = {"env_name": "GymV21Environment-v0", "env_kwargs": {"env_id": "shared.evil:Evil-v0"}}
    with pytest.raises(UsageError, match=r"repeat --env-kwargs .*env_id=shared\.evil:Evil-v0"):
        trust.demand(settings, "file", False)


def test_an_own_queue_goes_on_with_its_modules_and_says_how(tmp_path):
    flags = ["--algo=shared.evil:Learner", "--env-name=CartPole-v1", "--nn-base", "shared.evil:Net"]
    command = folder.train_command(Path("shared"), flags)
    assert command[1:] == ["main.py", "--resume", "shared", *flags[:1][0].split("="), *flags[2:]]


def test_paths_of_a_checkpoint_are_not_obeyed(tmp_path, capsys):
    outside = tmp_path / "outside"
    path = rewrite(log_dir=str(outside / "log"), save_dir=str(outside / "saved"))
    shutil.copy(path, "copy.pt")
    assert main.main(["--resume", "copy.pt", "--num-env-steps", "80"]) == 0
    assert main.main(["--resume", "shared", "--num-env-steps", "80"]) == 0
    assert not outside.exists()
    assert [one.name for one in Path("trained_models").rglob("*.pt")] == ["CartPole-v1.pt"]
    args = arguments.parse(["--resume", "shared", "--save-dir", "mine"])
    assert args.log.save_dir == "mine"


def test_that_no_copy_is_wanted_is_remembered():
    assert arguments.parse(["--resume", "shared"]).log.save_dir == ""
    rewrite(save_dir="./trained_models/", save_name="mine")
    args = arguments.parse(["--resume", "shared"])
    assert (args.log.save_dir, args.log.save_name) == ("./trained_models/", "mine")
    rewrite(save_name="../../outside")
    with pytest.raises(UsageError, match="--save-name"):
        arguments.parse(["--resume", "shared"])


WRITTEN = ["config.json", "command.txt", "0.monitor.csv", "progress.csv", "checkpoints", "videos"]


@pytest.mark.parametrize("name", WRITTEN)
def test_no_link_in_a_run_folder_is_written_through(name, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    target = outside / name
    if (own := Path("shared") / name).exists():
        shutil.move(own, target)
    else:
        target.mkdir()
    own.symlink_to(target)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    assert PROGRAMS["resume"]("--capture-video", "1") == 2
    assert f"shared/{name}: a link" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["command.txt", "1.monitor.csv"])
def test_no_link_that_leads_nowhere_and_no_second_name_is_written_through(name, tmp_path, capsys):
    own, outside = Path("shared") / name, tmp_path / "outside"
    own.unlink()
    own.symlink_to(outside)
    assert PROGRAMS["resume"]() == 2
    assert not outside.exists()
    own.unlink()
    outside.write_text("")
    os.link(outside, own)
    assert PROGRAMS["resume"]() == 2
    assert outside.read_text() == ""
    assert "a link, or no plain file" in capsys.readouterr().err


def test_a_pipe_in_a_run_folder_is_refused_and_not_waited_for():
    Path("shared/command.txt").unlink()
    os.mkfifo("shared/command.txt")
    assert PROGRAMS["resume"]() == 2


def test_a_linked_checkpoint_does_not_continue_another_run(capsys):
    assert main.main([*SMALL.split(), "--log-dir", "own"]) == 0
    Path("shared/checkpoints/latest.pt").unlink()
    Path("shared/checkpoints/latest.pt").symlink_to(Path("own/checkpoints/latest.pt").absolute())
    before = Path("own/command.txt").read_text()
    assert PROGRAMS["resume"]() == 2
    assert Path("own/command.txt").read_text() == before


def test_no_link_in_a_queue_is_written_through(tmp_path, capsys):
    queue = experiments.Queue("queue")
    queue.add({"algo": "a2c", "env_name": "CartPole-v1", "num_env_steps": 40})
    (experiment,) = queue.experiments()
    outside = tmp_path / "outside"
    outside.mkdir()
    experiment.folder.symlink_to(outside)
    assert experiments.main(["run", "queue"]) == 2
    experiment.folder.unlink()
    experiment.folder.mkdir()
    experiment.log_file.symlink_to(outside / "log")
    assert experiments.main(["run", "queue"]) == 2
    assert list(outside.iterdir()) == []
    assert "a link" in capsys.readouterr().err


def test_what_a_file_says_reaches_the_terminal_without_control_characters(capsys):
    rewrite(env_name="Cart\x1b]0;owned\x07Pole-v1\r\nx\u202e")
    for program in PROGRAMS.values():
        assert program() == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == len(PROGRAMS)
    for letter in "\x1b\x07\r\u202e":
        assert letter not in said.out + said.err
    rewrite(env_name="CartPole-v1", exp_name="\x1b[31mred")
    shutil.copy("shared/checkpoints/latest.pt", "copy.pt")
    assert main.main(["--resume", "copy.pt", "--num-env-steps", "80"]) == 0
    said = capsys.readouterr()
    assert "\x1b[31m" not in said.out + said.err


@pytest.mark.parametrize("program", ["main.py", "evaluate.py"])
def test_the_working_directory_is_not_searched_for_a_files_modules(program, tmp_path):
    """In a process of its own, started in the folder of the run, as a user would."""
    rewrite(nn_base="evil:Net")
    flag = "--resume" if program == "main.py" else "--load-dir"
    ended = subprocess.run(
        [sys.executable, str(ROOT / program), flag, "."], cwd="shared", capture_output=True, text=True
    )
    assert ended.returncode == 2, ended.stderr
    assert not Path("shared/ran").exists()


@pytest.mark.parametrize("name", ["../../outside", "a/b", "", "\x1b[31m", "x" * 100])
def test_a_tracked_runs_id_is_a_name_and_no_path(name):
    """W&B makes a folder of it."""
    assert tracking.ID.fullmatch(name) is None
    assert tracking.ID.fullmatch("1a2b3c4d") is not None
