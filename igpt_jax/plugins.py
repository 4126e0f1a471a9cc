"""Python files of the user's own: experiments, and plugins that register objectives, sources and the like."""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path
from types import ModuleType

from igpt_jax.config import Config
from igpt_jax.config_json import from_json, to_json
from igpt_jax.errors import InputError, nearest


def load_module(path: str | Path, what: str = "plugin") -> ModuleType:
    """Runs a Python file. What it registers (in OBJECTIVES, EVALUATORS, ...) is there afterwards.

    Raises:
      InputError: no such file, or it fails; then the message names its line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what} {path}: no such file")
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
        raise InputError(f"{what} {path}{_describe(error, module.__file__)}") from error
    _loaded[key] = module
    return module


_loaded: dict[tuple[Path, int], ModuleType] = {}
"""By path and time of change: a file that is both an experiment and a plugin registers its parts once."""


def shipped_experiments() -> dict[str, Path]:
    """Name -> file of the experiments that come with igpt_jax: `digits`, ..., `paper/imagenet_s`, ..."""
    package = Path(__file__).parent
    for folder in (package / "experiments", package.parent / "experiments"):  # as installed; in a checkout
        if files := [*sorted(folder.glob("*.py")), *sorted(folder.glob("paper/*.py"))]:
            return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    return {}


def experiment_file(experiment: str | Path) -> Path:
    """The file of an experiment: a path, or the name of one of `shipped_experiments()`. A file of that name goes first.

    Raises:
      InputError: there is none.
    """
    path, shipped = Path(experiment), shipped_experiments()
    if path.is_file():
        return path
    if str(experiment) not in shipped:
        raise InputError(
            f"experiment {experiment}: no such file, and igpt_jax itself has "
            f"{', '.join(shipped)}{nearest(str(experiment), shipped)}"
        )
    return shipped[str(experiment)]


def load_config(experiment: str | Path, tiny: bool = False) -> Config:
    """The configuration that an experiment describes: a Python file with `config(tiny=False) -> Config`.

    Args:
      experiment: as for `experiment_file`.
      tiny: the small form of the run, which shows that it works.

    Raises:
      InputError: no such file or name, the file fails (the message names its line), or it has no `config`.
    """
    path = experiment_file(experiment)
    module = load_module(path, "experiment")
    if not callable(getattr(module, "config", None)):
        raise InputError(f"experiment {path}: has no function config(tiny=False)")
    try:
        cfg = module.config(tiny=tiny)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"experiment {path}{_describe(error, module.__file__)}") from error
    if not isinstance(cfg, Config):
        raise InputError(f"experiment {path}: config() gave {type(cfg).__name__}, not igpt_jax.config.Config")
    return from_json(Config, to_json(cfg), "its configuration")  # so that every value has its type


def _describe(error: Exception, file: str | None) -> str:
    """`, line N: KIND: MESSAGE` on one line. N is where the deepest frame in `file` stands."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    message = str(error)
    if isinstance(error, SyntaxError) and error.filename == file:  # no frame is in a file that cannot be parsed
        lines, message = [error.lineno], error.msg
    where = f", line {lines[-1]}" if lines else ""
    return f"{where}: {type(error).__name__}: {' '.join(message.split())}"
