"""Inpainting: fills any hole of a picture, several times, and says how far the draws agree.

A way to fill holes of your own is one row more in `METHODS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from igpt_jax import progress
from igpt_jax.config import ModelConfig, SamplerConfig
from igpt_jax.errors import InputError, nearest
from igpt_jax.keys import fold_in
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import mesh_of, outside_mesh, traced_on
from igpt_jax.sampling.batches import decode_in_batches, in_batches, known_slots
from igpt_jax.sampling.guidance import check_guidance
from igpt_jax.sampling.orders import ORDERS, check_is_order
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import Rules
from igpt_jax.sampling.smc import smc
from igpt_jax.sampling.tasks import Classes, check_weights, class_ids, prompt_keys
from igpt_jax.sampling.tiles import windows_over
from igpt_jax.sampling.unmask import unmask

UNMASK_PASSES = 8


class Inpainted(NamedTuple):
    """Pictures with their holes filled. Everything outside the holes is as it was, byte for byte."""

    draws: np.ndarray
    """uint8 [B, n, Y, X, C]: n ways to fill the hole of each picture."""
    mean: np.ndarray
    """uint8 [B, Y, X, C]: the mean of the draws, which has the smallest expected squared error."""
    deviation: np.ndarray
    """float32 [B, Y, X], in 0..255: the standard deviation of the draws; 0 outside the hole."""


Fill = Callable[[ImageGPT, Params, Prompt, jax.Array, SamplerConfig], np.ndarray]
"""(model, params, prompt of R pictures, keys [R, n], settings) -> int [R, n, T], the unknown tokens drawn."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to fill holes."""

    fill: Fill
    refusal: Callable[[ModelConfig], str | None]
    """Why a model cannot fill holes in this way, as the end of an error message; None if it can."""
    uses: tuple[str, ...] = ()
    """Which of the settings `sampler.lookahead` and `sampler.cache` it has a use for."""


@outside_mesh
def inpaint(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    images: np.ndarray,
    known: np.ndarray,
    n: int = 8,
    *,
    sampler: SamplerConfig | None = None,
    classes: Classes = None,
) -> Inpainted:
    """Fills the unknown part of pictures of any size, n times.

    Pictures larger than the model's grid keep their resolution: overlapping windows around the hole are filled one
    after another, each from the known pixels in it and from what earlier windows drew.

    Args:
      images: uint8 [B, Y, X, C], no side shorter than the grid's. Unknown pixels are not read.
      known: bool [Y, X] or [B, Y, X], True for pixels that stay.
      n: draws for each picture. They depend on the seed, the mask and the known pixels alone.
      sampler: its `method` is a name in `METHODS`, or auto for the first that the model can do.
      classes: for a class-conditional model, the class of all pictures or of each; -1 or None for no class.

    Raises:
      InputError: images or mask of another shape or type; a picture with nothing or everything unknown; a method or an
        order that the model cannot do.
    """
    sampler = sampler or SamplerConfig()
    check_guidance(sampler, model.cfg.cond_classes)
    check_weights(model, params, palette)
    images, known = _check_pictures(model.cfg, palette, np.asarray(images), np.asarray(known), n)
    fill = METHODS[check_method(model.cfg, sampler)].fill
    tokens = np.where(known, np.asarray(palette.encode(images)), 0)
    keys, class_id = prompt_keys(sampler.seed, tokens, known, n), class_ids(model, classes, len(images))

    def fill_window(prompt: Prompt, window_keys: jax.Array) -> np.ndarray:
        return fill(model, params, prompt, window_keys, sampler)

    drawn, grid = np.empty((len(tokens), n, *tokens.shape[1:]), tokens.dtype), (model.cfg.grid[0], model.cfg.grid[1])
    for at in _alike(known, grid):
        parts = tokens[at], known[at], keys[at], None if class_id is None else class_id[at]
        drawn[at] = _fill_windows(fill_window, grid, *parts)
    draws = np.where(known[:, None, ..., None], images[:, None], palette.decode(drawn))
    mean = np.rint(draws.mean(axis=1)).astype(np.uint8)
    deviation = np.sqrt(draws.var(axis=1, dtype=np.float64).mean(axis=-1)).astype(np.float32)
    return Inpainted(draws, mean, deviation)


