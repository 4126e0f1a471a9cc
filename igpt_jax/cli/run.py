"""igpt train: an experiment file, overrides, a progress bar."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from igpt_jax.cli.shared import CONSOLE, parse, parse_known, print_figures
from igpt_jax.config import Config, InputError
from igpt_jax.parallel import multihost

USAGE = """\
igpt train EXPERIMENT.py [--workdir DIR] [--tiny] [--wandb] [--KEY VALUE ...]

  EXPERIMENT.py   a file with config(tiny=False) -> Config
  --workdir DIR   where the run lives; a run begun there is continued (default runs/NAME)
  --tiny          the experiment's small form, to see that it works
  --wandb         also log to Weights & Biases

and any key of the configuration:

"""


def train_command(args: list[str]) -> int:
    """igpt train EXPERIMENT.py [--workdir DIR] [--tiny] [--wandb] [--optim.lr 1e-3 ...]."""
    own = argparse.ArgumentParser(prog="igpt train", add_help=False, allow_abbrev=False)
    own.add_argument("experiment", nargs="?")
    own.add_argument("--workdir")
    own.add_argument("--tiny", action="store_true")
    own.add_argument("--wandb", action="store_true")
    known, overrides = parse_known(own, args)
    if known.experiment is None:
        print(USAGE, end="")
        if not {"-h", "--help"} & set(overrides):
            raise InputError("train: no experiment file given, such as experiments/digits.py")
        parse(Config, ["--help"], "train")  # prints and exits
        return 0

    from igpt_jax import experiment
    from igpt_jax.training.loop import Interrupted, NonFiniteError

    with multihost.together():
        default = experiment.load_config(known.experiment, known.tiny)
        if {"-h", "--help"} & set(overrides):
            print(USAGE, end="")
        cfg = parse(Config, overrides, "train", default=default)
    workdir = Path(known.workdir or f"runs/{cfg.name}")
    try:
        with _progress(cfg) as on_step:
            report = experiment.train(cfg, workdir, wandb=known.wandb, on_step=on_step)
    except Interrupted as stopped:
        print(f"{multihost.who()}: {stopped}", file=sys.stderr)
        return 128 + stopped.signum
    except NonFiniteError as error:
        print(f"{multihost.who()}: {error}", file=sys.stderr)
        return 1
    print_figures(report.figures)
    for path in report.pictures:
        print(path)
    return 0


@contextlib.contextmanager
def _progress(cfg: Config) -> Iterator[Callable[[int, Any], None]]:
    """A bar with step, loss, images/s and time left; plain lines where there is no terminal. Process 0 shows it."""
    if not multihost.is_first():
        yield lambda step, metrics: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not CONSOLE.is_terminal:

        def line(step: int, metrics: Any) -> None:
            if step % cfg.train.log_every == 0 or step == cfg.train.steps:
                rate = f"{metrics.images_per_s:.0f} images/s"
                print(f"step {step}/{cfg.train.steps}  loss {metrics.loss:.4f}  {rate}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (
        TextColumn(cfg.name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task("train", total=cfg.train.steps, numbers="compiling")

        def show(step: int, metrics: Any) -> None:
            if math.isfinite(metrics.images_per_s):
                numbers = f"loss {metrics.loss:.4f}  {metrics.images_per_s:.0f} images/s"
                bar.update(task, completed=step, numbers=numbers)

        yield show
