"""For people: grids, clips, completion strips, palettes, loss curves. Host arrays in, RGB arrays and files out."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from igpt_jax.config_json import json_text, read_metrics
from igpt_jax.errors import InputError
from igpt_jax.files import replace_file
from igpt_jax.palette import Palette

GAP = np.array([232, 232, 236], np.uint8)  # between tiles
MISSING = np.array([[250, 226, 214], [240, 198, 178]], np.uint8)  # stripes over unknown pixels
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
    """
    scale = scale or _auto_scale(images)
    return _lay_out(_enlarge(images, scale), columns or math.ceil(math.sqrt(len(images))), gap * scale)


def completion_strips(
    images: np.ndarray, known: np.ndarray, completions: np.ndarray, originals: np.ndarray | None = None
) -> np.ndarray:
    """One row for each image: the prompt, its n completions and, if there is one, the original, under column titles.

    Args:
      images: uint8 [B, Y, X, C], C 1 or 3.
      known: bool [Y, X] or [B, Y, X]; False where the prompt is striped.
      completions: uint8 [B, n, Y, X, C].
      originals: uint8 [B, Y, X, C].

    Returns:
      uint8 [H, W, 3].
    """
    scale = _auto_scale(images)
    columns = [("prompt", _striped(images, known, scale)[:, None])]
    columns.append(("completions" if completions.shape[1] > 1 else "completion", _enlarge(completions, scale)))
    if originals is not None:
        columns.append(("original", _enlarge(originals, scale)[:, None]))
    return _titled(columns, scale)


def inpainting_strips(
    images: np.ndarray, known: np.ndarray, draws: np.ndarray, means: np.ndarray, deviations: np.ndarray
) -> np.ndarray:
    """One row for each image: the hole, n draws, their mean, their deviation, and the image as it was, under titles.

    Args:
      images, means: uint8 [B, Y, X, C], C 1 or 3.
      known: bool [Y, X] or [B, Y, X]; False where the hole is.
      draws: uint8 [B, n, Y, X, C].
      deviations: uint8 [B, Y, X, 1].

    Returns:
      uint8 [H, W, 3].
    """
    scale = _auto_scale(images)
    columns = [("hole", _striped(images, known, scale)[:, None])]
    columns.append(("draws" if draws.shape[1] > 1 else "draw", _enlarge(draws, scale)))
    for title, tiles in (("mean", means), ("deviation", deviations), ("picture", images)):
        columns.append((title, _enlarge(tiles, scale)[:, None]))
    return _titled(columns, scale)


