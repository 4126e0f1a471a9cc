"""From words to a command object: tyro parses, and every mistake becomes one InputError line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from igpt_jax.errors import InputError

T = TypeVar("T")


def parse(command: type[T], name: str, words: Sequence[str], default: T | None = None, checked: bool = True) -> T:
    """The object of the dataclass `command` that `words` describe. SystemExit after help has been printed.

    Args:
      name: of the command, for help and messages.
      default: values of the options that are not in `words`.
      checked: False leaves sections of the configuration as dicts, which check nothing. An option may make sense only
        with the values of the experiment file, which has to be named first.
    """
    options: dict[str, Any] = {} if default is None else {"default": default}
    rules = [] if checked else [_as_dict]
    if rules:
        options["registry"] = registry = tyro.constructors.ConstructorRegistry()
        registry.struct_rule(lambda info: next((rule(info) for rule in rules), None))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(command, args=list(words), prog=f"igpt {name}", **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        reason = _reason(stop, printed.getvalue(), words)
        raise InputError(f"{reason}; igpt {name} --help lists all options") from None
    finally:
        rules.clear()  # under python -O, tyro 1.0.17 keeps a registry for the calls that follow


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


def _reason(error: BaseException, box: str, words: Sequence[str]) -> str:
    """The InputError that tyro has caught, or else the first paragraph of its box and the option that it proposes."""
    cause = error.__context__
    while cause is not None:
        if isinstance(cause, InputError):
            return str(cause)
        cause = cause.__context__
    _, reason, *more = (" ".join(part.replace("│", " ").split()) for part in re.split(r".*[-─]{8,}.*", box))
    near = re.match(r"Perhaps you meant: (?:-\w, )?(--[\w.-]+)", more[0] if more else "")
    reason = reason.partition(" Got errors:")[0].removeprefix("Error parsing ").rstrip(".")
    for flag, word in itertools.pairwise(words):
        if flag.startswith("-") and reason == f"Unrecognized options: {word}":
            return f"{reason}, after {flag}, which takes no value"
    return reason + (f"; did you mean {near[1]!r}?" if near else "")
