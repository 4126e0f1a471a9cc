"""Restoration: the clean picture, pixel after pixel, given a damaged one."""

from __future__ import annotations

import dataclasses

import jax

from igpt_jax.config import Config
from igpt_jax.objectives.ar import make_ar
from igpt_jax.objectives.base import Batch, Objective
from igpt_jax.palette import Palette
from igpt_jax.sequence import Example, patch_side, patches


def make_restore(cfg: Config, palette: Palette) -> Objective:
    """The mean of -log p over the T clean tokens, as objective `ar` has it, after a prefix: the damaged picture.

    The prefix holds square patches of pixels, not tokens: a palette of clean colours would destroy noise. The damage is
    that of data.degrade, made on the host.

    Raises:
      InputError: as for `ar`, or the prefix slots do not hold a picture.
    """
    generative, side = make_ar(cfg, palette), patch_side(cfg.model, palette.channels)

    def example(batch: Batch, keys_B: jax.Array) -> Example:
        clean = generative.example(batch, keys_B)
        return clean._replace(inputs=clean.inputs._replace(prefix=patches(batch["damaged"], side)))

    return dataclasses.replace(
        generative,
        example=example,
        evaluators=("likelihood", "restoration"),
        pictures=("restorations",),
        restores=True,
    )
