"""Results of commands: image files, tables of figures, error lines. Process 0 writes and prints."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igpt_jax.config_json import json_text
from igpt_jax.errors import InputError
from igpt_jax.version import __version__

if TYPE_CHECKING:
    from igpt_jax.evaluation import Figures


def fail(code: int, message: object) -> int:
    """Prints a line on stderr, with the number of this process if there are several. Returns the exit code."""
    label = "igpt"
    if "jax" in sys.modules:
        from igpt_jax.parallel.processes import process_label

        label = process_label()
    print(f"{label}: {message}", file=sys.stderr, flush=True)
    return code


@dataclass(frozen=True)
class Drawn:
    """Images that a command has drawn, and what is written beside them."""

    images: np.ndarray | Sequence[np.ndarray]
    """uint8 [n, Y, X, C], or n pictures of several sizes."""
    names: Sequence[str]
    """Of each image's file in a directory, without the suffix."""
    picture: Callable[[], np.ndarray]
    """All of them as one picture, uint8 [Y, X, 3]."""
    shape: tuple[int, ...]
    """Of the array in a .npy; unused where the pictures have several sizes."""
    settings: Mapping[str, Any]
    """How they were drawn; stored in PNGs."""
    labels: np.ndarray | None = None
    """int [n], for class-conditional models."""
    details: Sequence[Mapping[str, Any]] = field(default_factory=list)
    """More settings of each image."""


def check_result_path(path: Path) -> Path:
    """`path`, if images can be written to it; InputError if it has another suffix or is a directory that holds files.

    .png is one picture of all images, .npy their array, .npz the arrays that FID tools read, and a path without suffix
    a directory with one PNG an image.
    """
    if path.suffix not in (".png", ".npy", ".npz", ""):
        raise InputError(f"--out {path}: must end in .png, .npy or .npz, or be a directory for one PNG an image")
    if not path.suffix and path.exists() and not path.is_dir():
        raise InputError(f"--out {path}: is a file without .png, .npy or .npz; name a new directory")
    if path.is_dir() and (path.suffix or any(path.iterdir())):
        raise InputError(f"--out {path}: is a directory that holds something; name a file or a new directory")
    return path


def write_images(path: Path, drawn: Drawn) -> None:
    """Writes images as `check_result_path` says, on process 0, and prints where."""
    save_images(path, drawn)
    print(path)


def save_images(path: Path, drawn: Drawn) -> None:
    """Writes images as `check_result_path` says, on process 0."""
    from igpt_jax.files import replace_file
    from igpt_jax.parallel.processes import on_process_zero
    from igpt_jax.viz import save_png

    def write() -> None:
        try:
            if path.suffix == ".png":
                save_png(path, drawn.picture(), png_text(drawn.settings))
            elif path.suffix == ".npy":
                with replace_file(path) as file:
                    np.save(file, np.reshape(drawn.images, drawn.shape))
            elif path.suffix == ".npz":
                images = np.asarray(drawn.images)
                rgb = np.broadcast_to(images, (*images.shape[:-1], 3))
                arrays = [rgb] if drawn.labels is None else [rgb, drawn.labels]
                with replace_file(path) as file:
                    np.savez(file, *arrays)
            else:
                for i, (name, image) in enumerate(zip(drawn.names, drawn.images, strict=True)):
                    text = png_text({**drawn.settings, **(drawn.details[i] if drawn.details else {})})
                    save_png(path / f"{name}.png", image, text)
        except OSError as error:
            raise InputError(f"--out {path}: {error.strerror}") from None

    on_process_zero(write)


def png_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """Text chunks of a PNG: the software, and the settings as JSON under `igpt`."""
    return {"Software": f"igpt_jax {__version__}", "igpt": json_text(settings)}


def figures_as_dict(figures: Figures) -> dict[str, Any]:
    """Figures for JSON."""
    return {
        "images": figures.images,
        "groups": figures.groups,
        "kind": figures.kind,
        "metric": figures.metric,
        "nats": dict(figures.nats),
        "bits": {name: nats / math.log(2) for name, nats in figures.nats.items()},
        "nats_se": dict(figures.errors),
        "nats_minus_model": dict(figures.differences),
        "accuracies": {name: value for name, (value, _) in figures.accuracies.items()},
        "accuracies_se": {name: error for name, (_, error) in figures.accuracies.items()},
        "accuracies_minus_model": dict(figures.accuracy_differences),
        **figures.others,
    }


def print_figures(figures: Figures, as_json: bool = False) -> None:
    """A table of nats and bits per token with standard errors, one of accuracies if the model classifies, and other
    values below them; or all of it as JSON.

    Where they are known, the table has the differences of the cheap methods to the model: below 0, the model loses.
    """
    if as_json:
        print(json_text(figures_as_dict(figures), indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    grouped = "" if figures.groups == figures.images else f" in {figures.groups} groups"
    title = f"{figures.images} {figures.kind} images{grouped}".replace("  ", " ")
    table = Table("", title=title, title_justify="left")
    for unit in ("nats", "bits"):
        table.add_column(figures.metric.replace("nats", unit).replace("_", " "), justify="right")
    if figures.differences:
        table.add_column("minus the model", justify="right")
    for name, nats in figures.nats.items():
        cells = [f"{nats:.4f} ± {figures.errors[name]:.4f}", f"{nats / math.log(2):.4f}"]
        if name in figures.differences:
            gap, error = figures.differences[name]
            cells.append(f"{gap:+.4f} ± {error:.4f}")
        table.add_row(name, *cells)
    Console().print(table)
    if figures.accuracies:
        table = Table("", "accuracy")
        if figures.accuracy_differences:
            table.add_column("minus the model", justify="right")
        for name, (accuracy, error) in figures.accuracies.items():
            gap = figures.accuracy_differences.get(name)
            table.add_row(name, f"{accuracy:.4f} ± {error:.4f}", *([f"{gap[0]:+.4f} ± {gap[1]:.4f}"] if gap else []))
        Console().print(table)
    for name, value in figures.others.items():
        print(f"{name} {value:.4f}")
