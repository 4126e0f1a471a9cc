"""igpt convert: weights from one format to another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from igpt_jax.cli.common import Command, Flag


@dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """Write a model's weights and palette in another format. There and back changes no bit."""

    less_memory: ClassVar[str] = "it needs the weights in float32 once, a run's own about twice"
    source: tyro.conf.Positional[str]
    """A workdir, OpenAI's checkpoint prefix, a Hugging Face directory, or OWNER/NAME[@REVISION] on the Hub."""
    to: Literal["workdir", "huggingface", "openai"]
    """The format to write."""
    out: str
    """A new or empty directory."""
    step: int | None = None
    """Checkpoint of a workdir. The default is the newest."""
    palette: Path | None = None
    """A .npy of colours, instead of those that come with the weights."""
    grid: tuple[int, int] | None = None
    """Rows and columns, if the weights do not say it and are not square."""
    allow_nonfinite: Flag = False
    """Convert weights that hold NaN or infinite numbers."""

    def run(self) -> None:
        from igpt_jax.files import local_path
        from igpt_jax.weights.load import check_new, convert, load_pretrained

        out = local_path(self.out, "--out")
        check_new(out)  # before reading a large model
        loaded = load_pretrained(
            self.source, step=self.step, palette=self.palette, grid=self.grid, allow_nonfinite=self.allow_nonfinite
        )
        print(convert(loaded, self.to, out))
