"""How near restorations come to the clean pictures, on held-out images with the degradation of data.degrade."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from igpt_jax.evaluation.base import EvalContext, Evaluator
from igpt_jax.evaluation.quality import psnr_of_each, ssim_of_each
from igpt_jax.objectives import Figure
from igpt_jax.sampling.restore import restore

IMAGES = 64
"""At most so many held-out images, spread evenly: drawing takes far longer than a loss."""
DRAWS = 2
"""Draws of each image."""
SHOWN = ("degraded", "draw", "mean")


def make_restoration(context: EvalContext) -> Evaluator:
    """PSNR in dB and SSIM of the degraded image, of one draw and of the mean of a few.

    The clean pictures are compared as they are, not rounded to the palette; `palette_psnr` is what the palette alone
    costs, and the most that a draw can reach.
    """
    psnr, ssim = Figure("dB", "higher"), Figure("", "higher")

    def measure(params: Any, batch: Mapping[str, Any], keys_B: Any) -> dict[str, Any]:
        del keys_B  # draws have the sampler's seed
        clean, palette = batch["image"], context.palette
        degraded = context.data.degraded(clean)
        restored = restore(context.model, params, palette, degraded, DRAWS, sampler=context.cfg.sampler)
        shown = dict(zip(SHOWN, (degraded, restored.draws[:, 0], restored.mean), strict=True))
        measured = {f"{name}_psnr": psnr_of_each(clean, images) for name, images in shown.items()}
        measured["palette_psnr"] = psnr_of_each(clean, np.asarray(palette.decode(palette.encode(clean))))
        measured |= {f"{name}_ssim": ssim_of_each(clean, images) for name, images in shown.items()}
        return {name: (values, np.ones(len(values))) for name, values in measured.items()}

    figures = {f"{name}_psnr": psnr for name in (*SHOWN, "palette")} | {f"{name}_ssim": ssim for name in SHOWN}
    return Evaluator(measure, figures, on_host=True, most=IMAGES)
