import json

import numpy as np
import pytest
from PIL import Image

from igpt_jax.config import InputError
from igpt_jax.palette import Palette
from igpt_jax.viz import (
    GAP,
    MISSING,
    before_after,
    completion_strips,
    image_grid,
    loss_curves,
    palette_swatch,
    save_png,
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


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 4, 4, 3)), np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 2), np.uint8)]
)
def test_grid_refuses_other_arrays(bad):
    with pytest.raises(InputError, match="image_grid"):
        image_grid(bad)


def test_grid_of_nothing_is_refused():
    with pytest.raises(InputError, match="nothing to draw"):
        image_grid(np.zeros((0, 4, 4, 3), np.uint8))


@pytest.mark.parametrize("with_originals", [True, False])
def test_strips_hold_prompt_completions_original_in_this_order(rng, with_originals):
    given, originals = rng.integers(0, 200, (2, 2, 8, 8, 3), dtype=np.uint8)
    completions = rng.integers(0, 200, (2, 3, 8, 8, 3), dtype=np.uint8)
    known = np.zeros((8, 8), bool)
    known[:3] = True
    picture = completion_strips(given, known, completions, originals if with_originals else None, scale=8)
    side, gap, header, columns = 64, 6, 20, 4 + with_originals
    assert picture.shape == (header + 2 * (side + gap) + gap, columns * (side + gap) + gap, 3)
    for b in range(2):
        top = header + gap + b * (side + gap)
        tiles = [picture[top : top + side, gap + c * (side + gap) :][:, :side] for c in range(columns)]
        full = [image.repeat(8, 0).repeat(8, 1) for image in (given[b], *completions[b], originals[b])]
        for tile, image in zip(tiles[1:], full[1:]):
            np.testing.assert_array_equal(tile, image)
        np.testing.assert_array_equal(tiles[0][:24], full[0][:24])
        # missing pixels are striped: both stripe colours, nothing else, in every one of them
        for y in range(24, 64, 8):
            for x in range(0, 64, 8):
                square = tiles[0][y : y + 8, x : x + 8].reshape(-1, 3)
                np.testing.assert_array_equal(np.unique(square, axis=0), np.unique(MISSING, axis=0))
    assert (picture[:header] != GAP).any()  # the titles
    np.testing.assert_array_equal(picture[header : header + gap], np.broadcast_to(GAP, (gap, picture.shape[1], 3)))


def test_strips_take_a_mask_for_each_image(rng):
    given = rng.integers(0, 200, (2, 4, 4, 1), dtype=np.uint8)
    known = np.stack([np.ones((4, 4), bool), np.zeros((4, 4), bool)])
    picture = completion_strips(given, known, given[:, None], scale=1)  # too narrow for titles
    assert picture.shape == (2 * 6 + 2, 2 * 6 + 2, 3)
    np.testing.assert_array_equal(picture[2:6, 2:6], given[0].repeat(3, -1))
    assert set(map(tuple, picture[8:12, 2:6].reshape(-1, 3))) <= set(map(tuple, MISSING))
    np.testing.assert_array_equal(picture[8:12, 8:12], given[1].repeat(3, -1))


def test_strips_refuse_what_does_not_fit(images):
    known = np.ones((4, 6), bool)
    good = images[:, None]
    for args in (
        (images, known.astype(np.uint8), good),
        (images, known.T, good),
        (images, known, good[:3]),
        (images, known, good[..., :1]),
        (images, known, good, images[:2]),
    ):
        with pytest.raises(InputError, match="completion_strips"):
            completion_strips(*args)


def test_swatch_shows_every_colour_in_token_order(rng):
    palette = Palette(rng.uniform(-1, 1, (70, 3)))
    picture = palette_swatch(palette)
    assert picture.shape == (3 * 24, 32 * 24, 3)
    centres = picture[12::24, 12::24].reshape(-1, 3)
    np.testing.assert_array_equal(centres[:70], palette.decode(np.arange(70)))
    np.testing.assert_array_equal(centres[70:], np.broadcast_to(GAP, (26, 3)))


def test_before_after_puts_pairs_side_by_side(images):
    after = (images + 20).astype(np.uint8)
    picture = before_after(images, after, scale=1)
    assert picture.shape == (3 * (4 + 2) + 2, 2 * (12 + 2) + 2, 3)
    np.testing.assert_array_equal(picture[2:6, 16:22], images[1])
    np.testing.assert_array_equal(picture[2:6, 22:28], after[1])
    with pytest.raises(InputError, match="before_after"):
        before_after(images, after[:2])


def test_png_holds_the_same_pixels(tmp_path, images):
    path = tmp_path / "new" / "a.png"
    save_png(path, images[0])
    with Image.open(path) as png:
        assert png.format == "PNG"
        np.testing.assert_array_equal(np.asarray(png), images[0])
    assert len(list(path.parent.iterdir())) == 1
    with pytest.raises(InputError, match="save_png"):
        save_png(path, images)


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
        ('{"step": 1, "train/nats_per_token": 2}\n{oops}\n', "jsonl:2: not a line of metrics"),
        ('{"train/nats_per_token": 2}\n', "jsonl:1: not a line of metrics"),
        ("[1]\n", "jsonl:1: not a line of metrics"),
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
