"""Dataclass fields as command-line flags, and how their values are read."""

import argparse
import ast
import contextlib
import dataclasses
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from a2c_ppo_acktr.utils import UsageError

LARGEST_INT, LARGEST_FLOAT = 10**15, 1e9
"""Bounds where a flag has none of its own: integers that floats tell apart, numbers whose products float32 holds."""
WIDEST, LONGEST = 16_384, 10_000_000
"""Bounds of sizes that memory is taken for: units of a layer, and steps, rows or the like."""
LARGEST_SEED = 2**32 - 1
TYPES = {bool: "True or False", int: "an integer", float: "a number", str: "a text"}


def flag(default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: Any = None) -> Any:
    """A dataclass field that becomes a command-line flag.

    Args:
        default: of the type that the field is annotated with: bool, int, float, str, a list of these, a dictionary by
            names, or None.
        help: one line.
        low: the least value (inclusive), as of every element of a list.
        high: the largest; infinity is a value only where it is this bound or the default.
        choices: the values that there are.
    """
    if high is None and default == math.inf:
        high = math.inf
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Parser(argparse.ArgumentParser):
    """No abbreviations; an error is one line and exit code 2."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, of words that can be written to files."""
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            if not _is_text(word):
                raise UsageError(f"{word}: expected text in {sys.getfilesystemencoding()}, without null characters")
            if word.startswith("--") and word.endswith("=--"):
                raise UsageError(f"{word}: expected a value")  # argparse takes it for none, and fails
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise what `main` prints."""
        raise UsageError(message)


def _is_text(word: str) -> bool:
    """Whether it has no null character and no byte that is of no character."""
    return "\0" not in word and not any("\ud800" <= letter <= "\udfff" for letter in word)


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


def check_flags(config: type) -> None:
    """Whether a dataclass of a user's own can become flags.

    Raises:
        UsageError: it says why not.
    """
    if vars(config).get("__annotations__") and "__dataclass_fields__" not in vars(config):
        raise UsageError(f"{config.__name__} has fields and is no dataclass: put @dataclass above it")
    try:
        known = list(leaves(config))
    except (NameError, TypeError, AttributeError) as error:  # an annotation that names nothing
        raise UsageError(f"{config.__name__}: {error}") from error
    for field, kind in known:
        if field.default is field.default_factory is dataclasses.MISSING:
            raise UsageError(f"{config.__name__}.{field.name} has no default: make it with flag(default, help)")
        base = _without_none(kind)
        parts = typing.get_args(base) if typing.get_origin(base) is list else (base,)
        if field.metadata and not (typing.get_origin(base) is dict or all(part in TYPES for part in parts)):
            names = ", ".join(one.__name__ for one in TYPES)
            raise UsageError(f"{config.__name__}.{field.name} is a {kind}: a flag is one of {names}, list[...], dict")


def fill(config: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass, and those within it, from one flat dictionary; what none of them knows is dropped.

    Raises:
        UsageError: a value is not one that its flag could have.
    """
    own, kinds = {}, _kinds(config)
    for field in dataclasses.fields(config):
        name, kind = field.name, kinds[field.name]
        if _is_config(kind):
            own[name] = fill(kind, values)
        elif name in values:
            own[name] = values[name]
            if field.metadata and (wrong := _misfit(kind, field.metadata, values[name])):
                raise UsageError(f"--{name.replace('_', '-')} {values[name]!r}: {wrong}")
    return config(**own)


def _misfit(kind: Any, meta: Mapping[str, Any], value: Any) -> str | None:
    """What a flag of type `kind` would accept instead of `value`; None where it is right."""
    base, origin = _without_none(kind), typing.get_origin(_without_none(kind))
    if value is None and base is not kind:
        return None
    if origin is list:
        (element,) = typing.get_args(base)
        if not isinstance(value, list | tuple):
            return "expected a list"
        return next(filter(None, (_misfit(element, meta, one) for one in value)), None)
    if origin is dict:
        fits = isinstance(value, dict) and all(isinstance(key, str) and _is_text(key) for key in value)
        return None if fits else "expected a dictionary by names"
    accepted = {float: (int, float), int: (int,), bool: (bool,), str: (str,)}.get(base, (object,))
    if not isinstance(value, accepted) or (isinstance(value, bool) and base in (int, float)):
        return f"expected {TYPES[base]}"
    if isinstance(value, str) and not _is_text(value):
        return "expected text without null characters"
    if meta["choices"] and value not in meta["choices"]:
        return f"choose from {', '.join(map(str, meta['choices']))}"
    return _out_of_bounds(base, meta, value) if base in (int, float) else None


def _out_of_bounds(kind: type, meta: Mapping[str, Any], value: Any) -> str | None:
    low, high, most = meta["low"], meta["high"], LARGEST_INT if kind is int else LARGEST_FLOAT
    least, most = -most if low is None else low, most if high is None else high
    if least <= value <= most:
        return None
    if kind is float and low is not None and high is not None:
        return f"expected between {low} and {high}"
    if value < least or value > most:
        return f"expected at least {least}" if value < least else f"expected at most {most}"
    return "expected a number"


def flatten(config: Any) -> dict[str, Any]:
    """Inverse of `fill`: plain values, those of the dataclasses within it among its own."""
    plain = dataclasses.asdict(config)
    for name, kind in _kinds(type(config)).items():
        if _is_config(kind):
            plain |= plain.pop(name)
    return plain


def add_flags(
    group: Any,
    config: type,
    defaults: dict[str, Any],
    only: set[str] | None = None,
    texts: Mapping[str, str] | None = None,
) -> None:
    """One flag per field of a dataclass and of those within it; `texts` by name end what --help says of them."""
    for field, kind in leaves(config):
        if not field.metadata or (only is not None and field.name not in only):
            continue
        name, meta = f"--{field.name.replace('_', '-')}", field.metadata
        own = field.default_factory() if callable(field.default_factory) else field.default
        default = defaults.get(field.name, own)
        shown = "" if default is None or isinstance(default, dict) else default
        text = meta["help"] + (texts or {}).get(field.name, "")
        text += f" (default: {shown})" if shown != "" and "(default:" not in text else ""
        text = text.replace("%", "%%")
        if _without_none(kind) is bool:
            switch = default is False and own is False  # else there is something to switch off
            action = "store_true" if switch else argparse.BooleanOptionalAction
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
            metavar = "{" + ",".join(map(str, meta["choices"])) + "}" if meta["choices"] else base.__name__.upper()
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
            raise UsageError(f"{name} {text}: expected {TYPES[kind]}") from error
        if wrong := _misfit(kind, meta, value):
            raise UsageError(f"{name} {text}: {wrong}")
        return value

    return read


def bounded_int(name: str, low: int, high: int | None = None) -> Any:
    """What argparse calls on the text of an integer flag that has bounds."""
    return _reader(name, int, {"low": low, "high": high, "choices": None})


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


WORDS = {"true": True, "false": False, "none": None, "inf": math.inf, "-inf": -math.inf, "nan": math.nan}
"""Values that are no Python literals, or not in every case."""


def read_value(text: str) -> Any:
    """A Python literal, true, false and none in any case, else the text itself; in a flat list, words need no quotes.

    What only looks like a number, such as 007 or 1_0, is text: a name.
    """
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        value = ast.literal_eval(text)
        return text if isinstance(value, int | float) and "_" in text else value
    if text.startswith("[") and text.endswith("]"):
        return [read_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    return text.strip("'\"")
