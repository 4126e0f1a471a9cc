import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.evaluation.quality import psnr
from igpt_jax.palette import Palette
from tests.data.made import refused

GREYS = np.arange(256, dtype=np.uint8)[:, None]


def from_bytes(colors) -> Palette:
    return Palette(np.asarray(colors, np.float64) / 127.5 - 1)


def brute_force(palette: Palette, pixels: np.ndarray) -> np.ndarray:
    points = pixels.astype(np.float64) / 127.5 - 1
    distance = np.square(points[:, None] - palette.centers.astype(np.float64)).sum(-1)
    return distance.argmin(-1)


def test_greys_and_colours_get_the_nearest_centre(rng):
    for size in (2, 37):
        palette = Palette(rng.uniform(-1, 1, (size, 1)))
        np.testing.assert_array_equal(palette.encode(GREYS), brute_force(palette, GREYS))
    palette = Palette(rng.uniform(-1, 1, (512, 3)))
    colors = rng.integers(0, 256, (4000, 3), dtype=np.uint8)
    np.testing.assert_array_equal(palette.encode(colors), brute_force(palette, colors))


def test_crowded_centres_do_not_cancel(rng):
    # all within 0.03 pixel steps of white: |c|^2 - 2 x.c in float32 is off by up to 0.005 steps squared
    palette = Palette(1 - rng.uniform(0, 0.03 / 127.5, (64, 3)))
    colors = rng.integers(250, 256, (4096, 3), dtype=np.uint8)
    distance = np.sqrt(np.square(colors[:, None] - (palette.centers.astype(np.float64) + 1) * 127.5).sum(-1))
    chosen = np.take_along_axis(distance, np.asarray(palette.encode(colors))[:, None], 1)[:, 0]
    assert (chosen - distance.min(1)).max() < 3e-5


def test_tokens_are_the_same_under_jit_and_vmap(rng):
    palette = Palette(rng.uniform(-1, 1, (16, 3)))
    images = rng.integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    wanted = brute_force(palette, images.reshape(-1, 3)).reshape(2, 5, 4)
    for encode in (palette.encode, jax.jit(palette.encode), jax.vmap(palette.encode)):
        tokens = encode(jnp.asarray(images))
        assert tokens.dtype == jnp.int32
        np.testing.assert_array_equal(tokens, wanted)
    assert palette.encode(images[0, 0, 0]) == wanted[0, 0, 0]
    colors = jax.jit(palette.decode)(tokens)
    assert colors.dtype == jnp.uint8
    np.testing.assert_array_equal(colors, palette.decode(wanted))


def test_ties_go_to_the_lowest_row():
    grey = from_bytes([[200], [10], [10], [20], [200]])
    np.testing.assert_array_equal(grey.encode(np.array([[10], [15], [200]], np.uint8)), [1, 1, 0])
    # around every middle, though float32 arithmetic leaves centres (up to half a 2^-16 step) beside their byte colour
    centers = np.arange(256, dtype=np.float32)[:, None] / np.float32(127.5) - np.float32(1)
    for middle in range(1, 255):
        for pair in ([middle - 1, middle + 1], [middle + 1, middle - 1]):
            assert Palette(centers[pair]).encode(np.array([middle], np.uint8)) == 0
    axes = np.array([[90, 60, 60], [60, 60, 90], [60, 90, 60], [30, 60, 60]])
    for rows in (axes, axes[::-1]):
        assert from_bytes(rows).encode(np.array([60, 60, 60], np.uint8)) == 0


def test_decode_rounds_to_the_nearest_byte():
    palette = Palette(np.array([[-1, 1, 0], [0.5, -0.25, 0.996]]))
    tokens = np.array([[1, 0]])
    # 127.5 * (c + 1): 0, 255, 127.5 (rint: to even) and 191.25, 95.625, 254.49
    wanted = [[[191, 96, 254], [0, 255, 128]]]
    assert isinstance(palette.decode(tokens), np.ndarray)
    np.testing.assert_array_equal(palette.decode(tokens), wanted)
    np.testing.assert_array_equal(palette.decode(jnp.asarray(tokens)), wanted)
    assert palette.decode(tokens).dtype == np.uint8


RGB = from_bytes([[0, 0, 0], [9, 9, 9]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RGB.decode(np.array([0, 2])), r"tokens 0\.\.2"),
        (lambda: RGB.decode(np.array([-1])), "tokens -1"),
        (lambda: RGB.encode(np.zeros((4, 4, 1), np.uint8)), r"not uint8 \(4, 4, 1\)"),
        (lambda: RGB.encode(np.uint8(3)), r"not uint8 \(\)"),
        (lambda: RGB.encode(np.zeros((4, 4, 3), np.float32)), "float32"),
        (lambda: RGB.encode(np.zeros((4, 4, 3), np.int32)), "int32"),
        *((lambda n=n: Palette.levels(n), f"got {n}") for n in (0, 1, 257)),
        *((lambda shape=shape: Palette(np.zeros(shape)), "centres must have shape") for shape in (3, (4, 2), (0, 3))),
        *((lambda x=x: Palette(np.array([[x]])), "centres must be numbers") for x in (np.nan, 1.01, -np.inf)),
        (lambda: Palette.fit(np.zeros((9, 2), np.uint8), 1, seed=0), "pixels must be uint8"),
        (lambda: Palette.fit(np.zeros((9, 3)), 1, seed=0), "pixels must be uint8"),
    ],
)
def test_other_arrays_are_refused(make, message):
    refused(message, make)


