"""igpt fetch: the weights that OpenAI released."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from igpt_jax.cli.common import Command, Flag


@dataclass(frozen=True, kw_only=True)
class Fetch(Command):
    """Download OpenAI's released weights and their palette. The same command continues and verifies."""

    model: tyro.conf.Positional[Literal["igpt-s", "igpt-m", "igpt-l"]]
    """The paper's S, M or L."""
    bert: Flag = False
    """The model trained to predict masked pixels instead of the autoregressive one."""
    step: int = 1_000_000
    """Training step of the checkpoint: 131000, 262000, 524000 or 1000000."""
    out: str | None = None
    """Directory for all files. The default is weights/MODEL or weights/MODEL-bert."""
    base_url: str | None = None
    """A mirror with the same folders, instead of OpenAI's server."""

    def run(self) -> None:
        """Downloads."""
        from igpt_jax.files import local_path
        from igpt_jax.weights.fetch import BASE_URL, fetch

        out = local_path(self.out or Path("weights") / (self.model + "-bert" * self.bert), "--out")
        self._report("the weights are OpenAI's, licence Modified MIT: https://github.com/openai/image-gpt")
        prefix = fetch(
            self.model,
            out,
            bert=self.bert,
            step=self.step,
            base_url=self.base_url or BASE_URL,
            report=self._report,
            make_bar=self._make_bar,
        )
        print(prefix)

    def _report(self, line: str) -> None:
        from tqdm import tqdm

        if not self.common.quiet:
            tqdm.write(f"igpt: {line}", file=sys.stderr)

    def _make_bar(self, name: str) -> Any:
        """The progress of one file, on terminals. pooch sets the total; a bar without one cannot be passed to it."""
        from tqdm import tqdm

        off = True if self.common.quiet else None
        return tqdm(desc=name, total=1, unit="B", unit_scale=True, leave=False, position=0, disable=off)
