"""The learner of a user's own that the README shows, and what is said of one that is not whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.utils import UsageError
from tests.test_command_line import readme_module
from tests.test_loop import assert_same_state, final_state

ROOT = Path(__file__).parent.parent
CARTPOLE = "--algo my_module:MyAlgorithm --env-name CartPole-v1 --torch-threads 1 --save-dir= "


@pytest.fixture(autouse=True)
def _in_a_folder_with_the_readmes_module(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(readme_module('"""A policy gradient'))
    monkeypatch.chdir(tmp_path)
    elsewhere = [place for place in sys.path if not Path(place, "my_module.py").exists()]
    monkeypatch.setattr(sys, "path", elsewhere)
    sys.modules.pop("my_module", None)
    yield
    sys.modules.pop("my_module", None)


def parse(line):
    return arguments.parse(line.split())


def test_it_learns_cartpole_from_the_readmes_command(capsys):
    (command,) = re.findall(r"python main\.py (--algo my_module:MyAlgorithm.*)", (ROOT / "README.md").read_text())
    assert main.main([*command.split(), "--torch-threads", "1", "--log-dir", "run"]) == 0
    capsys.readouterr()
    repeated = ["--algo", "my_module:MyAlgorithm"]
    assert evaluate.main(["--load-dir", "run", "--num-episodes", "20", "--seed", "7", *repeated]) == 0
    mean = float(re.search(r"mean ([\d.]+)", capsys.readouterr().out)[1])
    assert mean >= 475


def test_its_flags_are_in_the_help_and_are_checked(capsys):
    with pytest.raises(SystemExit):
        main.main(["--algo", "my_module:MyAlgorithm", "--help"])
    assert "width of the hidden layer (default: 64)" in " ".join(capsys.readouterr().out.split())
    assert main.main(f"{CARTPOLE} --hidden-size 0".split()) == 2
    assert "--hidden-size 0: expected at least 1" in capsys.readouterr().err
    assert parse(f"{CARTPOLE} --hidden-size 8").config.hidden_size == 8
    assert main.main(f"{CARTPOLE} --gail".split()) == 2
    assert "--gail" in capsys.readouterr().err


def test_resuming_equals_never_having_stopped(tmp_path):
    main.execute(parse(f"{CARTPOLE} --num-env-steps 5120 --log-dir whole"))
    main.execute(parse(f"{CARTPOLE} --num-env-steps 2560 --log-dir parts"))
    main.execute(parse("--resume parts --num-env-steps 5120 --algo my_module:MyAlgorithm"))
    whole, parts = final_state(tmp_path / "whole"), final_state(tmp_path / "parts")
    for key in ("algorithm", "collector", "normalizer", "rng", "update"):
        assert_same_state(whole[key], parts[key], key)


def test_a_queue_runs_it_from_where_it_lies(tmp_path):
    settings = "--algo my_module:MyAlgorithm --env-name CartPole-v1 --num-env-steps 512 --vary seed=1,2".split()
    program = [sys.executable, str(ROOT / "write_and_test" / "experiments.py")]
    subprocess.run([*program, "add", str(tmp_path / "queue"), *settings], check=True, capture_output=True)
    subprocess.run([*program, "run", str(tmp_path / "queue")], check=True, capture_output=True)
    assert len(list(tmp_path.glob("**/checkpoints/latest.pt"))) == 2


