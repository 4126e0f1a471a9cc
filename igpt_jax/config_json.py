"""Configurations as JSON, and what two of them have in common: how a workdir knows its own run again."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeVar

import dacite

from igpt_jax.config import Config, InputError, nearest

T = TypeVar("T")

# A workdir is resumed only by a configuration that gives the same run. These keys do not change what is computed
# (beyond rounding), or may be changed on purpose half-way.
FREE_ON_RESUME = frozenset(
    {
        *("name", "data.workers", "model.dtype", "model.attention", "model.remat", "model.scan_layers"),
        *("mesh.data", "mesh.fsdp", "mesh.tensor", "sampler.temperature", "sampler.top_k", "sampler.top_p"),
        *("train.steps", "train.microbatches", "train.log_every", "train.eval_every", "train.checkpoint_every"),
        *("train.keep", "train.sample_every", "train.eval_batch_size", "train.eval_images", "train.watchdog_s"),
    }
)


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
    """Keys whose values differ and that decide what a run computes, with (old, new)."""
    a, b = flatten(old), flatten(new)
    return {key: (a[key], b[key]) for key in a if a[key] != b[key] and key not in FREE_ON_RESUME}


def to_json(cfg: Any) -> str:
    """A configuration as indented JSON."""
    return json.dumps(dataclasses.asdict(cfg), indent=2) + "\n"


def from_json(cls: type[T], text: str, origin: str = "config") -> T:
    """The inverse of `to_json`.

    Raises:
      InputError: the text is not JSON, or has a key or a value that `cls` does not; the message names it.
    """
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
