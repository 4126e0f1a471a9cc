"""Cheap models of the same tokens, to compare a trained model with."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import numpy as np

from igpt_jax.analysis.baselines.counts import count_nats, histogram_nats
from igpt_jax.analysis.baselines.masked import masked_baselines
from igpt_jax.analysis.baselines.network import network_nats
from igpt_jax.data.sources.base import Source
from igpt_jax.data.sources.validation import choose_aside
from igpt_jax.datasets import subset
from igpt_jax.evaluation.base import EvalContext, gather

COUNTED_TOKENS = 20_000_000
"""Tokens of training images that the baselines learn from, if there are so many."""
VALIDATION = 0.1
"""Share of these images on which the network stops learning."""


def baselines(context: EvalContext, network: bool = False) -> dict[str, np.ndarray]:
    """Name -> float64 [M], the nats of each held-out image per token, or per masked token if that is the model's loss.

    Every process computes all of them. They learn from mirrored images, too, if the model does. Beside a model whose
    masks give a likelihood of whole images stand both: methods behind the same masks, and those row by row.

    Args:
      network: train a small network on the neighbours of each pixel, too: minutes; two networks for ARDM.

    Raises:
      InputError: there are too few training images to set some aside for the network.
    """
    palette = context.palette
    counted, validation = learning_images(context, network)
    train, held_out = read_tokens(context, counted), read_tokens(context, context.held_out)
    if context.cfg.data.flip:
        train = np.concatenate([train, train[..., ::-1]])
        validation = None if validation is None else np.tile(validation, 2)
    masked = masked_baselines(context, train, held_out, validation) if context.objective.masks else {}
    if masked and context.objective.loss_name != "nats_per_token":
        return masked
    nats, order = {}, ", row by row" if masked else ""
    if validation is not None:
        learned = network_nats(train, held_out, validation, palette, context.cfg.seed)
        nats[f"network of neighbours{order}"] = learned
    nats[f"counts of neighbours{order}"] = count_nats(train, held_out, palette.size)
    if not masked:
        nats["per-pixel histograms"] = histogram_nats(train, held_out, palette.size)
        nats["uniform"] = np.full(held_out.shape, math.log(palette.size))
    means = {name: values.reshape(len(held_out), -1).mean(axis=1, dtype=np.float64) for name, values in nats.items()}
    return masked | means


def learning_images(context: EvalContext, network: bool) -> tuple[Source, np.ndarray | None]:
    """The training images that the baselines learn from; bool [n], those on which the network stops, or None.

    Raises:
      InputError: there are too few training images to set some aside for the network.
    """
    counted = subset(context.data.train, max(1, COUNTED_TOKENS // context.model.cfg.n_ctx))
    return counted, choose_aside(counted, VALIDATION) if network else None


def read_tokens(context: EvalContext, source: Source) -> np.ndarray:
    """int32 [n, *grid]: all images of a source as palette ids, on every process. Each process reads its own share."""

    def encode(batch: Mapping[str, jax.Array]) -> jax.Array:
        return context.palette.encode(batch["image"])

    return gather(context, source, encode)
