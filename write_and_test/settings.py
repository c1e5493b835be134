"""Settings of experiments: their cross product, what they are on main.py's command line, names that say what varies."""

import contextlib
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from a2c_ppo_acktr import algo, arguments, flags
from a2c_ppo_acktr.envs import make_vec_envs
from a2c_ppo_acktr.run import checkpoint
from a2c_ppo_acktr.utils import UsageError

Settings = dict[str, Any]

LONGEST_NAME = 150
PLACED = ("log_dir", "resume", "cont")
"""Where a run goes and whether it continues is the queue's business."""
TAKE_LISTS = {field.name for field, kind in flags.leaves(arguments.RunConfig) if "list" in str(kind)}
QUEUE_DEFAULTS = {"torch_threads": 1}
"""Runs side by side would take one another's cores."""
IN_A_QUEUE = {"save_dir": ""}
"""They would overwrite one another's copy there, and a queue's files say nothing of places outside."""


def product(base: Mapping[str, Any], vary: Mapping[str, Iterable[Any]]) -> list[Settings]:
    """Every combination of the values in `vary`, on top of `base`; the last key varies fastest.

    `product(dict(algo="ppo", env_name="CartPole-v1"), dict(lr=[1e-3, 3e-4], seed=[1, 2, 3]))` are six settings. A key
    such as `env_kwargs.gravity` varies one entry of a dictionary.

    Raises:
        UsageError: something to vary is not a list of values.
    """
    values = {}
    for key, several in vary.items():
        if isinstance(several, str | Mapping) or not isinstance(several, Iterable) or not (listed := list(several)):
            raise UsageError(f"{key}: expected a list of values to vary, not {several!r}")
        values[key] = listed
    combinations = itertools.product(*values.values())
    return [_override(base, dict(zip(values, combination, strict=True))) for combination in combinations]


def _override(base: Mapping[str, Any], chosen: Mapping[str, Any]) -> Settings:
    settings = dict(base)
    for key, value in chosen.items():
        name, dot, entry = key.partition(".")
        settings[name] = {**settings.get(name, {}), entry: value} if dot else value
    return settings


def to_plain(settings: Mapping[str, Any]) -> Settings:
    """Settings as JSON keeps them: NumPy numbers become Python's, dashes underscores, and None is left out.

    Raises:
        UsageError: a value that no command line can say.
    """
    plain = {}
    for key, value in settings.items():
        try:
            plain[key.replace("-", "_")] = json.loads(json.dumps(value, default=lambda number: number.item()))
        except (TypeError, ValueError, AttributeError):
            raise UsageError(f"{key}: {value!r} is not a number, text, switch or dictionary of these") from None
    return {key: value for key, value in plain.items() if value is not None}


def to_flags(settings: Settings) -> list[str]:
    """Plain settings on main.py's command line."""
    known = set(arguments.flag_names(arguments.make_parser(str(settings.get("algo", arguments.RunConfig.algo)))))
    flags = []
    for key, value in settings.items():
        name = key.replace("_", "-")
        if value is True:
            flags.append(f"--{name}")
        elif value is False and f"--no-{name}" in known:
            flags.append(f"--no-{name}")
        elif isinstance(value, dict) and value:
            flags += [f"--{name}", *(f"{entry}={_entry_text(inner)}" for entry, inner in value.items())]
        elif isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not False and value != {}:
            flags.append(f"--{name}={value}")
    return flags


def _entry_text(value: Any) -> str:
    """A value of a dictionary as `flags.read_value` reads it back."""
    if isinstance(value, list | dict):
        return repr(value)
    text = str(value)
    return f"'{text}'" if isinstance(value, str) and flags.read_value(text) != value else text


def validate(settings: Settings) -> arguments.RunConfig:
    """What main.py will make of plain settings.

    Raises:
        UsageError: with one line that names the setting.
    """
    if placed := [key for key in PLACED if key in settings]:
        raise UsageError(f"{placed[0]}: the queue gives every experiment a run folder of its own")
    if settings.get("save_dir"):
        raise UsageError(f"save_dir: {settings['save_dir']}: a queue's checkpoints are in its run folders")
    for key, value in settings.items():
        if isinstance(value, list) and key not in TAKE_LISTS:
            raise UsageError(f"{key}: {value} is a list; `product` takes values to vary")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            args = arguments.parse(to_flags(settings))
    except SystemExit:
        raise UsageError("help: is not a setting") from None
    read = {**arguments.to_plain(args), **vars(args.config)}
    for key, value in settings.items():
        if isinstance(value, bool | dict) and read.get(key, value) != value:
            raise UsageError(f"{key}: {value} would be read as {read[key]}")
    return args


def prove(several: Iterable[arguments.RunConfig]) -> None:
    """Build what each would train with and in, once of each kind, so that what cannot work is not queued.

    Raises:
        UsageError: as of main.py.
    """
    proven = set()
    for args in several:
        kind = repr((args.algo, args.env, args.config, args.gail, args.gail_config))
        if kind in proven:
            continue
        proven.add(kind)
        with contextlib.closing(make_vec_envs(args.env, 1, args.seed, gamma=args.gamma)) as envs:
            algo.make(args.algo, args.config, envs.spaces, gail=args.gail_config if args.gail else None)


def names(several: Sequence[Settings], parsed: Sequence[arguments.RunConfig], prefix: str = "") -> list[str]:
    """`<prefix>__<env>__<algo>__<what varies among them>__seed=<seed>`, fit for a file."""
    flat = [_flatten(settings) for settings in several]
    keys = dict.fromkeys(key for one in flat for key in one if key not in ("env_name", "algo", "seed"))
    varying = [key for key in keys if len({json.dumps(one.get(key)) for one in flat}) > 1]
    found = []
    for one, args in zip(flat, parsed, strict=True):
        values = [f"{key}={one[key]}" for key in varying if key in one]
        parts = [prefix, checkpoint.file_name(args.env.env_name), args.algo, *values, f"seed={args.seed}"]
        name = re.sub(r"[^\w.=,+-]+", "-", "__".join(part for part in parts if part)).lstrip(".-")
        if len(name) > LONGEST_NAME:
            name = f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        found.append(name)
    return found


def _flatten(settings: Settings) -> Settings:
    flat: Settings = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{entry}": inner for entry, inner in value.items()}
        else:
            flat[key] = value
    return flat


def difference(one: Settings, other: Settings) -> str:
    """The settings in which two experiments differ."""
    one, other = _flatten(one), _flatten(other)
    return ", ".join(key for key in {**one, **other} if one.get(key) != other.get(key))
