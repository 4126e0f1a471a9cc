"""From words to a command object: tyro parses, and every mistake becomes one InputError line."""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro import _errors as tyro_errors  # setup.py says which versions have it

from igpt_jax.errors import InputError, nearest

T = TypeVar("T")


def parse(command: type[T], name: str, args: Sequence[str], default: T | None = None, checked: bool = True) -> T:
    """The command object that `args` describe.

    Args:
      command: a dataclass.
      name: of the command, for help and messages.
      default: values of the options that are not in `args`.
      checked: False leaves sections of the configuration as dicts, which check nothing. An option may make sense only
        with the values of the experiment file, which has to be named first.

    Raises:
      InputError: a mistake in `args`.
      SystemExit: help was asked for, and has been printed.
    """

    def refuse(event: tyro_errors.ParseErrorEvent) -> None:
        raise InputError(f"{_explain(event, command, args)}; igpt {name} --help lists all options")

    options: dict[str, Any] = {} if default is None else {"default": default}
    registry = _optional_numbers_and_words()
    if not checked:
        registry.struct_rule(_as_dict)
    with tyro_errors.on_parse_error(refuse):
        return tyro.cli(command, args=list(args), prog=f"igpt {name}", registry=registry, **options)


class _Registry(tyro.constructors.ConstructorRegistry):
    """Rules that hold for one parse. tyro 1.0.17 takes them back within an assert, which `python -O` leaves out."""

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        active = type(self)._active_registries
        if active and active[-1] is self:
            active.pop()


def _optional_numbers_and_words() -> tyro.constructors.ConstructorRegistry:
    """`int | None` and the like are shown, read and complained about as `int`; the word None is None."""
    registry = _Registry()

    @registry.primitive_rule
    def optional(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        kinds = set(typing.get_args(info.type))
        if len(kinds) != 2 or type(None) not in kinds or not kinds <= {type(None), int, float, str, Path}:
            return None
        (kind,) = kinds - {type(None)}
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar=kind.__name__.upper(),
            instance_from_str=lambda words: None if words[0] == "None" else kind(words[0]),
            is_instance=lambda value: value is None or isinstance(value, (int, float) if kind is float else kind),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _as_dict(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    """A rule that makes sections of the configuration dicts."""
    if not (dataclasses.is_dataclass(info.type) and info.type.__module__ == "igpt_jax.config"):
        return None
    default: Any = info.default if dataclasses.is_dataclass(info.default) else info.type()
    hints = typing.get_type_hints(info.type, include_extras=True)
    fields = [
        tyro.constructors.StructFieldSpec(field.name, hints[field.name], getattr(default, field.name), helptext="")
        for field in dataclasses.fields(info.type)
    ]
    return tyro.constructors.StructConstructorSpec(instantiate=dict, fields=tuple(fields))


def _explain(event: tyro_errors.ParseErrorEvent, command: type, args: Sequence[str]) -> str:
    match event:
        case tyro_errors.UnrecognizedArgs(tokens=tokens):
            return _unknown(tokens[0], command, args)
        case tyro_errors.MissingArgs(missing_arguments=missing):
            return f"{', '.join(argument.arg.display_name() for argument in missing)}: missing"
        case tyro_errors.BadValue(argument=argument):
            return f"{argument.display_name()}: needs {argument.lowered.nargs} value(s)"
        case tyro_errors.InvalidChoice(argument=argument, value=value, choices=choices):
            return f"{argument.display_name()}: {value!r} is none of {', '.join(sorted(set(choices) - {'None'}))}"
        case tyro_errors.InstantiationFailure(argument=argument, message=message):
            return str(message) if argument is None else f"{argument.display_name()}: {_plain(str(message))}"
    return f"not understood ({type(event).__name__})"


def _plain(message: str) -> str:
    """Complaints of Python about a number, and of tyro about an option of several types, in other words."""
    several = re.match(r"no type matching (.+) could be instantiated from \[(.+)\]", message)
    if several:
        kinds = [kind.strip("{}").replace("INT", "a whole number") for kind in several[1].split("|")]
        return f"{several[2]} is none of {', '.join(kind for kind in kinds if kind != 'None')}"
    value = message.rpartition(": ")[2]
    if message.startswith("invalid literal for int"):
        return f"{value} is not a whole number"
    return f"{value} is not a number" if message.startswith("could not convert string to float") else message


def _unknown(word: str, command: type, args: Sequence[str]) -> str:
    kinds = dict(_options(command))
    if word.startswith("-"):
        return f"no option {word.partition('=')[0]}{nearest(word.partition('=')[0], kinds)}"
    pairs = itertools.pairwise(args)
    before = next((option for option, value in pairs if value == word and kinds.get(option) is bool), None)
    if before is not None:
        no = ".".join([*before.split(".")[:-1], "no-" + before.split(".")[-1].removeprefix("--")])
        no = no if no.startswith("--") else f"--{no}"
        return f"{before} takes no value {word!r}; it is a flag, written {before} or {no}"
    return f"one argument too many: {word!r}"


def _options(command: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All options of a dataclass, as they are typed, with the types of their values."""
    for name, hint in typing.get_type_hints(command, include_extras=True).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        metadata = getattr(hint, "__metadata__", ())
        shown = next((m.name for m in metadata if getattr(m, "name", None) is not None), name)
        full = ".".join(part for part in (prefix, shown) if part)
        inner = hint.__origin__ if metadata else hint
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            yield from _options(inner, full)
        else:
            yield "--" + full.replace("_", "-"), hint if tyro.conf.FlagCreatePairsOff in metadata else inner
