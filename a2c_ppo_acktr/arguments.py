"""The command line: run flags, and the flags of the chosen algorithm's Config."""

import argparse
import dataclasses
import difflib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a2c_ppo_acktr import algo
from a2c_ppo_acktr.algo import ALGORITHMS
from a2c_ppo_acktr.algo.gail import GAILConfig
from a2c_ppo_acktr.envs import EnvConfig
from a2c_ppo_acktr.envs.families import kind_of_observations
from a2c_ppo_acktr.experts.demonstrations import ImitationConfig
from a2c_ppo_acktr.flags import Parser, add_flags, fill, flag, flatten
from a2c_ppo_acktr.presets import PRESETS
from a2c_ppo_acktr.process import lacks_bfloat16
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.run.config import LogConfig
from a2c_ppo_acktr.utils import UsageError

UPSTREAM_PPO_FLAGS = ("ppo_epoch", "num_mini_batch", "clip_param")
"""Upstream parses these for every algorithm: accepted with one line where they have no effect."""
RETURNS_SPELLINGS = {"returns": None, "use_gae": False}
"""Two flags for one setting, which beat each other's values in a preset and in a resumed run."""
GAMMA = 0.99
"""Upstream's discount, for algorithms without one of their own."""


@dataclasses.dataclass
class RunConfig:
    """Flags that do not depend on the algorithm; all of them, nested ones too, have names of their own."""

    algo: str = flag("a2c", f"{', '.join(ALGORITHMS)}, or module:Class of your own from the working directory")
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    num_env_steps: int = flag(10_000_000, "environment steps to train for, such as 1e6", low=1)
    num_processes: int = flag(16, "environments", low=1)
    num_steps: int = flag(5, "steps in each environment per update", low=0)
    seed: int = flag(1, "of everything; environment i gets seed + i", low=0)
    preset: str | None = flag(None, "published settings by name; flags given beside it win (see presets.py)")

    clone_parameter_experiment: str | None = flag(None, "start from layers of this run folder or checkpoint")
    clone_args: dict[str, Any] = flag(
        {}, "what is cloned: layers=[base.gru,base.shared] (default: base) freeze=True normalizer=False (see clone.py)"
    )

    log: LogConfig = dataclasses.field(default_factory=LogConfig)

    cuda: bool = flag(True, "use the GPU where there is one")
    cuda_deterministic: bool = flag(False, "forbid nondeterministic kernels")
    torch_threads: int | None = flag(None, "CPU threads (default: 1 for vectors, all cores for images)", low=1)

    gail: bool = flag(False, "imitate demonstrations: a discriminator's reward in place of the environment's")

    config: Any = None
    """The algorithm's own Config."""
    gail_config: Any = None
    """A `GAILConfig`, with or without --gail."""

    @property
    def imitation(self) -> ImitationConfig | None:
        """What says which demonstrations to learn from, if any."""
        config = self.gail_config if self.gail else self.config
        return config if isinstance(config, ImitationConfig) else None

    @property
    def gamma(self) -> float:
        """The discount by which the environments scale rewards: the algorithm's, if it has one."""
        return vars(self.config).get("gamma", GAMMA)


def parse(argv: Sequence[str] | None = None) -> RunConfig:
    """The settings of a run.

    Precedence: the flags given, the preset, the resumed run's settings, the algorithm's defaults, upstream's.

    Raises:
        UsageError: with one line for the user.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    first = _first_pass(argv)
    stored: dict[str, Any] = {}
    if "resume" in first:
        wanted = {"env_name": EnvConfig.env_name, "algo": RunConfig.algo, "seed": str(RunConfig.seed)} | vars(first)
        first.resume = str(checkpoint.find_resumable(first.resume, wanted))
        stored = {**checkpoint.load(first.resume)["settings"], "log_dir": None}  # it lies where it lies now
    name = getattr(first, "algo", stored.get("algo", RunConfig.algo))
    algorithm = algo.find(name)

    given: dict[str, Any] = {}
    parser = make_parser(name)
    if "preset" in first:
        presets = PRESETS.get(name, {})
        if first.preset not in presets:
            raise UsageError(f"--preset {first.preset}: {name} has {', '.join(presets) or 'none'}")
        given |= vars(_parse_strictly(parser, presets[first.preset].split()))
    explicit = vars(_parse_strictly(parser, argv))
    given |= RETURNS_SPELLINGS | explicit if RETURNS_SPELLINGS.keys() & explicit.keys() else explicit

    defaults = algorithm.run_defaults | _defaults_by_kind(algorithm, stored | given)
    run_values = defaults | stored | given | {"algo": name, "resume": getattr(first, "resume", None)}
    config: Any = fill(algorithm.Config, defaults | stored.get("config", {}) | given)
    gail_config = fill(GAILConfig, (stored.get("gail_config") or {}) | given)
    args = fill(RunConfig, {**run_values, "config": config, "gail_config": gail_config})
    _check(args, explicit)
    return args


def to_plain(args: RunConfig) -> dict[str, Any]:
    """The settings as one plain dictionary, for config.json and checkpoints; the Configs are dictionaries within it."""
    return flatten(args)


def from_plain(settings: dict[str, Any]) -> RunConfig:
    """Inverse of `to_plain`; settings that this version does not know are dropped."""
    config: Any = fill(algo.find(settings["algo"]).Config, settings["config"])
    gail_config = fill(GAILConfig, settings.get("gail_config") or {})
    return fill(RunConfig, {**settings, "config": config, "gail_config": gail_config})


def read_flags(algorithm: str, argv: Sequence[str]) -> dict[str, Any]:
    """The flags on a command line of one algorithm, by name and without defaults.

    Raises:
        UsageError: with one line for the user.
    """
    return vars(_parse_strictly(make_parser(algorithm), argv))


def flag_names(parser: argparse.ArgumentParser) -> list[str]:
    """Every spelling of every flag."""
    return [option for action in parser._actions for option in action.option_strings]


def make_parser(algorithm: str) -> Parser:
    """The full parser of one algorithm."""
    kind = algo.find(algorithm)
    parser = Parser(
        prog="main.py",
        description=f"Train {algorithm}.",
        epilog=" ".join(
            f"Defaults for {name} observations: {_as_flags(values)}." for name, values in kind.defaults_by_kind.items()
        ),
    )
    add_flags(parser.add_argument_group("run"), RunConfig, kind.run_defaults)
    add_flags(parser.add_argument_group(algorithm), kind.Config, {})
    if kind.takes_gail:
        add_flags(parser.add_argument_group("imitation with --gail"), GAILConfig, {})
    if kind.is_upstreams:
        ppo = ALGORITHMS["ppo"].Config
        missing = set(UPSTREAM_PPO_FLAGS) - {field.name for field in dataclasses.fields(kind.Config)}
        group = parser.add_argument_group("accepted for upstream's command lines, without effect")
        add_flags(group, ppo, {}, only=missing)
    return parser


def _defaults_by_kind(algorithm: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What the algorithm wants for the environment's kind of observation."""
    if not algorithm.defaults_by_kind:
        return {}
    kind = kind_of_observations(fill(EnvConfig, algorithm.run_defaults | values))
    return algorithm.defaults_by_kind.get(kind, {})


