"""Held-out accuracy of the classification head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import InputError
from igpt_jax.evaluation.likelihood import MASKS, Batches, eval_keys
from igpt_jax.keys import fold_in
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.objectives import draw_keep, stream
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import put_batch, replicated, traced_on


def make_classifier(model: ImageGPT, masks: int = MASKS) -> Any:
    """A function (params, tokens_BT, keys_B) -> class int32 [B].

    A BERT model is trained on masked images and so sees masked images here too: `masks` of each, and the class that
    most of them name wins, at random among equals (paper section 4.6). A causal model needs, and gets, one pass.

    Raises:
      InputError: the model has no classification head.
    """
    classes = model.cfg.clf_classes
    if not classes:
        raise InputError("model.clf_classes: this model has no classification head")

    def once(params: Any, tokens_BT: jax.Array, keep_BT: jax.Array | None) -> jax.Array:
        logits: Any = model.apply({"params": params}, tokens_BT, keep_BT, method="logits_and_classes")
        return jnp.argmax(logits[1], axis=-1).astype(jnp.int32)

    def vote(params: Any, tokens_BT: jax.Array, keys_B: jax.Array) -> jax.Array:
        def one_mask(i: jax.Array) -> jax.Array:
            keep_BT = draw_keep(fold_in(keys_B, i), model.cfg.n_ctx)
            return once(params, tokens_BT, keep_BT)

        named_MB = jax.lax.map(one_mask, jnp.arange(masks))
        return majority(named_MB, classes, fold_in(keys_B, masks))

    return vote if not model.cfg.causal else lambda params, tokens_BT, keys_B: once(params, tokens_BT, None)


def majority(named_MB: jax.Array, classes: int, keys_B: jax.Array) -> jax.Array:
    """int32 [B]: the class that most of M votes name; a draw with the image's key among those named equally often."""
    votes_BC = jax.nn.one_hot(named_MB, classes).sum(axis=0)
    ties_BC = jax.vmap(lambda key: jax.random.uniform(key, (classes,)))(keys_B)  # below 1, the worth of a vote
    return jnp.argmax(votes_BC + ties_BC, axis=-1).astype(jnp.int32)


class Accuracy:
    """Share of the held-out images with a label whose class the head names."""

    def __init__(self, model: ImageGPT, palette: Palette, batches: Batches, mesh: Mesh, seed: int = 0):
        """`batches` as for `Likelihood`."""
        self._batches, self._mesh = batches, mesh
        key, classify = stream(seed, "eval"), make_classifier(model)

        def right(params: Any, batch: Mapping[str, jax.Array], first: jax.Array) -> tuple[jax.Array, jax.Array]:
            n = len(batch["image"])
            tokens_BT = palette.encode(batch["image"]).reshape(n, -1)
            named_B = classify(params, tokens_BT, eval_keys(key, first, n, jnp.int32(0)))
            weight_B = batch["weight"] * (batch["label"] >= 0)
            return jnp.sum(weight_B * (named_B == batch["label"])), jnp.sum(weight_B)

        self._right = jax.jit(traced_on(mesh, right), out_shardings=replicated(mesh))

    def run(self, params: Any, step: int) -> Iterator[tuple[str, float]]:
        """Yields the accuracy, in 0..1.

        Raises:
          InputError: no held-out image has a label.
        """
        first, right, images = 0, 0.0, 0.0
        for host in self._batches():
            batch = put_batch(host, self._mesh)
            found = jax.device_get(self._right(params, batch, np.int32(first)))
            right, images, first = right + float(found[0]), images + float(found[1]), first + len(batch["image"])
        if not images:
            raise InputError("data.source: no held-out image has a label to compare with")
        yield "accuracy", right / images