def _alike(known: np.ndarray, grid: tuple[int, int]) -> list[np.ndarray]:
    """Numbers of pictures that are filled together: those of one window in the same place, or of one hole. Each
    gets windows over its own hole, so that no other picture changes its draws.

    Args:
      known: bool [B, Y, X].
    """
    alike: dict[Any, list[int]] = {}
    for i, known_YX in enumerate(known):
        windows = [(rows.start, columns.start) for rows, columns in windows_over(~known_YX, grid)]
        alike.setdefault(windows[0] if len(windows) == 1 else known_YX.tobytes(), []).append(i)
    return [np.array(at) for at in alike.values()]


def _fill_windows(
    fill: Callable[[Prompt, jax.Array], np.ndarray],
    grid: tuple[int, int],
    tokens: np.ndarray,
    known: np.ndarray,
    keys: jax.Array,
    class_id: np.ndarray | None,
) -> np.ndarray:
    """Tokens int [B, n, Y, X] with the unknown ones drawn, window after window of the grid's size.

    Args:
      tokens, known: [B, Y, X]; keys [B, n].
    """
    b, n = keys.shape
    drawn, filled = tokens[:, None].repeat(n, axis=1), known.copy()
    windows = windows_over(np.any(~known, axis=0), grid)
    for i, window in enumerate(windows):
        if len(windows) > 1:
            progress.report("filling windows", i, len(windows))
        here = (slice(None), *window)
        if filled[here].all():
            continue
        # what an earlier window drew differs from draw to draw, so each is a prompt of its own from there on
        each = 1 if (filled[here] == known[here]).all() else n
        rows = drawn[:, :each][(slice(None), slice(None), *window)].reshape(b * each, -1)
        prompt = Prompt(
            tokens=rows,
            known=filled[here].reshape(b, -1).repeat(each, axis=0),
            class_id=None if class_id is None else class_id.repeat(each),
        )
        result = fill(prompt, fold_in(keys, i).reshape(b * each, n // each))
        drawn[(slice(None), slice(None), *window)] = result.reshape(b, n, *grid)
        filled[here] = True
    if len(windows) > 1:
        progress.report("filling windows", len(windows), len(windows))
    return drawn


def check_method(cfg: ModelConfig, sampler: SamplerConfig) -> str:
    """The method of these settings; InputError if the model cannot do it, or it does not support one of them."""
    method = pick_method(cfg, sampler.method)
    for setting, default in (("lookahead", 0), ("cache", "auto")):
        if getattr(sampler, setting) != default and setting not in METHODS[method].uses:
            raise InputError(f"sampler.{setting}: is not supported by method {method}; leave it at {default}")
    return method


def check_named_order(name: str) -> None:
    """Raises InputError if there is no such order."""
    if name not in ORDERS:
        raise InputError(f"sampler.order: must be one of {', '.join(ORDERS)}; got {name!r}{nearest(name, ORDERS)}")


def pick_method(cfg: ModelConfig, name: str) -> str:
    """The method for a model: auto is resolved, another name is checked.

    Raises:
      InputError: no such method, or not for this model.
    """
    able = [method for method, row in METHODS.items() if row.refusal(cfg) is None]
    if name == "auto":
        if not able:
            raise InputError("sampler.method: this model cannot inpaint; it reads a picture before the tokens")
        return able[0]
    if name not in METHODS:
        raise InputError(f"sampler.method: no method {name!r}{nearest(name, METHODS)}; there are {', '.join(METHODS)}")
    if name not in able:
        raise InputError(f"sampler.method: {name} {METHODS[name].refusal(cfg)}; this model can do {', '.join(able)}")
    return name


def _check_pictures(
    cfg: ModelConfig, palette: Palette, images: np.ndarray, known: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The images, and the mask as [B, Y, X]."""
    if n < 1:
        raise InputError(f"n: must be at least 1, not {n}")
    if len(cfg.grid) != 2:
        raise InputError(f"model.grid: {cfg.grid} is not rows and columns; pictures need a model of pictures")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != palette.channels or not len(images):
        wanted = f"uint8 [B, Y, X, {palette.channels}]"
        raise InputError(f"images: {images.dtype} {images.shape}; the model inpaints {wanted}")
    size = images.shape[1:3]
    if size[0] < cfg.grid[0] or size[1] < cfg.grid[1]:
        wanted = f"{cfg.grid[1]} x {cfg.grid[0]} pixels"
        raise InputError(f"images: {size[1]} x {size[0]} pixels; the model works on {wanted} or more; enlarge it first")
    if known.dtype != bool or known.shape not in (size, images.shape[:3]):
        raise InputError(f"known: {known.dtype} {known.shape}; a mask is bool {size} or {images.shape[:3]}")
    known = np.broadcast_to(known, images.shape[:3])
    if known.all(axis=(1, 2)).any():
        i = int(known.all(axis=(1, 2)).argmax())
        raise InputError(f"known: the mask of picture {i} has no unknown pixel, so there is nothing to fill")
    if not known.any(axis=(1, 2)).all():
        i = int((~known.any(axis=(1, 2))).argmax())
        raise InputError(f"known: the mask of picture {i} has no known pixel; `sample` draws new pictures")
    return images, known


def _repeated(prompt: Prompt, keys: jax.Array) -> tuple[Prompt, jax.Array]:
    """Every picture as many times as it has keys."""
    return jax.tree.map(lambda x: x.repeat(keys.shape[1], axis=0), prompt), keys.reshape(-1)


def _in_order(model: ImageGPT, prompt: Prompt, keys: jax.Array, name: str) -> Prompt:
    """The prompt with the order of that name; InputError if there is none, or its rows are no permutations."""
    check_named_order(name)
    order = ORDERS[name](prompt.known.reshape(-1, *model.cfg.grid), keys)
    return prompt._replace(order=check_is_order(order, model.cfg.n_ctx, f"sampler.order {name}"))


def _fill_any_order(
    model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig
) -> np.ndarray:
    """All known pixels are read first."""
    repeated, row_keys = _repeated(prompt, keys)
    name = "known_first" if sampler.order == "raster" else sampler.order
    repeated = _in_order(model, repeated, row_keys, name)
    drawn = decode_in_batches(model, params, repeated, row_keys, sampler)
    return drawn.reshape(*keys.shape, -1)


def _fill_clamped(
    model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig
) -> np.ndarray:
    """Raster order; known pixels after a missing one do not influence it."""
    repeated, row_keys = _repeated(prompt, keys)
    drawn = decode_in_batches(model, params, repeated, row_keys, sampler)
    return drawn.reshape(*keys.shape, -1)


def _fill_smc(model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig) -> np.ndarray:
    """Raster order, with particles weighted by the known pixels after the hole."""
    particles, draws = max(sampler.particles, keys.shape[1]), keys.shape[1]
    run, rules, start = traced_on(mesh_of(params), smc), Rules.of(sampler), known_slots(prompt.known)
    model = model.clone(cache=sampler.cache)

    def draw_batch(part: Prompt, keys_B: jax.Array) -> Any:
        return run(model, params, part, keys_B, rules, particles, draws, start)[0]

    return in_batches(draw_batch, params, prompt, keys[:, 0], max(1, sampler.batch_size // particles))


def _fill_unmasked(by_confidence: bool) -> Fill:
    def fill(model: ImageGPT, params: Params, prompt: Prompt, keys: jax.Array, sampler: SamplerConfig) -> np.ndarray:
        """With a BERT model, over several passes."""
        repeated, row_keys = _repeated(prompt, keys)
        repeated = _in_order(model, repeated, row_keys, "random" if sampler.order == "raster" else sampler.order)
        unknown = int((~prompt.known).sum(axis=1).max())
        passes = min(unknown, sampler.passes or (UNMASK_PASSES if by_confidence else unknown))
        run, rules = traced_on(mesh_of(params), unmask), Rules.of(sampler)

        def draw_batch(part: Prompt, keys_B: jax.Array) -> Any:
            return run(model, params, part, keys_B, rules, passes, by_confidence)

        return in_batches(draw_batch, params, repeated, row_keys, sampler.batch_size).reshape(*keys.shape, -1)

    return fill


def _needs_any_order(cfg: ModelConfig) -> str | None:
    return None if cfg.any_order and not cfg.has_conditioning else "needs a model trained with objective any_order"


def _needs_causal(cfg: ModelConfig) -> str | None:
    return None if cfg.causal and not cfg.has_conditioning else "needs a causal model of plain pictures"


def _needs_bert(cfg: ModelConfig) -> str | None:
    return None if not cfg.causal else "needs a BERT model (objective ardm)"


METHODS: dict[str, Method] = {
    "any_order": Method(_fill_any_order, _needs_any_order, ("lookahead", "cache")),
    "smc": Method(_fill_smc, _needs_causal, ("cache",)),
    "clamp": Method(_fill_clamped, _needs_causal, ("lookahead", "cache")),
    "ardm": Method(_fill_unmasked(by_confidence=False), _needs_bert),
    "unmask": Method(_fill_unmasked(by_confidence=True), _needs_bert),
}
"""The best first: auto takes the first that a model can do."""
