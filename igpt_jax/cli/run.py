"""igpt train: an experiment file, overrides, a progress bar."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from igpt_jax.cli.shared import CONSOLE, fail, parse, parse_known, print_figures
from igpt_jax.config import Config
from igpt_jax.errors import InputError
from igpt_jax.parallel import processes


def train_command(args: list[str]) -> int:
    """igpt train EXPERIMENT.py [--workdir DIR] [--tiny] [--wandb] [--optim.lr 1e-3 ...]."""
    usage = "igpt train EXPERIMENT.py [--workdir DIR] [--tiny] [--wandb] [--KEY VALUE ...]"
    parser = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False)
    parser.add_argument("experiment", nargs="?", help="a Python file with config(tiny=False) -> Config")
    parser.add_argument("--workdir", help="directory of the run, which is continued if it is there (default runs/NAME)")
    parser.add_argument("--tiny", action="store_true", help="the experiment's small form, to see that it works")
    parser.add_argument("--wandb", action="store_true", help="also log to Weights & Biases")
    options, overrides = parse_known(parser, args)
    if {"-h", "--help"} & set(overrides):
        print(parser.format_help())
    elif options.experiment is None:
        raise InputError("no experiment file, such as experiments/digits.py; igpt train --help lists all options")

    from igpt_jax import run
    from igpt_jax.plugins import load_config
    from igpt_jax.training.loop import Interrupted
    from igpt_jax.training.metric_log import NonFiniteError

    with processes.raise_on_all():
        default = load_config(options.experiment, options.tiny) if options.experiment else Config()
        cfg = parse(Config, overrides, "train", default=default)
    try:
        with _progress(cfg) as on_step:
            trained = run.train(cfg, options.workdir or f"runs/{cfg.name}", wandb=options.wandb, on_step=on_step)
        report = run.report(trained)
    except Interrupted as error:
        return fail(128 + error.signum, error)
    except NonFiniteError as error:
        return fail(1, error)
    print_figures(report.figures)
    for path in report.pictures:
        print(path)
    return 0


@contextlib.contextmanager
def _progress(cfg: Config) -> Iterator[Callable[[int, Any], None]]:
    """A bar with step, loss, images/s and time left; plain lines where there is no terminal. Process 0 shows it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    plain, steps = not CONSOLE.is_terminal, cfg.train.steps
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[numbers]}", TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, disable=plain or not processes.is_process_zero()) as bar:
        task = bar.add_task(cfg.name, total=steps, numbers="compiling")

        def show(step: int, metrics: Any) -> None:
            numbers = f"loss {metrics.loss:.4f}  {metrics.images_per_s:.0f} images/s"
            if math.isfinite(metrics.images_per_s):
                bar.update(task, completed=step, numbers=numbers)
            if plain and processes.is_process_zero() and (step % cfg.train.log_every == 0 or step == steps):
                print(f"step {step}/{steps}  {numbers}", file=sys.stderr, flush=True)

        yield show
