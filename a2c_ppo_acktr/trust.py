"""Whom a file's code is taken from: a checkpoint names modules, and importing one runs it.

`algo`, `nn_base` and `env_name` of a run may be `module:attribute`, and so may what an environment is made with. They
are imported where the command line names them too, or trusts the file as a whole (`--trust`); else one line says what
the file wants. So a checkpoint from a stranger runs nothing that was not asked for.
"""

import argparse
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2c_ppo_acktr.flags import KeyValues, Parser, read_value
from a2c_ppo_acktr.utils import UsageError

Trust = bool | Collection[str]
"""All modules that a file names, none, or those of these names (`module:attribute`)."""
HELP = "import the modules that a checkpoint names, though the command line does not: they run"


def add_flags(parser: Any, *, plays: bool = False) -> None:
    """`--trust`; for programs that play a checkpoint, which choose no learner, also how to repeat what it names."""
    parser.add_argument("--trust", action="store_true", default=argparse.SUPPRESS, help=HELP)
    if plays:
        parser.add_argument("--algo", metavar="module:Class", help="import this, which the checkpoint names")
        parser.add_argument("--nn-base", metavar="module:Class", help="import this, which the checkpoint names")


def add_naming_flags(parser: Any) -> None:
    """The flags of main.py by which modules are named."""
    for name in ("--algo", "--nn-base", "--env-name"):
        parser.add_argument(name)
    parser.add_argument("--env-kwargs", nargs="+", action=KeyValues)


def given(args: argparse.Namespace) -> Trust:
    """What the flags of `add_flags` say."""
    repeated = (getattr(args, name, None) for name in ("algo", "nn_base", "env_name"))
    return getattr(args, "trust", False) or [name for name in repeated if name]


def demand(settings: Mapping[str, Any], source: str | Path, trust: Trust, replaced: Collection[str] = ()) -> None:
    """Let nothing be imported that only a file asks for.

    Args:
        settings: of the file.
        source: the file.
        trust: what may be imported.
        replaced: names of settings that the command line has others for.

    Raises:
        UsageError: the file names a module that nobody else has named.
    """
    for name, text, module in _named(settings):
        if name in replaced or (not isinstance(trust, bool) and module in trust):
            continue
        if trust is not True:
            raise UsageError(
                f"{source} names the module {module}, which importing would run: repeat {shlex.join(text)} if you "
                f"trust it, or give --trust"
            )
        print(f"importing {module!a}, since --trust is given", file=sys.stderr)


def repeat(settings: Mapping[str, Any]) -> list[str]:
    """The words on a command line that name the modules of settings anew, so that they are imported."""
    return [word for _, text, _ in _named(settings) for word in text]


def repeat_flags(argv: Sequence[str]) -> list[str]:
    """The same from the flags that a run was started with."""
    parser = Parser(add_help=False)
    add_naming_flags(parser)
    return repeat(vars(parser.parse_known_args(argv)[0]))


def _named(settings: Mapping[str, Any]) -> Iterator[tuple[str, list[str], str]]:
    """Settings that name modules: the setting, its words on a command line, and the module."""
    config = settings.get("config")
    own = {**settings, **config} if isinstance(config, Mapping) else settings
    for name in ("algo", "nn_base", "env_name"):
        value = own.get(name)
        if isinstance(value, str) and ":" in value:
            yield name, [f"--{name.replace('_', '-')}", value], value
    kwargs = own.get("env_kwargs")
    kwargs = kwargs if isinstance(kwargs, Mapping) else {}
    for key, value in kwargs.items():
        if isinstance(value, str) and ":" in value:  # such as of an environment that makes another
            words = (f"{k}={v}" if read_value(str(v)) == v else f"{k}={v!r}" for k, v in kwargs.items())
            yield "env_kwargs", ["--env-kwargs", *words], f"{key}={value}"