def test_the_contract_suite_can_be_pointed_at_it(tmp_path):
    suite = [sys.executable, "-m", "pytest", str(ROOT / "tests" / "test_contract.py"), "-p", "no:xdist"]
    few = "refused_in_one_line or (state_is_plain and discrete) or recorded_or_says"
    done = subprocess.run(
        [*suite, "--algo", "my_module:MyAlgorithm", "-k", few], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    (tmp_path / "my_module.py").write_text((tmp_path / "my_module.py").read_text() + FORGETFUL)
    done = subprocess.run(
        [*suite, "--algo", "my_module:Forgetful", "-k", few], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "test_its_state_is_plain_whole" in done.stdout


FORGETFUL = """

class Forgetful(MyAlgorithm):
    updates = 0

    def update(self, storage):
        self.updates += 1
        self.optimizer.param_groups[0]["lr"] = self.config.lr / self.updates
        return super().update(storage)
"""

LACKING = """
from dataclasses import dataclass

from my_module import MyAlgorithm, MyConfig
from a2c_ppo_acktr.algo import Algorithm

import torch


class NoUpdate(Algorithm):
    Config = MyConfig

    def act(self, obs, carry, masks, signals, explore): ...


class NoConfig(Algorithm):
    pass


class Hidden:
    pass


class SecondNetworkOutOfSight(MyAlgorithm):
    def __init__(self, spaces, config, device):
        super().__init__(spaces, config, device)
        self.critic = Hidden()
        self.critic.network = torch.nn.Linear(2, 2)


class NetworkThatComesLater(MyAlgorithm):
    later = None

    def update(self, storage):
        self.later = torch.nn.Linear(2, 2)
        return super().update(storage)
"""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("NoUpdate", "does not define make_storage, update"),
        ("NoConfig", "AlgorithmConfig"),
        ("Hidden", "a2c_ppo_acktr.algo.Algorithm"),
        ("Nobody", "Nobody"),
    ],
)
def test_what_is_no_whole_algorithm_is_refused_in_one_line(tmp_path, capsys, name, says):
    (tmp_path / "lacking.py").write_text(LACKING)
    assert main.main(f"--algo lacking:{name} --env-name CartPole-v1".split()) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"main.py: error: --algo lacking:{name}: ")
    assert says in error
    assert "\n" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("line", ["raise RuntimeError('no such\\nluck')", "import sys; sys.exit(0)", "1 / 0", "def"])
def test_a_module_that_raises_is_one_line(tmp_path, capsys, line):
    (tmp_path / "broken.py").write_text(line + "\n")
    assert main.main("--algo broken:Thing --env-name CartPole-v1".split()) == 2
    assert capsys.readouterr().err.strip().startswith("main.py: error: --algo broken:Thing: ")
    sys.modules.pop("broken", None)


def test_a_module_that_cannot_be_imported_is_named(capsys):
    assert main.main("--algo nowhere:Thing --env-name CartPole-v1".split()) == 2
    assert capsys.readouterr().err.strip() == "main.py: error: --algo nowhere:Thing: No module named 'nowhere'"


def test_a_second_network_that_would_be_forgotten_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "lacking.py").write_text(LACKING)
    assert main.main("--algo lacking:SecondNetworkOutOfSight --env-name CartPole-v1".split()) == 2
    error = capsys.readouterr().err.strip()
    assert "SecondNetworkOutOfSight.critic: a Linear in a Hidden cannot be collected" in error
    assert "\n" not in error
    assert not (tmp_path / "runs").exists()


def test_a_network_that_a_resumed_run_would_not_have_is_refused_at_the_first_checkpoint(tmp_path, capsys):
    (tmp_path / "lacking.py").write_text(LACKING)
    line = CARTPOLE.replace("my_module:MyAlgorithm", "lacking:NetworkThatComesLater")
    assert main.main([*line.split(), "--save-dir=", "--num-env-steps", "5120", "--save-interval", "1"]) == 2
    assert "NetworkThatComesLater.later did not exist at the start" in capsys.readouterr().err


def test_its_checkpoint_says_what_it_needs(tmp_path):
    main.execute(parse(f"{CARTPOLE} --num-env-steps 256 --log-dir run"))
    state = checkpoint.load("run/checkpoints/latest.pt")
    assert state["settings"]["algo"] == "my_module:MyAlgorithm"
    assert set(state["algorithm"]) == {"policy", "optimizer"}
    (tmp_path / "my_module.py").unlink()
    sys.modules.pop("my_module")
    with pytest.raises(UsageError, match="--algo my_module:MyAlgorithm: No module named"):
        evaluate.load_agent(tmp_path / "run" / "checkpoints" / "latest.pt", trusted=["my_module:MyAlgorithm"])
