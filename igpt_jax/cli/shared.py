"""What several commands need: parsing with one-line errors, writing results, the table of held-out figures."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import tyro
from rich.console import Console

from igpt_jax.config import InputError
from igpt_jax.parallel.multihost import decide

if TYPE_CHECKING:
    from igpt_jax.figures import Figures

T = TypeVar("T")

CONSOLE = Console(stderr=True)


class ConsoleHandler(logging.Handler):
    """Log lines that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        CONSOLE.print(f"igpt: {record.getMessage()}", markup=False, highlight=False, soft_wrap=True)


def parse(target: Callable[..., T], args: Sequence[str], command: str, flags: bool = False, **options: Any) -> T:
    """tyro.cli with its errors as one InputError line; truth values are written out unless `flags`."""
    complaint = io.StringIO()
    booleans = tyro.conf.FlagCreatePairsOff if flags else tyro.conf.FlagConversionOff
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(target, args=args, prog=f"igpt {command}", config=(booleans,), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_one_line(complaint.getvalue())}; igpt {command} --help lists all options") from None


def parse_known(parser: argparse.ArgumentParser, args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """A command's own options, and the rest, with errors as one InputError line."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parser.parse_known_args(args)
    except SystemExit:
        last = complaint.getvalue().strip().splitlines()[-1]
        raise InputError(last.removeprefix(f"{parser.prog}: error: ")) from None


def _one_line(box: str) -> str:
    """What a boxed tyro message says, as one line: the complaint and the nearest option, if it names one."""
    lines = [line.strip("│ ").strip() for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    rules = [i for i, line in enumerate(lines) if line.startswith("───")]
    text = " ".join(lines[: rules[0] if rules else len(lines)]).strip()
    near = re.search(r"Perhaps you meant:\s+(--\S+)", " ".join(lines))
    return text + (f"; did you mean {near[1]}?" if near else "")


def check_output(path: Path, suffixes: tuple[str, ...]) -> Path:
    """Raises InputError, before any work is done, when a result cannot have that name."""
    if path.suffix not in suffixes:
        raise InputError(f"--out {path}: must end in {' or '.join(suffixes)}")
    return path


def write_result(path: Path, images: np.ndarray, picture: Callable[[], np.ndarray]) -> None:
    """Writes the arrays (.npy) or their picture (.png) on process 0, and prints where."""
    from igpt_jax.palette import replace_file
    from igpt_jax.viz import save_png

    def write() -> None:
        try:
            if path.suffix == ".npy":
                with replace_file(path) as file:
                    np.save(file, images)
            else:
                save_png(path, picture())
        except OSError as error:
            raise InputError(f"--out {path}: {error.strerror}") from None

    decide(write)
    print(path)


def print_figures(figures: Figures) -> None:
    """A table of nats per token, and the same in bits; the accuracy below it, where there is one."""
    from rich.table import Table

    table = Table(title=f"{figures.images} held-out images", title_justify="left")
    table.add_column("")
    for unit in ("nats", "bits"):
        table.add_column(figures.metric.replace("nats", unit).replace("_", " "), justify="right")
    for name, nats in figures.nats.items():
        table.add_row(name, f"{nats:.4f}", f"{nats / math.log(2):.4f}")
    Console().print(table)
    if figures.accuracy is not None:
        print(f"accuracy {figures.accuracy:.4f}")
