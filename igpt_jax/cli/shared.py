"""For several commands: parsing with one-line errors, writing results, the table of held-out figures."""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import logging
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import tyro
from rich.console import Console

from igpt_jax.errors import InputError
from igpt_jax.parallel.processes import on_process_zero, process_label

if TYPE_CHECKING:
    from igpt_jax.evaluation import Figures

T = TypeVar("T")

CONSOLE = Console(stderr=True)


class ConsoleHandler(logging.Handler):
    """Log lines that do not tear a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        CONSOLE.print(f"igpt: {record.getMessage()}", markup=False, highlight=False, soft_wrap=True)


def parse(target: Callable[..., T], args: Sequence[str], command: str, flags: bool = False, **options: Any) -> T:
    """tyro.cli, with errors as one InputError line. Booleans are `--key True`, or with `flags` `--key`."""
    message = io.StringIO()
    booleans = tyro.conf.FlagCreatePairsOff if flags else tyro.conf.FlagConversionOff
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(target, args=args, prog=f"igpt {command}", config=(booleans,), **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        # the message stands in a box, above a rule, and the nearest options below it
        lines = [line.strip("│ ") for line in message.getvalue().splitlines() if not line.startswith(("╭", "╰"))]
        complaint = " ".join(itertools.takewhile(lambda line: not line.startswith("───"), lines)).strip()
        near = re.search(r"Perhaps you meant:\s+(--\S+)", " ".join(lines))
        hint = f"; did you mean {near[1]}?" if near else ""
        raise InputError(f"{complaint}{hint}; igpt {command} --help lists all options") from None


def parse_known(parser: argparse.ArgumentParser, args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """A command's own options, and the other arguments; errors become one InputError line."""
    parser.exit_on_error = False
    try:
        return parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from None


def fail(code: int, message: object) -> int:
    """Prints a line on stderr, with the number of this process if there are several. Returns the exit code."""
    print(f"{process_label()}: {message}", file=sys.stderr, flush=True)
    return code


def write_result(path: Path, images: np.ndarray, picture: Callable[[], np.ndarray]) -> None:
    """Writes the arrays (.npy) or their picture (.png) on process 0, and prints where."""
    from igpt_jax.files import replace_file
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

    on_process_zero(write)
    print(path)


def print_figures(figures: Figures) -> None:
    """A table of nats and bits per token; the accuracy and other values below it."""
    from rich.table import Table

    table = Table("", title=f"{figures.images} held-out images", title_justify="left")
    for unit in ("nats", "bits"):
        table.add_column(figures.metric.replace("nats", unit).replace("_", " "), justify="right")
    for name, nats in figures.nats.items():
        table.add_row(name, f"{nats:.4f}", f"{nats / math.log(2):.4f}")
    Console().print(table)
    others = {} if figures.accuracy is None else {"accuracy": figures.accuracy}
    for name, value in (others | dict(figures.others)).items():
        print(f"{name} {value:.4f}")
