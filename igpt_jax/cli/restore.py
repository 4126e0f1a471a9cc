"""igpt restore: the clean picture from a degraded one."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from igpt_jax.cli.common import Flag
from igpt_jax.cli.draw import PictureCommand, by_size, check_size, load_images
from igpt_jax.cli.output import Result
from igpt_jax.config_json import json_text
from igpt_jax.errors import InputError

if TYPE_CHECKING:
    from igpt_jax.config import Config
    from igpt_jax.pretrained import Pretrained
    from igpt_jax.sampling.restore import Restored

SHOWN_DRAWS = 3
"""Draws of each picture in a .png of all of them."""

Given = tuple[list[np.ndarray], list[np.ndarray] | None]
"""The degraded pictures uint8 [y, x, C], and their originals where they are known."""


@dataclass(frozen=True, kw_only=True)
class Restore(PictureCommand):
    """Restore degraded pictures, with a model that was trained with objective restore."""

    task = "restore"
    file_name = "restorations-seed{}.png"
    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Degraded picture files, not smaller than the model's grid. Larger ones are worked on in overlapping windows."""
    original: tuple[Path, ...] = ()
    """The original pictures in the same order, to compare with."""
    degrade: str | None = None
    """To try it: the pictures are clean, and are degraded first, as in data.degrade: gaussian:0.1."""
    fit: Flag = False
    """Bring the pictures to the model's grid first, as in training."""
    json: Flag = False
    """Print PSNR (dB) and SSIM of the degraded pictures, the means and the draws as JSON; needs the originals."""
    out: Path | None = None
    """.png: before and after; a new directory: the mean and every draw as PNGs of full size. By default
    restorations-seed<seed>.png in the workdir."""

    def check(self) -> None:
        super().check()
        if self.original and self.degrade is not None:
            raise InputError("restore: with --degrade the pictures are the originals; leave out --original")
        if self.original and len(self.original) != len(self.images):
            raise InputError(f"--original: names {len(self.original)} pictures for {len(self.images)}; one for each")
        if self.json and not self.original and self.degrade is None:
            raise InputError("--json: compares with the originals; name them with --original, or take --degrade")
        if self.degrade is not None:
            from igpt_jax.data.degrade import parse_spec

            parse_spec(self.degrade, "--degrade")

    def draw(self, weights: Pretrained, given: Given) -> Result:
        from igpt_jax.sampling.restore import restore

        degraded, originals = given
        options = {"n": self.n, "sampler": self.sampler, "draft": weights.draft}
        restored = by_size(functools.partial(restore, *self.request(weights), **options), degraded)
        files, rows = [], []
        for i, (image, result) in enumerate(zip(degraded, restored, strict=True)):
            files.append({"mean": result.mean} | {f"draw{j}": draw for j, draw in enumerate(result.draws)})
            rows.append({"degraded": image, "draw": result.draws[:SHOWN_DRAWS], "mean": result.mean})
            rows[-1] |= {} if originals is None else {"original": originals[i]}
        figures = [] if originals is None else [compared(*row) for row in zip(originals, degraded, restored)]
        shown = functools.partial(self.shown, figures)
        return self.result(files, rows, settings={"degrade": self.degrade}, shown=shown)

    def shown(self, figures: list[dict[str, Any]], out: Path) -> str:
        if self.json:
            rows = [{"image": str(path), **row} for path, row in zip(self.images, figures, strict=True)]
            return json_text({"out": str(out), "images": rows}).strip()
        lines = [str(out)]
        for path, row in zip(self.images, figures):
            psnr = ", ".join(f"{name} {np.mean(value):.2f} dB" for name, value in row["psnr"].items())
            lines.append(f"{path}: PSNR {psnr}")
        return "\n".join(lines)

    def read(self, cfg: Config) -> Given:
        """Degraded pictures and their originals."""
        from igpt_jax.data.degrade import make_degrade
        from igpt_jax.datasets import preprocess_for_eval

        images, originals = load_images(cfg, self.images), load_images(cfg, self.original, "--original")
        for path, image, original in zip(self.original, images, originals):
            if original.shape != image.shape:
                sizes = " and ".join(f"{x.shape[1]} x {x.shape[0]}" for x in (original, image))
                raise InputError(f"--original {path}: has another size than its degraded picture ({sizes} pixels)")
        if self.fit:
            images, originals = ([*preprocess_for_eval(cfg, x)] if x else [] for x in (images, originals))
        for path, image in zip(self.images, images, strict=True):
            check_size(cfg, path, image)
        if self.degrade is None:
            return images, originals or None
        degrade = make_degrade([self.degrade], train=True)
        assert degrade is not None
        seeds = ((self.sampler.seed, i) for i in range(len(images)))
        return [degrade(image, np.random.default_rng(seed)) for image, seed in zip(images, seeds)], images


def compared(original: np.ndarray, degraded: np.ndarray, restored: Restored) -> dict[str, Any]:
    """PSNR in dB and SSIM of one picture, its mean and each draw, for JSON."""
    from igpt_jax.evaluation.quality import psnr_of_each, ssim_of_each

    versions = {"degraded": degraded[None], "mean": restored.mean[None], "draws": restored.draws}

    def each(measure: Any) -> dict[str, Any]:
        values = {name: measure(original[None].repeat(len(x), axis=0), x).tolist() for name, x in versions.items()}
        return {name: x if name == "draws" else x[0] for name, x in values.items()}

    return {"psnr": each(psnr_of_each), "ssim": each(ssim_of_each)}
