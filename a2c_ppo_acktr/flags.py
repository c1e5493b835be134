"""Dataclass fields as command-line flags, and how their values are read."""

import argparse
import ast
import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from a2c_ppo_acktr.utils import UsageError

ConfigT = TypeVar("ConfigT")


def flag(default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: Any = None) -> Any:
    """A dataclass field that becomes a command-line flag; `low` and `high` bound its value (inclusive)."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Parser(argparse.ArgumentParser):
    """No abbreviations; an error is one line and exit code 2."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise what `main` prints."""
        raise UsageError(message)


def _kinds(config: type) -> dict[str, Any]:
    """The fields of a dataclass and their types."""
    hints = typing.get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}


def _is_config(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)


def leaves(config: type) -> Iterator[tuple[dataclasses.Field, Any]]:
    """The fields of a dataclass and of those within it, each with its type; what has metadata is a flag."""
    kinds = _kinds(config)
    for field in dataclasses.fields(config):
        if _is_config(kinds[field.name]):
            yield from leaves(kinds[field.name])
        else:
            yield field, kinds[field.name]


def fill(config: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """A dataclass, and those within it, from one flat dictionary; what none of them knows is dropped."""
    own = {}
    for name, kind in _kinds(config).items():
        if _is_config(kind):
            own[name] = fill(kind, values)
        elif name in values:
            own[name] = values[name]
    return config(**own)


def flatten(config: Any) -> dict[str, Any]:
    """Inverse of `fill`: plain values, those of the dataclasses within it among its own."""
    plain = dataclasses.asdict(config)
    for name, kind in _kinds(type(config)).items():
        if _is_config(kind):
            plain |= plain.pop(name)
    return plain


def add_flags(group: Any, config: type, defaults: dict[str, Any], only: set[str] | None = None) -> None:
    """One flag per field of a dataclass and of those within it."""
    for field, kind in leaves(config):
        if not field.metadata or (only is not None and field.name not in only):
            continue
        name, meta = f"--{field.name.replace('_', '-')}", field.metadata
        own = field.default_factory() if callable(field.default_factory) else field.default
        default = defaults.get(field.name, own)
        shown = "" if default is None or isinstance(default, dict) else default
        text = meta["help"] + (f" (default: {shown})" if shown != "" and "(default:" not in meta["help"] else "")
        text = text.replace("%", "%%")
        if _without_none(kind) is bool:
            action = "store_true" if default is False else argparse.BooleanOptionalAction
            group.add_argument(name, action=action, help=text)
        elif field.name == "resume":
            group.add_argument(name, "--cont", nargs="?", const="", metavar="RUN", help=text)
        elif typing.get_origin(kind) is dict:
            group.add_argument(name, nargs="+", action=KeyValues, metavar="K=V", help=text)
        elif typing.get_origin(_without_none(kind)) is list:
            (element,) = typing.get_args(_without_none(kind))
            group.add_argument(name, nargs="+", type=_reader(name, element, meta), metavar="N", help=text)
        else:
            base = _without_none(kind)
            metavar = "{" + ",".join(meta["choices"]) + "}" if meta["choices"] else base.__name__.upper()
            group.add_argument(name, type=_reader(name, base, meta), metavar=metavar, help=text)


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _reader(name: str, kind: type, meta: Any) -> Any:
    """What argparse calls on the text of a flag: reads, checks bounds and choices."""

    def read(text: str) -> Any:
        try:
            value = parse_int(text) if kind is int else kind(text)
        except ValueError as error:
            raise UsageError(f"{name} {text}: expected {'an integer' if kind is int else 'a number'}") from error
        low, high, choices = meta["low"], meta["high"], meta["choices"]
        if choices and value not in choices:
            raise UsageError(f"{name} {text}: choose from {', '.join(choices)}")
        if value != value or (low is not None and value < low) or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UsageError(f"{name} {text}: expected {bounds if low is not None else 'a number'}")
        return value

    return read


def bounded_int(name: str, low: int) -> Any:
    """What argparse calls on the text of an integer flag that has a lower bound."""
    return _reader(name, int, {"low": low, "high": None, "choices": None})


def parse_int(text: str) -> int:
    """An integer, also as 1e6 or 10_000."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise ValueError(text) from None
        return int(number)


class KeyValues(argparse.Action):
    """`k=v k=v` into a dictionary of numbers, True, False, None, lists, tuples and strings."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Store the dictionary."""
        pairs = {}
        for pair in values:
            key, equals, value = pair.partition("=")
            if not equals or not key.isidentifier():
                raise UsageError(f"{option_string} {pair}: expected name=value")
            pairs[key] = read_value(value)
        setattr(namespace, self.dest, pairs)


WORDS: dict[str, Any] = {"true": True, "false": False, "inf": math.inf, "-inf": -math.inf, "nan": math.nan}
"""Values that are no literals of Python."""


def read_value(text: str) -> Any:
    """A Python literal, else the text itself, such as 001 and 1_0; in a flat list, words need no quotes."""
    if text in WORDS:
        return WORDS[text]
    with contextlib.suppress(ValueError, SyntaxError):
        value = ast.literal_eval(text)
        return text if isinstance(value, int | float) and "_" in text else value
    if text.startswith("[") and text.endswith("]"):
        return [read_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    return text.strip("'\"")
