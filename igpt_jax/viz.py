"""Pictures for people: sample grids, completion strips, palettes, loss curves. Arrays in, uint8 RGB arrays or PNGs out.

Works on host arrays of bytes; turning tokens into pixels is `igpt_jax.palette`'s work, and choosing what to show is the
caller's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from igpt_jax.config import InputError
from igpt_jax.palette import Palette, replace_file

GAP = np.array([232, 232, 236], np.uint8)  # between tiles
MISSING = np.array([[250, 226, 214], [240, 198, 178]], np.uint8)  # stripes over pixels that are not given
MIN_TILE = 64  # smallest side of a tile, in output pixels, when the scale is chosen here


def image_grid(images: np.ndarray, columns: int | None = None, *, scale: int | None = None, gap: int = 1) -> np.ndarray:
    """Tiles images row by row, each pixel drawn as a square.

    Args:
      images: uint8 [B, Y, X, C], C 1 or 3.
      columns: tiles in a row; None for about a square.
      scale: side of the square in output pixels; None for the smallest that makes a tile at least 64 wide and high.
      gap: image pixels (so `scale` times as many output pixels) between tiles and around the grid.

    Returns:
      uint8 [H, W, 3], H = scale (rows (Y + gap) + gap), W likewise. Places without an image have the gap's colour.

    Raises:
      InputError: images of another shape or dtype.
    """
    _check(images, "image_grid", "[B, Y, X, C]")
    columns = columns or math.ceil(math.sqrt(len(images)))
    scale = scale or _auto_scale(images)
    rows = math.ceil(len(images) / columns)
    tiles = np.broadcast_to(GAP, (rows * columns, images.shape[1] * scale, images.shape[2] * scale, 3)).copy()
    tiles[: len(images)] = _enlarge(images, scale)
    return _lay_out(tiles.reshape(rows, columns, *tiles.shape[1:]), gap * scale)


def completion_strips(
    given: np.ndarray,
    known: np.ndarray,
    completions: np.ndarray,
    originals: np.ndarray | None = None,
    *,
    scale: int | None = None,
) -> np.ndarray:
    """One row for each image: the prompt, its n completions and, if there is one, the original.

    Pixels of the prompt that are not known are striped. Column titles stand on top where the columns are wide enough
    to hold them, which they are at the scale chosen here.

    Args:
      given: uint8 [B, Y, X, C], C 1 or 3.
      known: bool [Y, X] or [B, Y, X]; True where the prompt's pixel was given to the model.
      completions: uint8 [B, n, Y, X, C].
      originals: uint8 [B, Y, X, C].
      scale: as for `image_grid`.

    Returns:
      uint8 [H, W, 3].

    Raises:
      InputError: shapes or dtypes that do not fit together.
    """
    _check(given, "completion_strips", "[B, Y, X, C]")
    _check(completions, "completion_strips", "[B, n, Y, X, C]")
    fit = completions.shape[:1] + completions.shape[2:] == given.shape and (
        originals is None or (originals.shape == given.shape and originals.dtype == np.uint8)
    )
    if not fit or known.dtype != np.bool_ or known.shape not in (given.shape[:3], given.shape[1:3]):
        shapes = [list(a.shape) for a in (given, known, completions, originals) if a is not None]
        raise InputError(f"completion_strips: given, known (bool), completions and originals do not fit: {shapes}")
    scale = scale or _auto_scale(given)
    prompt = _enlarge(given, scale)
    y, x = np.indices(prompt.shape[1:3])
    stripes = MISSING[(x + y) // 6 % 2]
    missing = ~np.broadcast_to(known, given.shape[:3]).repeat(scale, 1).repeat(scale, 2)
    prompt = np.where(missing[..., None], stripes, prompt)
    parts = [prompt[:, None], _enlarge(completions, scale)]
    titles = [("prompt", 1), ("completion" if completions.shape[1] == 1 else "completions", completions.shape[1])]
    if originals is not None:
        parts.append(_enlarge(originals, scale)[:, None])
        titles.append(("original", 1))
    gap = max(2, min(scale, 6))
    strips = _lay_out(np.concatenate(parts, axis=1), gap)
    return _with_titles(strips, titles, prompt.shape[2], gap)


def palette_swatch(palette: Palette) -> np.ndarray:
    """Every colour of the palette as a square, in token order, 32 to a row: uint8 [H, W, 3]."""
    colors = palette.decode(np.arange(palette.size))
    return image_grid(colors[:, None, None, :], min(palette.size, 32), scale=24, gap=0)


def before_after(images: np.ndarray, reconstructed: np.ndarray, *, scale: int | None = None) -> np.ndarray:
    """Pairs: each image with its reconstruction directly to its right.

    Args:
      images, reconstructed: uint8 [B, Y, X, C], C 1 or 3.
      scale: as for `image_grid`.

    Returns:
      uint8 [H, W, 3].

    Raises:
      InputError: other dtypes, or the shapes differ.
    """
    _check(images, "before_after", "[B, Y, X, C]")
    if reconstructed.shape != images.shape or reconstructed.dtype != images.dtype:
        found = f"{images.dtype} {list(images.shape)} and {reconstructed.dtype} {list(reconstructed.shape)}"
        raise InputError(f"before_after: two uint8 arrays of one shape are wanted, not {found}")
    return image_grid(
        np.concatenate([images, reconstructed], axis=2), math.ceil(math.sqrt(len(images) / 2)), scale=scale, gap=2
    )


def save_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] as a PNG. The file appears whole or not at all; missing folders are made.

    Raises:
      InputError: an array of another shape or dtype.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        raise InputError(f"save_png: the image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    with replace_file(path) as file:
        Image.fromarray(image).save(file, format="PNG")


def loss_curves(
    metrics_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    baselines: Mapping[str, float] | None = None,
    metric: str = "nats_per_token",
) -> None:
    """Draws training and held-out loss against the step, in nats per token, as a PNG.

    Args:
      metrics_path: JSON lines with `step` and any of `train/METRIC` and `eval/METRIC`. Of lines with the same step the
        last counts; a last line that is still being written is left out.
      out_path: the PNG; appears whole or not at all.
      baselines: name -> nats per token, drawn as dashed levels and named in the legend with their value.
      metric: nats_per_token or nats_per_masked_token.

    Raises:
      InputError: no such file, a line that is not JSON, or neither loss in it.
    """
    from matplotlib.figure import Figure  # half a second to import; without pyplot there is no global state

    train, held_out = f"train/{metric}", f"eval/{metric}"
    curves = _read_metrics(Path(metrics_path), (train, held_out))
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    styles = ((train, "training", "tab:blue", ""), (held_out, "held out", "tab:orange", "o"))
    for key, label, color, marker in styles:
        if points := curves[key]:
            axes.plot(list(points), list(points.values()), marker=marker, ms=4, lw=1.6, color=color, label=label)
    for i, (name, level) in enumerate((baselines or {}).items()):
        axes.axhline(level, ls="--", lw=1.2, color=f"C{2 + i}", label=f"{name} ({level:.3f})")
    axes.set_title("Loss on palette tokens", fontsize=14)
    axes.set_xlabel("optimizer step", fontsize=12)
    axes.set_ylabel(metric.replace("_", " "), fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=11, frameon=False)
    with replace_file(out_path) as file:
        figure.savefig(file, format="png")


def _read_metrics(path: Path, keys: tuple[str, ...]) -> dict[str, dict[int, float]]:
    """key -> {step: value}, steps ascending."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; wanted is the metrics.jsonl of a run") from None
    lines = text.split("\n")[:-1]  # what follows the last newline is empty or still being written
    curves: dict[str, dict[int, float]] = {key: {} for key in keys}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            for key in curves.keys() & record.keys():
                curves[key][int(record["step"])] = float(record[key])
        except (ValueError, TypeError, AttributeError, KeyError):
            raise InputError(f"{path}:{number}: not a line of metrics (a JSON object with a step)") from None
    if not any(curves.values()):
        raise InputError(f"{path}: no line holds {' or '.join(keys)}")
    return {key: dict(sorted(points.items())) for key, points in curves.items()}


