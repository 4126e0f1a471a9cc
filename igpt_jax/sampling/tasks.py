"""What a trained model draws: new images, and completions of images of which a part is known. Pixels in, pixels out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.config import ModelConfig, SamplerConfig
from igpt_jax.errors import InputError, nearest
from igpt_jax.keys import fold_in, stream
from igpt_jax.model import abstract_params
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import outside_mesh, path_name
from igpt_jax.sampling.batches import decode_in_batches
from igpt_jax.sampling.guidance import check_guidance
from igpt_jax.sampling.orders import ORDERS, check_is_order
from igpt_jax.sampling.prompt import Prompt

Classes = Sequence[int] | np.ndarray | int | None


@outside_mesh
def sample(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    n: int = 1,
    *,
    sampler: SamplerConfig | None = None,
    classes: Classes = None,
) -> np.ndarray:
    """Draws n new images.

    Args:
      model, params, palette: of the same model.
      n: how many images.
      sampler: seed, temperature, top-k, top-p, order and batch size. Image i of a seed is the same image whatever n and
        the batch size are (up to rounding in differently shaped products; no difference was seen on CPU).
      classes: for a class-conditional model, the class of all images or of each, -1 for no class; None draws a class
        for each, all alike (`draw_classes` draws them as often as they were trained on).

    Returns:
      uint8 [n, Y, X, C].

    Raises:
      InputError: n below 1, a palette of another size, bad classes, an order the model cannot draw in, a BERT model.
    """
    sampler = sampler or SamplerConfig()
    check_model(model, params, palette)
    if n < 1:
        raise InputError(f"n: must be at least 1, not {n}")
    if classes is None and model.cfg.cond_classes:
        classes = draw_classes(model.cfg, n, sampler.seed)
    keys = fold_in(stream(sampler.seed, "sample"), np.arange(n))
    tokens = np.zeros((n, model.cfg.n_ctx), np.int32)
    prompt = Prompt(tokens, np.zeros(tokens.shape, bool), class_id=class_ids(model, classes, n))
    drawn = _draw(model, params, prompt, keys, sampler)
    return np.asarray(palette.decode(drawn.reshape(n, *model.cfg.grid)))


@outside_mesh
def complete(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    images: np.ndarray,
    known: np.ndarray | None = None,
    n: int = 1,
    *,
    sampler: SamplerConfig | None = None,
    classes: Classes = None,
) -> np.ndarray:
    """Draws n completions of each image; known pixels stay (as palette colours).

    In raster order a pixel is drawn from what is above it and to its left. Known pixels further down appear in the
    result but do not influence the pixels before them; a model trained for it can draw them `known_first`.

    Args:
      images: uint8 [B, Y, X, C] of the model's grid.
      known: bool [Y, X] or [B, Y, X], True for pixels that stay; None for the top half.
      n: completions per image.
      sampler: as for `sample`. Completion j depends on the seed, the mask and the known pixels alone: n, the batch
        size and other images change nothing, and equal prompts have equal completions.
      classes: for a class-conditional model, the class of all images or of each; -1 or None for no class.

    Returns:
      uint8 [B, n, Y, X, C].

    Raises:
      InputError: images or mask of another shape or type, and as for `sample`.
    """
    sampler = sampler or SamplerConfig()
    check_model(model, params, palette)
    if n < 1:
        raise InputError(f"n: must be at least 1, not {n}")
    grid, images = model.cfg.grid, np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != len(grid) + 2 or images.shape[1:] != (*grid, palette.channels):
        wanted = f"uint8 [B, {', '.join(map(str, grid))}, {palette.channels}]"
        raise InputError(f"images: {images.dtype} {images.shape}; the model completes {wanted}")
    if len(images) == 0:
        raise InputError("images: no image to complete")
    known = top_rows(grid) if known is None else np.asarray(known)
    if known.dtype != bool or known.shape not in (grid, images.shape[:-1]):
        raise InputError(f"known: {known.dtype} {known.shape}; a mask is bool {grid} or {images.shape[:-1]}")
    b, t = len(images), model.cfg.n_ctx
    known = np.broadcast_to(known, images.shape[:-1]).reshape(b, t)
    tokens = np.where(known, np.asarray(palette.encode(images)).reshape(b, t), 0)
    keys = prompt_keys(sampler.seed, tokens, known, n).reshape(-1)
    tokens, known = tokens.repeat(n, axis=0), known.repeat(n, axis=0)
    class_id = class_ids(model, classes, b)
    class_id = None if class_id is None else class_id.repeat(n)
    drawn = _draw(model, params, Prompt(tokens, known, class_id=class_id), keys, sampler)
    return np.asarray(palette.decode(drawn.reshape(b, n, *grid)))


def draw_classes(cfg: ModelConfig, n: int, seed: int, counts: Sequence[int] = ()) -> np.ndarray:
    """int32 [n]: a class for each new image of a seed, as often as in `counts`; all alike if they are not known.

    Image i of a seed has the same class whatever n is.
    """
    weights = np.ones(cfg.cond_classes)
    weights[: len(counts) or None] = counts or 1
    keys = fold_in(fold_in(stream(seed, "sample"), np.arange(n)), cfg.n_ctx)  # positions have the numbers below
    logits = jnp.log(jnp.asarray(weights, jnp.float32))
    return np.asarray(jax.vmap(lambda key: jax.random.categorical(key, logits))(keys), np.int32)


def top_rows(grid: tuple[int, ...], rows: int | None = None) -> np.ndarray:
    """bool of a grid, True in the first `rows` rows (of a grid of clips: frames); None for half of them."""
    known = np.zeros(grid, bool)
    known[: grid[0] // 2 if rows is None else rows] = True
    return known


def prompt_keys(seed: int, tokens: np.ndarray, known: np.ndarray, n: int) -> jax.Array:
    """Keys [B, n] of n draws for each prompt: they depend on the seed, the mask and the known tokens alone.

    Args:
      tokens: int [B, ...], 0 where unknown; known: bool of the same shape.
    """
    content = [known[i].tobytes() + tokens[i].astype("<i4").tobytes() for i in range(len(tokens))]
    prompts = np.array([zlib.crc32(c) for c in content], np.uint32)
    return fold_in(fold_in(stream(seed, "sample"), prompts)[:, None], np.arange(n)[None])


def check_order(cfg: ModelConfig, order: str) -> None:
    """Raises InputError if there is no such order, or a model cannot draw in it."""
    if order not in ORDERS:
        near = nearest(order, ORDERS)
        raise InputError(f"sampler.order: no order {order!r}{near}; there are {', '.join(ORDERS)}")
    if order != "raster" and not cfg.any_order:
        raise InputError(f"sampler.order: this model draws in raster order only; {order} needs model.any_order")


def _draw(model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig) -> np.ndarray:
    """Tokens int [n, T] with the unknown ones drawn."""
    check_order(model.cfg, sampler.order)
    check_guidance(sampler, model.cfg.cond_classes, prompt.class_id)
    if sampler.order != "raster":
        known, order = prompt.known.reshape(-1, *model.cfg.grid), ORDERS[sampler.order]
        name = f"sampler.order {sampler.order}"
        prompt = prompt._replace(order=check_is_order(order(known, keys), model.cfg.n_ctx, name))
    return decode_in_batches(model, params, prompt, keys, sampler)


def check_model(model: ImageGPT, params: Params, palette: Palette, picture: bool = False) -> None:
    """Raises InputError unless a model can draw, and the parameters and the palette are its own.

    Args:
      picture: whether it is given a damaged picture to draw from.
    """
    check_draws(model.cfg, picture)
    check_weights(model, params, palette)


def check_draws(cfg: ModelConfig, picture: bool = False) -> None:
    """Raises InputError unless a model draws pixel after pixel, from a degraded picture or from none."""
    if cfg.has_conditioning and not picture:
        raise InputError("model: draws from a degraded picture, which `restore` takes")
    if not cfg.causal:
        raise InputError(
            "model.causal: a BERT model sees all pixels at once and does not draw one after another; it can inpaint"
        )


def check_weights(model: ImageGPT, params: Params, palette: Palette) -> None:
    """Raises InputError if palette or parameters are not those of a model."""
    if palette.size != model.cfg.vocab_size:
        raise InputError(f"palette: {palette.size} colours, but the model was made for {model.cfg.vocab_size}")
    _check_params(model.cfg, params)


def class_ids(model: ImageGPT, classes: Classes, n: int) -> np.ndarray | None:
    """int32 [n], or None for a model without classes; InputError if these are no classes of it."""
    count = model.cfg.cond_classes
    if classes is None:
        return np.full(n, -1, np.int32) if count else None
    if not count:
        raise InputError("classes: this model was not trained with classes (model.cond_classes); leave them out")
    ids = np.asarray(classes)
    if ids.dtype.kind not in "iu" or ids.shape not in ((), (n,)) or ids.min() < -1 or ids.max() >= count:
        raise InputError(f"classes: one integer in 0..{count - 1} (or -1 for none), or {n} of them, not {classes}")
    return np.broadcast_to(ids, n).astype(np.int32)


def _check_params(cfg: ModelConfig, params: Params) -> None:
    """Raises InputError if a tree is not the parameters of such a model."""
    wanted, shapes = (
        {path_name(path): np.shape(x) for path, x in jax.tree.leaves_with_path(tree)}
        for tree in (abstract_params(cfg), params)
    )
    if shapes == wanted:
        return
    inner = " (pass what is under 'params')" if isinstance(params, dict) and set(params) == {"params"} else ""
    missing = sorted(wanted.keys() - shapes.keys())
    others = sorted(name for name in shapes if shapes[name] != wanted.get(name))
    parts = [f"no {', '.join(missing[:3])}"] if missing else []
    parts += [f"{', '.join(others[:3])} of another shape or name"] if others else []
    raise InputError(f"params: not the parameters of this model: {'; '.join(parts)}{inner}")
