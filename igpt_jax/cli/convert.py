"""igpt convert: weights from one format to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from igpt_jax.cli.shared import parse


@dataclass(frozen=True)
class ConvertArgs:
    """Write a model's weights and palette in another format. There and back changes no bit."""

    source: tyro.conf.Positional[str]
    """A workdir, OpenAI's checkpoint prefix, a Hugging Face directory, or OWNER/NAME[@REVISION] on the Hub."""
    to: Literal["workdir", "huggingface", "openai"]
    """The format to write."""
    out: Path
    """A new or empty directory."""
    step: int | None = None
    """Checkpoint of a workdir. The default is the newest."""
    palette: Path | None = None
    """A .npy of colours, instead of those that come with the weights."""
    grid: tuple[int, int] | None = None
    """Rows and columns, if the weights do not say it and are not square."""


def convert_command(args: list[str]) -> None:
    """igpt convert SOURCE --to FORMAT --out DIR."""
    cli = parse(ConvertArgs, args, "convert")

    from igpt_jax.weights.load import check_new, convert, load_pretrained

    check_new(cli.out)  # before reading a large model
    loaded = load_pretrained(cli.source, step=cli.step, palette=cli.palette, grid=cli.grid)
    print(convert(loaded, cli.to, cli.out))