def _check(images: np.ndarray, who: str, shape: str) -> None:
    if images.dtype != np.uint8 or images.ndim != shape.count(",") + 1 or images.shape[-1] not in (1, 3):
        raise InputError(f"{who}: uint8 {shape} with C 1 or 3 is wanted, not {images.dtype} {list(images.shape)}")
    if images.size == 0:
        raise InputError(f"{who}: there is nothing to draw in {list(images.shape)}")


def _auto_scale(images: np.ndarray) -> int:
    return math.ceil(MIN_TILE / min(images.shape[1:3]))


def _enlarge(images: np.ndarray, scale: int) -> np.ndarray:
    """uint8 [..., Y, X, C] -> [..., Y scale, X scale, 3], every pixel a square."""
    rgb = np.broadcast_to(images, (*images.shape[:-1], 3))
    return rgb.repeat(scale, axis=-3).repeat(scale, axis=-2)


def _lay_out(tiles: np.ndarray, gap: int) -> np.ndarray:
    """[rows, columns, H, W, 3] -> one picture with `gap` output pixels between the tiles and around them."""
    rows, columns, height, width, _ = tiles.shape
    framed = np.broadcast_to(GAP, (rows, columns, height + gap, width + gap, 3)).copy()
    framed[:, :, gap:, gap:] = tiles
    picture = framed.swapaxes(1, 2).reshape(rows * (height + gap), columns * (width + gap), 3)
    canvas = np.broadcast_to(GAP, (picture.shape[0] + gap, picture.shape[1] + gap, 3)).copy()
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    return canvas


def _with_titles(picture: np.ndarray, titles: list[tuple[str, int]], width: int, gap: int) -> np.ndarray:
    """Puts (text, columns spanned) above the columns of `width` pixels, or nothing if a text would not fit."""
    font = ImageFont.load_default(size=12)
    if any(font.getlength(text) > span * (width + gap) for text, span in titles):
        return picture
    header = Image.new("RGB", (picture.shape[1], 20), tuple(GAP.tolist()))
    draw, column = ImageDraw.Draw(header), 0
    for text, span in titles:
        centre = gap / 2 + (column + span / 2) * (width + gap)
        draw.text((centre, 11), text, fill=(60, 60, 66), font=font, anchor="mm")
        column += span
    return np.concatenate([np.asarray(header), picture])
