"""Python files of the user's own: experiments, and plugins that register objectives, sources and the like."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from igpt_jax.config import Config
from igpt_jax.config_json import from_json, to_json
from igpt_jax.errors import InputError


def load_module(path: str | Path, what: str = "plugin") -> ModuleType:
    """Runs a Python file. What it registers (in OBJECTIVES, EVALUATORS, ...) is there afterwards.

    Raises:
      InputError: no such file, or it fails.
    """
    path = Path(path)
    if not path.is_file():
        hint = "; it comes before its overrides, and experiments/ has some" if what == "experiment" else ""
        raise InputError(f"{what} {path}: no such file{hint}")
    key = (path.resolve(), path.stat().st_mtime_ns)
    if key in _loaded:
        return _loaded[key]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{what} {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} {path}: {type(error).__name__}: {error}") from error
    _loaded[key] = module
    return module


_loaded: dict[tuple[Path, int], ModuleType] = {}
"""By path and time of change: a file that is both an experiment and a plugin registers its parts once."""


def load_config(path: str | Path, tiny: bool = False) -> Config:
    """The configuration that an experiment file describes: a Python file with `config(tiny=False) -> Config`.

    Raises:
      InputError: no such file, it fails, or it has no `config`.
    """
    module = load_module(path, "experiment")
    try:
        cfg = module.config(tiny=tiny)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"experiment {path}: {type(error).__name__}: {error}") from error
    if not isinstance(cfg, Config):
        raise InputError(f"experiment {path}: config() gave {type(cfg).__name__}, not igpt_jax.config.Config")
    return from_json(Config, to_json(cfg), "its configuration")  # so that every value has its type
