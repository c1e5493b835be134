"""What users write by accident is one line and exit code 2: a part of what `benchmarks/bad_input.py` draws."""

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

import evaluate
import main
from a2c_ppo_acktr import algo, arguments, flags
from a2c_ppo_acktr.run import histograms
from a2c_ppo_acktr.utils import UsageError, printable
from benchmarks import bad_files, bad_input, bad_lines, bad_modules
from write_and_test import experiments

SMALL = "--env-name CartPole-v1 --num-processes 2 --num-env-steps 40 --torch-threads 1 --save-dir="


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return bad_files.make_template(tmp_path_factory.mktemp("bad") / "template", bad_input.run)


DRAWN = [
    (bad_lines.values, 50),
    (bad_lines.unknown, 12),
    (bad_lines.modules, 12),
    (bad_lines.learners, 20),
    (bad_lines.networks, 12),
    (bad_lines.places, 12),
    (bad_lines.several, 12),
    (bad_lines.queues, 6),
    (bad_lines.evaluations, 4),
    (bad_files.queue, 6),
    (bad_files.demonstrations, 6),
]


@pytest.mark.parametrize(("kind", "count"), DRAWN, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_drawn_ends_in_one_line_and_leaves_nothing(kind, count, template, tmp_path):
    for number in range(count):
        folder = tmp_path / str(number)
        shutil.copytree(template, folder, symlinks=True)
        chance = random.Random(f"{kind.__name__}/{number}")
        case = kind(chance, folder) if kind.__module__.endswith("files") else kind(chance)
        outcome = bad_input.run(case[0], case[1], folder)
        assert bad_input.fault(outcome, case[2], case[3]) is None, (number, case, outcome)


@pytest.mark.parametrize("name", bad_modules.LEARNERS)
def test_every_learner_that_is_not_right_is_refused(name, template):
    outcome = bad_input.run("main.py", ["--algo", f"learners:{name}", *SMALL.split()], template)
    assert bad_input.fault(outcome, (2,), leaves=False) is None, outcome


def test_the_checks_of_what_is_drawn_can_fail():
    right = bad_input.Outcome(2, "", "main.py: error: no\n", [])
    assert bad_input.fault(right, (2,), leaves=False) is None
    for wrong, says in [
        (right._replace(code=None), "no end"),
        (right._replace(code=0), "exit code 0"),
        (right._replace(err="Traceback (most recent call last):\n"), "traceback"),
        (right._replace(err="a\nb\n"), "not one line"),
        (right._replace(left=["runs"]), "left runs"),
    ]:
        assert bad_input.fault(wrong, (2,), leaves=False) == says
    assert bad_input.fault(right._replace(left=[".x.1.tmp"]), (2,), leaves=True) == "left a temporary file"


# values


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--seed 1e30", "--seed 1e30: expected at most 4294967295"),
        ("--torch-threads 1e9", "--torch-threads 1e9: expected at most 1024"),
        ("--num-processes 1e12", "--num-processes 1e12: expected at most 65536"),
        ("--num-steps 1e12", "--num-steps 1e12: expected at most 10000000"),
        ("--num-env-steps 1e30", "--num-env-steps 1e30: expected at most 1000000000000000"),
        ("--frame-stack 1e9", "--frame-stack 1e9: expected at most 1000"),
        ("--auxiliary-truth-sizes 2 1e12", "--auxiliary-truth-sizes 1e12: expected at most 100000"),
        ("--lr 1e30", "--lr 1e30: expected between 0 and 1000000.0"),
        ("--lr inf", "--lr inf: expected between 0 and 1000000.0"),
        ("--entropy-coef=-1e30", "--entropy-coef -1e30: expected at least -1000000000.0"),
        ("--algo acktr --kfac-weight-decay 1e300", "--kfac-weight-decay 1e300: expected between 0 and 1000000.0"),
        ("--algo c51 --num-atoms 1e9", "--num-atoms 1e9: expected at most 10000"),
        ("--algo c51 --v-max 1e300", "--v-max 1e300: expected between -1000000000.0 and 1000000000.0"),
        ("--algo qr_dqn --num-quantiles 1e30", "--num-quantiles 1e30: expected at most 10000"),
        ("--algo iqn --num-acting-fractions 1e30", "--num-acting-fractions 1e30: expected at most 10000"),
        ("--algo r2d1 --core-size 1e30", "--core-size 1e30: expected at most 16384"),
        ("--gail --gail-hidden-size 1e30", "--gail-hidden-size 1e30: expected at most 16384"),
        ("--nn-base-kwargs hidden_size=1e10", "expected one width, or one per layer, of 1 to 16384"),
        ("--nn-base FlexBase --nn-base-kwargs num_layers=100000000", "and 0 to 1000 layers"),
        ("--nonsense", "--nonsense: unknown flag for a2c"),
        ("--num-stepps 3", "--num-stepps: unknown flag for a2c; did you mean --num-steps?"),
    ],
)
def test_numbers_have_bounds_and_the_line_says_which(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.main([*SMALL.split(), *words.split()]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.endswith(f"{says}\n") or "nn-base" in words
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_rollout_that_memory_does_not_hold_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(algo, "available_memory", lambda: 10**6)
    words = "--env-name CartPole-v1 --num-processes 10 --num-steps {} --num-env-steps 10 --save-dir= --log-dir run"
    assert main.main(words.format(6250).split()) == 2  # 6251 x 10 x 16 bytes
    error = capsys.readouterr().err
    assert "--num-steps 6250 --num-processes 10: the observations of a rollout need 0.0 GB and 0.0 GB are free" in error
    assert list(tmp_path.iterdir()) == []
    spaces = evaluate.algo.EnvSpaces(Box(-1, 1, (4,), np.float32), Discrete(2), {})
    learner = algo.make("a2c", algo.find("a2c").Config(), spaces)
    assert algo.make_storage(learner, 6249, 10).num_steps == 6249


def test_what_has_no_bound_by_itself_may_be_infinite():
    assert arguments.parse(["--max-grad-norm", "inf", *SMALL.split()]).config.max_grad_norm == float("inf")
    assert arguments.parse(["--algo", "acktr", *SMALL.split()]).config.max_grad_norm == float("inf")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_steps": "x"}, "--num-steps 'x': expected an integer"),
        ({"num_steps": True}, "--num-steps True: expected an integer"),
        ({"num_processes": 10**9}, "--num-processes 1000000000: expected at most"),
        ({"normalize_env": 3}, "--normalize-env 3: expected True or False"),
        ({"env_kwargs": [1]}, "--env-kwargs [1]: expected a dictionary by names"),
        ({"env_kwargs": {1: 2}}, "--env-kwargs {1: 2}: expected a dictionary by names"),
        ({"hide_observations": 1}, "--hide-observations 1: expected a list"),
        ({"hide_observations": ["x"]}, "--hide-observations ['x']: expected an integer"),
        ({"env_name": "a\0b"}, "null"),
        ({"vec_env": "none"}, "--vec-env 'none': choose from auto"),
        ({"seed": None}, "--seed None: expected an integer"),
    ],
    ids=str,
)
def test_settings_of_a_file_have_the_bounds_of_their_flags(change, says):
    plain = arguments.to_plain(arguments.parse(SMALL.split()))
    with pytest.raises(UsageError) as caught:
        arguments.from_plain({**plain, **change})
    assert says in str(caught.value)


