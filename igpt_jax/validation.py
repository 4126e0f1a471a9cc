"""What the user gave, checked: the one exception for it, and what configurations need to check themselves."""

from __future__ import annotations

import difflib
import typing
from typing import Any, Literal


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line: what it is, and the way out.

    The command line prints it without a traceback and exits with code 2.
    """


def require(ok: bool, key: str, message: str) -> None:
    """Raises InputError that names a key of the configuration."""
    if not ok:
        raise InputError(f"{key}: {message}")


def check_choices(cfg: Any, prefix: str) -> None:
    """Type checkers see a wrong Literal; this is for all who run none."""
    for name, hint in typing.get_type_hints(type(cfg)).items():
        if typing.get_origin(hint) is Literal:
            value, choices = getattr(cfg, name), typing.get_args(hint)
            require(value in choices, prefix + name, f"{value!r} is none of {', '.join(map(str, choices))}")


def first_line(error: BaseException, limit: int | None = None) -> str:
    """The first line of an exception's message, cut to `limit` characters; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:limit]


def nearest(word: str, choices: Any) -> str:
    """The end of a complaint: '; did you mean ...?', or nothing where no choice comes near."""
    close = difflib.get_close_matches(word, sorted(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
