"""Restoration: the clean picture, pixel after pixel, given a degraded one."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from igpt_jax.config import Config
from igpt_jax.objectives.ar import make_ar
from igpt_jax.objectives.base import Batch, Objective
from igpt_jax.palette import Palette
from igpt_jax.sequence import Example, conditioning


def make_restore(cfg: Config, palette: Palette) -> Objective:
    """The mean of -log p over the T clean tokens, as objective `ar` has it, given the degraded picture.

    The model reads it in `model.prefix_slots` slots before the tokens, as square patches, or in windows of
    `model.aligned_values` around each target, or both. These are pixels, not tokens: a palette of clean colours would
    destroy noise. The degradation is that of data.degrade, made on the host.
    """
    generative = make_ar(cfg, palette)
    picture = jax.ShapeDtypeStruct((1, *cfg.model.grid, palette.channels), np.uint8)
    jax.eval_shape(functools.partial(conditioning, cfg.model), picture)  # raises if the model cannot read it

    def example(batch: Batch, keys_B: jax.Array) -> Example:
        clean = generative.example(batch, keys_B)
        return clean._replace(inputs=clean.inputs._replace(**conditioning(cfg.model, batch["degraded"])))

    return dataclasses.replace(
        generative,
        example=example,
        evaluators=("likelihood", "restoration"),
        pictures=("restorations",),
        restores=True,
    )