def _first_pass(argv: list[str]) -> argparse.Namespace:
    """What decides which flags there are."""
    parser = Parser(add_help=False)
    parser.add_argument("--algo")
    parser.add_argument("--env-name")
    parser.add_argument("--seed")
    parser.add_argument("--log-dir")
    parser.add_argument("--exp-name")
    parser.add_argument("--preset")
    parser.add_argument("--gail", action="store_true", default=argparse.SUPPRESS)
    parser.add_argument("--resume", "--cont", nargs="?", const="")
    return parser.parse_known_args(argv)[0]


def _parse_strictly(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        close = difflib.get_close_matches(unknown[0].split("=")[0], flag_names(parser), n=1)
        algorithm = parser.description.split()[-1].rstrip(".") if parser.description else ""
        raise UsageError(
            f"{unknown[0]}: unknown flag for {algorithm}" + (f"; did you mean {close[0]}?" if close else "")
        )
    return namespace


def _as_flags(values: dict[str, Any]) -> str:
    """A command line of settings; None, which no flag can say, is left out."""
    given = {name: value for name, value in values.items() if value is not None}
    words = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    return " ".join(f"--{name.replace('_', '-')} {' '.join(map(str, value))}" for name, value in words.items())


def _check(args: RunConfig, explicit: dict[str, Any]) -> None:
    """Refuse what cannot work; say in one line what has no effect."""
    for name in ("save_name", "save_subdir"):
        part = getattr(args.log, name)
        if part is not None and (not part or Path(part).is_absolute() or ".." in Path(part).parts):
            raise UsageError(f"--{name.replace('_', '-')} {part}: expected a name below --save-dir")
    kind = algo.find(args.algo)
    if args.gail and not kind.takes_gail:
        takers = [name for name, one in ALGORITHMS.items() if one.takes_gail]
        raise UsageError(f"--gail: goes around {', '.join(takers)}, not {args.algo}")
    if args.env.normalize_env and kind.reads_rewards:
        raise UsageError(f"--normalize-env: {args.algo} reads rewards, which an evaluation does not normalize")
    if args.log.track and importlib.util.find_spec("wandb") is None:
        raise UsageError("--track needs the wandb extra: pip install -e '.[wandb]'")
    args.config.check(args.num_steps, args.num_processes)
    reasons = _without_effect(args)
    warnings = [f"--{name.replace('_', '-')} {reasons[name]}" for name in explicit if name in reasons]
    if getattr(args.config, "bfloat16", False) and lacks_bfloat16():
        warnings.append("--bfloat16 is slower than float32 on this CPU, which has no instructions for it")
    if warnings:
        print(f"warning: {'; '.join(warnings)}", file=sys.stderr)


def _without_effect(args: RunConfig) -> dict[str, str]:
    """Flags that others switch off, with the reason."""
    kind = algo.find(args.algo)
    reasons = dict.fromkeys(UPSTREAM_PPO_FLAGS, f"has no effect on {args.algo}") if kind.is_upstreams else {}
    for field in dataclasses.fields(args.config):
        reasons.pop(field.name, None)
    if kind.takes_gail:
        names = [field.name for field in dataclasses.fields(GAILConfig)]
        reasons |= (
            args.gail_config.without_effect() if args.gail else dict.fromkeys(names, "has no effect without --gail")
        )
    if args.clone_parameter_experiment is None:
        reasons["clone_args"] = "has no effect without --clone-parameter-experiment"
    if not args.log.track:
        for_wandb = ("wandb_project_name", "wandb_entity", "upload_video")
        reasons |= dict.fromkeys(for_wandb, "has no effect without --track")
    if not args.log.capture_video:
        reasons["upload_video"] = "has no effect without --capture-video"
    return reasons | args.config.without_effect()
