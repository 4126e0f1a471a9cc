"""The one exception for bad input, and the checks that configurations make of themselves."""

from __future__ import annotations

import difflib
import typing
from typing import Any, Literal


class InputError(ValueError):
    """Something the user supplied cannot be used. The message is one line: what is wrong, and the way out.

    The command line prints it without a traceback and exits with code 2.
    """


def require(ok: bool, key: str, message: str) -> None:
    """Raises InputError that names a key of the configuration."""
    if not ok:
        raise InputError(f"{key}: {message}")


def check_fields(cfg: Any, prefix: str) -> None:
    """Checks a dataclass against its own annotations: the choices of a Literal, and the bounds of an Annotated.

    Bounds are those of annotated_types (Ge, Gt, Le, Lt, Interval). Only numbers are compared. Types are left to type
    checkers, and to `from_json`. Errors name a field with `prefix` before it.
    """
    for name, hint in typing.get_type_hints(type(cfg), include_extras=True).items():
        value = getattr(cfg, name)
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)
            require(value in choices, prefix + name, f"must be one of {', '.join(map(str, choices))}; got {value!r}")
        for bounds in getattr(hint, "__metadata__", ()) if isinstance(value, int | float) else ():
            for sign, ok, words in _COMPARISONS:
                limit = getattr(bounds, sign, None)
                require(limit is None or ok(value, limit), prefix + name, f"must be {words} {limit}, not {value}")


_COMPARISONS = (
    ("ge", lambda x, y: x >= y, "at least"),
    ("gt", lambda x, y: x > y, "above"),
    ("le", lambda x, y: x <= y, "at most"),
    ("lt", lambda x, y: x < y, "below"),
)


def first_line(error: BaseException, limit: int | None = None) -> str:
    """The first line of an exception's message, cut to `limit` characters; the name of its class if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:limit]


def nearest(word: str, choices: Any) -> str:
    """The end of an error message: '; did you mean ...?', or nothing if no choice is similar."""
    close = difflib.get_close_matches(word, sorted(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
