"""igpt fetch: the weights that OpenAI released, and its tokenised images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from igpt_jax.cli.common import Command, Flag
from igpt_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Fetch(Command):
    """Download OpenAI's released weights, or its tokenised images, with their palette. The same command continues and
    verifies.
    """

    model: tyro.conf.Positional[Literal["igpt-s", "igpt-m", "igpt-l"] | None] = None
    """The paper's S, M or L."""
    bert: Flag = False
    """The model trained to predict masked pixels instead of the autoregressive one."""
    step: int | None = None
    """Training step of the checkpoint: 131000, 262000, 524000 or 1000000; by default the last."""
    dataset: Literal["imagenet", "cifar10"] | None = None
    """Instead of weights, tokenised images of 32 x 32 pixels, to be read with --source tokens:OUT/imagenet."""
    splits: tuple[Literal["train", "validation", "test"], ...] | None = None
    """Which of the splits of --dataset; by default all."""
    out: str | None = None
    """Directory for all files. The default is weights/MODEL, weights/MODEL-bert or data."""
    base_url: str | None = None
    """A mirror with the same folders, instead of OpenAI's server."""

    def run(self) -> None:
        if (self.model is None) == (self.dataset is None):
            raise InputError("fetch: name a model (igpt-s, igpt-m or igpt-l) or a --dataset, one of the two")
        if self.dataset is not None and (self.bert or self.step is not None):
            raise InputError("fetch: --bert and --step are of weights; leave them out with --dataset")
        if self.model is not None and self.splits is not None:
            raise InputError("fetch: --splits are of a --dataset; leave them out with a model")
        from igpt_jax.files import local_path
        from igpt_jax.weights.fetch import BASE_URL, LAST_STEP, SPLITS, dataset_files, fetch, weight_files

        if self.model is not None:
            kind, folder = "weights", Path("weights") / (self.model + "-bert" * self.bert)
            files = weight_files(self.model, self.bert, LAST_STEP if self.step is None else self.step)
        else:
            kind, folder = "images", Path("data")
            files = dataset_files(str(self.dataset), self.splits or tuple(SPLITS))
        out = local_path(self.out or folder, "--out")
        self._report(f"the {kind} are OpenAI's, licence Modified MIT: https://github.com/openai/image-gpt")
        print(fetch(files, out, self.base_url or BASE_URL, self._report, self._make_bar))

    def _report(self, line: str) -> None:
        from tqdm import tqdm

        if not self.common.quiet:
            tqdm.write(f"igpt: {line}", file=sys.stderr)

    def _make_bar(self, name: str) -> Any:
        """The progress of one file, on terminals. pooch sets the total; a bar without one cannot be passed to it."""
        from tqdm import tqdm

        off = True if self.common.quiet else None
        return tqdm(desc=name, total=1, unit="B", unit_scale=True, leave=False, position=0, disable=off)
