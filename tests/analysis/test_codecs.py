"""Lossless files: nothing is lost, and their size is counted for all images."""

import io

import numpy as np
import pytest
from PIL import Image

from igpt_jax.analysis import codecs
from tests.evaluation.made import IMAGES, PALETTE, context, made


@pytest.mark.parametrize("name", codecs.OPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_pixels_come_back(name, channels):
    assert codecs._available(name)  # which registers JPEG XL
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, channels), np.uint8)
    with Image.open(io.BytesIO(codecs.encode(name, pixels))) as image:
        read = np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(pixels.shape)
    np.testing.assert_array_equal(read, pixels)


def test_all_images_are_counted_in_strips(monkeypatch):
    """Eleven images of 8 x 8 in files of at most 20 rows: 4 whole ones and one of 8 rows."""
    written = []
    monkeypatch.setattr(codecs, "MOST_ROWS", 20)
    monkeypatch.setattr(codecs, "_available", lambda name: name == "png")
    monkeypatch.setattr(codecs, "encode", lambda name, pixels: written.append(pixels) or b"12345")
    measured = codecs.lossless_sizes(context(made()[0], "ar"))
    assert [len(pixels) for pixels in written] == [20, 20, 20, 20, 8]
    shown = np.asarray(PALETTE.decode(PALETTE.encode(IMAGES)))
    np.testing.assert_array_equal(np.concatenate(written).reshape(shown.shape), shown)
    assert measured == {"png_bits_per_token": 8 * 25 / (11 * 64)}
