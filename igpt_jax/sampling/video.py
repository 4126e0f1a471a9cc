"""What a model of clips draws: new clips, clips that go on, and frames between others. Pixels in, pixels out.

A model reads F frames (model.grid). Longer clips are drawn with a sliding window: when it is full, it moves on, and its
last frames become the first ones of the next window. Frame numbers change with every move, so each window is read anew.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from igpt_jax.config import SamplerConfig
from igpt_jax.errors import InputError
from igpt_jax.keys import fold_in, stream
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import outside_mesh
from igpt_jax.sampling.batches import decode_in_batches
from igpt_jax.sampling.guidance import check_guidance
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.tasks import check_model, complete, prompt_keys


@outside_mesh
def sample_clips(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    n: int = 1,
    frames: int | None = None,
    *,
    sampler: SamplerConfig | None = None,
    keep: int | None = None,
) -> np.ndarray:
    """Draws n new clips.

    Args:
      frames: of each clip; None for as many as the model reads at once.
      sampler, keep: as for `continue_clip`. Clip i of a seed is the same whatever n and the batch size are.

    Returns:
      uint8 [n, frames, Y, X, C].

    Raises:
      InputError: n or frames below 1, and as for `continue_clip`.
    """
    sampler = sampler or SamplerConfig()
    keep = _check_model(model, params, palette, sampler, keep)
    frames = model.cfg.n_frame if frames is None else frames
    for name, value in (("n", n), ("frames", frames)):
        if value < 1:
            raise InputError(f"{name}: must be at least 1, not {value}")
    keys = fold_in(stream(sampler.seed, "sample"), np.arange(n))
    nothing = np.zeros((n, 0, *model.cfg.grid[1:]), np.int32)
    return np.asarray(palette.decode(_grow(model, params, nothing, frames, keys, sampler, keep)))


@outside_mesh
def continue_clip(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    frames: np.ndarray,
    n_new: int,
    n: int = 1,
    *,
    sampler: SamplerConfig | None = None,
    keep: int | None = None,
) -> np.ndarray:
    """Draws n continuations of each clip, of any length; the given frames stay (as palette colours).

    As long as everything fits into the window, the result is that of `complete` with the first frames known.

    Args:
      frames: uint8 [B, l, Y, X, C], l at least 1; where l is the model's number of frames or more, the last `keep` of
        them are read.
      n_new: frames to draw.
      sampler: as for `complete`. A model with classes draws without one.
      keep: frames that the next window begins with when one is full; None for half of the model's.

    Returns:
      uint8 [B, n, l + n_new, Y, X, C].

    Raises:
      InputError: frames of another shape or type, n or n_new below 1, keep out of range, a model of pictures, a BERT
        model, a palette of another size, or an order in which frames are not drawn one after another.
    """
    sampler = sampler or SamplerConfig()
    keep = _check_model(model, params, palette, sampler, keep)
    frames = _checked_frames("frames", frames, model, palette)
    for name, value in (("n", n), ("n_new", n_new)):
        if value < 1:
            raise InputError(f"{name}: must be at least 1, not {value}")
    known = np.asarray(palette.encode(frames))
    b, length = known.shape[:2]
    seen = length if length < model.cfg.n_frame else keep
    prompt = np.zeros((b, *model.cfg.grid), np.int32)
    prompt[:, :seen] = known[:, length - seen :]
    is_known = np.broadcast_to(np.arange(model.cfg.n_ctx) < seen * prompt[0, 0].size, (b, model.cfg.n_ctx))
    keys = prompt_keys(sampler.seed, prompt.reshape(b, -1), is_known, n).reshape(-1)
    drawn = _grow(model, params, known.repeat(n, axis=0), length + n_new, keys, sampler, keep)
    return np.asarray(palette.decode(drawn.reshape(b, n, *drawn.shape[1:])))


@outside_mesh
def in_between(
    model: ImageGPT,
    params: Params,
    palette: Palette,
    first: np.ndarray,
    last: np.ndarray,
    n: int = 1,
    *,
    sampler: SamplerConfig | None = None,
) -> np.ndarray:
    """Draws n times the frames between the first and the last ones of a clip; these stay (as palette colours).

    Args:
      first: uint8 [B, l, Y, X, C], where the model's clip begins.
      last: uint8 [B, m, Y, X, C], where it ends; l + m are fewer than the model's F frames.
      sampler: as for `complete`; the order is `known_first`.

    Returns:
      uint8 [B, n, F, Y, X, C].

    Raises:
      InputError: frames of another shape, type or number, a model of pictures, or one without `model.any_order`.
    """
    _check_clips(model)
    if not model.cfg.any_order:
        raise InputError("model.any_order: frames between others need a model of any order, trained for it")
    first, last = _checked_frames("first", first, model, palette), _checked_frames("last", last, model, palette)
    missing = model.cfg.n_frame - first.shape[1] - last.shape[1]
    if len(first) != len(last) or missing < 1:
        shapes = f"first {first.shape} and last {last.shape}"
        raise InputError(f"{shapes}: must be of as many clips, and leave some of {model.cfg.n_frame} frames to draw")
    gap = np.zeros((len(first), missing, *first.shape[2:]), np.uint8)
    known = np.ones(model.cfg.grid, bool)
    known[first.shape[1] : first.shape[1] + missing] = False
    sampler = dataclasses.replace(sampler or SamplerConfig(), order="known_first")
    return complete(model, params, palette, np.concatenate([first, gap, last], axis=1), known, n, sampler=sampler)


def _grow(
    model: ImageGPT,
    params: Params,
    clips: np.ndarray,
    frames: int,
    keys: jax.Array,
    sampler: SamplerConfig,
    keep: int,
) -> np.ndarray:
    """Tokens int [N, l, Y, X] drawn on until they are [N, frames, Y, X], one window after another."""
    check_guidance(sampler, model.cfg.cond_classes)
    n, window, pixels = len(clips), model.cfg.n_frame, math.prod(clips.shape[2:])
    moves = 0
    while (length := clips.shape[1]) < frames:
        seen = length if length < window else keep
        end = min(window, seen + frames - length)
        tokens = np.zeros((n, end, *clips.shape[2:]), np.int32)
        tokens[:, :seen] = clips[:, length - seen :]
        known = np.broadcast_to(np.arange(end * pixels) < seen * pixels, (n, end * pixels))
        # Numbers after the last position, so that no draw of a colour has the same key.
        window_keys = fold_in(keys, model.cfg.n_ctx + moves) if moves else keys
        prompt = Prompt(tokens.reshape(n, -1), known)
        drawn = decode_in_batches(model, params, prompt, window_keys, sampler)
        clips = np.concatenate([clips, drawn.reshape(tokens.shape)[:, seen:]], axis=1)
        moves += 1
    return clips


def _check_clips(model: ImageGPT) -> None:
    if model.cfg.n_frame < 2:
        raise InputError(f"model.grid: {model.cfg.grid} is not one of clips, (frames, rows, columns) of several frames")


def _check_model(model: ImageGPT, params: Params, palette: Palette, sampler: SamplerConfig, keep: int | None) -> int:
    """How many frames a window keeps; InputError if the model does not draw clips so."""
    _check_clips(model)
    check_model(model, params, palette)
    if sampler.order not in ("raster", "known_first"):  # both are the same where the first frames are known
        raise InputError(f"sampler.order: {sampler.order!r} does not draw one frame after another; take raster")
    window = model.cfg.n_frame
    keep = window // 2 if keep is None else keep
    if not 1 <= keep < window:
        raise InputError(f"keep: must be in 1..{window - 1} of the model's {window} frames, not {keep}")
    return keep


def _checked_frames(name: str, frames: np.ndarray, model: ImageGPT, palette: Palette) -> np.ndarray:
    frames, (_, y, x) = np.asarray(frames), model.cfg.grid
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[2:] != (y, x, palette.channels):
        wanted = f"uint8 [B, l, {y}, {x}, {palette.channels}]"
        raise InputError(f"{name}: {frames.dtype} {frames.shape}; the model draws clips {wanted}")
    if 0 in frames.shape[:2]:
        raise InputError(f"{name}: {frames.shape}; there must be a clip of at least one frame")
    return frames
