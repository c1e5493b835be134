"""Flags, help, and bad input: one clear line, exit code 2, nothing created."""

import io
import math
import pickle
import re
import shlex
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import enjoy
import evaluate
import main
from a2c_ppo_acktr import arguments
from a2c_ppo_acktr.algo import ALGORITHMS
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.utils import UsageError
from benchmarks.cells import CELLS
from benchmarks.rows import ROWS

ROOT = Path(__file__).parent.parent
UPSTREAMS = [name for name, kind in ALGORITHMS.items() if kind.is_upstreams]


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which a folder with modules of the user's own is added


def parse(line):
    return arguments.parse(shlex.split(line))


BAD = [
    ("--env-name NoSuchEnv-v0", "NoSuchEnv-v0"),
    ("--env-name CartPol-v1", "Did you mean: `CartPole`"),
    ("--algo pppo", "choose from a2c, acktr, ppo"),
    ("--env-name CartPole-v1 --learning-rate 3", "--learning-rate"),
    ("--env-name CartPole-v1 --num-proceses 3", "did you mean --num-processes"),
    ("--num-env-steps -5", "at least 1"),
    ("--num-env-steps 1.5", "an integer"),
    ("--num-env-steps many", "an integer"),
    ("--num-steps 0", "at least 1 step"),
    ("--gamma 1.5", "between 0 and 1"),
    ("--lr nan", "--lr nan"),
    ("--lr", "--lr"),
    ("--num-process 3", "--num-process"),  # no abbreviations
    ("--env-name CartPole-v1 --algo ppo --num-mini-batch 81", "80 samples"),
    ("--env-name CartPole-v1 --algo ppo --num-steps 2 --num-processes 2", "4 samples"),
    ("--env-name CartPole-v1 --algo ppo --recurrent-policy", "16 at most"),
    ("--env-name CartPole-v1 --nn-base CNNBase", "CNNBase"),
    ("--env-name CartPole-v1 --nn-base-kwargs hidden_size", "name=value"),
    ("--env-name CartPole-v1 --nn-base-kwargs hiden_size=3", "hiden_size"),
    ("--env-name Pendulum-v1 --env-kwargs gravitas=1", "gravitas"),
    ("--env-name CartPole-v1 --vec-env fast", "auto, native, dummy, subproc"),
    ("--env-name CartPole-v1 --algo acktr --recurrent-policy", "K-FAC knows no factors for a GRU"),
    ("--env-name FrozenLake-v1 --time-feature", "vector observations"),
    ("--env-name CartPole-v1 --time-feature --vec-env native", "cannot use it"),
    ("--env-name CartPole-v1 --hide-observations 1 --vec-env native", "cannot use it"),
    ("--env-name CartPole-v1 --hide-observations 1 4", "--hide-observations 1 4: CartPole-v1 has numbers 0 to 3"),
    ("--env-name CartPole-v1 --hide-observations 0 1 2 3", "must keep one"),
    ("--env-name FrozenLake-v1 --hide-observations 0", "has no vector observations"),
    ("--env-name CartPole-v1 --frame-stack 4", "only images"),
    ("--env-name CartPole-v1 --preset nothing", "classic"),
    ("--env-name CartPole-v1 --returns td", "1-step, n-step, gae, v-trace"),
    ("--env-name CartPole-v1 --use-gae --returns n-step", "--returns n-step"),
    ("--env-name CartPole-v1 --gail", "trajs_cartpole.npz"),
    ("--env-name CartPole-v1 --algo dqn --gail", "a2c, acktr, ppo"),
    ("--resume nowhere", "nowhere"),
    ("--env-name CartPole-v1 --resume", "runs/CartPole-v1__a2c__1__"),
]


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize(("line", "says"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2_and_creates_nothing(line, says, capsys, tmp_path):
    assert main.main(shlex.split(line)) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("main.py: error: ")
    assert says in errors[0]
    assert not list(tmp_path.iterdir())


class Payload:
    """Creates a file when unpickled."""

    def __reduce__(self):
        return (open, ("pwned", "w"))


def bad_checkpoint(kind, path):
    checkpoint.save(path, {"settings": {}, "weights": torch.zeros(10_000)})
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "damaged":
        content = bytearray(path.read_bytes())
        content[200:400] = bytes(200)
        path.write_bytes(bytes(content))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other format":
        torch.save({"state_dict": torch.zeros(3)}, path)
    elif kind == "other version":
        checkpoint.save(path, {"version": 99})
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "hello")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "torch pickle":
        torch.save({"format": checkpoint.FORMAT, "version": 1, "x": Payload()}, path)


KINDS = ["missing", "truncated", "damaged", "empty", "other format", "other version", "zip", "pickle", "torch pickle"]


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("kind", KINDS)
def test_bad_checkpoints_are_refused_in_one_line_and_run_no_code(kind, capsys, tmp_path):
    bad_checkpoint(kind, tmp_path / "bad.pt")
    before = sorted(tmp_path.iterdir())
    for program, argv in [
        (main, ["--resume", "bad.pt"]),
        (evaluate, ["--load-dir", "bad.pt", "--env-name", "CartPole-v1"]),
        (enjoy, ["--load-dir", "bad.pt", "--env-name", "CartPole-v1", "--video", "film.mp4"]),
    ]:
        assert program.main(argv) == 2
        errors = capsys.readouterr().err.splitlines()
        assert len(errors) == 1, errors
        assert "bad.pt" in errors[0]
    assert sorted(tmp_path.iterdir()) == before


def test_any_cut_of_a_checkpoint_is_refused():
    path = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, "version": 1, "w": torch.zeros(100)}, path)
    whole = path.getvalue()
    for length in range(0, len(whole) - 1, 37):
        target = Path(torch.hub.tempfile.gettempdir()) / "cut.pt"
        target.write_bytes(whole[:length])
        with pytest.raises(UsageError):
            checkpoint.load(target)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_help_shows_the_flags_of_the_algorithm_and_their_defaults(algorithm, capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(["--algo", algorithm, "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert ("discount of rewards (default: 0.99)" in text) == (algorithm not in ("bc", "bco"))
    assert ("--target-kl" in text) == (algorithm == "ppo")
    assert ("--norm-adv " in text) == (algorithm in ("a2c", "acktr"))


UPSTREAM_DEFAULTS = {
    "algo": "a2c",
    "gail": False,
    "seed": 1,
    "cuda_deterministic": False,
    "num_processes": 16,
    "num_steps": 5,
    "num_env_steps": 10_000_000,
    "env_name": "PongNoFrameskip-v4",
    "save_dir": "./trained_models/",
    "eval_interval": None,
}
UPSTREAM_GAIL = {"gail_experts_dir": "./gail_experts", "gail_batch_size": 128, "gail_epoch": 5}
UPSTREAM_CONFIG = {
    "lr": 7e-4,
    "eps": 1e-5,
    "alpha": 0.99,
    "gamma": 0.99,
    "use_gae": False,
    "gae_lambda": 0.95,
    "entropy_coef": 0.01,
    "value_loss_coef": 0.5,
    "max_grad_norm": 0.5,
    "use_proper_time_limits": False,
    "recurrent_policy": False,
    "use_linear_lr_decay": False,
}


def test_upstream_defaults_are_kept():
    args = parse("")
    settings = arguments.to_plain(args)
    assert {name: settings[name] for name in UPSTREAM_DEFAULTS} == UPSTREAM_DEFAULTS
    assert {name: getattr(args.gail_config, name) for name in UPSTREAM_GAIL} == UPSTREAM_GAIL
    for algorithm in UPSTREAMS:
        config = parse(f"--algo {algorithm}").config
        # upstream's ACKTR takes its optimizer's own rate and bounds no gradient
        own = {"lr": 0.25, "max_grad_norm": math.inf} if algorithm == "acktr" else {}
        assert {name: getattr(config, name) for name in UPSTREAM_CONFIG} == UPSTREAM_CONFIG | own
    ppo = parse("--algo ppo").config
    assert (ppo.ppo_epoch, ppo.num_mini_batch, ppo.clip_param) == (4, 32, 0.2)


ALL_UPSTREAM_FLAGS = (
    "--gail-experts-dir x --gail-batch-size 3 --gail-epoch 2 --lr 1e-3 --eps 1e-4 --alpha 0.9 --gamma 0.9 --use-gae "
    "--gae-lambda 0.9 --entropy-coef 0 --value-loss-coef 1 --max-grad-norm 1 --seed 3 --cuda-deterministic "
    "--num-processes 4 --num-steps 8 --ppo-epoch 2 --num-mini-batch 4 --clip-param 0.1 --log-interval 1 "
    "--save-interval 7 --eval-interval 9 --num-env-steps 10e6 --env-name CartPole-v1 --log-dir /x --save-dir y "
    "--no-cuda --use-proper-time-limits --use-linear-lr-decay"
)


@pytest.mark.parametrize("algorithm", UPSTREAMS)
def test_every_upstream_flag_is_accepted_and_idle_ones_get_one_line(algorithm, capsys):
    recurrent = "" if algorithm == "acktr" else "--recurrent-policy"
    args = parse(f"--algo {algorithm} {ALL_UPSTREAM_FLAGS} {recurrent}")
    assert (args.num_env_steps, args.cuda, args.config.lr, args.log.save_interval) == (10_000_000, False, 1e-3, 7)
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert ("--ppo-epoch has no effect" in warnings[0]) == (algorithm != "ppo")
    assert ("--alpha has no effect" in warnings[0]) == (algorithm != "a2c")
    assert "--gail-epoch has no effect without --gail" in warnings[0]


RECIPES = [
    '--env-name "PongNoFrameskip-v4"',
    '--env-name "PongNoFrameskip-v4" --algo ppo --use-gae --lr 2.5e-4 --clip-param 0.1 --value-loss-coef 0.5 '
    "--num-processes 8 --num-steps 128 --num-mini-batch 4 --log-interval 1 --use-linear-lr-decay --entropy-coef 0.01",
    '--env-name "Reacher-v2" --num-env-steps 1000000',
    '--env-name "Reacher-v2" --algo ppo --use-gae --log-interval 1 --num-steps 2048 --num-processes 1 --lr 3e-4 '
    "--entropy-coef 0 --value-loss-coef 0.5 --ppo-epoch 10 --num-mini-batch 32 --gamma 0.99 --gae-lambda 0.95 "
    "--num-env-steps 1000000 --use-linear-lr-decay --use-proper-time-limits",
    '--env-name "PongNoFrameskip-v4" --algo acktr --num-processes 32 --num-steps 20',
]


@pytest.mark.parametrize("recipe", RECIPES, ids=["atari a2c", "atari ppo", "mujoco a2c", "mujoco ppo", "atari acktr"])
@pytest.mark.usefixtures("_elsewhere")
def test_upstream_recipe_runs_its_first_updates(recipe, capsys):
    args = parse(recipe)
    args.num_env_steps, args.log.log_interval = 2 * args.num_steps * args.num_processes, 1
    main.execute(args)
    assert "Updates 2, num timesteps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ("", "n-step"),
        ("--use-gae", "gae"),
        ("--use-gae --returns gae", "gae"),
        ("--returns 1-step", "1-step"),
        ("--algo ppo --preset classic", "gae"),
        ("--algo ppo --preset classic --returns v-trace", "v-trace"),
    ],
)
def test_either_spelling_of_the_returns_beats_a_preset(flags, kind, capsys):
    assert parse(f"--env-name CartPole-v1 --gae-lambda 0.9 {flags}").config.return_kind == kind
    assert ("--gae-lambda has no effect without --returns gae" in capsys.readouterr().err) == (kind != "gae")


def test_the_classic_preset_of_ppo_is_rl_zoos_for_cartpole():
    args = parse("--algo ppo --env-name CartPole-v1 --preset classic")
    config = args.config
    assert (args.num_processes, args.num_steps, args.env.normalize_env) == (8, 32, False)
    assert args.num_processes * args.num_steps / config.num_mini_batch == 256  # batch_size
    assert (config.ppo_epoch, config.gamma, config.gae_lambda, config.entropy_coef) == (20, 0.98, 0.8, 0.0)
    assert (config.lr, config.use_linear_lr_decay) == (1e-3, True)  # lin_0.001
    assert (config.clip_param, config.use_linear_clip_decay) == (0.2, True)  # lin_0.2


@pytest.mark.parametrize("name", ALGORITHMS)
def test_normalization_can_be_switched_off_for_every_algorithm_also_where_it_is_off(name):
    assert not parse(f"--algo {name} --env-name CartPole-v1 --no-normalize-env").env.normalize_env


def test_presets_are_the_recipes_and_flags_beside_them_win():
    recipe, preset = parse(RECIPES[3]), parse("--env-name Reacher-v2 --algo ppo --preset mujoco --num-env-steps 1e6")
    assert preset.config == recipe.config
    assert (preset.num_steps, preset.num_processes) == (2048, 1)
    assert parse("--lr 1 --algo ppo --preset mujoco --num-mini-batch 8").config.lr == 1
    assert parse(RECIPES[1]).config == parse("--algo ppo --preset atari").config
    row = parse(ROWS["navigation-feed-forward"].flags)
    network = "--nn-base FlexBase --nn-base-kwargs num_layers=2 num_shared_layers=1"
    preset = parse(f"--algo ppo --env-name Navigation-v0 --preset navigation {network}")
    assert preset.config == row.config
    assert (preset.num_steps, preset.num_processes, preset.env.normalize_env) == (128, 16, False)


def test_values_of_key_value_flags():
    args = parse("--env-name CartPole-v1 --env-kwargs a=1 b=2.5 c=True d=None e=[1,2.0,x] f=word g=1e3")
    assert args.env.env_kwargs == {"a": 1, "b": 2.5, "c": True, "d": None, "e": [1, 2.0, "x"], "f": "word", "g": 1000.0}


def test_settings_survive_the_checkpoints_plain_form():
    args = parse("--algo ppo --env-name CartPole-v1 --num-mini-batch 4 --nn-base-kwargs hidden_size=32")
    assert arguments.from_plain(checkpoint.to_plain(arguments.to_plain(args))) == args


def readme_commands():
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.S)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [part.strip() for line in joined.splitlines() for part in line.split("&&")]