def _striped(images: np.ndarray, known: np.ndarray, scale: int) -> np.ndarray:
    """Enlarged images, with stripes where they are not known."""
    enlarged = _enlarge(images, scale)
    y, x = np.indices(enlarged.shape[1:3])
    known = np.broadcast_to(known, images.shape[:3])[..., None]
    return np.where(_enlarge(known, scale), enlarged, MISSING[(x + y) // 6 % 2])


def restoration_strips(
    damaged: np.ndarray, draws: np.ndarray, means: np.ndarray, originals: np.ndarray | None = None
) -> np.ndarray:
    """One row for each image: damaged, n draws, their mean and, if there is one, the original, under column titles.

    Args:
      damaged, means, originals: uint8 [B, Y, X, C], C 1 or 3.
      draws: uint8 [B, n, Y, X, C].

    Returns:
      uint8 [H, W, 3].
    """
    scale = _auto_scale(damaged)
    columns = [("damaged", damaged[:, None]), ("draws" if draws.shape[1] > 1 else "draw", draws)]
    columns.append(("mean", means[:, None]))
    if originals is not None:
        columns.append(("original", originals[:, None]))
    return _titled([(title, _enlarge(images, scale)) for title, images in columns], scale)


def stacked(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 [H, W, 3] one below the other, filled up on the right to one width."""
    width = max(picture.shape[1] for picture in pictures)
    filled = [np.broadcast_to(GAP, (picture.shape[0], width, 3)).copy() for picture in pictures]
    for row, picture in zip(filled, pictures, strict=True):
        row[:, : picture.shape[1]] = picture
    return np.concatenate(filled)


def _titled(columns: list[tuple[str, np.ndarray]], scale: int) -> np.ndarray:
    """Rows of tiles under titles: (title, uint8 [B, n, H, W, 3]) of each group of n columns."""
    tiles = np.concatenate([images for _, images in columns], axis=1)
    gap = max(2, min(scale, 6))
    strips = _lay_out(tiles.reshape(-1, *tiles.shape[2:]), tiles.shape[1], gap)
    return _with_titles(strips, [(title, images.shape[1]) for title, images in columns], tiles.shape[3], gap)


def clip_sheet(clips: np.ndarray, titles: Sequence[tuple[str, int]] = ()) -> np.ndarray:
    """One row a clip, its frames side by side.

    Args:
      clips: uint8 [n, L, Y, X, C], C 1 or 3.
      titles: (text, frames it stands above), from the left; none for no titles.

    Returns:
      uint8 [H, W, 3].
    """
    frames = clips.reshape(-1, *clips.shape[2:])
    scale = _auto_scale(frames)
    gap = max(2, min(scale, 6))
    sheet = _lay_out(_enlarge(frames, scale), clips.shape[1], gap)
    return _with_titles(sheet, titles, scale * clips.shape[3], gap) if titles else sheet


def save_animation(
    path: str | os.PathLike[str], clips: np.ndarray, fps: float = 8.0, text: Mapping[str, str] | None = None
) -> None:
    """Writes clips beside each other as one .gif or .mp4, which appears whole or not at all.

    GIFs have at most 256 colours a frame, and repeat for ever. The mp4 is H.264 with half the resolution of colour.

    Args:
      clips: uint8 [n, L, Y, X, C], C 1 or 3.
      fps: frames a second; a GIF counts in hundredths of a second.
      text: stored in the file as a comment.

    Raises:
      InputError: PyAV is missing, which writes mp4.
    """
    pictures = [image_grid(clips[:, i]) for i in range(clips.shape[1])]
    comment = json_text(text or {})
    if Path(path).suffix == ".gif":
        first, *others = (Image.fromarray(picture) for picture in pictures)
        options: dict[str, Any] = dict(save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
        with replace_file(path) as file:
            first.save(file, format="GIF", comment=comment.encode(), **options)
        return
    if importlib.util.find_spec("av") is None:
        raise InputError(f"writing {str(path)!r} needs PyAV; pip install 'igpt_jax[video]', or write a .gif")
    import av

    height, width = (n + n % 2 for n in pictures[0].shape[:2])  # H.264 takes even sizes
    with replace_file(path) as file, av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = comment
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            padded = np.pad(picture, ((0, height - len(picture)), (0, width - picture.shape[1]), (0, 0)), "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))
        container.mux(stream.encode())


def palette_swatch(palette: Palette) -> np.ndarray:
    """Every colour of the palette as a square, in token order, 32 to a row: uint8 [H, W, 3]."""
    colors = palette.decode(np.arange(palette.size))
    return image_grid(colors[:, None, None, :], min(palette.size, 32), scale=24, gap=0)


def before_after(images: np.ndarray, reconstructed: np.ndarray) -> np.ndarray:
    """Pairs: each image with its reconstruction directly to its right. Both uint8 [B, Y, X, C]; returns [H, W, 3]."""
    columns = math.ceil(math.sqrt(len(images) / 2))
    return image_grid(np.concatenate([images, reconstructed], axis=2), columns, gap=2)


def save_png(path: str | os.PathLike[str], image: np.ndarray, text: Mapping[str, str] | None = None) -> None:
    """Writes uint8 [H, W, 1 or 3] as a PNG. The file appears whole or not at all; missing folders are made.

    Args:
      text: key -> value, stored in the file.
    """
    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    with replace_file(path) as file:
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, format="PNG", pnginfo=info)


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
            axes.plot(*zip(*points), marker=marker, ms=4, lw=1.6, color=color, label=label)
    for i, (name, level) in enumerate((baselines or {}).items()):
        axes.axhline(level, ls="--", lw=1.2, color=f"C{2 + i}", label=f"{name} ({level:.3f})")
    _finish(figure, out_path, "Loss on palette tokens", "optimizer step", metric.replace("_", " "))


def accuracy_by_layer(
    out_path: str | os.PathLike[str],
    layers: Mapping[int, tuple[float, float]],
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draws the accuracy of a probe against the layer, as a PNG.

    Args:
      out_path: the PNG; appears whole or not at all.
      layers: layer -> accuracy and its standard error, both in 0..1.
      levels: name -> accuracy of other classifiers, drawn as dashed levels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    numbers = sorted(layers)
    accuracies, errors = ([100 * layers[i][part] for i in numbers] for part in range(2))
    axes.errorbar(numbers, accuracies, errors, marker="o", ms=4, lw=1.6, capsize=3, color="tab:blue", label="features")
    for i, (name, level) in enumerate((levels or {}).items()):
        axes.axhline(100 * level, ls="--", lw=1.2, color=f"C{1 + i}", label=f"{name} ({100 * level:.1f})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(figure, out_path, "Linear probe", "layer", "accuracy on held-out images, %", columns=2)


def _finish(
    figure: Any, out_path: str | os.PathLike[str], title: str, x_label: str, y_label: str, columns: int = 3
) -> None:
    """Titles, a legend of so many columns below, and the file."""
    axes = figure.axes[0]
    axes.set_title(title, fontsize=14)
    axes.set_xlabel(x_label, fontsize=12)
    axes.set_ylabel(y_label, fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=columns, fontsize=11, frameon=False)
    with replace_file(out_path) as file:
        figure.savefig(file, format="png")


def _read_metrics(path: Path, keys: tuple[str, ...]) -> dict[str, list[tuple[int, float]]]:
    """key -> (step, value) of every step, ascending."""
    records = read_metrics(path)
    curves = {key: {int(record["step"]): record[key] for record in records if key in record} for key in keys}
    if not any(curves.values()):
        raise InputError(f"{path}: no line holds {' or '.join(keys)}")
    return {key: sorted(points.items()) for key, points in curves.items()}


def _auto_scale(images: np.ndarray) -> int:
    return math.ceil(MIN_TILE / min(images.shape[1:3]))


def _enlarge(images: np.ndarray, scale: int) -> np.ndarray:
    """[..., Y, X, C] -> [..., Y scale, X scale, 3], every pixel a square."""
    rgb = np.broadcast_to(images, (*images.shape[:-1], 3))
    return rgb.repeat(scale, axis=-3).repeat(scale, axis=-2)


def _lay_out(tiles: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """[n, H, W, 3] -> one picture with `gap` output pixels between the tiles and around them."""
    pitch = np.array(tiles.shape[1:3]) + gap
    picture = np.tile(GAP, (*(pitch * (math.ceil(len(tiles) / columns), columns) + gap), 1))
    for i, tile in enumerate(tiles):
        y, x = pitch * divmod(i, columns) + gap
        picture[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return picture


def _with_titles(picture: np.ndarray, titles: Sequence[tuple[str, int]], width: int, gap: int) -> np.ndarray:
    """Puts (text, columns spanned) above the columns of `width` pixels."""
    font = ImageFont.load_default(size=12)
    header = Image.new("RGB", (picture.shape[1], 20), tuple(GAP.tolist()))
    draw, column = ImageDraw.Draw(header), 0
    for text, span in titles:
        centre = gap / 2 + (column + span / 2) * (width + gap)
        draw.text((centre, 11), text, fill=(60, 60, 66), font=font, anchor="mm")
        column += span
    return np.concatenate([np.asarray(header), picture])
