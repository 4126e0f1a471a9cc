"""load_image: the right pixels for every kind of file, and one line that names a file that cannot be read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from igpt_jax.data.reading import load_image
from tests.data.made import noise_png, refused, truncate, write

MARKED = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


def png_header(width, height):
    """A PNG whose header claims a size and whose pixels are missing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, MARKED),
        (2, MARKED[:, ::-1]),
        (3, MARKED[::-1, ::-1]),
        (4, MARKED[::-1]),
        (5, MARKED.T),
        (6, np.rot90(MARKED, -1)),  # the camera lay on its left side: turn clockwise
        (7, MARKED[::-1, ::-1].T),
        (8, np.rot90(MARKED)),
        (9, MARKED),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(MARKED).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 1)[..., 0], upright)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_exif_block_does_not_lose_the_image(tmp_path):
    upright = np.rot90(MARKED, -1)
    whole = Image.Exif()
    whole[0x0112], whole[0x0131] = 6, "a name of software that is stored after the orientation"
    for exif, expected in (
        (b"Exif\0\0no such thing", MARKED),
        (b"Exif\0\0", MARKED),
        (whole.tobytes()[:-20], upright),
        (whole.tobytes()[:12], MARKED),
    ):
        Image.fromarray(MARKED).save(tmp_path / "a.png", exif=exif)
        np.testing.assert_array_equal(load_image(tmp_path / "a.png", 1)[..., 0], expected)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 128, 129, 257], [300, 32768, 65407, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for channels in (1, 3):
        image = load_image(tmp_path / "deep.png", channels)
        assert image.shape == (2, 4, channels)
        assert image[..., -1].tolist() == [[0, 0, 1, 1], [1, 128, 255, 255]]  # 65407 / 257 = 254.502


def test_transparency_lies_over_white(tmp_path):
    cases = {
        "rgba.png": Image.new("RGBA", (2, 2), (255, 0, 0, 51)),
        "la.png": Image.new("LA", (2, 2), (0, 51)),
        "clear.png": Image.new("RGBA", (2, 2), (9, 9, 9, 0)),
        "rgb.webp": Image.new("RGBA", (2, 2), (0, 0, 0, 0)),
    }
    expected = {"rgba.png": (255, 204, 204), "la.png": (204,) * 3, "clear.png": (255,) * 3, "rgb.webp": (255,) * 3}
    for name, image in cases.items():
        image.save(tmp_path / name, lossless=True)
        assert tuple(load_image(tmp_path / name, 3)[0, 0]) == expected[name], name
    assert load_image(tmp_path / "la.png", 1).tolist() == [[[204], [204]]] * 2

    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "pt.png", transparency=1)
    assert load_image(tmp_path / "p.png", 3).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert load_image(tmp_path / "pt.png", 3).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_other_modes(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    np.testing.assert_allclose(load_image(tmp_path / "cmyk.jpg", 3)[8, 8].astype(int), (255, 0, 0), atol=3)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert load_image(tmp_path / "bits.png", 1).tolist() == [[[255], [0]]]
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "red.bmp")
    assert load_image(tmp_path / "red.bmp", 1).tolist() == [[[76]]]  # 0.299 * 255
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "moving.gif", 3).tolist() == [[[255, 0, 0]] * 3] * 2


def test_odd_sizes_and_file_objects(tmp_path):
    for size in ((1, 1), (1, 100_000), (100_000, 1)):
        assert load_image(write(tmp_path / "a.png", 7, size), 3).shape == (*size, 3)
    assert load_image(io.BytesIO(write(tmp_path / "b.png", 7).read_bytes()), 1).shape == (4, 5, 1)
    Image.new("L", (8192, 5000), 9).save(tmp_path / "large.jpg")  # too large to decode in full
    assert load_image(tmp_path / "large.jpg", 1).shape == (1250, 2048, 1)


def test_unreadable_files_are_one_line_that_names_them(tmp_path):
    truncate(noise_png(tmp_path / "cut.png"))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (tmp_path / "large.png").write_bytes(png_header(5_793, 5_793))
    (tmp_path / "folder.png").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "wrong.tiff")
    names = ("cut.png", "empty.jpg", "text.png", "bomb.png", "large.png", "folder.png", "missing.png", "wrong.tiff")
    for name in names:
        line = refused(name, load_image, tmp_path / name, 3)
        assert ("are more than" in line) == (name == "large.png")