def readme_module(name):
    """A Python file that the README shows, by how it begins."""
    (source,) = re.findall(rf"```python\n({name}.*?)```", (ROOT / "README.md").read_text(), re.S)
    return source


@pytest.mark.usefixtures("_elsewhere")
def test_every_command_of_the_readme_is_parsed():
    Path("my_module.py").write_text(readme_module('"""A policy gradient'))
    programs = {"main.py": 0, "evaluate.py": 0, "enjoy.py": 0}
    for command in readme_commands():
        words = shlex.split(command, comments=True)
        script = next((i for i, word in enumerate(words) if word in programs), None)
        if script is None:
            continue
        programs[words[script]] += 1
        argv = [word for word in words[script + 1 :] if word != "--help"]
        if words[script] == "main.py" and "--resume" not in argv:
            arguments.parse(argv)
        elif words[script] != "main.py":
            module = {"evaluate.py": evaluate, "enjoy.py": enjoy}[words[script]]
            module.make_parser().parse_args(argv)
    assert all(count > 0 for count in programs.values()), programs


@pytest.mark.parametrize(("flag", "known"), [("rows", ROWS), ("cells", CELLS), ("profile", CELLS)])
def test_the_rows_and_cells_that_the_pages_name_exist(flag, known):
    text = (ROOT / "README.md").read_text() + (ROOT / "benchmarks/README.md").read_text()
    named = {name for names in re.findall(rf"--{flag} ([\w,-]+)", text) for name in names.split(",") if name}
    assert named
    assert named - {"CELL"} <= set(known)


@pytest.mark.parametrize("lacks", [False, True])
def test_bfloat16_that_a_cpu_can_only_emulate_is_warned_of(monkeypatch, capsys, lacks):
    monkeypatch.setattr(arguments, "lacks_bfloat16", lambda: lacks)
    arguments.parse("--algo ppo --env-name PongNoFrameskip-v4 --preset atari --bfloat16".split())
    assert ("--bfloat16 is slower" in capsys.readouterr().err) == lacks
