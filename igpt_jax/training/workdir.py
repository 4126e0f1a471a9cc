"""The directory of a run: who may write there, and whether it holds the same run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from filelock import FileLock, Timeout
from jax.experimental.compilation_cache import compilation_cache

from igpt_jax.config import Config
from igpt_jax.config_json import differences, from_json, to_json
from igpt_jax.datasets import with_absolute_source
from igpt_jax.errors import InputError
from igpt_jax.files import replace_file
from igpt_jax.parallel.processes import on_process_zero
from igpt_jax.training.checkpoint import CHECKPOINTS
from igpt_jax.training.metric_log import METRICS


def check_workdir(workdir: Path, cfg: Config) -> None:
    """Raises InputError unless this run may live there: in a new or empty directory, or in that of the same run."""
    stored = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"workdir {workdir}: is a file; name a directory")
    if stored.exists():
        there = from_json(Config, stored.read_text(), str(stored))
        changes = differences(with_absolute_source(there), with_absolute_source(cfg))
        if changes and _holds_no_run(workdir):
            raise InputError(
                f"workdir {workdir}: holds weights and no run (there is no {METRICS}); start from them in another "
                f"--workdir with --init-from {workdir}"
            )
        if changes:
            listed = "; ".join(f"{key} is {old!r} there and {new!r} here" for key, (old, new) in changes.items())
            raise InputError(
                f"workdir {workdir}: holds another run ({listed}); give the same settings to continue it, or another "
                "--workdir"
            )
    elif workdir.is_dir() and any(p.name != ".lock" for p in workdir.iterdir()):
        raise InputError(f"workdir {workdir}: holds other files and no run; name a new or empty directory")


def _holds_no_run(workdir: Path) -> bool:
    """Whether there is a checkpoint without the log that a run begins before its first checkpoint."""
    checkpoints = workdir / CHECKPOINTS
    is_checkpoint = checkpoints.is_dir() and any(path.name.isdigit() for path in checkpoints.iterdir())
    return is_checkpoint and not (workdir / METRICS).exists()


@contextmanager
def claim_workdir(workdir: Path, cfg: Config) -> Iterator[None]:
    """Makes the workdir or continues in it, and keeps other runs out meanwhile. Process 0 does it for all."""
    with contextlib.ExitStack() as stack:
        on_process_zero(lambda: stack.enter_context(_locked(workdir, cfg)))
        yield


@contextmanager
def _locked(workdir: Path, cfg: Config) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(workdir / ".lock", timeout=0))
            check_workdir(workdir, cfg)  # again, now that nobody else can write there
            with replace_file(workdir / "config.json") as file:
                file.write(to_json(cfg).encode())
        except Timeout:
            raise InputError(f"workdir {workdir}: another process trains there now; name another directory") from None
        except OSError as error:
            raise InputError(f"workdir {workdir}: {error.strerror}; name a directory that can be written") from None
        yield


@contextmanager
def compilation_cache_in(workdir: Path) -> Iterator[None]:
    """Keeps compiled programs in WORKDIR/compiled unless JAX_COMPILATION_CACHE_DIR is set (empty: no cache).

    A resumed run then starts at once. Several processes on CPUs use no cache: JAX would serve only process 0 from it,
    which would then wait for the others longer than its collectives do.
    """
    configured = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    several_cpus = jax.process_count() > 1 and jax.default_backend() == "cpu"
    if configured is not None or several_cpus or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    jax.config.update("jax_compilation_cache_dir", str((workdir / "compiled").resolve()))
    compilation_cache.reset_cache()  # programs compiled before have fixed that there is no cache
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
