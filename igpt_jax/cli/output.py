"""Results of commands: image files, tables of figures, error lines. Process 0 writes and prints."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.config_json import json_text
from igpt_jax.errors import InputError
from igpt_jax.version import __version__


def fail(code: int, message: object) -> int:
    """Prints a line on stderr, with the number of this process if there are several. Returns the exit code."""
    label = "igpt"
    if "jax" in sys.modules:
        from igpt_jax.parallel.processes import process_label

        label = process_label()
    print(f"{label}: {message}", file=sys.stderr, flush=True)
    return code


@contextlib.contextmanager
def writing(path: Path, option: str = "--out") -> Iterator[None]:
    """Within the block, an OSError is an InputError that names the option."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror or error}") from None


def check_directory(path: Path) -> None:
    """Raises InputError if a file is where the directory --out, or one above it, would be."""
    if file := next((part for part in (path, *path.parents) if part.is_file()), None):
        raise InputError(f"--out {path}: {file} is a file; name a directory")


@dataclass(frozen=True)
class Result:
    """What a command has drawn, and what is written beside it."""

    drawn: np.ndarray | Sequence[np.ndarray]
    """Pictures uint8 [n, Y, X, C], which may have several sizes, or clips [n, L, Y, X, C]."""
    names: Sequence[str]
    """Of each one's file in a directory, without the suffix."""
    picture: Callable[[], np.ndarray]
    """All of them as one picture, uint8 [Y, X, 3]."""
    shape: tuple[int, ...] = ()
    """Of the array in a .npy."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How they were drawn; stored in the files."""
    labels: np.ndarray | None = None
    """int [n], for class-conditional models."""
    details: Sequence[Mapping[str, Any]] = ()
    """More settings of each one."""
    fps: float = 8.0
    """Of clips."""
    shown: Callable[[Path], str] = str
    """What is printed, given where it was written."""


def file_type(path: Path) -> str:
    """The suffix, if it can be that of a file type: one that begins with a digit, as in samples-t0.9, is a name's."""
    return "" if path.suffix[1:2].isdigit() else path.suffix


def check_result_path(path: Path, suffixes: tuple[str, ...]) -> Path:
    """`path`, if results can be written to it: it has one of the suffixes, or none for a new directory."""
    suffix, known = file_type(path), ", ".join(suffixes)
    if suffix not in ("", *suffixes):
        raise InputError(f"--out {path}: must end in {known}, or be a directory for one file each")
    if not suffix and path.exists() and not path.is_dir():
        raise InputError(f"--out {path}: is a file without {known}; name a new directory")
    if path.is_dir() and (suffix or any(path.iterdir())):
        raise InputError(f"--out {path}: is a directory that holds something; name a file or a new directory")
    if suffix == ".mp4":
        from igpt_jax.data.video import require_av

        require_av(f"--out {path}")
    return path


def write_result(path: Path, result: Result) -> None:
    """Writes a result in the form of the file's type (--help of each command), on process 0."""
    from igpt_jax.files import replace_file
    from igpt_jax.parallel.processes import on_process_zero
    from igpt_jax.viz import save_animation, save_png

    @writing(path)
    def write() -> None:
        suffix, text = file_type(path), png_text(result.settings)
        if suffix == ".png":
            save_png(path, result.picture(), text)
        elif suffix == ".npy":
            with replace_file(path) as file:
                np.save(file, np.reshape(result.drawn, result.shape))
        elif suffix == ".npz":
            images = np.asarray(result.drawn)
            rgb = np.broadcast_to(images, (*images.shape[:-1], 3))
            arrays = [rgb] if result.labels is None else [rgb, result.labels]
            with replace_file(path) as file:
                np.savez(file, *arrays)
        elif suffix:
            save_animation(path, np.asarray(result.drawn), result.fps, text)
        else:
            for i, (name, one) in enumerate(zip(result.names, result.drawn, strict=True)):
                text = png_text({**result.settings, **(result.details[i] if result.details else {})})
                if one.ndim == 4:
                    save_animation(path / f"{name}.gif", one[None], result.fps, text)
                else:
                    save_png(path / f"{name}.png", one, text)

    on_process_zero(write)


def png_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """Text chunks of a PNG: the software, and the settings as JSON under `igpt`."""
    return {"Software": f"igpt_jax {__version__}", "igpt": json_text(dict(settings), indent=None).strip()}
