"""igpt fetch: the weights that OpenAI released."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from igpt_jax.cli.shared import parse
from igpt_jax.weights.fetch import BASE_URL, fetch


@dataclass(frozen=True)
class FetchArgs:
    """Download OpenAI's released weights and their palette. The same command continues and verifies."""

    model: tyro.conf.Positional[Literal["igpt-s", "igpt-m", "igpt-l"]]
    bert: bool = False
    """The model trained to predict masked pixels instead of the autoregressive one."""
    step: int = 1_000_000
    """Training step of the checkpoint: 131000, 262000, 524000 or 1000000."""
    out: Path | None = None
    """Directory for all files. The default is weights/MODEL or weights/MODEL-bert."""
    base_url: str = BASE_URL
    """A mirror with the same folders."""


def fetch_command(args: list[str]) -> None:
    """igpt fetch MODEL [--bert] [--step N] [--out DIR] [--base-url URL]."""
    cli = parse(FetchArgs, args, "fetch", flags=True)
    out = cli.out or Path("weights") / (cli.model + "-bert" * cli.bert)
    _report("the weights are OpenAI's, licence Modified MIT: https://github.com/openai/image-gpt")
    prefix = fetch(
        cli.model, out, bert=cli.bert, step=cli.step, base_url=cli.base_url, report=_report, make_bar=_make_bar
    )
    print(prefix)


def _report(line: str) -> None:
    tqdm.write(f"igpt: {line}", file=sys.stderr)


def _make_bar(name: str) -> tqdm:
    """The progress of one file, on terminals. pooch sets the total; a bar without one cannot be passed to it."""
    return tqdm(desc=name, total=1, unit="B", unit_scale=True, leave=False, position=0, disable=None)
