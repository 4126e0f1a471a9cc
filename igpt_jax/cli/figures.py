"""Tables of figures, and figures for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from igpt_jax.config_json import json_text

if TYPE_CHECKING:
    from igpt_jax.evaluation import Estimate, Figures

LABELS = {"accuracy": "classification head", "bayes_accuracy": "Bayes' rule"}
"""What tables call the accuracy of a way to classify."""


def figures_as_dict(figures: Figures, more: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Figures for JSON: of the loss, the model's and that of cheap methods; the same of accuracies; and all others.

    Args:
      more: figures that stand beside those of the model.
    """
    losses, accuracies, others = _parts(figures)
    values: dict[str, Any] = {"images": figures.images, "groups": len(set(figures.groups.tolist()))}
    values |= {"kind": figures.kind, "metric": figures.metric}
    unit = figures.metric.partition("_")[0] if figures.loss and figures.loss.figure.unit == "nats" else "loss"
    for name, rows in ((unit, losses), ("accuracies", accuracies)):
        values[name] = {row: e.value for row, e in rows.items()}
        values[f"{name}_se"] = {row: e.error for row, e in rows.items()}
        values[f"{name}_minus_model"] = {row: [e.value, e.error] for row, e in _minus(figures, rows).items()}
    if unit == "nats":
        values["bits"] = {row: e.value / math.log(2) for row, e in losses.items()}
    for name, e in others.items():
        values |= {name: e.value} | ({} if math.isnan(e.error) else {f"{name}_se": e.error})
    return values | dict(more or {})


def print_figures(figures: Figures, as_json: bool = False, more: Mapping[str, float] | None = None) -> None:
    """A table of the loss with standard errors, one of accuracies if the model classifies, and other values below them;
    or all of it as JSON.

    Where they are known, the table has the differences of the cheap methods to the model, image by image.
    """
    if as_json:
        print(json_text(figures_as_dict(figures, more)), end="")
        return
    from rich.console import Console

    losses, accuracies, others = _parts(figures)
    groups = len(set(figures.groups.tolist()))
    grouped = "" if groups == figures.images else f" in {groups} groups"
    title = f"{figures.images} {figures.kind} images{grouped}".replace("  ", " ")
    metric = figures.metric.replace("_", " ")
    bits = figures.loss is not None and figures.loss.figure.unit == "nats"
    for name, rows, in_bits in ((metric, losses, bits), ("accuracy", accuracies, False)):
        if rows:
            Console().print(_table(title, name, rows, _minus(figures, rows), in_bits))
            title = ""
    if title:
        print(title)
    for name, e in others.items():
        print(f"{name} {_plus_minus(e)}")
    for name, value in (more or {}).items():
        print(f"{name} {value:.4f}")


def _table(title: str, name: str, rows: Mapping[str, Estimate], minus: Mapping[str, Estimate], bits: bool) -> Any:
    from rich.table import Table

    table = Table("", title=title or None, title_justify="left")
    for column in (name, *([name.replace("nats", "bits")] if bits else []), *(["minus the model"] if minus else [])):
        table.add_column(column, justify="right")
    for row, e in rows.items():
        cells = [_plus_minus(e), *([f"{e.value / math.log(2):.4f}"] if bits else [])]
        table.add_row(row, *cells, *([_plus_minus(minus[row], "+")] if row in minus else []))
    return table


def _plus_minus(e: Estimate, sign: str = "") -> str:
    error = "" if math.isnan(e.error) else f" ± {e.error:.4f}"
    return f"{e.value:{sign}.4f}{error}"


def _parts(figures: Figures) -> tuple[dict[str, Estimate], dict[str, Estimate], dict[str, Estimate]]:
    """The rows of the loss, those of accuracies, and all other figures of the model."""
    model = dict(figures.model)
    losses = {"model": model.pop(figures.metric)} if figures.metric in model else {}
    losses |= figures.cheap.get(figures.metric, {})
    accuracies = {LABELS[name]: model.pop(name) for name in LABELS if name in model}
    for name in LABELS:
        accuracies |= figures.cheap.get(name, {})
    return losses, accuracies, model


def _minus(figures: Figures, rows: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Of the rows of cheap methods: their figure minus that of the model, which is the first row."""
    from igpt_jax.evaluation import difference

    ours = [row for row in rows if row == "model" or row in LABELS.values()]
    gaps = {row: difference(e, rows[ours[0]], figures.groups) for row, e in rows.items() if ours and row not in ours}
    return {row: gap for row, gap in gaps.items() if gap is not None}
