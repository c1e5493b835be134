"""Bad command lines for `bad_input.py`: values, combinations, modules, networks, destinations."""

import random
from collections.abc import Callable
from pathlib import Path

from a2c_ppo_acktr import arguments, flags
from a2c_ppo_acktr.algo import ALGORITHMS
from a2c_ppo_acktr.algo.gail import GAILConfig
from benchmarks.bad_modules import LEARNERS, MODULES, NETWORKS

Case = tuple[str, list[str], tuple[int, ...], bool]
"""Program, words, exit codes that are right, whether files may be left."""
SMALL = ["--env-name", "CartPole-v1", "--num-env-steps", "64", "--num-processes", "2", "--torch-threads", "1"]
QUIET = ["--save-dir", ""]
REFUSED, ANY = (2,), (0, 1, 2)
NO_NUMBERS = ["abc", "", "nan", "1,5", "0x10", "--", "1e", "None", "[1]", "1 2", "½"]
HUGE = ["1e30", "-1e30", "9" * 40, "1e309", "-1e309"]
NAMES = ["\udcff", "a\udc80b", "x" * 300, "../up", "/etc", "", "."]
PLACES = [
    "",
    "/proc/none",
    "/dev/null/x",
    "~nosuchuser/x",
    "x" * 300,
    "run/config.json/x",
    "loop",
    "dangling/x",
    "a\udcffb",
]
NETWORK_VALUES = ["None", "x", "nan", "1.5", "1e9", "-1", "0", "[]", "[64,'a']", "{}", "1e10", "True", "inf", "[1e9,2]"]


def lines(chance: random.Random, folder: Path) -> Case:
    """A bad command line."""
    kinds: list[Callable[[random.Random], Case]] = [
        values,
        values,
        values,
        values,
        unknown,
        modules,
        learners,
        networks,
        places,
        evaluations,
        queues,
        several,
    ]
    return chance.choice(kinds)(chance)


def values(chance: random.Random) -> Case:
    """A flag with a value that it cannot have."""
    name = chance.choice(list(ALGORITHMS))
    config = chance.choice([arguments.RunConfig, ALGORITHMS[name].Config, ALGORITHMS[name].Config])
    if ALGORITHMS[name].takes_gail and chance.random() < 0.15:
        config = GAILConfig
    field, kind = chance.choice([leaf for leaf in flags.leaves(config) if leaf[0].metadata])
    flag, text = f"--{field.name.replace('_', '-')}", str(kind)
    if "bool" in text:
        return "main.py", ["--algo", name, f"{flag}=3", *SMALL], REFUSED, False
    if "dict" in text:
        return "main.py", ["--algo", name, *SMALL, flag, chance.choice(["x", "=1", "1=2", "a b=1", ""])], REFUSED, False
    if "str" in text and not field.metadata["choices"]:
        value = chance.choice(NAMES)
        return "main.py", ["--algo", name, *SMALL, *QUIET, f"{flag}={value}"], ANY, True
    low, high = field.metadata["low"], field.metadata["high"]
    bad = NO_NUMBERS + HUGE + ([str(low - 1)] if low is not None else []) + ([str(high * 2 + 1)] if high else [])
    bad = [one for one in bad if "float" not in text or one not in ("-1e309", "1e309") or high != float("inf")]
    return "main.py", ["--algo", name, *SMALL, *QUIET, f"{flag}={chance.choice(bad)}"], REFUSED, False


def unknown(chance: random.Random) -> Case:
    """A flag that there is not, or one without its value, or a value without a flag."""
    name = chance.choice(list(ALGORITHMS))
    known = flags.leaves(arguments.RunConfig)
    flag = f"--{chance.choice([field.name for field, _ in known if field.metadata]).replace('_', '-')}"
    at = chance.randrange(2, len(flag))
    words = chance.choice(
        [
            [flag[:at] + chance.choice("xqz") + flag[at:]],
            ["--num-steps"],
            ["--lr"],
            ["stray"],
            ["-q"],
            ["--preset", "none"],
        ]
    )
    return "main.py", ["--algo", chance.choice([name, name, "none", "", "PPO"]), *words], REFUSED, False


def modules(chance: random.Random) -> Case:
    """A module that cannot be imported, or holds something else."""
    flag = chance.choice(["--algo", "--nn-base", "--env-name"])
    name = chance.choice([*MODULES, "nowhere", "..", "../../x", "", ".", "os.", "a b", "os", "builtins", "math"])
    part = chance.choice(["Thing", "", "path", "int", "pi", "None", "exit", "X-v0", "CartPole-v1", "dict", "a:b"])
    if (flag, name, part) == ("--env-name", "os", "CartPole-v1") or (
        name in ("builtins", "math", "os") and "-v" in part
    ):
        name = "nowhere"
    return "main.py", ["--algo", "a2c", *SMALL, *QUIET, flag, f"{name}:{part}"], REFUSED, False


def learners(chance: random.Random) -> Case:
    """A learner of the user's own that is not right."""
    words = ["--algo", f"learners:{chance.choice(LEARNERS)}", *SMALL, *QUIET]
    return "main.py", words, REFUSED, False


