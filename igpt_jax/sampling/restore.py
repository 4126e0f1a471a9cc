"""Restoration of degraded pictures: draws from what the model holds possible, and their mean. Pixels in, pixels out.

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

from igpt_jax.config import SamplerConfig
from igpt_jax.keys import fold_in, stream
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import mesh_of, outside_mesh, traced_on
from igpt_jax.sampling.batches import batch_decoder, in_batches
from igpt_jax.sampling.checks import check_counts, check_request, check_weights, checked_images
from igpt_jax.sampling.draft import Draft
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules, filter_logits, rules_of
from igpt_jax.sampling.tiles import blend_weights, sweep, windows
from igpt_jax.sequence import conditioning, raster_inputs

OVERLAP = 4
"""Neighbouring windows share at least one OVERLAP-th of their rows or columns."""


class Restored(NamedTuple):
    """What a model makes of degraded pictures."""

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
    draft: Draft | None = None,
) -> Restored:
    """Draws n restorations of each degraded picture, and estimates their mean.

    The mean is not that of the draws alone: at every pixel it is the mean colour that the model expects there after
    the earlier pixels of a draw, averaged over the draws. This has the same limit and less noise.

    Args:
      images: uint8 [B, y, x, C], each side at least that of the model's grid.
      sampler: draw j of a picture depends on the seed and the picture alone. At temperature 1 and without limits, draws
        come from the model's posterior.
      draft: as for `sample`.
    """
    sampler = sampler or SamplerConfig()
    check_request(model.cfg, "restore", sampler)
    check_weights(model, params, palette)
    check_counts(n=n)
    images = checked_images(images, model.cfg.grid, palette, larger=True)
    pictures = np.array([zlib.crc32(np.ascontiguousarray(image).data) for image in images], np.uint32)
    keys_Bn = fold_in(fold_in(stream(sampler.seed, "sample"), pictures)[:, None], np.arange(n)[None])
    tile, size = (model.cfg.grid[0], model.cfg.grid[1]), (images.shape[1], images.shape[2])
    overlap = (tile[0] // OVERLAP, tile[1] // OVERLAP)
    places, counts = windows(size, tile, overlap), blend_weights(tile, overlap)[..., None]
    total, weight = np.zeros(images.shape, np.float32), np.zeros((*size, 1), np.float32)

    def fill(turn: int, rows: np.ndarray, before: np.ndarray, seen: np.ndarray) -> np.ndarray:
        y, x = places[turn]
        picture = {name: np.asarray(values) for name, values in conditioning(model.cfg, images[:, y, x]).items()}
        known = np.broadcast_to(seen[:, None], before.shape)
        keys = fold_in(keys_Bn, turn)
        tokens, expected = _draw(model, params, palette, picture, before, known, keys, sampler, draft)
        total[:, y, x] += counts * expected
        weight[y, x] += counts
        return tokens

    nothing = np.zeros((len(images), n, *size), np.int32)
    drawn = sweep(nothing, np.zeros((len(images), *size), bool), [places] * len(images), fill)
    mean = np.rint(np.clip(total / weight, 0, 255)).astype(np.uint8)
    return Restored(np.asarray(palette.decode(drawn)), mean)


def _draw(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    picture: dict[str, np.ndarray],
    tokens: np.ndarray,
    known: np.ndarray,
    keys_Bn: jax.Array,
    sampler: SamplerConfig,
    draft: Draft | None,
) -> tuple[np.ndarray, np.ndarray]:
    """One window: int32 [B, n, Y, X] with the unknown tokens drawn, and `expected_colors` averaged over the draws.

    The draws of a picture share its prefix.
    """
    (b, n, *tile), parts, aligned = tokens.shape, [], picture.get("aligned")
    colors, rules = palette.decode(np.arange(palette.size)).astype(np.float32), rules_of(sampler)
    expect = traced_on(mesh_of(params), expected_colors)
    for first in range(0, n, sampler.batch_size):
        chosen = slice(first, first + sampler.batch_size)
        rows, is_known = (x[:, chosen].reshape(-1, model.cfg.n_ctx) for x in (tokens, known))
        repeated = None if aligned is None else aligned.repeat(len(rows) // b, axis=0)
        prompt = Prompt(rows, is_known, prefix=picture.get("prefix"), aligned=repeated)
        decode = batch_decoder(model, params, prompt, sampler, draft)

        def draw_batch(batch: Prompt, keys_B: jax.Array, decode: Any = decode) -> tuple[jax.Array, jax.Array]:
            drawn = decode(batch, keys_B)
            return drawn, expect(model, params, drawn, batch.prefix, batch.aligned, colors, rules)

        both = in_batches(draw_batch, params, prompt, keys_Bn[:, chosen].reshape(-1), sampler.batch_size)
        parts.append([x.reshape(b, -1, *tile, *x.shape[2:]) for x in both])
    drawn, expected = (np.concatenate(x, axis=1) for x in zip(*parts, strict=True))
    return drawn, expected.mean(axis=1)


@functools.partial(jax.jit, static_argnames="model")
def expected_colors(
    model: ImageGPT,
    params: Params,
    tokens_BT: jax.Array,
    prefix_GPW: jax.Array | None,
    aligned_BTA: jax.Array | None,
    colors_VC: jax.Array,
    rules: Rules,
) -> jax.Array:
    """float32 [B, T, C]: the mean colour of every pixel, given the pixels before it, under the rules of the draws."""
    if prefix_GPW is not None:
        prefix_GPW = jnp.repeat(prefix_GPW, len(tokens_BT) // len(prefix_GPW), axis=0)
    inputs = raster_inputs(tokens_BT)._replace(prefix=prefix_GPW, aligned=aligned_BTA)
    logits_BTV: Any = model.apply({"params": params}, inputs)
    probs_BTV = jax.nn.softmax(filter_logits(logits_BTV, rules), axis=-1)
    return jnp.einsum("btv,vc->btc", probs_BTV, colors_VC)
