"""Features of images from one sharded pass: the states of layers averaged over slots, or those of every slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.data.sources.base import Source
from igpt_jax.errors import InputError
from igpt_jax.evaluation.base import EvalContext, image_keys, over_batches, replicated_jit
from igpt_jax.keys import fold_in
from igpt_jax.objectives import batch_tokens


class Features(NamedTuple):
    """What is known of n labelled images."""

    values: np.ndarray
    """float32 [M, n, L, D]: of M draws (masks, for BERT), L layers; or [M, n, T, D], the T slots of one layer."""
    pixels: np.ndarray
    """uint8 [n, Y * X * C]: the images as the model gets them, before the palette."""
    labels: np.ndarray
    """int32 [n]."""


class FeatureReader:
    """Reads the features of every layer asked for in one jitted pass; batches are split over the mesh.

    Args:
      layers: i in 0..N - 1 is what block i's attention reads, N what the output head reads (paper section 2.4).
      slots: the states of every slot instead of their average; then of the first layer named alone.
    """

    def __init__(self, context: EvalContext, params: Any, layers: Sequence[int], slots: bool = False) -> None:
        model, objective = context.model, context.objective
        depth = model.cfg.n_layer
        if not layers or not all(0 <= i <= depth for i in layers):
            raise InputError(f"probe.layers {' '.join(map(str, layers))}: this model has layers 0 to {depth}")
        if model.cfg.has_conditioning:
            raise InputError("probe: this model restores a degraded picture, and has no features of a picture alone")
        self._context, self._params = context, params
        self._vectors = model.cfg.n_ctx if slots else len(layers)
        self.draws = objective.feature_draws
        """How many draws a held-out image has, of a model that sees masked images."""

        def read(params: Any, batch: Mapping[str, jax.Array], first: jax.Array, draws: jax.Array) -> Any:
            tokens_BT = batch_tokens(context.palette, batch)

            def one(draw: jax.Array) -> jax.Array:
                keys_B = fold_in(image_keys(context, first, len(tokens_BT)), draw)
                inputs = objective.feature_inputs(tokens_BT, keys_B)
                if slots:
                    states: Any = model.apply({"params": params}, inputs, layers=layers[:1], method="hidden_states")
                    return states[0].astype(jnp.float32)
                features: Any = model.apply({"params": params}, inputs, method="features")
                return features[np.array(layers)].swapaxes(0, 1)

            pixels = batch["image"].reshape(len(tokens_BT), -1)
            return jax.lax.map(one, draws), pixels, batch["label"], batch["weight"]

        self._read = replicated_jit(context, read)

    def read(self, source: Source, draws: int = 1, first: int = 0) -> Features:
        """The features of all images of a source that have a label (at least one), on every process. What is drawn for
        an image depends on its number; `first` is that of the first image."""

        def run(batch: Mapping[str, jax.Array], at: np.int32) -> Any:
            return jax.device_get(self._read(self._params, batch, first + at, jnp.arange(draws)))

        # filled batch by batch, as the features of all layers may take most of the memory
        values_MNLD = np.empty((draws, len(source), self._vectors, self._context.model.cfg.d_model), np.float32)
        pixels, labels, kept = list[np.ndarray](), list[np.ndarray](), 0
        for values_MBLD, pixels_B, labels_B, weights_B in over_batches(self._context, source, run, "reading features"):
            labelled = (weights_B > 0) & (labels_B >= 0)
            values_MNLD[:, kept : kept + labelled.sum()] = values_MBLD[:, labelled]
            pixels.append(pixels_B[labelled])
            labels.append(labels_B[labelled])
            kept += int(labelled.sum())
        if not kept:
            raise InputError(f"data.source: no image of {source.name} has a label, which a probe learns")
        return Features(values_MNLD[:, :kept], np.concatenate(pixels), np.concatenate(labels))
