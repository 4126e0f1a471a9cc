"""What a model of clips draws: new clips, clips that go on, and frames between others. Pixels in, pixels out.

A model reads F frames (model.grid). Longer clips are drawn with a sliding window: when it is full, it moves on, and its
last frames become the first ones of the next window. Frame numbers change with every move, so each window is read anew.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from igpt_jax.config import SamplerConfig
from igpt_jax.errors import require
from igpt_jax.keys import fold_in, stream
from igpt_jax.model.axes import Params
from igpt_jax.model.decoder import ImageGPT
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import outside_mesh
from igpt_jax.sampling.batches import decode_in_batches
from igpt_jax.sampling.checks import check_counts, check_request, check_weights, checked_images
from igpt_jax.sampling.draft import Draft
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.tasks import complete, prompt_keys
from igpt_jax.sampling.tiles import Window, sweep


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
    draft: Draft | None = None,
) -> np.ndarray:
    """Draws n new clips: uint8 [n, frames, Y, X, C].

    Args:
      frames: of each clip; None for as many as the model reads at once.
      sampler, keep, draft: as for `continue_clip`. Clip i of a seed is the same whatever n and the batch size are.
    """
    sampler = sampler or SamplerConfig()
    check_request(model.cfg, "clips", sampler)
    check_weights(model, params, palette)
    keep, frames = _checked_keep(model, keep), model.cfg.n_frame if frames is None else frames
    check_counts(n=n, frames=frames)
    keys = fold_in(stream(sampler.seed, "sample"), np.arange(n))
    nothing = np.zeros((n, 0, *model.cfg.grid[1:]), np.int32)
    return np.asarray(palette.decode(_grow(model, params, nothing, frames, keys, sampler, keep, draft)))


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
    draft: Draft | None = None,
) -> np.ndarray:
    """Draws n continuations of each clip, of any length; the given frames stay (as palette colours).

    As long as everything fits into the window, the result is that of `complete` with the first frames known.

    Args:
      frames: uint8 [B, l, Y, X, C], l at least 1; where l is the model's number of frames or more, the last `keep` of
        them are read.
      n_new: frames to draw.
      sampler: as for `complete`; its order must draw one frame after another. A model with classes draws without one.
      keep: frames that the next window begins with when one is full; None for half of the model's.
      draft: as for `sample`.

    Returns:
      uint8 [B, n, l + n_new, Y, X, C].
    """
    sampler = sampler or SamplerConfig()
    check_request(model.cfg, "clips", sampler)
    check_weights(model, params, palette)
    keep = _checked_keep(model, keep)
    frames = checked_images(frames, (0, *model.cfg.grid[1:]), palette, "frames")
    check_counts(n=n, n_new=n_new)
    known = np.asarray(palette.encode(frames))
    b, length = known.shape[:2]
    seen = length if length < model.cfg.n_frame else keep
    prompt = np.zeros((b, *model.cfg.grid), np.int32)
    prompt[:, :seen] = known[:, length - seen :]
    is_known = np.broadcast_to(np.arange(model.cfg.n_ctx) < seen * prompt[0, 0].size, (b, model.cfg.n_ctx))
    keys = prompt_keys(sampler.seed, prompt.reshape(b, -1), is_known, n).reshape(-1)
    drawn = _grow(model, params, known.repeat(n, axis=0), length + n_new, keys, sampler, keep, draft)
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
    draft: Draft | None = None,
) -> np.ndarray:
    """Draws n times the frames between the first and the last ones of a clip; these stay (as palette colours).

    Args:
      first, last: uint8 [B, l, Y, X, C] and [B, m, Y, X, C], with l + m fewer than the model's F frames.
      sampler: as for `complete`; the order is `known_first`.
      draft: as for `sample`.

    Returns:
      uint8 [B, n, F, Y, X, C].
    """
    sampler = dataclasses.replace(sampler or SamplerConfig(), order="known_first")
    require(model.cfg.any_order, "model.any_order", "frames between others need a model of any order, trained for it")
    check_request(model.cfg, "clips", sampler)
    size = (0, *model.cfg.grid[1:])
    first, last = checked_images(first, size, palette, "first"), checked_images(last, size, palette, "last")
    missing = model.cfg.n_frame - first.shape[1] - last.shape[1]
    shapes = f"must be as many clips as in first, and leave some of {model.cfg.n_frame} frames to draw"
    fits = len(first) == len(last) and missing > 0
    require(fits, "last", f"{shapes}; got first {first.shape} and last {last.shape}")
    gap = np.zeros((len(first), missing, *first.shape[2:]), np.uint8)
    known = np.ones(model.cfg.grid, bool)
    known[first.shape[1] : first.shape[1] + missing] = False
    clips = np.concatenate([first, gap, last], axis=1)
    return complete(model, params, palette, clips, known, n, sampler=sampler, draft=draft)


def _grow(
    model: ImageGPT,
    params: Params,
    clips: np.ndarray,
    frames: int,
    keys: jax.Array,
    sampler: SamplerConfig,
    keep: int,
    draft: Draft | None,
) -> np.ndarray:
    """Tokens int [N, l, Y, X] drawn on until they are [N, frames, Y, X], one window after another."""
    n, length, *size = clips.shape
    windows = sliding_windows(length, frames, model.cfg.n_frame, keep)
    tokens = np.concatenate([clips, np.zeros((n, frames - length, *size), clips.dtype)], axis=1)
    known = np.broadcast_to(np.arange(frames)[:, None, None] < length, tokens.shape)

    def fill(turn: int, rows: np.ndarray, before: np.ndarray, seen: np.ndarray) -> np.ndarray:
        # Numbers after the last position, so that no draw of a colour has the same key.
        window_keys = fold_in(keys, model.cfg.n_ctx + turn) if turn else keys
        prompt = Prompt(np.where(seen, before[:, 0], 0).reshape(n, -1), seen.reshape(n, -1))
        return decode_in_batches(model, params, prompt, window_keys, sampler, draft).reshape(before.shape)

    return sweep(tokens[:, None], known, [windows] * n, fill)[:, 0]


def sliding_windows(length: int, frames: int, window: int, keep: int) -> list[Window]:
    """Frames that are drawn together, from a clip's first `length` ones on; each window begins with known frames."""
    windows = []
    while length < frames:
        seen = length if length < window else keep
        end = length - seen + min(window, seen + frames - length)
        windows.append((slice(length - seen, end),))
        length = end
    return windows


def _checked_keep(model: ImageGPT, keep: int | None) -> int:
    """How many frames a window keeps."""
    window = model.cfg.n_frame
    keep = window // 2 if keep is None else keep
    require(1 <= keep < window, "keep", f"must be in 1..{window - 1} of the model's {window} frames; got {keep}")
    return keep
