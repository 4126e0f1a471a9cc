"""Restoration of damaged pictures: draws from what the model holds possible, and their mean. Pixels in, pixels out.

A picture larger than the model's grid is worked on in overlapping windows at its own resolution. In each window, what
earlier windows have drawn is known, so every draw is one consistent picture.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.config import ModelConfig, SamplerConfig
from igpt_jax.errors import InputError
from igpt_jax.keys import fold_in, stream
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import batch_ways, mesh_of, outside_mesh, shard_batch, to_host, traced_on
from igpt_jax.sampling.batches import decode_in_batches
from igpt_jax.sampling.guidance import check_guidance
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules, filter_logits
from igpt_jax.sampling.tasks import check_model
from igpt_jax.sampling.tiles import blend_weights, windows
from igpt_jax.sequence import conditioning, raster_inputs

OVERLAP = 4
"""Neighbouring windows share at least one OVERLAP-th of their rows or columns."""


class Restored(NamedTuple):
    """What a model makes of damaged pictures."""

    draws: np.ndarray
    """uint8 [B, n, y, x, C]: pictures that are possible, in palette colours."""
    mean: np.ndarray
    """uint8 [B, y, x, C]: an estimate of the mean of all possible pictures, which is nearest to the original on
    average, but smoother than any of them."""


@outside_mesh
def restore(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    images: np.ndarray,
    n: int = 8,
    *,
    sampler: SamplerConfig | None = None,
) -> Restored:
    """Draws n restorations of each damaged picture, and estimates their mean.

    The mean is not that of the draws alone: at every pixel it is the mean colour that the model expects there after
    the earlier pixels of a draw, averaged over the draws. This has the same limit and less noise.

    Args:
      model, params, palette: of one run with objective `restore`.
      images: uint8 [B, y, x, C], each side at least that of the model's grid.
      n: draws of each picture.
      sampler: seed, temperature, top-k, top-p and batch size. Draw j of a picture depends on the seed and the picture
        alone. At temperature 1 and without limits, draws come from the model's posterior.

    Raises:
      InputError: a model that does not restore, n below 1, pictures of another type or smaller than the grid.
    """
    sampler = sampler or SamplerConfig()
    check_guidance(sampler, model.cfg.cond_classes)
    images = np.asarray(images)
    check_restores(model.cfg)
    check_model(model, params, palette, picture=True)
    check_pictures(model.cfg, palette, images)
    if n < 1:
        raise InputError(f"n: must be at least 1, not {n}")
    if sampler.order != "raster":
        raise InputError(f"sampler.order: a restoration is drawn in raster order, not {sampler.order}")
    pictures = np.array([zlib.crc32(np.ascontiguousarray(image).data) for image in images], np.uint32)
    keys_Bn = fold_in(fold_in(stream(sampler.seed, "sample"), pictures)[:, None], np.arange(n)[None])
    tile, size = (model.cfg.grid[0], model.cfg.grid[1]), (images.shape[1], images.shape[2])
    overlap = (tile[0] // OVERLAP, tile[1] // OVERLAP)
    counts = blend_weights(tile, overlap)[..., None]
    tokens, drawn = np.zeros((len(images), n, *size), np.int32), np.zeros(size, bool)
    total, weight = np.zeros(images.shape, np.float32), np.zeros((*size, 1), np.float32)
    for i, (top, left) in enumerate(windows(size, tile, overlap)):
        y, x = slice(top, top + tile[0]), slice(left, left + tile[1])
        picture = {name: np.asarray(values) for name, values in conditioning(model.cfg, images[:, y, x]).items()}
        before = tokens[:, :, y, x].reshape(len(images), n, -1)
        known = np.broadcast_to(drawn[y, x].reshape(1, 1, -1), before.shape)
        now = _draw(model, params, picture, before, known, fold_in(keys_Bn, i), sampler)
        expected = _expected(model, params, palette, picture, now, sampler)
        tokens[:, :, y, x] = now.reshape(len(images), n, *tile)
        total[:, y, x] += counts * expected.reshape(len(images), *tile, -1)
        weight[y, x] += counts
        drawn[y, x] = True
    mean = np.rint(np.clip(total / weight, 0, 255)).astype(np.uint8)
    return Restored(np.asarray(palette.decode(tokens)), mean)


def check_restores(cfg: ModelConfig) -> None:
    """Raises InputError for a model that does not restore."""
    if not cfg.has_conditioning:
        raise InputError("model: does not restore pictures; train one with --objective restore and --data.degrade")


def check_pictures(cfg: ModelConfig, palette: Palette, images: np.ndarray) -> None:
    """Raises InputError unless these are pictures that a model can restore."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != palette.channels or not len(images):
        wanted = f"uint8 [B, y, x, {palette.channels}]"
        raise InputError(f"images: {images.dtype} {images.shape}; the model restores {wanted}")
    y, x = images.shape[1:3]
    if y < cfg.grid[0] or x < cfg.grid[1]:
        raise InputError(
            f"images: {x} x {y} pixels; the model restores pictures of at least {cfg.grid[1]} x {cfg.grid[0]}; "
            "enlarge them"
        )


