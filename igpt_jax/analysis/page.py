"""One page about runs: figures beside the paper's, curves, probes, pictures and configuration. HTML, or Markdown."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Iterable, Sequence
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

Part = tuple[str, Any]
"""("title", "run" or "end", text), ("table", rows: a list of dicts with the same keys), ("picture", its path), or
("settings", lines)."""

_STYLE = (
    "body{font:15px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}img{max-width:100%;margin:.5em 0}"
    "pre{font-size:13px}"
)


def page(workdirs: Iterable[Path], out: Path) -> str:
    """The page about these runs: HTML with the pictures inside, or Markdown (.md) with links relative to `out`."""
    rows, parts = zip(*map(_read_run, workdirs), strict=True)
    whole = [("title", "Runs"), ("table", rows), *(part for of_run in parts for part in of_run)]
    whole.append(("end", f"igpt_jax {__version__}"))
    if out.suffix == ".md":
        return "\n\n".join(_markdown(kind, content, out.parent) for kind, content in whole) + "\n"
    return "\n".join(_html(kind, content) for kind, content in whole) + "\n"


def _markdown(kind: str, content: Any, folder: Path) -> str:
    if kind == "table":
        return "\n".join(f"| {' | '.join(cells)} |" for cells in _lines(content, ["---"])) or "nothing measured yet"
    if kind == "picture":
        return f"![{content.stem}]({os.path.relpath(content, folder)})"
    if kind == "settings":
        return "\n".join(f"    {line}" for line in content)
    return {"title": "# ", "run": "## ", "end": ""}[kind] + content


def _html(kind: str, content: Any) -> str:
    if kind == "table":
        tagged = zip(["th", *["td"] * len(content)], _lines(content), strict=False)
        rows = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) for tag, cells in tagged)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows) or 'nothing measured yet'}</table>"
    if kind == "picture":
        data = base64.b64encode(content.read_bytes()).decode()
        return f"<figure><img alt='{content.stem}' src='data:image/png;base64,{data}'></figure>"
    if kind == "settings":
        return f"<h3>Settings that are not the default</h3><pre>{html.escape(chr(10).join(content))}</pre>"
    head = f"<!doctype html><meta charset='utf-8'><title>Runs</title><style>{_STYLE}</style>" if kind == "title" else ""
    tag = {"title": "h1", "run": "h2", "end": "p"}[kind]
    return f"{head}<{tag}>{html.escape(content)}</{tag}>"


def _lines(rows: Sequence[dict[str, str]], rule: Sequence[str] = ()) -> list[list[str]]:
    """The cells of a table, its head first; `rule` is repeated for each column below it."""
    rules = [[*rule] * len(rows[0])] if rows and rule else []
    return [list(rows[0]), *rules, *(list(row.values()) for row in rows)] if rows else []


def _read_run(workdir: Path) -> tuple[dict[str, str], list[Part]]:
    """The run in the table of all runs, and its part of the page."""
    try:
        text = (workdir / "config.json").read_text(encoding="utf-8")
        file = workdir / "probe" / "probe.json"
        probe = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    except FileNotFoundError:
        raise InputError(f"{workdir}: holds no run; name workdirs of igpt train") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{workdir}: {error}") from None
    cfg, figures = from_json(Config, text, str(workdir / "config.json")), last_evaluation(workdir, None)
    parts: list[Part] = [("run", str(workdir)), ("table", _figure_rows(cfg, figures))]
    if probe is not None:
        parts.append(("table", [_probe_row(row) for row in probe["rows"]]))
    parts += [("picture", path) for name in PICTURES if (path := workdir / f"{name}.png").exists()]
    default = flatten(Config())
    parts.append(("settings", [f"{key} {value}" for key, value in flatten(cfg).items() if value != default[key]]))

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