def test_centres_are_a_read_only_copy():
    source = np.zeros((2, 1), np.float32)
    palette = Palette(source)
    source[:] = 1
    assert palette.centers.dtype == np.float32
    assert (palette.centers == 0).all()
    with pytest.raises(ValueError, match="read-only"):
        palette.centers[0] = 1


def test_levels_17_are_the_digits_and_256_the_identity():
    from sklearn.datasets import load_digits

    values = load_digits().images[:200].astype(int)
    images = np.array([[[round(v * 255 / 16)] for v in row] for row in values.reshape(-1, 8)], np.uint8)
    palette = Palette.levels(17)
    tokens = np.asarray(palette.encode(images))
    np.testing.assert_array_equal(tokens, values.reshape(-1, 8))
    np.testing.assert_array_equal(palette.decode(tokens), images)
    np.testing.assert_array_equal(Palette.levels(256).encode(GREYS), np.arange(256))
    np.testing.assert_array_equal(Palette.levels(256).decode(np.arange(256)), GREYS)


def test_fit_finds_the_weighted_means():
    # three tight clusters; the counts pull the means to (10, 20, 33), (200, 50, 51) and (120, 242, 90)
    red = [[200, 50, 50]] * 3 + [[200, 50, 54]]
    dark = [[10, 20, 30]] * 1 + [[10, 20, 34]] * 3
    green = [[120, 240, 90], [120, 244, 90]] * 5
    palette = Palette.fit(np.array(red + dark + green, np.uint8), 3, seed=0)
    # from dark to light: luminances 19, 82, 205
    np.testing.assert_array_equal(palette.decode(np.arange(3)), [[10, 20, 33], [200, 50, 51], [120, 242, 90]])


def test_fit_gives_byte_colours_that_survive_the_round_trip(rng):
    pixels = rng.normal(128, 12, (6000, 3)).clip(0, 255).astype(np.uint8)
    palette = Palette.fit(pixels, 64, seed=3)
    colors = palette.decode(np.arange(64))
    assert len(np.unique(colors, axis=0)) == palette.size == 64
    np.testing.assert_array_equal(palette.encode(colors), np.arange(64))
    assert palette.same_as(from_bytes(colors))
    luma = colors @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luma) >= 0).all()
    # 64 means must serve far better than 64 of the pixels taken at random
    sample = from_bytes(pixels[:64])
    error = [psnr(pixels, p.decode(np.asarray(p.encode(pixels)))) for p in (palette, sample)]
    assert error[0] > error[1] + 1


def test_fit_depends_on_the_seed_only(rng):
    pixels = rng.integers(0, 256, (3000, 3), dtype=np.uint8)
    first = Palette.fit(pixels, 8, seed=1)
    assert first.same_as(Palette.fit(rng.permutation(pixels), 8, seed=1))
    assert not first.same_as(Palette.fit(pixels, 8, seed=2))


def test_fit_fills_places_that_rounding_merged():
    # k-means may end with {0, +x} and {-x, +y}, whose means (0.4, 0, 0) and (-0.5, 0.5, 0) round to the same colour;
    # of these 40 starts several do
    colors = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0]]) + 100
    pixels = colors.repeat([60, 40, 30, 30], 0).astype(np.uint8)
    for seed in range(40):
        assert len(np.unique(Palette.fit(pixels, 2, seed).centers, axis=0)) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_fit_takes_all_colours_and_says_when_they_are_too_few(channels):
    pixels = np.repeat(np.arange(17, dtype=np.uint8)[::-1, None], channels, 1).repeat(9, 0)
    np.testing.assert_array_equal(Palette.fit(pixels, 17, seed=0).decode(np.arange(17)), pixels[::-9])
    says = r"17 distinct colours, fewer than the 18 asked for.*fit more images"
    refused(says, Palette.fit, pixels, 18, seed=0)


def test_save_and_load_are_the_release_format(tmp_path, rng):
    palette = Palette(rng.uniform(-1, 1, (512, 3)))
    path = tmp_path / "new" / "kmeans_centers.npy"
    palette.save(path)
    raw = np.load(path, allow_pickle=False)
    assert (raw.shape, raw.dtype) == ((512, 3), np.float32)
    assert Palette.load(path).same_as(palette)
    assert not Palette.load(path).same_as(Palette(-palette.centers))
    assert [p.name for p in path.parent.iterdir()] == ["kmeans_centers.npy"]


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


def npy(array, **kwargs) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **kwargs)
    return buffer.getvalue()


GOOD = npy(np.zeros((512, 3), np.float32))
DAMAGE = {
    "empty": b"",
    "text": b"these are not the colours\n",
    "pickle": pickle.dumps([1, 2]),
    "object array": npy(np.array([Trap()]), allow_pickle=True),
    "cut short": GOOD[:3000],
    "cut in the header": GOOD[:40],
    "broken header": GOOD.replace(b"), }", b"(, }"),
    "terabytes": GOOD.replace(b"(512, 3), }" + b" " * 9, b"(99999999999, 3), }"[:20].ljust(20)),
    "zip": b"PK\x03\x04" + b"\0" * 60,
    "integers": npy(np.full((4, 3), 200)),
    "wrong shape": npy(np.zeros((3, 512), np.float32)),
    "0..255": npy(np.full((4, 3), 200.0, np.float32)),
    "nan": npy(np.full((4, 3), np.nan, np.float32)),
}


@pytest.mark.parametrize("kind", [*DAMAGE, "missing", "a folder"])
def test_load_names_the_file_and_what_is_wanted(tmp_path, kind):
    path = tmp_path / "centers.npy"
    if kind == "a folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(DAMAGE[kind])
    refused(r"centers\.npy: .*expected a \.npy of float32", Palette.load, path)