def _draw(
    model: ImageGPT,
    params: Params,
    picture: dict[str, np.ndarray],
    tokens_BnT: np.ndarray,
    known_BnT: np.ndarray,
    keys_Bn: jax.Array,
    sampler: SamplerConfig,
) -> np.ndarray:
    """int32 [B, n, T]: the tokens with the unknown ones drawn. The draws of a picture share its prefix."""
    (b, n, t), parts, aligned = tokens_BnT.shape, [], picture.get("aligned")
    for first in range(0, n, sampler.batch_size):
        chosen = slice(first, first + sampler.batch_size)
        tokens, known = (x[:, chosen].reshape(-1, t) for x in (tokens_BnT, known_BnT))
        keys = keys_Bn[:, chosen].reshape(-1)
        repeated = None if aligned is None else aligned.repeat(len(keys) // b, axis=0)
        prompt = Prompt(tokens, known, prefix=picture.get("prefix"), aligned=repeated)
        drawn = decode_in_batches(model, params, prompt, keys, sampler)
        parts.append(drawn.reshape(b, -1, t))
    return np.concatenate(parts, axis=1)


def _expected(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    picture: dict[str, np.ndarray],
    tokens_BnT: np.ndarray,
    sampler: SamplerConfig,
) -> np.ndarray:
    """float32 [B, T, C]: the colour that the model expects at each pixel, averaged over the draws."""
    (b, n, t), mesh = tokens_BnT.shape, mesh_of(params)
    ways = 1 if mesh is None else batch_ways(mesh)
    batch_size = -(-min(b * n, sampler.batch_size) // ways) * ways
    run, colors = traced_on(mesh, expected_colors), palette.decode(np.arange(palette.size)).astype(np.float32)
    parts = []
    for first in range(0, b * n, batch_size):
        rows = np.arange(first, first + batch_size).clip(max=b * n - 1)
        chosen = tokens_BnT.reshape(-1, t)[rows], {name: values[rows // n] for name, values in picture.items()}
        tokens, read = jax.tree.map(lambda x: shard_batch(x, mesh), chosen)
        parts.append(to_host(run(model, params, tokens, read, colors, Rules.of(sampler)))[: b * n - first])
    return np.concatenate(parts).reshape(b, n, t, -1).mean(axis=1)


@functools.partial(jax.jit, static_argnames="model")
def expected_colors(
    model: ImageGPT,
    params: Params,
    tokens_BT: jax.Array,
    picture: dict[str, jax.Array],
    colors_VC: jax.Array,
    rules: Rules,
) -> jax.Array:
    """float32 [B, T, C]: the mean colour of every pixel, given the pixels before it, under the rules of the draws."""
    logits_BTV: Any = model.apply({"params": params}, raster_inputs(tokens_BT)._replace(**picture))
    likely = jax.nn.one_hot(jnp.argmax(logits_BTV, axis=-1), colors_VC.shape[0])
    probs_BTV = jnp.where(rules.temperature > 0, jax.nn.softmax(filter_logits(logits_BTV, rules), axis=-1), likely)
    return jnp.einsum("btv,vc->btc", probs_BTV, colors_VC)
