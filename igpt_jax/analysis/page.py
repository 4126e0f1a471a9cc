"""One page about runs: figures beside the paper's, curves, probes, pictures and configuration. HTML, or Markdown."""

from __future__ import annotations

import base64
import html
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igpt_jax.analysis.paper import FIGURES
from igpt_jax.config import Config
from igpt_jax.config_json import flatten, from_json
from igpt_jax.errors import InputError
from igpt_jax.training.metric_log import last_evaluation
from igpt_jax.version import __version__

PICTURES = ("loss", "probe/probe", "samples", "completions", "inpaintings", "restorations", "reconstructions")
"""PNGs of a workdir that are shown, in this order, without the suffix."""


@dataclass(frozen=True)
class RunSummary:
    """What a workdir says of its run."""

    workdir: Path
    cfg: Config
    figures: dict[str, float]
    """The last evaluation while training; `step` among them."""
    probe: dict[str, Any] | None
    """What igpt probe has written there."""
    pictures: tuple[Path, ...]


def read_run(workdir: Path) -> RunSummary:
    """Reads the files of a run.

    Raises:
      InputError: the directory is no workdir, or one of its files is damaged.
    """
    try:
        text = (workdir / "config.json").read_text(encoding="utf-8")
        probe = workdir / "probe" / "probe.json"
        probed = json.loads(probe.read_text(encoding="utf-8")) if probe.exists() else None
    except FileNotFoundError:
        raise InputError(f"{workdir}: holds no run; name workdirs of igpt train") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{workdir}: {error}") from None
    pictures = tuple(path for name in PICTURES if (path := workdir / f"{name}.png").exists())
    cfg = from_json(Config, text, str(workdir / "config.json"))
    return RunSummary(workdir, cfg, last_evaluation(workdir, None), probed, pictures)


def markdown(runs: list[RunSummary], out: Path) -> str:
    """The page in Markdown; pictures are linked relative to where the page will lie."""
    parts = ["# Runs", _table([_row(run) for run in runs])]
    for run in runs:
        parts.append(f"## {run.workdir}")
        parts.append(_table(_figure_rows(run)))
        if run.probe is not None:
            parts.append(_table(_probe_rows(run.probe)))
        parts += [f"![{p.stem}]({os.path.relpath(p, out.parent)})" for p in run.pictures]
        parts.append("\n".join(f"    {key} {value}" for key, value in _changed(run.cfg).items()))
    return "\n\n".join([*parts, f"igpt_jax {__version__}\n"])


def html_page(runs: list[RunSummary]) -> str:
    """The page in HTML, with all pictures inside."""
    style = (
        "body{font:15px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
        "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}img{max-width:100%;margin:.5em 0}"
        "pre{font-size:13px}"
    )
    parts = [f"<!doctype html><meta charset='utf-8'><title>Runs</title><style>{style}</style><h1>Runs</h1>"]
    parts.append(_html_table([_row(run) for run in runs]))
    for run in runs:
        parts += [f"<h2>{html.escape(str(run.workdir))}</h2>", _html_table(_figure_rows(run))]
        if run.probe is not None:
            parts += ["<h3>Probe</h3>", _html_table(_probe_rows(run.probe))]
        for path in run.pictures:
            content = base64.b64encode(path.read_bytes()).decode()
            parts.append(f"<figure><img alt='{path.stem}' src='data:image/png;base64,{content}'></figure>")
        lines = "\n".join(f"{key} {value}" for key, value in _changed(run.cfg).items())
        parts.append(f"<h3>Settings that are not the default</h3><pre>{html.escape(lines)}</pre>")
    return "\n".join([*parts, f"<p>igpt_jax {__version__}</p>\n"])


def _row(run: RunSummary) -> dict[str, str]:
    """The run in the table of all runs."""
    nats = next((n for n in run.figures if n.startswith("nats_per") and not n.endswith("_se")), None)
    best = pixels = ""
    if run.probe is not None:
        best = f"{run.probe['layers'][str(run.probe['best_layer'])]['accuracy']:.4f}"
        pixels = f"{row['accuracy']:.4f}" if (row := run.probe.get("best_pixels")) else ""
    return {
        "run": run.workdir.name,
        "experiment": run.cfg.name,
        "step": f"{run.figures.get('step', 0):.0f}",
        "loss": "" if nats is None else f"{run.figures[nats]:.4f} {nats.replace('_', ' ')}",
        "probe, best layer": best,
        "raw pixels, best classifier": pixels,
        "paper": FIGURES.get(run.cfg.name, ""),
    }


def _figure_rows(run: RunSummary) -> list[dict[str, str]]:
    """What was measured last, on validation or held-out images; standard errors beside their figures."""
    names = [name for name in run.figures if name != "step" and not name.endswith("_se")]
    kind = "validation images" if run.cfg.data.validation else "held-out images"
    shown = {name: _with_error(run.figures[name], run.figures.get(f"{name}_se")) for name in names}
    return [{kind: name.replace("_", " "), "": value} for name, value in shown.items()]


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def _probe_rows(probe: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"probe": r["name"], "chosen": r["setting"], "held out": _with_error(r["accuracy"], r["error"])}
        for r in probe["rows"]
    ]


def _changed(cfg: Config) -> dict[str, Any]:
    """The settings that are not the default."""
    default = flatten(Config())
    return {key: value for key, value in flatten(cfg).items() if value != default[key]}


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "nothing measured yet"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _html_table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "<p>nothing measured yet</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = ("".join(f"<td>{html.escape(value)}</td>" for value in row.values()) for row in rows)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{cells}</tr>' for cells in body)}</table>"