def test_a_flag_may_choose_among_integers(tmp_path, monkeypatch, capsys):
    (tmp_path / "choosing.py").write_text(
        "from dataclasses import dataclass\n"
        "from a2c_ppo_acktr.algo.a2c import A2C\n"
        "from a2c_ppo_acktr.flags import flag\n"
        "@dataclass\n"
        "class Config(A2C.Config):\n"
        "    depth: int = flag(2, 'layers', choices=(2, 4))\n"
        "class Learner(A2C):\n"
        "    Config = Config\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = ["--algo", "choosing:Learner", *SMALL.split(), "--depth"]
    assert arguments.parse([*words, "4"]).config.depth == 4
    assert main.main([*words, "3"]) == 2
    assert "--depth 3: choose from 2, 4" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["--algo", "choosing:Learner", "--help"])
    assert "{2,4}" in capsys.readouterr().out
    sys.modules.pop("choosing")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Taken", "its Config has seed, which every run has: choose another name"),
        ("Gail", "its Config has gail_lr, which every run has"),
        ("NotADataclass", "PlainConfig has fields and is no dataclass: put @dataclass above it"),
        (
            "Unknown",
            "UnknownConfig.rate is a <class 'complex'>: a flag is one of bool, int, float, str, list[...], dict",
        ),
        ("NoDefault", "NoDefaultConfig.rate has no default"),
        ("Undefined", "name 'Nothing' is not defined"),
        ("TooFew", "TooFew(spaces, config, device): TypeError:"),
        ("Raises", "Raises(spaces, config, device): RuntimeError: no luck (learners.py, line"),
        ("NoStorage", "Learner.make_storage gave NoneType, which has no insert"),
        ("RunDefaults", "run_defaults has num_stepps, which are no flags"),
        ("ByKind", "defaults_by_kind['vector'] has nothing, which are no flags"),
        ("Kinds", "defaults_by_kind has vectors: expected vector, grid, image"),
    ],
)
def test_what_is_wrong_with_a_learner_is_said(name, says, template, monkeypatch, capsys):
    monkeypatch.chdir(template)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main.main(["--algo", f"learners:{name}", *SMALL.split()]) == 2
    assert says in capsys.readouterr().err
    sys.modules.pop("learners", None)


