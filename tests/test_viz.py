import json

import numpy as np
import pytest
from PIL import Image

from igpt_jax.errors import InputError
from igpt_jax.palette import Palette
from igpt_jax.viz import (
    GAP,
    MISSING,
    before_after,
    image_grid,
    loss_curves,
    palette_swatch,
    save_png,
    strips,
)


@pytest.fixture
def images(rng):
    return rng.integers(0, 200, (5, 4, 6, 3), dtype=np.uint8)  # darker than any mark or gap


def test_every_pixel_stands_where_the_layout_says(images):
    scale, gap, columns = 3, 2, 2
    grid = image_grid(images, columns, scale=scale, gap=gap)
    assert grid.dtype == np.uint8
    assert grid.shape == (scale * (3 * (4 + gap) + gap), scale * (columns * (6 + gap) + gap), 3)
    wanted = np.broadcast_to(GAP, grid.shape).copy()  # also the sixth, empty place
    for b, image in enumerate(images):
        for (y, x), _ in np.ndenumerate(image[..., 0]):
            top = scale * (gap + b // columns * (4 + gap) + y)
            left = scale * (gap + b % columns * (6 + gap) + x)
            wanted[top : top + scale, left : left + scale] = image[y, x]
    np.testing.assert_array_equal(grid, wanted)


@pytest.mark.parametrize(("side", "scale"), [(8, 8), (28, 3), (32, 2), (64, 1), (96, 1)])
def test_the_scale_chosen_makes_tiles_of_at_least_64(side, scale):
    grid = image_grid(np.zeros((1, side, side, 1), np.uint8), gap=0)
    assert grid.shape == (side * scale, side * scale, 3)
    assert side * scale >= 64


def test_grid_is_about_square_and_grey_becomes_rgb(rng):
    grey = rng.integers(0, 200, (7, 8, 8, 1), dtype=np.uint8)
    grid = image_grid(grey, scale=1, gap=1)
    assert grid.shape == (3 * 9 + 1, 3 * 9 + 1, 3)
    np.testing.assert_array_equal(grid[1:9, 1:9], grey[0].repeat(3, -1))


@pytest.mark.parametrize("with_originals", [True, False])
def test_strips_hold_prompt_completions_original_in_this_order(rng, with_originals):
    images, originals = rng.integers(0, 200, (2, 2, 8, 8, 3), dtype=np.uint8)
    completions = rng.integers(0, 200, (2, 3, 8, 8, 3), dtype=np.uint8)
    known = np.zeros((8, 8), bool)
    known[:3] = True
    columns = [("prompt", images), ("completion", completions), ("original", originals)]
    picture = strips(columns if with_originals else columns[:2], known)
    side, gap, header, columns = 64, 6, 20, 4 + with_originals
    assert picture.shape == (header + 2 * (side + gap) + gap, columns * (side + gap) + gap, 3)
    for b in range(2):
        top = header + gap + b * (side + gap)
        tiles = [picture[top : top + side, gap + c * (side + gap) :][:, :side] for c in range(columns)]
        full = [image.repeat(8, 0).repeat(8, 1) for image in (images[b], *completions[b], originals[b])]
        for tile, image in zip(tiles[1:], full[1:]):
            np.testing.assert_array_equal(tile, image)
        np.testing.assert_array_equal(tiles[0][:24], full[0][:24])
        # in every unknown pixel there are both stripe colours and nothing else
        for square in tiles[0][24:].reshape(5, 8, 8, 8, 3).swapaxes(1, 2).reshape(-1, 64, 3):
            np.testing.assert_array_equal(np.unique(square, axis=0), np.unique(MISSING, axis=0))
    assert (picture[:header] != GAP).any()  # the titles
    assert (picture[header : header + gap] == GAP).all()


def test_strips_take_a_mask_for_each_image(rng):
    images = rng.integers(0, 200, (2, 64, 64, 1), dtype=np.uint8)
    known = np.stack([np.ones((64, 64), bool), np.zeros((64, 64), bool)])
    picture = strips([("hole", images), ("draw", images)], known)[20:]
    assert picture.shape == (2 * 66 + 2, 2 * 66 + 2, 3)
    np.testing.assert_array_equal(picture[2:66, 2:66], images[0].repeat(3, -1))
    assert set(map(tuple, picture[68:132, 2:66].reshape(-1, 3))) == set(map(tuple, MISSING))
    np.testing.assert_array_equal(picture[68:132, 68:132], images[1].repeat(3, -1))


def test_swatch_shows_every_colour_in_token_order(rng):
    palette = Palette(rng.uniform(-1, 1, (70, 3)))
    picture = palette_swatch(palette)
    assert picture.shape == (3 * 24, 32 * 24, 3)
    centres = picture[12::24, 12::24].reshape(-1, 3)
    np.testing.assert_array_equal(centres[:70], palette.decode(np.arange(70)))
    np.testing.assert_array_equal(centres[70:], np.broadcast_to(GAP, (26, 3)))


def test_before_after_puts_pairs_side_by_side(rng):
    before, after = rng.integers(0, 200, (2, 5, 64, 64, 3), dtype=np.uint8)
    picture = before_after(before, after)
    assert picture.shape == (3 * (64 + 2) + 2, 2 * (128 + 2) + 2, 3)
    np.testing.assert_array_equal(picture[2:66, 132:196], before[1])
    np.testing.assert_array_equal(picture[2:66, 196:260], after[1])


def test_png_holds_the_same_pixels(tmp_path, images):
    path = tmp_path / "new" / "a.png"
    save_png(path, images[0])
    with Image.open(path) as png:
        assert png.format == "PNG"
        np.testing.assert_array_equal(np.asarray(png), images[0])
    assert len(list(path.parent.iterdir())) == 1


def test_loss_curves_draw_both_losses_and_the_baselines(tmp_path, monkeypatch):
    import matplotlib.figure

    drawn = []
    savefig = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (drawn.append(self), savefig(self, *a, **k))[1]
    )
    lines = [
        {"step": 10, "train/nats_per_token": 3.0},
        {"step": 20, "train/nats_per_token": 2.0, "lr": 0.1},
        {"step": 20, "eval/nats_per_token": 2.5},
        {"step": 30, "train/nats_per_token": 9.0},
        {"step": 20, "train/nats_per_token": 1.5},  # resumed from step 10: the later line counts
        {"step": 25, "train/nats_per_token": 1.2},
        {"step": 30, "train/nats_per_token": 1.0},
    ]
    metrics, out = tmp_path / "metrics.jsonl", tmp_path / "loss.png"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 40, "train')
    loss_curves(metrics, out, {"uniform": 2.83})
    with Image.open(out) as png:
        png.load()
        assert png.format == "PNG"
        assert min(png.size) >= 400
    (axes,) = drawn[0].axes
    curves = {line.get_label(): line for line in axes.get_lines()}
    assert list(curves) == ["training", "held out", "uniform (2.830)"]
    np.testing.assert_array_equal(curves["training"].get_xydata(), [[10, 3.0], [20, 1.5], [25, 1.2], [30, 1.0]])
    np.testing.assert_array_equal(curves["held out"].get_xydata(), [[20, 2.5]])
    assert set(curves["uniform (2.830)"].get_ydata()) == {2.83}
    assert axes.get_ylabel() == "nats per token"
    assert axes.get_xlabel()
    assert axes.get_title()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"step": 1, "train/nats_per_token": 2}\n{oops}\n', "not the metrics.jsonl of a run: .*line 2"),
        ('{"step": 1, "lr": 2}\n', "no line holds train/nats_per_token or eval/nats_per_token"),
        (None, "No such file"),
    ],
)
def test_loss_curves_name_what_is_wrong(tmp_path, text, message):
    metrics, out = tmp_path / "metrics.jsonl", tmp_path / "loss.png"
    if text is not None:
        metrics.write_text(text)
    with pytest.raises(InputError, match=message):
        loss_curves(metrics, out)
    assert not out.exists()
