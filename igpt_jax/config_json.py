"""Configurations as JSON, and how two of them differ: how a workdir recognises its own run."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, TypeVar

import dacite

from igpt_jax.config import Config
from igpt_jax.errors import InputError, nearest

T = TypeVar("T")

FIXED = ("seed", "objective", "class_dropout", "init_from", "init_grid", "model", "data", "palette", "orders", "optim")
"""The sections that decide what a run computes. A workdir is continued only with the same values in them."""
FREE = ("data.max_unreadable",)
"""Keys of these sections that decide nothing but when a run stops."""


def flatten(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """{'optim.lr': 0.003, ...} for a dataclass instance."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(cfg):
        value = getattr(cfg, f.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = value
    return flat


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Keys whose values may not differ, but do, with (old, new)."""
    a, b = flatten(old), flatten(new)
    fixed = (key for key in a if key.partition(".")[0] in FIXED and key not in FREE)
    return {key: (a[key], b[key]) for key in fixed if a[key] != b[key]}


def json_text(value: Any, indent: int | None = 2) -> str:
    """A line or an indented text of JSON. Numbers that are not finite, which JSON has not, are null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(cfg: Any) -> str:
    """A configuration as indented JSON."""
    return json_text(dataclasses.asdict(cfg))


def from_json(cls: type[T], text: str, origin: str = "config") -> T:
    """The inverse of `to_json`; InputError names a key or a value that `cls` does not have."""
    as_float = {float: lambda v: float(v) if type(v) is int else v}
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise InputError(f"{origin}: holds {type(values).__name__}, not an object of settings")
        return dacite.from_dict(cls, values, dacite.Config(strict=True, cast=[tuple], type_hooks=as_float))
    except dacite.UnexpectedDataError as error:
        key = sorted(error.keys)[0]
        names = {name.rsplit(".", 1)[-1] for name in flatten(cls())}
        raise InputError(f"{origin}: unknown key {key!r}" + nearest(key, names)) from None
    except (json.JSONDecodeError, dacite.DaciteError) as error:
        raise InputError(f"{origin}: {error}") from None
