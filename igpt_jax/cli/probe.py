"""igpt probe: what a classifier can read off a model's features."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from igpt_jax.cli.common import Flag, Inline, JoinedCommand, ModelArgs, measured_on
from igpt_jax.errors import InputError
from igpt_jax.files import local_path

if TYPE_CHECKING:
    from igpt_jax.probing import ProbeFigures


@dataclass(frozen=True, kw_only=True)
class Probe(JoinedCommand):
    """Linear probe: how well a linear classifier reads classes off each layer's features, beside raw pixels."""

    weights: Annotated[ModelArgs, Inline] = field(default_factory=ModelArgs)
    source: str | None = None
    """Images with classes (folder:PATH, idx:PATH, tfds:NAME); by default those of the run."""
    layers: tuple[int, ...] | None = None
    """Which layers: 0 is what the first block reads, the last what the output head reads. By default all."""
    method: Literal["lbfgs", "sgd"] = "lbfgs"
    """lbfgs: logistic regression in scikit-learn, for sets up to some 100,000 images. sgd: the same model by gradient
    descent on the accelerator, as the paper does on ImageNet."""
    sgd_steps: int = 20_000
    """Steps of 256 images for --method sgd; the paper takes 1,000,000."""
    together: int = 0
    """Also probe so many layers around the best one, side by side; the paper takes 5."""
    per_class: tuple[int, ...] = ()
    """Also learn from so few labels of each class; the paper takes 4 25 400."""
    subsets: int = 5
    """Random subsets for each number of --per-class."""
    train_images: int | None = None
    """At most so many training images, spread evenly."""
    no_neighbours: Flag = False
    """Leave the nearest neighbours out."""
    batch_size: int | None = None
    """Images at once; it does not change the figures."""
    out: Path | None = None
    """Directory for probe.json and probe.png; by default probe in the workdir."""
    json: Flag = False
    """Print JSON."""

    def run(self) -> None:
        """Reads features, fits, measures, writes and prints."""
        from igpt_jax.parallel.processes import on_process_zero
        from igpt_jax.probing import probe

        asked = {"sgd-steps": (self.sgd_steps,), "subsets": (self.subsets,), "per-class": self.per_class}
        asked |= {"train-images": (self.train_images,), "batch-size": (self.batch_size,), "together": (self.together,)}
        for name, values in asked.items():
            least = 0 if name == "together" else 1
            if bad := [value for value in values if value is not None and value < least]:
                raise InputError(f"--{name} {bad[0]}: must be at least {least}")
        out = self.weights.result_path(self.out, "probe")
        if file := next((path for path in (out, *out.parents) if path.is_file()), None):
            raise InputError(f"--out {out}: {file} is a file; name a directory")
        figures = probe(
            measured_on(self.weights.load(), self.weights.path, self.source, self.batch_size),
            layers=self.layers,
            method=self.method,
            together=self.together,
            per_class=self.per_class,
            subsets=self.subsets,
            train_images=self.train_images,
            sgd_steps=self.sgd_steps,
            neighbours=not self.no_neighbours,
        )
        on_process_zero(lambda: write(figures, out))
        print_rows(figures, self.json)


def write(figures: ProbeFigures, out: Path) -> None:
    """probe.json, and probe.png if matplotlib is there and more than one layer was probed."""
    import importlib.util

    from igpt_jax.files import replace_file
    from igpt_jax.viz import accuracy_by_layer

    local_path(out, "--out").mkdir(parents=True, exist_ok=True)
    with replace_file(out / "probe.json") as file:
        file.write((json.dumps(dataclasses.asdict(figures), indent=2) + "\n").encode())
    if len(figures.layers) > 1 and importlib.util.find_spec("matplotlib") is not None:
        levels = {
            row.name: row.accuracy
            for row in figures.rows
            if row.name.startswith("raw pixels") and "labels" not in row.name
        }
        layers = {number: (row.accuracy, row.error) for number, row in figures.layers.items()}
        accuracy_by_layer(out / "probe.png", layers, levels)


def print_rows(figures: ProbeFigures, as_json: bool) -> None:
    """A table, or JSON."""
    if as_json:
        print(json.dumps(dataclasses.asdict(figures), indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    title = f"{figures.images['train']} training images, {figures.images['held_out']} held out"
    table = Table(title=title, title_justify="left")
    for column in ("", "chosen", "validation", "held out"):
        table.add_column(column, justify="right" if column in ("validation", "held out") else "left", no_wrap=True)
    for row in figures.rows:
        mark = " *" if row is figures.layers.get(figures.best_layer) else ""
        table.add_row(row.name + mark, row.setting, f"{row.validation:.4f}", f"{row.accuracy:.4f} ± {row.error:.4f}")
    Console().print(table)
    print("* best on validation images")
