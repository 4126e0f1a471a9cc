"""One page about runs: figures beside the paper's, curves, probes, pictures, settings. Markdown, or HTML of it."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from markdown_it import MarkdownIt

from igpt_jax.analysis.paper import FIGURES
from igpt_jax.config import Config
from igpt_jax.config_json import flatten, from_json
from igpt_jax.errors import InputError
from igpt_jax.training.metric_log import last_evaluation
from igpt_jax.version import __version__

PICTURES = ("loss", "probe/probe", "samples", "completions", "inpaintings", "restorations", "reconstructions")
"""PNGs of a workdir that are shown, in this order, without the suffix."""

_STYLE = (
    "body{font:15px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}img{max-width:100%;margin:.5em 0}"
    "pre{font-size:13px}"
)


def page(workdirs: Iterable[Path], out: Path) -> str:
    """The page about these runs: Markdown (.md) with links relative to `out`, or HTML with the pictures inside."""
    rows, parts = zip(*(_read_run(workdir, out.parent) for workdir in workdirs), strict=True)
    of_runs = [part for of_run in parts for part in of_run]
    text = "\n\n".join(["# Runs", _table(rows), *of_runs, f"igpt_jax {__version__}"]) + "\n"
    return text if out.suffix == ".md" else _html(text, out.parent)


def _html(text: str, folder: Path) -> str:
    def inside(link: re.Match[str]) -> str:
        picture = (folder / unquote(link[1])).read_bytes()
        return f'src="data:image/png;base64,{base64.b64encode(picture).decode()}"'

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    head = f"<!doctype html><meta charset='utf-8'><title>Runs</title><style>{_STYLE}</style>"
    return head + "\n" + re.sub(r'src="(.*?)"', inside, body)


def _table(rows: Sequence[dict[str, str]]) -> str:
    """Rows with the same keys, as a table under these."""
    if not rows:
        return "nothing measured yet"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _read_run(workdir: Path, folder: Path) -> tuple[dict[str, str], list[str]]:
    """The run in the table of all runs, and its parts of a page in this folder."""
    try:
        text = (workdir / "config.json").read_text(encoding="utf-8")
        file = workdir / "probe" / "probe.json"
        probe = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    except FileNotFoundError:
        raise InputError(f"{workdir}: holds no run; name workdirs of igpt train") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{workdir}: {error}") from None
    cfg, figures = from_json(Config, text, str(workdir / "config.json")), last_evaluation(workdir, None)
    parts = [f"## {workdir}", _table(_figure_rows(cfg, figures))]
    if probe is not None:
        parts.append(_table([_probe_row(row) for row in probe["rows"]]))
    pictures = (workdir / f"{name}.png" for name in PICTURES)
    parts += [f"![{path.stem}]({quote(os.path.relpath(path, folder))})" for path in pictures if path.exists()]
    default = flatten(Config())
    settings = [f"    {key} {value}" for key, value in flatten(cfg).items() if value != default[key]]
    parts += ["Settings that are not the default:", "\n".join(settings)]

    loss = next((n for n in figures if n.startswith("nats_per") and not n.endswith("_se")), None)
    best = probe and probe["layers"][str(probe["best_layer"])]
    pixels = probe and probe.get("best_pixels")
    row = {
        "run": workdir.name,
        "experiment": cfg.name,
        "step": f"{figures.get('step', 0):.0f}",
        "loss": f"{_number(figures[loss])} {loss.replace('_', ' ')}" if loss else "",
        "probe, best layer": _number(best and best["accuracy"]),
        "raw pixels, best classifier": _number(pixels and pixels["accuracy"]),
        "paper": FIGURES.get(cfg.name, ""),
    }
    return row, parts


def _figure_rows(cfg: Config, figures: dict[str, float]) -> list[dict[str, str]]:
    """What was measured last, on validation or held-out images; standard errors beside their figures."""
    names = [name for name in figures if name != "step" and not name.endswith("_se")]
    kind = "validation images" if cfg.data.validation else "held-out images"
    return [{kind: name.replace("_", " "), "": _number(figures[name], figures.get(f"{name}_se"))} for name in names]


def _probe_row(row: dict[str, Any]) -> dict[str, str]:
    return {"probe": row["name"], "chosen": row["setting"], "held out": _number(row["accuracy"], row["error"])}


def _number(value: float | None, error: float | None = None) -> str:
    """Four digits; nothing for null, as numbers are written that are not finite."""
    return " ± ".join(f"{number:.4f}" for number in (value, error) if number is not None)