def test_presets_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main.main(["--algo", "ppo", "--help"])
    assert "of this algorithm: classic, mujoco, atari, navigation" in " ".join(capsys.readouterr().out.split())


def test_wandbs_mode_is_checked_before_anything_starts(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    assert main.main([*SMALL.split(), "--track"]) == 2
    assert capsys.readouterr().err.startswith("main.py: error: WANDB_MODE=nonsense: choose from online, offline")
    assert list(tmp_path.iterdir()) == []


def test_one_line_holds_no_control_characters_and_no_second_line():
    assert str(UsageError("a\n  b\x1b[31m\u202e\udcff")) == "a b\\x1b[31m\\u202e\\udcff"
    assert printable("a\nb\x07", lines=True) == "a\nb\\x07"
    assert printable("ü 漢") == "ü 漢"


def test_more_environments_than_files_may_be_open_are_refused(monkeypatch):
    monkeypatch.setattr(arguments.resource, "getrlimit", lambda kind: (1024, 4096))
    raised = []
    monkeypatch.setattr(arguments.resource, "setrlimit", lambda kind, limits: raised.append(limits))
    arguments.parse([*SMALL.split(), "--num-processes", "2000"])
    assert raised == [(2000 + arguments.OTHER_FILES, 4096)]
    with pytest.raises(UsageError, match=r"--num-processes 4090: .* 4096 may be open"):
        arguments.parse([*SMALL.split(), "--num-processes", "4090"])


# actions


@pytest.mark.parametrize("action", ["99", "2", "-1", "abc", "nan", "1e30", "{}", "0.5", "inf", "'0'", "[[0]]", "[0,2]"])
def test_forced_actions_are_checked_against_the_space(action, template, monkeypatch, capsys):
    monkeypatch.chdir(template)
    words = ["--load-dir", "run", "--num-episodes", "1", f"--action={action}"]
    assert evaluate.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate.py: error: --action ")
    assert error.count("\n") == 1


def test_forced_actions_that_fit_are_taken(template, monkeypatch, capsys):
    monkeypatch.chdir(template)
    for action in ("1", "[0,1,1]"):
        assert evaluate.main(["--load-dir", "run", "--num-episodes", "1", f"--action={action}"]) == 0
    agent, envs = evaluate.load_agent(Path("run/checkpoints/latest.pt"))
    with pytest.raises(UsageError, match="actions 7: expected whole numbers from 0 to 1: choices are counted from 0"):
        evaluate.evaluate(agent, envs, 1, actions=lambda t: 7)
    envs.close()


def test_a_network_that_does_not_fit_says_why(template, monkeypatch, capsys):
    monkeypatch.chdir(template)
    assert evaluate.main(["--load-dir", "run", "--env-name", "Acrobot-v1"]) == 2
    error = capsys.readouterr().err
    assert "does not fit Acrobot-v1: size mismatch for base.actor" in error
    assert "[64, 4]" in error
    assert "[64, 6]" in error


# queues


def test_nothing_that_cannot_work_is_queued(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, says in [
        ("--env-name Nothing-v0", "--env-name Nothing-v0"),
        ("--env-name CartPole-v1 --env-kwargs nothing=1", "nothing"),
        ("--env-name CartPole-v1 --nn-base-kwargs hidden_size=x", "hidden_size=x"),
        ("--algo dqn --env-name Pendulum-v1", "Q-learning"),
        ("--env-name CartPole-v1 --save-dir elsewhere", "save_dir: elsewhere"),
    ]:
        assert experiments.main(["add", "queue", "--algo", "a2c", *words.split()]) == 2
        assert says in capsys.readouterr().err
    assert not Path("queue").exists()


def test_all_are_added_or_none(tmp_path, monkeypatch):
    queue = experiments.Queue(tmp_path / "queue")
    write, written = experiments.launcher.write_json, []

    def fail_at_the_third(path, contents):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        write(path, contents)

    monkeypatch.setattr(experiments.launcher, "write_json", fail_at_the_third)
    settings = experiments.product({"algo": "a2c", "env_name": "CartPole-v1"}, {"seed": range(5)})
    with pytest.raises(OSError, match="No space"):
        queue.add(settings)
    assert list(queue.folder.glob("*.json")) == []


def test_learners_are_found_whole(tmp_path):
    """What is checked of a class of the user's own holds for every one of ours."""
    for kind in algo.ALGORITHMS.values():
        flags.check_flags(kind.Config)
        arguments._check_own("ours", kind)


# what diverges


@pytest.mark.parametrize(
    "numbers",
    [[1e20] * 5, [1e20, 1.0000001e20], [3e38, -3e38], [], [float("nan")], [0.0] * 3, [-1.0, 0.5, 2.0]],
    ids=str,
)
def test_every_finite_number_is_in_a_histogram(numbers):
    found = histograms.of_tensor(torch.tensor(numbers))
    assert found.counts.sum() == np.isfinite(np.array(numbers)).sum()
    assert len(found.counts) == histograms.BINS
    assert (np.diff(found.edges) > 0).all()


@pytest.mark.parametrize("algorithm", ["dqn --learning-starts 10 --lr 1e5", "ppo --num-mini-batch 2 --lr 1e6"])
def test_what_diverges_is_no_traceback_and_no_warning_of_each_operation(algorithm, tmp_path):
    words = [*SMALL.split(), "--num-env-steps", "1000", "--log-interval", "1", "--algo", *algorithm.split()]
    outcome = bad_input.run("main.py", words, tmp_path)
    assert outcome.code in (0, 1)
    assert len(outcome.err.splitlines()) == outcome.code


# values by name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("001", "001"),
        ("1_0", "1_0"),
        ("true", True),
        ("False", False),
        ("none", None),
        ("'true'", "true"),
        ("1e-3", 1e-3),
        ("-5", -5),
        ("inf", float("inf")),
        ("[a,true,007,2]", ["a", True, "007", 2]),
        ("(1, 'x')", (1, "x")),
        ("paired", "paired"),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_value_by_name_is_what_it_looks_like(text, value):
    assert flags.read_value(text) == value
    assert type(flags.read_value(text)) is type(value)
