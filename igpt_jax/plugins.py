"""Python files of the user's own: experiments, and plugins that register objectives, sources and the like."""

from __future__ import annotations

import contextlib
import importlib.util
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from igpt_jax.config import Config
from igpt_jax.config_json import from_json, to_json
from igpt_jax.errors import InputError, nearest


def load_module(path: str | Path, what: str = "plugin") -> ModuleType:
    """Runs a Python file, which may register parts (in OBJECTIVES, EVALUATORS, ...). An error in it names its line."""
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
    with _naming_lines(f"{what} {path}", module):
        spec.loader.exec_module(module)
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
    """The file of an experiment: a path, or else the name of one of `shipped_experiments()`."""
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
    """What `config(tiny=False)` of an experiment (see `experiment_file`) returns; `tiny` is its small form."""
    path = experiment_file(experiment)
    module = load_module(path, "experiment")
    if not callable(getattr(module, "config", None)):
        raise InputError(f"experiment {path}: has no function config(tiny=False)")
    with _naming_lines(f"experiment {path}", module):
        cfg = module.config(tiny=tiny)
    if not isinstance(cfg, Config):
        raise InputError(f"experiment {path}: config() gave {type(cfg).__name__}, not igpt_jax.config.Config")
    return from_json(Config, to_json(cfg), "its configuration")  # so that every value has its type


@contextlib.contextmanager
def _naming_lines(what: str, module: ModuleType) -> Iterator[None]:
    """Turns errors into InputError `WHAT, line N: KIND: MESSAGE`; N is where the module's deepest frame stands."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        file, message = module.__file__, str(error)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if isinstance(error, SyntaxError) and error.filename == file:  # no frame is in a file that cannot be parsed
            lines, message = [error.lineno], error.msg
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{what}{where}: {type(error).__name__}: {' '.join(message.split())}") from error
