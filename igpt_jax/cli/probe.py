"""igpt probe: what a classifier can read off a model's features."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from igpt_jax.cli.common import Flag, Inline, JoinedCommand, ModelArgs
from igpt_jax.cli.output import check_directory, writing
from igpt_jax.config import ProbeConfig
from igpt_jax.config_json import json_text

if TYPE_CHECKING:
    from igpt_jax.analysis.probing import ProbeFigures


@dataclass(frozen=True, kw_only=True)
class Probe(JoinedCommand):
    """Linear probe: how well a linear classifier reads classes off each layer's features, beside raw pixels."""

    less_memory: ClassVar[str] = "fewer --layers, fewer --train-images or a smaller --batch-size need less"
    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
    source: str | None = None
    """Images with classes (folder:PATH, idx:PATH, tfds:NAME); by default those of the run."""
    settings: Annotated[ProbeConfig, Inline] = field(default_factory=ProbeConfig)
    batch_size: int | None = None
    """Images at once; it does not change the figures."""
    out: Path | None = None
    """Directory for probe.json and probe.png; by default probe in the workdir."""
    json: Flag = False
    """Print JSON."""

    def run(self) -> None:
        from igpt_jax.analysis.probing import probe
        from igpt_jax.parallel.processes import on_process_zero

        out = self.weights.result_path(self.out, "probe")
        check_directory(out)
        weights = self.weights.load_with(self.source, self.batch_size)
        figures = probe(weights, self.settings)
        text = json_text(dataclasses.asdict(figures))
        print(text, end="") if self.json else print_rows(figures)
        on_process_zero(lambda: write(figures, text, out))


def write(figures: ProbeFigures, text: str, out: Path) -> None:
    """probe.json, and probe.png if matplotlib is there and more than one layer was probed."""
    import importlib.util

    from igpt_jax.analysis.probing import RAW_PIXELS
    from igpt_jax.files import replace_file
    from igpt_jax.viz import accuracy_by_layer

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with replace_file(out / "probe.json") as file:
            file.write(text.encode())
        if len(figures.layers) > 1 and importlib.util.find_spec("matplotlib") is not None:
            levels = {row.name: row.accuracy for row in figures.rows if row.name in RAW_PIXELS}
            layers = {number: (row.accuracy, row.error) for number, row in figures.layers.items()}
            accuracy_by_layer(out / "probe.png", layers, levels)


def print_rows(figures: ProbeFigures) -> None:
    """A table, where figures that are unknown (NaN) are left empty."""
    from rich.console import Console
    from rich.table import Table

    title = f"{figures.images['train']} training images, {figures.images['held_out']} held out"
    table = Table(title=title, title_justify="left")
    for column in ("", "chosen", "validation", "held out"):
        number = column in ("validation", "held out")
        table.add_column(column, justify="right" if number else "left", no_wrap=number)
    for row in figures.rows:
        mark = " *" if row is figures.layers.get(figures.best_layer) else ""
        validation, error = ("" if math.isnan(value) else f"{value:.4f}" for value in (row.validation, row.error))
        held_out = f"{row.accuracy:.4f}" + (error and f" ± {error}")
        table.add_row(row.name + mark, row.setting, validation, held_out)
    Console().print(table)
    print("* best on validation images")
