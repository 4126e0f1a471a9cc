"""load_image: the right pixels for every kind of file, and one line that names a file that cannot be read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from igpt_jax.data import reading
from igpt_jax.data.reading import load_image
from igpt_jax.errors import InputError
from tests.data.made import noise_png, refused, tiff, truncate, write

needs_avif = pytest.mark.skipif("AVIF" not in reading.FORMATS, reason="this Pillow reads no AVIF")
MARKED = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, kind, rows, more=b""):
    """A PNG by hand: its header may claim any size, whatever its rows hold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + more + pixels + chunk(b"IEND", b"")


def as_jpeg(picture, **options):
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def jpeg_header(width, height):
    """A JPEG whose header claims a size."""
    content = as_jpeg(Image.new("L", (8, 8)))
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


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
    for name in ("a.png", "a.tif"):
        Image.fromarray(MARKED).save(tmp_path / name, exif=exif)
        np.testing.assert_array_equal(load_image(tmp_path / name, 1)[..., 0], upright)


@needs_avif
def test_avif_is_read_with_its_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(MARKED).save(tmp_path / "a.avif", quality=100, exif=exif)
    np.testing.assert_allclose(load_image(tmp_path / "a.avif", 1)[..., 0].astype(int), np.rot90(MARKED, -1), atol=3)
    red, blue = (Image.new("RGBA", (16, 16), colour) for colour in ((255, 0, 0, 51), (0, 0, 255, 255)))
    red.save(tmp_path / "moving.avif", quality=100, save_all=True, append_images=[blue])
    np.testing.assert_allclose(load_image(tmp_path / "moving.avif", 3)[8, 8].astype(int), (255, 204, 204), atol=3)


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
    Image.fromarray(deep).save(tmp_path / "deep.tif", compression="tiff_lzw")
    (tmp_path / "big_endian.tif").write_bytes(tiff(deep.astype(">u2"), order=">"))
    for name, channels in (("deep.png", 1), ("deep.png", 3), ("deep.tif", 3), ("big_endian.tif", 1)):
        image = load_image(tmp_path / name, channels)
        assert image.shape == (2, 4, channels)
        assert image[..., -1].tolist() == [[0, 0, 1, 1], [1, 128, 255, 255]]  # 65407 / 257 = 254.502


