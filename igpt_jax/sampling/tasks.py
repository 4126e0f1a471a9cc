"""What a trained model draws: new images, and completions of images of which a part is known. Pixels in, pixels out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.config import ModelConfig, SamplerConfig
from igpt_jax.keys import fold_in, stream
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import outside_mesh
from igpt_jax.sampling import checks
from igpt_jax.sampling.batches import decode_in_batches
from igpt_jax.sampling.draft import Draft
from igpt_jax.sampling.orders import in_order
from igpt_jax.sampling.prompt import Prompt


@outside_mesh
def sample(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    n: int = 1,
    *,
    sampler: SamplerConfig | None = None,
    classes: checks.Classes = None,
    draft: Draft | None = None,
) -> np.ndarray:
    """Draws n new images: uint8 [n, Y, X, C].

    Args:
      sampler: image i of a seed is the same image whatever n and the batch size are (up to rounding in differently
        shaped products; no difference was seen on CPU).
      classes: for a class-conditional model, the class of all images or of each, -1 for no class; None draws a class
        for each, all alike (`draw_classes` draws them as often as they were trained on).
      draft: what guesses colours (`Pretrained.draft`). It makes drawing faster, and changes no image.
    """
    sampler = sampler or SamplerConfig()
    checks.check_counts(n=n)
    if classes is None and model.cfg.cond_classes:
        classes = draw_classes(model.cfg, n, sampler.seed)
    class_B = checks.class_ids(model.cfg, classes, n)
    checks.check_request(model.cfg, "sample", sampler, class_B)
    checks.check_weights(model, params, palette)
    keys = fold_in(stream(sampler.seed, "sample"), np.arange(n))
    tokens = np.zeros((n, model.cfg.n_ctx), np.int32)
    drawn = _draw(model, params, Prompt(tokens, np.zeros(tokens.shape, bool), class_id=class_B), keys, sampler, draft)
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
    classes: checks.Classes = None,
    draft: Draft | None = None,
) -> np.ndarray:
    """Draws n completions of each image: uint8 [B, n, Y, X, C]; known pixels stay (as palette colours).

    In raster order a pixel is drawn from what is above it and to its left. Known pixels further down appear in the
    result but do not influence the pixels before them; a model trained for it can draw them `known_first`.

    Args:
      images: uint8 [B, Y, X, C] of the model's grid.
      known: bool [Y, X] or [B, Y, X], True for pixels that stay; None for the top half.
      sampler: completion j depends on the seed, the mask and the known pixels alone: n, the batch size and other images
        change nothing, and equal prompts have equal completions.
      classes: for a class-conditional model, the class of all images or of each; -1 or None for no class.
      draft: as for `sample`.
    """
    sampler, grid = sampler or SamplerConfig(), model.cfg.grid
    checks.check_counts(n=n)
    images = checks.checked_images(images, grid, palette)
    class_B = checks.class_ids(model.cfg, classes, len(images))
    checks.check_request(model.cfg, "complete", sampler, class_B)
    checks.check_weights(model, params, palette)
    b, t = len(images), model.cfg.n_ctx
    known = checks.checked_mask(top_rows(grid) if known is None else known, images).reshape(b, t)
    tokens = np.where(known, np.asarray(palette.encode(images)).reshape(b, t), 0)
    keys = prompt_keys(sampler.seed, tokens, known, n).reshape(-1)
    prompt = Prompt(tokens, known, class_id=class_B)
    repeated = jax.tree.map(lambda x: x.repeat(n, axis=0), prompt)
    drawn = _draw(model, params, repeated, keys, sampler, draft)
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


def _draw(
    model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig, draft: Draft | None
) -> np.ndarray:
    """Tokens int [n, T] with the unknown ones drawn."""
    if sampler.order != "raster":
        prompt = in_order(prompt, sampler.order, model.cfg.grid, keys)
    return decode_in_batches(model, params, prompt, keys, sampler, draft)
