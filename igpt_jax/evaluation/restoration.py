"""How near restorations come to the clean pictures, on held-out images with the damage of data.degrade."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from igpt_jax.evaluation.base import EvalContext
from igpt_jax.evaluation.quality import psnr_of_each, ssim_of_each
from igpt_jax.sampling.restore import restore

IMAGES = 64
"""At most so many held-out images, spread evenly: drawing takes far longer than a loss."""
DRAWS = 2
"""Draws of each image."""


class Restoration:
    """PSNR in dB and SSIM of the damaged image, of one draw and of the mean of a few, averaged over images.

    The clean pictures are compared as they are, not rounded to the palette; `palette_psnr` is what the palette alone
    costs, and the most that a draw can reach.
    """

    def __init__(self, context: EvalContext):
        self._context = context

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the means."""
        context = self._context
        clean = context.data.images(context.held_out, IMAGES)
        damaged, palette = context.data.damaged(clean), context.palette
        restored = restore(context.model, params, palette, damaged, DRAWS, sampler=context.cfg.sampler)
        measured = {"damaged": damaged, "draw": restored.draws[:, 0], "mean": restored.mean}
        for name, images in measured.items():
            yield f"{name}_psnr", float(psnr_of_each(clean, images).mean())
        yield "palette_psnr", float(psnr_of_each(clean, np.asarray(palette.decode(palette.encode(clean)))).mean())
        for name, images in measured.items():
            yield f"{name}_ssim", float(ssim_of_each(clean, images).mean())
