"""Autoregressive decoding: one jitted program of a prefill and a scan over positions with a growing KV cache.

`sample_tokens` is the program, over tokens. `sample` and `complete` are the public calls, pixels in and pixels out,
in batches of a fixed size. How a colour is drawn is left to `warp`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.config import InputError, SamplerConfig
from igpt_jax.keys import fold_in
from igpt_jax.model.decoder import ImageGPT, compute_dtype, init_cache
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import batch_ways, fetch_whole, mesh_of, put_whole, traced_on
from igpt_jax.sampling.warp import draw

Params = Any


def segment_ends(n_ctx: int) -> list[int]:
    """Where each cache segment ends, ascending, the last at n_ctx.

    A step reads the cache no further than the end of its own segment; each segment is compiled anew, so short
    sequences have fewer.
    """
    segments = min(8, -(-n_ctx // 64))
    return [-(-n_ctx * i // segments) for i in range(1, segments + 1)]


@functools.partial(jax.jit, static_argnames=("model", "cfg", "start"))
def sample_tokens(
    model: ImageGPT,
    params: Params,
    tokens_BT: jax.Array,
    known_BT: jax.Array,
    keys_B: jax.Array,
    cfg: SamplerConfig,
    start: int = 0,
    class_B: jax.Array | None = None,
) -> jax.Array:
    """Fills in the unknown tokens, in raster order, each given all tokens before it.

    Args:
      model, params: the decoder; params float32.
      tokens_BT: int [B, T]; looked at only where known.
      known_BT: bool [B, T]; these tokens are kept, wherever they are.
      keys_B: one PRNG key an image. Position t is drawn with fold_in(key, t), whatever the batch or the segments.
      cfg: temperature, top-k, top-p.
      start: decoding begins here; every token before it must be known. Each value compiles a program of its own.
      class_B: int [B] for a class-conditional model, -1 for no class.

    Returns:
      int32 [B, T].
    """
    dtype = compute_dtype(model.cfg)
    n_ctx = model.cfg.n_ctx
    # Matrices are brought to the compute type once, not at every step; norms and embeddings stay float32.
    params = jax.tree.map_with_path(lambda path, x: x.astype(dtype) if path[-1].key in ("w", "wtet") else x, params)
    tokens_BT = tokens_BT.astype(jnp.int32)

    def step(carry: tuple, xs: tuple) -> tuple[tuple, jax.Array]:
        previous_B, cache = carry
        position, token_B, known_B = xs
        logits_BV, cache = model.apply({"params": params}, previous_B, position, cache, class_B, method="step")
        drawn_B = draw(logits_BV, fold_in(keys_B, position), cfg)
        token_B = jnp.where(known_B, token_B, drawn_B)
        return (token_B, cache), token_B

    cache: Any
    done = [tokens_BT[:, :start]]
    if start:
        cache = model.apply({"params": params}, tokens_BT[:, :start], class_B, method="prefill")
        previous_B = tokens_BT[:, start - 1]
    else:
        cache = init_cache(model.cfg, tokens_BT.shape[0], 0)
        previous_B = jnp.zeros(tokens_BT.shape[0], jnp.int32)
    for end in segment_ends(n_ctx):
        if end <= start:
            continue
        span = slice(start, end)
        xs = (jnp.arange(start, end), tokens_BT[:, span].T, known_BT[:, span].T)
        (previous_B, cache), drawn_TB = jax.lax.scan(step, (previous_B, cache.grown(end)), xs)
        done.append(drawn_TB.T)
        start = end
    return jnp.concatenate(done, axis=1)


def known_prefix(known_BT: np.ndarray) -> int:
    """How many tokens, in eighths of the image, are known from the start in every image.

    Rounding down to an eighth keeps the number of programs small; known tokens after it are clamped.
    """
    t = known_BT.shape[1]
    unknown_T = ~known_BT.all(axis=0)
    prefix = int(unknown_T.argmax()) if unknown_T.any() else t
    return max(t * i // 8 for i in range(9) if t * i // 8 <= prefix)


def _decode_in_batches(
    model: ImageGPT,
    params: Params,
    tokens: np.ndarray,
    known: np.ndarray,
    keys: jax.Array,
    cfg: SamplerConfig,
    batch_size: int,
    classes: np.ndarray | None,
) -> np.ndarray:
    """`sample_tokens` over any number of images; the last batch is filled up, so that one program serves all.

    Batches are split over the mesh that the parameters lie on, over as many processes as it has.
    """
    n, start = len(tokens), known_prefix(known)
    mesh = mesh_of(params)
    ways = 1 if mesh is None else batch_ways(mesh)
    batch_size = -(-min(batch_size, n) // ways) * ways
    key_data = np.asarray(jax.random.key_data(keys))
    decode = traced_on(mesh, sample_tokens)
    out = []
    for lo in range(0, n, batch_size):
        take = np.arange(lo, lo + batch_size).clip(max=n - 1)
        tokens_BT, known_BT, data_B = (put_whole(x[take], mesh) for x in (tokens, known, key_data))
        class_B = None if classes is None else put_whole(classes[take], mesh)
        keys_B = jax.random.wrap_key_data(data_B)
        drawn_BT = decode(model, params, tokens_BT, known_BT, keys_B, cfg, start, class_B)
        out.append(fetch_whole(drawn_BT)[: n - lo])
    return np.concatenate(out)


def _grid(model: ImageGPT, palette: Palette) -> tuple[int, ...]:
    if not model.cfg.causal:
        raise InputError("model.causal: a BERT model sees all pixels at once and does not draw one after the other")
    if palette.size != model.cfg.vocab_size:
        raise InputError(f"palette: {palette.size} colours, but the model was made for {model.cfg.vocab_size}")
    return model.cfg.grid


def _class_ids(model: ImageGPT, classes: Sequence[int] | np.ndarray | int | None, n: int) -> np.ndarray | None:
    """int32 [n], or None for a model without classes."""
    count = model.cfg.cond_classes
    if classes is None:
        return np.full(n, -1, np.int32) if count else None
    if not count:
        raise InputError("classes: this model was not trained with classes (model.cond_classes); leave them out")
    found = np.asarray(classes)
    if found.dtype.kind not in "iu" or found.shape not in ((), (n,)) or found.min() < -1 or found.max() >= count:
        raise InputError(f"classes: one integer in 0..{count - 1} (or -1 for none), or {n} of them, not {classes}")
    return np.broadcast_to(found, n).astype(np.int32)


def sample(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    n: int = 1,
    *,
    classes: Sequence[int] | np.ndarray | int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """Draws n new images.

    Args:
      model, params, palette: of the same model.
      n: how many images.
      classes: for a class-conditional model, the class of all images or of each; -1 or None for no class.
      seed: image i of a seed is the same image whatever n and batch_size are (up to what rounding in differently
        shaped products can tip; none was seen on CPU).
      batch_size: images decoded at once.
      temperature, top_k, top_p: as in `SamplerConfig`.

    Returns:
      uint8 [n, Y, X, C].

    Raises:
      InputError: n or batch_size below 1, a palette of another size, bad classes or sampler settings, a BERT model.
    """
    grid = _grid(model, palette)
    _require_positive(n=n, batch_size=batch_size)
    tokens = np.zeros((n, model.cfg.n_ctx), np.int32)
    keys = fold_in(jax.random.key(seed), np.arange(n))
    cfg = SamplerConfig(temperature, top_k, top_p)
    class_ids = _class_ids(model, classes, n)
    drawn = _decode_in_batches(model, params, tokens, np.zeros(tokens.shape, bool), keys, cfg, batch_size, class_ids)
    return np.asarray(palette.decode(drawn.reshape(n, *grid)))


def complete(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    images: np.ndarray,
    known: np.ndarray | None = None,
    n: int = 1,
    *,
    classes: Sequence[int] | np.ndarray | int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """Draws n completions of each image; known pixels are kept (as palette colours).

    Pixels are drawn in raster order, so a pixel is drawn knowing only what is above it and to its left, known
    pixels further down included in nothing but the result.

    Args:
      images: uint8 [B, Y, X, C] of the model's grid.
      known: bool [Y, X] or [B, Y, X], True where a pixel is given; by default the top half.
      n: completions per image.
      classes: for a class-conditional model, the class of all images or of each; -1 or None for no class.
      seed: completion j of image b is the same whatever n and batch_size are.
      batch_size, temperature, top_k, top_p: as in `sample`.

    Returns:
      uint8 [B, n, Y, X, C].

    Raises:
      InputError: images or mask of another shape or type, a palette of another size, bad classes or sampler settings,
        a BERT model.
    """
    grid = _grid(model, palette)
    _require_positive(n=n, batch_size=batch_size)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != len(grid) + 2 or images.shape[1:] != (*grid, palette.channels):
        raise InputError(
            f"images: {images.dtype} {images.shape}; the model completes uint8 [B, {', '.join(map(str, grid))}, "
            f"{palette.channels}]"
        )
    if len(images) == 0:
        raise InputError("images: no image to complete")
    known = top_rows(grid) if known is None else np.asarray(known)
    if known.dtype != bool or known.shape not in (grid, images.shape[:-1]):
        raise InputError(f"known: {known.dtype} {known.shape}; a mask is bool {grid} or {images.shape[:-1]}")
    b, t = len(images), model.cfg.n_ctx
    tokens = np.asarray(palette.encode(images)).reshape(b, t).repeat(n, axis=0)
    known = np.broadcast_to(known, images.shape[:-1]).reshape(b, t).repeat(n, axis=0)
    keys = fold_in(fold_in(jax.random.key(seed), np.arange(b))[:, None], np.arange(n)[None]).reshape(-1)
    cfg = SamplerConfig(temperature, top_k, top_p)
    class_ids = _class_ids(model, classes, b)
    if class_ids is not None:
        class_ids = class_ids.repeat(n)
    drawn = _decode_in_batches(model, params, tokens, known, keys, cfg, batch_size, class_ids)
    return np.asarray(palette.decode(drawn.reshape(b, n, *grid)))


def top_rows(grid: tuple[int, ...], rows: int | None = None) -> np.ndarray:
    """bool [Y, X], True in the first `rows` rows; by default in the top half."""
    known = np.zeros(grid, bool)
    known[: grid[0] // 2 if rows is None else rows] = True
    return known


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"{name}: must be at least 1, not {value}")