def test_tiff_pixels_of_an_unknown_range_are_refused(tmp_path):
    """Read as if 0 were black and 65535 white, they would be black, white or negative without a word."""
    values = np.arange(12).reshape(3, 4)
    for name, content in {
        "float": tiff(values.astype("<f4"), sample_format=3),
        "signed": tiff(values.astype("<i2"), sample_format=2),
        "signed8": tiff(values.astype("<i1"), sample_format=2),
        "long": tiff(values.astype("<u4")),
        "inverted": tiff(values.astype("<u2"), photometric=0),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert "save it with 8 or 16 bits" in refused(name, load_image, tmp_path / name, 3)
    (tmp_path / "inverted8").write_bytes(tiff((values * 20).astype(np.uint8), photometric=0))
    np.testing.assert_array_equal(load_image(tmp_path / "inverted8", 1)[..., 0], 255 - values * 20)


def test_a_tiff_that_may_need_any_amount_of_memory_is_refused(tmp_path):
    """A tile is decoded whole, however small the image is; and some compressions have bounds of their own alone."""
    pixels = np.zeros((3, 4), np.uint8)
    for says, content in {
        "tiles have more than the 33554432 pixels": tiff(pixels, compression=8, tile=(32768, 32768)),
        "compression lzma is not read": tiff(pixels, compression=34925),
    }.items():
        (tmp_path / "a.tif").write_bytes(content)
        refused(says, load_image, tmp_path / "a.tif", 3)


def test_transparency_lies_over_white(tmp_path):
    for name, mode, color, expected in (
        ("rgba.png", "RGBA", (255, 0, 0, 51), (255, 204, 204)),
        ("la.png", "LA", (0, 51), (204,) * 3),
        ("clear.png", "RGBA", (9, 9, 9, 0), (255,) * 3),
        ("rgb.webp", "RGBA", (0, 0, 0, 0), (255,) * 3),
    ):
        Image.new(mode, (2, 2), color).save(tmp_path / name, lossless=True)
        assert tuple(load_image(tmp_path / name, 3)[0, 0]) == expected, name
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
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    assert load_image(tmp_path / "cmyk.tif", 3).tolist() == [[[255, 0, 0]] * 2] * 2
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert load_image(tmp_path / "bits.png", 1).tolist() == [[[255], [0]]]
    Image.new("RGB", (1, 1), (255, 0, 0)).save(tmp_path / "red.bmp")
    assert load_image(tmp_path / "red.bmp", 1).tolist() == [[[76]]]  # 0.299 * 255
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    for name in ("moving.gif", "moving.png", "moving.webp", "pages.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert load_image(tmp_path / name, 3).tolist() == [[[255, 0, 0]] * 3] * 2, name


def test_odd_sizes_and_file_objects(tmp_path, monkeypatch):
    """Pillow's own bound, at which it would warn or refuse, counts for nothing."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for size in ((1, 1), (1, 100_000), (100_000, 1)):
        assert load_image(write(tmp_path / "a.png", 7, size), 3).shape == (*size, 3)
    assert load_image(io.BytesIO(write(tmp_path / "b.png", 7).read_bytes()), 1).shape == (4, 5, 1)
    Image.new("L", (8192, 5000), 9).save(tmp_path / "large.jpg")  # too large to decode in full
    assert load_image(tmp_path / "large.jpg", 1).shape == (1250, 2048, 1)
    frames = [Image.new("L", (2048, 2048)) for _ in range(2)]
    frames[0].save(tmp_path / "two.jpg", "MPO", save_all=True, append_images=frames[1:])  # as of some cameras
    assert load_image(tmp_path / "two.jpg", 1).shape == (1024, 1024, 1)


def test_too_many_pixels_are_refused_with_a_way_out(tmp_path):
    or_jpeg = "resize it, or save it as a JPEG, which is decoded at a reduced size"
    for content, size, way_out in (
        (png(5_793, 5_793, 8, 2, bytes(100)), "5793 x 5793", or_jpeg),
        (png(9_500, 10_000, 8, 2, bytes(100)), "9500 x 10000", or_jpeg),  # Pillow would warn
        (png(16_320, 12_240, 8, 2, bytes(100)), "16320 x 12240", or_jpeg),  # Pillow would refuse
        (png(60_000, 60_000, 8, 2, bytes(100)), "60000 x 60000", "resize it"),  # too many for a JPEG as well
        (png(1_000, 50_000, 8, 2, bytes(100)), "1000 x 50000", "resize it"),  # too narrow to be reduced
        (jpeg_header(1_000, 50_000), "1000 x 50000", "resize it"),
        (jpeg_header(20_000, 20_000), "20000 x 20000", "resize it"),
    ):
        (tmp_path / "a").write_bytes(content)
        line = refused("are more than", load_image, tmp_path / "a", 3)
        assert size in line
        assert line.endswith(f"; {way_out}"), line


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged metadata
def test_damaged_files_of_every_format_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    for fmt in reading.FORMATS:
        picture.save(tmp_path / "whole", fmt)
        whole = (tmp_path / "whole").read_bytes()
        for i in range(30):
            damaged = bytearray(whole)
            if i % 2:
                del damaged[rng.integers(len(whole)) :]
            else:
                for at in rng.integers(0, min(len(whole), 200), 4):
                    damaged[at] = rng.integers(256)
            (tmp_path / "damaged").write_bytes(damaged)
            try:
                image = load_image(tmp_path / "damaged", 3)
            except InputError:
                continue
            assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)


def test_unreadable_files_are_one_line_that_names_them(tmp_path):
    truncate(noise_png(tmp_path / "cut.png"))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "wrong.ico")
    for name in ("cut.png", "empty.jpg", "text.png", "folder.png", "missing.png", "wrong.ico"):
        refused(name, load_image, tmp_path / name, 3)


@pytest.mark.parametrize(
    ("depth", "kind", "rows", "transparent", "expected"),
    [
        (1, 0, b"\x0f", b"\0\1", [0] * 4 + [255] * 4),
        (2, 0, b"\x1b", b"\0\1", [0, 255, 170, 255]),
        (4, 0, b"\x5a", b"\0\5", [255, 170]),
        (8, 0, b"\7\x09", b"\0\7", [255, 9]),
        (16, 0, b"\3\xe8\x9c\x40", b"\3\xe8", [255, 156]),
        (8, 2, b"\1\1\1\4\4\4", b"\0\1\0\1\0\1", [255, 4]),
        (16, 2, b"\1\0\1\0\1\0\4\0\4\0\4\0", b"\1\0\1\0\1\0", [255, 4]),
        (2, 3, b"\x1b", b"\xff\0", [10, 255, 30, 40]),
    ],
)
def test_transparent_colours_of_every_depth_are_white(depth, kind, rows, transparent, expected):
    palette = chunk(b"PLTE", bytes(v for v in (10, 20, 30, 40) for _ in range(3))) if kind == 3 else b""
    content = png(len(expected), 1, depth, kind, b"\0" + rows, palette + chunk(b"tRNS", transparent))
    assert load_image(io.BytesIO(content), 1)[0, :, 0].tolist() == expected


def test_a_png_is_read_whatever_else_it_holds():
    """A text of 3 MB, compressed, and a chunk whose checksum is wrong."""
    text = b"Comment\0\0" + zlib.compress(bytes(3_000_000))
    large = struct.pack(">I", len(text)) + b"zTXt" + text + bytes(4)
    assert load_image(io.BytesIO(png(2, 1, 8, 0, b"\0\7\x09", large)), 1)[0, :, 0].tolist() == [7, 9]


def test_a_jpeg_without_its_last_bytes_is_read_and_half_of_one_is_not():
    blocks = np.kron(np.random.default_rng(0).integers(0, 255, (6, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    whole = as_jpeg(Image.fromarray(blocks))
    np.testing.assert_array_equal(load_image(io.BytesIO(whole[:-2]), 3), load_image(io.BytesIO(whole), 3))
    refused("[Tt]runcated", load_image, io.BytesIO(whole[: len(whole) * 2 // 3]), 3)
