"""Inpainting: fills any hole of a picture, several times, and says how far the draws agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from igpt_jax.config import SamplerConfig
from igpt_jax.errors import require
from igpt_jax.keys import fold_in
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import outside_mesh
from igpt_jax.sampling import checks
from igpt_jax.sampling.draft import Draft
from igpt_jax.sampling.methods import METHODS
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.tasks import prompt_keys
from igpt_jax.sampling.tiles import sweep, windows_over


class Inpainted(NamedTuple):
    """Pictures with their holes filled. Everything outside the holes is as it was, byte for byte."""

    draws: np.ndarray
    """uint8 [B, n, Y, X, C]: n ways to fill the hole of each picture."""
    mean: np.ndarray
    """uint8 [B, Y, X, C]: the mean of the draws, which has the smallest expected squared error."""
    deviation: np.ndarray
    """float32 [B, Y, X], in 0..255: the standard deviation of the draws; 0 outside the hole."""


@outside_mesh
def inpaint(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    images: np.ndarray,
    known: np.ndarray,
    n: int = 8,
    *,
    sampler: SamplerConfig | None = None,
    classes: checks.Classes = None,
    draft: Draft | None = None,
) -> Inpainted:
    """Fills the unknown part of pictures of any size, n times.

    Pictures larger than the model's grid keep their resolution: overlapping windows around a picture's hole are filled
    one after another, each from the known pixels in it and from what earlier windows drew.

    Args:
      images: uint8 [B, Y, X, C], no side shorter than the grid's. Unknown pixels are not read.
      known: bool [Y, X] or [B, Y, X], True for pixels that stay.
      n: draws for each picture. They depend on the seed, its own mask and its known pixels alone.
      sampler: its `method` is a name in `METHODS`, or auto for the first that the model supports.
      classes: for a class-conditional model, the class of all pictures or of each; -1 or None for no class.
      draft: as for `sample`; for the methods any_order and clamp.
    """
    sampler, grid = sampler or SamplerConfig(), model.cfg.grid
    checks.check_request(model.cfg, "inpaint", sampler)
    checks.check_weights(model, params, palette)
    checks.check_counts(n=n)
    images = checks.checked_images(images, grid, palette, larger=True)
    known = checks.checked_mask(known, images)
    for i, mask in enumerate(known):
        require(not mask.all(), "known", f"the mask of picture {i} has no unknown pixel")
        require(bool(mask.any()), "known", f"the mask of picture {i} has no known pixel; `sample` draws new ones")
    fill = METHODS[checks.pick_method(model.cfg, sampler.method)].fill
    tokens = np.where(known, np.asarray(palette.encode(images)), 0)
    keys, class_B = prompt_keys(sampler.seed, tokens, known, n), checks.class_ids(model.cfg, classes, len(images))
    windows = [windows_over(~mask, (grid[0], grid[1])) for mask in known]

    def fill_windows(turn: int, rows: np.ndarray, before: np.ndarray, seen: np.ndarray) -> np.ndarray:
        # where no earlier window drew in this one, all draws of the picture have one prompt
        fresh = np.array([(now == known[b][windows[b][turn]]).all() for b, now in zip(rows, seen, strict=True)])
        drawn = before.copy()
        for chosen, prompts in ((np.flatnonzero(fresh), 1), (np.flatnonzero(~fresh), n)):
            if not len(chosen):
                continue
            each, count = rows[chosen], len(chosen) * prompts
            prompt = Prompt(
                tokens=before[chosen, :prompts].reshape(count, -1),
                known=seen[chosen].reshape(len(chosen), -1).repeat(prompts, axis=0),
                class_id=None if class_B is None else class_B[each].repeat(prompts),
            )
            row_keys = fold_in(keys[each], turn).reshape(count, n // prompts)
            drawn[chosen] = fill(model, params, prompt, row_keys, sampler, draft).reshape(drawn[chosen].shape)
        return drawn

    drawn = sweep(tokens[:, None].repeat(n, axis=1), known, windows, fill_windows)
    draws = np.where(known[:, None, ..., None], images[:, None], palette.decode(drawn))
    mean = np.rint(draws.mean(axis=1)).astype(np.uint8)
    deviation = np.sqrt(draws.var(axis=1, dtype=np.float64).mean(axis=-1)).astype(np.float32)
    return Inpainted(draws, mean, deviation)