def networks(chance: random.Random) -> Case:
    """A network that cannot be built, or does not follow its contract."""
    words = ["--algo", chance.choice(["a2c", "ppo", "acktr"]), *SMALL, *QUIET]
    if chance.random() < 0.5:
        return "main.py", [*words, "--nn-base", f"networks:{chance.choice(NETWORKS)}"], REFUSED, False
    name = chance.choice(
        ["hidden_size", "num_layers", "num_shared_layers", "auxiliary_heads", "encoder_size", "unheard_of"]
    )
    value = chance.choice([one for one in NETWORK_VALUES if name == "hidden_size" or one not in ("None", "0", "[]")])
    right = (name, value) in (("num_shared_layers", "-1"), ("num_shared_layers", "True"))
    words += ["--nn-base", "FlexBase", "--nn-base-kwargs", f"{name}={value}"]
    return "main.py", words, ANY if right else REFUSED, right


def places(chance: random.Random) -> Case:
    """A destination that cannot be written."""
    place = chance.choice(PLACES)
    program, words = chance.choice(
        [
            ("main.py", [*SMALL, "--algo", "a2c", "--log-dir"]),
            ("main.py", [*SMALL, "--algo", "a2c", "--save-dir"]),
            ("main.py", [*SMALL, "--algo", "a2c", "--save-name"]),
            ("evaluate.py", ["--load-dir", "run", "--num-episodes", "1", "--json"]),
            ("evaluate.py", ["--load-dir", "run", "--num-episodes", "1", "--record"]),
            ("evaluate.py", ["--load-dir", "run", "--num-episodes", "1", "--video"]),
            ("enjoy.py", ["--load-dir", "run", "--video"]),
            ("record.py", ["--checkpoint", "run", "--num-trajectories", "1", "--out"]),
        ]
    )
    below = ("run/config.json/x", "dangling/x", "loop", "~nosuchuser/x")
    fine = (words[-1] == "--save-dir" and place == "") or (words[-1] == "--save-name" and place in below)
    return program, [*words[:-1], f"{words[-1]}={place}"], ANY if fine else REFUSED, fine


def evaluations(chance: random.Random) -> Case:
    """A bad flag of a program that plays a checkpoint."""
    flag, bad = chance.choice(
        [
            ("--action", ["99", "-1", "abc", "nan", "1e30", "[1,2]", "{}", "0.5", "[[0]]", "inf", "'0'"]),
            ("--num-episodes", [*NO_NUMBERS, *HUGE[:3], "0"]),
            ("--num-processes", [*NO_NUMBERS, *HUGE, "0"]),
            ("--seed", [*NO_NUMBERS, *HUGE, "-1", "4294967296"]),
            ("--evaluate-steps", [*NO_NUMBERS, *HUGE[:3], "0"]),
            ("--env-name", ["Acrobot-v1", "Pendulum-v1", "nowhere:X-v0", "CartPol-v1", "", "a b"]),
            ("--load-dir", ["nowhere", "run/config.json", "loop", "shown.npz", "/dev/null", "~nosuchuser"]),
            ("--record", ["x.txt", "run", "x"]),
            ("--video-episodes", ["-1", "x"]),
        ]
    )
    value = chance.choice(bad)
    codes = ANY if (flag, value) in (("--env-name", ""), ("--action", "[1,2]")) else REFUSED
    return "evaluate.py", ["--load-dir=run", "--num-episodes=2", "--num-processes=2", f"{flag}={value}"], codes, False


def queues(chance: random.Random) -> Case:
    """Something that cannot be queued, or no queue."""
    command = chance.choice(["add", "run", "status"])
    if command != "add":
        words = chance.choice(
            [["nowhere"], ["shown.npz"], ["loop"], ["~nosuchuser"], ["queue", "--slots=0"], ["queue", "x"]]
        )
        return "experiments.py", [command, *words], REFUSED, False
    flag = chance.choice(
        [
            "--lr=abc",
            "--vary=lr",
            "--vary=seed=1,x",
            "--vary=lrr=1",
            "--env-name=Nothing-v0",
            "--env-kwargs=nothing=1",
            "--nn-base-kwargs=hidden_size=x",
            "--save-dir=/outside",
            "--log-dir=here",
            "--vary=log_dir=a,b",
            "--gail",
            "--nn-base=math:pi",
            "--vary=algo=ppo,none",
            "--vary=env_name=CartPole-v1,Nothing-v0",
            "--num-steps=1e30",
        ]
    )
    return (
        "experiments.py",
        ["add", "new", "--algo", "dqn" if flag == "--gail" else "a2c", *SMALL, flag],
        REFUSED,
        False,
    )


def several(chance: random.Random) -> Case:
    """Flags that cannot work together, or a resumed run with others than its own."""
    words = chance.choice(
        [
            "--algo acktr --recurrent-policy",
            "--algo dqn --gail",
            "--algo ppo --num-mini-batch 1000",
            "--algo r2d1 --normalize-env",
            "--algo ppo --frame-stack 4",
            "--algo a2c --time-feature --vec-env native",
            "--algo a2c --hide-observations 7",
            "--algo a2c --hide-observations 0 1 2 3",
            "--algo c51 --v-min 5 --v-max 5",
            "--algo dqn --buffer-size 2",
            "--algo bc --demonstrations nowhere.npz",
            "--algo bc --num-trajectories 10000",
            "--algo a2c --clone-parameter-experiment nowhere",
            "--algo a2c --clone-args layers=[x] --clone-parameter-experiment run",
            "--algo a2c --resume nowhere",
            "--algo a2c --save-name ../x",
            "--algo a2c --env-kwargs nothing=1",
            "--algo ppo --preset nothing",
            "--algo a2c --env-kwargs x",
            "--algo a2c --aux-wrapper-kwargs nothing=1",
            "--algo dqn --env-name Pendulum-v1",
        ]
    ).split()
    return "main.py", [*SMALL, *QUIET, *words], REFUSED, False
