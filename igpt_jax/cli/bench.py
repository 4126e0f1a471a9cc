"""igpt bench: how fast this machine trains, draws and reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from igpt_jax.cli.common import Command, ConfiguredCommand, Flag, check_at_least_one
from igpt_jax.cli.output import writing
from igpt_jax.config_json import json_text
from igpt_jax.errors import InputError
from igpt_jax.files import local_path


@dataclass(frozen=True, kw_only=True)
class _Action(Command):
    """A base class of its own, because positional words come in the order of base classes: igpt bench train digits."""

    action: tyro.conf.Positional[Literal["kernels", "train", "sample", "data", "all"]]
    """What is measured; all: each of them, and without an experiment the paper's S, M and L."""


@dataclass(frozen=True, kw_only=True)
class Bench(ConfiguredCommand, _Action):
    """Time a training step, decoding and the reading of images: median, spread, rates, and shares of this machine's.

    Name an experiment, or a model of the paper with --model.preset. data.batch_size and sampler.batch_size say how many
    images at once. kernels compares the attention backends with the reference. `igpt bench all --budget 480` measures
    S, M and L on one accelerator.
    """

    repeats: int = 10
    """Timed runs of each; two more warm up."""
    budget: float = math.inf
    """Seconds for everything; items skipped for lack of time are reported."""
    out: Path | None = None
    """A .jsonl file to which a line for each figure is added."""
    traces: Path | None = None
    """A directory for a trace of one run of each (xprof, Perfetto); the slowest operations are then named, too."""
    json: Flag = False
    """Print JSON lines."""

    def defaults(self) -> Command:
        return type(self)(action=self.action, config=self.default_config())

    def run(self) -> None:
        named = self.experiment is not None or self.preset is not None
        if self.action != "all":
            self.require_named("bench")
        check_at_least_one(repeats=self.repeats)
        if not self.budget > 0:
            raise InputError(f"--budget {self.budget:g}: must be more than 0")
        out = None if self.out is None else local_path(self.out, "--out")
        if out is not None and out.is_dir():
            raise InputError(f"--out {out}: is a directory; name a file")
        traces = None if self.traces is None else local_path(self.traces, "--traces")
        if traces is not None:
            with writing(traces, "--traces"):
                traces.mkdir(parents=True, exist_ok=True)

        from igpt_jax.analysis.bench import BENCHES, Item, machine, measure, paper_sizes

        actions = BENCHES if self.action == "all" else [self.action]
        items = [Item(name, self.config) for name in actions] if named else paper_sizes()
        here = machine()
        for measured in measure(items, self.repeats, self.budget, traces):
            figures = here | measured
            line = json_text(figures, indent=None)
            print(line, end="", flush=True) if self.json else print_figures(figures)
            if out is not None:
                with writing(out):
                    out.parent.mkdir(parents=True, exist_ok=True)
                    with out.open("a", encoding="utf-8") as file:
                        file.write(line)


def print_figures(figures: dict[str, Any]) -> None:
    """Name and value of each, rounded; what is not known is left out."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"igpt bench {figures['what']}", title_justify="left", show_header=False)
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{operation} {share:.0%}" for operation, share in value.items())
        if value is not None and name != "what":
            table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    Console().print(table)
