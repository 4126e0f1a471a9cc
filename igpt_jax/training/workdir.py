"""The directory a run lives in: who may write there, and whether it is the same run that was begun there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from igpt_jax.config import Config, InputError
from igpt_jax.config_json import differences, from_json, to_json
from igpt_jax.palette import replace_file
from igpt_jax.parallel.multihost import decide


def check_workdir(workdir: Path, cfg: Config) -> None:
    """Whether this run may live there: in a new or empty directory, or where the very same run was begun.

    Raises:
      InputError: it holds a run of another configuration, other files, or is no directory.
    """
    before = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"workdir {workdir}: is a file; name a directory")
    if before.exists():
        check_same_run(from_json(Config, before.read_text(), str(before)), cfg, workdir)
    elif workdir.is_dir() and any(p.name != ".lock" for p in workdir.iterdir()):
        raise InputError(f"workdir {workdir}: holds other files and no run; name a new or empty directory")


@contextmanager
def claim_workdir(workdir: Path, cfg: Config) -> Iterator[None]:
    """Makes the workdir or continues in it, and keeps other runs out of it meanwhile. Process 0 does it for all.

    Raises:
      InputError: another run trains there now, it cannot be written, or as `check_workdir` does.
    """
    with contextlib.ExitStack() as held:
        decide(lambda: held.enter_context(_locked(workdir, cfg)))
        yield


@contextmanager
def _locked(workdir: Path, cfg: Config) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            fcntl.flock(held.enter_context(open(workdir / ".lock", "a")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            check_workdir(workdir, cfg)  # now that nobody else can write there
            with replace_file(workdir / "config.json") as file:
                file.write(to_json(cfg).encode())
        except BlockingIOError:
            raise InputError(f"workdir {workdir}: another process trains there now; name another directory") from None
        except OSError as error:
            raise InputError(f"workdir {workdir}: {error.strerror}; name a directory that can be written") from None
        yield


@contextmanager
def compilations_kept(workdir: Path) -> Iterator[None]:
    """Keeps compiled programs in WORKDIR/compiled, so that a continued run starts at once; or where JAX was told to.

    JAX_COMPILATION_CACHE_DIR tells it; empty means nowhere. Several processes on CPUs keep nothing: JAX would serve
    only the first, which would then wait for the others longer than its collectives do.
    """
    told = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    unequal = jax.process_count() > 1 and jax.default_backend() == "cpu"
    if told is not None or unequal or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    jax.config.update("jax_compilation_cache_dir", str((workdir / "compiled").resolve()))
    compilation_cache.reset_cache()  # what was compiled before has settled that there is none
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()


def check_same_run(old: Config, new: Config, workdir: Path) -> None:
    """Raises InputError naming every key that would make this another run than the one in the workdir."""
    changed = [f"{key} is {a!r} there and {b!r} here" for key, (a, b) in differences(old, new).items()]
    if changed:
        raise InputError(
            f"workdir {workdir}: holds another run ({'; '.join(changed)}); give the same settings to continue it, "
            "or another --workdir"
        )
