"""Transforms: exact geometry on small arrays, the ranges of the paper's recipes, any size in and one size out."""

import importlib.util
import pickle

import numpy as np
import pytest
from PIL import Image

from igpt_jax.config import DataConfig
from igpt_jax.data import transforms
from igpt_jax.data.transforms import denoise, enhance, fit, imagenet_box, make_preprocess, resize
from tests.data.made import refused

needs_skimage = pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs scikit-image")


def picture(y, x, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (y, x, c), np.uint8)


def smooth(y, x, c=3):
    ramp = np.add.outer(np.linspace(0, 120, y), np.linspace(0, 130, x))
    return np.repeat(ramp[..., None], c, 2).astype(np.uint8)


def outcomes(function, n):
    rng = np.random.default_rng(1)
    return {function(rng).tobytes() for _ in range(n)}


def test_fit_takes_the_centre_and_leaves_the_right_size_alone():
    image = picture(8, 8)
    assert fit(image, (8, 8)) is image
    wide = np.concatenate([np.full((8, 6, 3), 0, np.uint8), image, np.full((8, 7, 3), 255, np.uint8)], axis=1)
    np.testing.assert_array_equal(fit(wide, (8, 8)), image)
    np.testing.assert_array_equal(fit(wide.transpose(1, 0, 2), (8, 8)), image.transpose(1, 0, 2))
    np.testing.assert_array_equal(fit(wide, (4, 16)), resize(wide[1:6], (4, 16)))


def test_crop_keeps_the_resolution_and_reaches_every_place():
    image = picture(6, 9)
    train = make_preprocess(DataConfig(augment="crop"), (4, 8), train=True)
    places = {image[y : y + 4, x : x + 8].tobytes() for y in range(3) for x in range(2)}
    assert outcomes(lambda rng: train(image, rng), 200) == places
    held_out = make_preprocess(DataConfig(augment="crop"), (4, 8), train=False)
    np.testing.assert_array_equal(held_out(image, np.random.default_rng(0)), image[1:5, :8])
    np.testing.assert_array_equal(train(image[:3], np.random.default_rng(0)), fit(image[:3], (4, 8)))


def test_resize_neither_rings_nor_aliases():
    edge = np.full((64, 64, 3), 60, np.uint8)
    edge[:, 31:] = 200
    for size in ((13, 13), (32, 32), (100, 90)):
        small = resize(edge, size)
        assert (small.min(), small.max()) == (60, 200)
        assert np.all(np.diff(small.astype(int), axis=1) >= 0)
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(resize(stripes, (64, 9))) < 12  # sampled without a filter: 255
    image = picture(40, 30)
    np.testing.assert_array_equal(resize(image, (10, 20))[..., 1:2], resize(image[..., 1:2], (10, 20)))
    np.testing.assert_array_equal(resize(image, (20, 10), (8, 5, 18, 25)), image[5:25, 8:18])


def moved(image, index):
    """The image after every move. `index(n)` lists, for each move, where the n rows or columns come from."""
    rows, cols = (index(n) for n in image.shape[:2])
    return {image[y][:, x].tobytes() for y in rows for x in cols}


@pytest.mark.parametrize(
    ("cfg", "index"),
    [
        (DataConfig(augment="shift", shift=2), lambda n: [np.clip(np.arange(n) + d, 0, n - 1) for d in range(-2, 3)]),
        (DataConfig(augment="shift", shift=0), lambda n: [np.arange(n)]),
        (DataConfig(augment="cifar"), lambda n: [n - 1 - abs(n - 1 - abs(np.arange(n) + d)) for d in range(-4, 5)]),
    ],
)
def test_shift_repeats_the_edge_and_cifar_mirrors_about_it_and_every_move_occurs(cfg, index):
    image = picture(6, 7)
    transform = make_preprocess(cfg, (6, 7), train=True)
    assert outcomes(lambda rng: transform(image, rng), 1500) == moved(image, index)


def test_imagenet_recipe_has_the_ranges_of_the_paper():
    """On a 300 x 500 image, the size of the box gives the shorter side, and its place the offset of the crop."""
    rng = np.random.default_rng(0)
    left, top, right, bottom = np.array([imagenet_box((300, 500), (32, 32), rng) for _ in range(4000)]).T
    shorter = np.rint(224 * 300 / (bottom - top)).astype(int)
    assert (shorter.min(), shorter.max()) == (256, 384)
    assert len(np.unique(shorter)) == 129
    np.testing.assert_allclose(right - left, bottom - top, rtol=2e-3)  # rounding of the longer side
    for low, high, length in ((top, bottom, 300), (left, right, 500)):
        assert low.min() == 0
        assert high.max() <= length
        assert high.max() > length - 1e-6
        offset = (low / (length - (high - low)))[shorter > 300]
        assert abs(offset.mean() - 0.5) < 0.03


def test_imagenet_evaluation_is_the_centre_of_the_shorter_side():
    assert imagenet_box((448, 1000), (32, 32), None) == (276, 0, 724, 448)
    assert imagenet_box((448, 448), (16, 32), None) == (0, 112, 448, 336)
    assert imagenet_box((224, 224), (32, 32), None) == (0, 0, 224, 224)
    image, rng = picture(448, 1000), np.random.default_rng(0)
    result = make_preprocess(DataConfig(augment="imagenet"), (32, 32), train=False)(image, rng)
    np.testing.assert_array_equal(result, resize(image, (32, 32), (276, 0, 724, 448)))


@pytest.mark.parametrize("augment", ["none", "shift", "cifar", "imagenet", "crop"])
@pytest.mark.parametrize("train", [False, True])
def test_every_recipe_takes_images_of_any_size(augment, train):
    for c in (1, 3):
        for size in ((32, 32), (3, 5)):
            transform = make_preprocess(DataConfig(augment=augment, shift=2, flip=True), size, train=train)
            for y, x in ((1, 1), (1, 100_000), (2000, 1), (3, 5), (32, 32), (33, 31), (400, 250)):
                out = transform(picture(y, x, c), np.random.default_rng(0))
                assert (out.shape, out.dtype, out.flags.c_contiguous) == ((*size, c), np.uint8, True), (y, x)


def test_only_training_is_random_and_only_through_its_generator():
    image = picture(32, 32)
    cases = [DataConfig(augment=augment) for augment in ("shift", "cifar", "imagenet")] + [DataConfig(flip=True)]
    for cfg in cases:
        train, held_out = (pickle.loads(pickle.dumps(make_preprocess(cfg, (32, 32), train=t))) for t in (True, False))
        assert len({train(image, np.random.default_rng(i)).tobytes() for i in range(20)}) > 1, cfg
        assert len({train(image, np.random.default_rng(3)).tobytes() for _ in range(3)}) == 1, cfg
        assert len({held_out(image, np.random.default_rng(i)).tobytes() for i in range(20)}) == 1, cfg
    plain = make_preprocess(DataConfig(), (32, 32), train=True)
    np.testing.assert_array_equal(plain(image, np.random.default_rng(0)), image)


def test_shift_moves_half_of_the_images_and_flip_mirrors_half_of_them_last():
    image = picture(8, 8)
    shift, both = (
        make_preprocess(DataConfig(augment="shift", shift=1, flip=f), (8, 8), train=True) for f in (False, True)
    )
    still = mirrored = 0
    for i in range(1000):
        moved, out = shift(image, np.random.default_rng(i)), both(image, np.random.default_rng(i))
        still += np.array_equal(moved, image)
        mirrored += np.array_equal(out, moved[:, ::-1])
        assert np.array_equal(out, moved) or np.array_equal(out, moved[:, ::-1])
    assert abs(still - 1000 * (1 / 2 + 1 / 2 / 9)) < 60  # one move in nine is none
    assert 430 < mirrored < 570


@needs_skimage
@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("kind", ["tv", "bilateral", "nlmeans", "wavelet"])
def test_denoisers_come_closer_to_the_clean_image(kind, c):
    if kind == "wavelet":
        pytest.importorskip("pywt")
    clean = smooth(40, 30, c)
    noise = np.random.default_rng(0).normal(0, 10, clean.shape)
    noisy = np.rint(np.clip(clean + noise, 0, 255)).astype(np.uint8)
    cleaned = denoise(noisy, kind)
    assert (cleaned.shape, cleaned.dtype) == (clean.shape, np.uint8)
    error, before = (np.mean((image.astype(float) - clean) ** 2) for image in (cleaned, noisy))
    assert error < 0.6 * before
    for y, x in ((1, 1), (1, 9), (4, 3)):
        flat = np.full((y, x, c), 77, np.uint8)
        np.testing.assert_array_equal(denoise(flat, kind), flat)
        doubled = picture(y, x, c).repeat(2, 0).repeat(2, 1)
        assert np.abs(denoise(doubled, kind) - doubled.astype(int)).max() < 200
        assert denoise(picture(y, x, c), kind).shape == (y, x, c)


@needs_skimage
@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("kind", ["stretch", "equalize", "clahe"])
def test_enhancers_widen_the_contrast(kind, c):
    dull = smooth(40, 30, c) // 5 + 90
    better = enhance(dull, kind)
    assert (better.shape, better.dtype) == (dull.shape, np.uint8)
    assert np.ptp(better) > 2 * np.ptp(dull)
    if kind != "clahe":  # which works by regions
        assert np.all(np.diff(better.astype(int), axis=1) >= 0)  # what was brighter stays brighter
    for y, x in ((1, 1), (1, 9), (4, 3)):
        flat = np.full((y, x, c), 77, np.uint8)
        np.testing.assert_array_equal(enhance(flat, kind), flat)
        assert enhance(picture(y, x, c), kind).shape == (y, x, c)


@needs_skimage
def test_restoration_runs_at_full_size_before_the_geometry(monkeypatch):
    calls = []
    for name in ("denoise", "enhance"):
        monkeypatch.setattr(
            transforms, name, lambda image, kind, name=name: calls.append((name, kind, image.shape[:2])) or image
        )
    cfg = DataConfig(denoise="tv", enhance="clahe")
    make_preprocess(cfg, (8, 8), train=False)(picture(50, 40), np.random.default_rng(0))
    assert calls == [("denoise", "tv", (50, 40)), ("enhance", "clahe", (50, 40))]


@pytest.mark.parametrize("missing", ["skimage", "pywt"])
def test_a_missing_extra_is_named_before_the_run_starts(monkeypatch, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    wavelet, clahe = DataConfig(denoise="wavelet"), DataConfig(enhance="clahe")
    says = r"data\.denoise: 'wavelet' needs .*pip install 'igpt_jax\[enhance\]'"
    refused(says, make_preprocess, wavelet, (8, 8), train=True)
    if missing == "skimage":
        refused("data.enhance: 'clahe' needs scikit-image", make_preprocess, clahe, (8, 8), train=True)


@pytest.mark.parametrize("augment", ["none", "imagenet", "crop"])
@pytest.mark.parametrize("resample", ["box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_the_filter_is_the_one_asked_for(resample, augment):
    """Of a picture that is reduced by whole steps, and by crop because it is smaller than the grid."""
    size = (64, 64) if augment == "crop" else (16, 16)
    image = picture(32, 32)
    asked = make_preprocess(DataConfig(augment=augment, resample=resample), size, train=False)
    got = asked(image, np.random.default_rng(0))
    expected = Image.fromarray(image).resize(size, Image.Resampling[resample.upper()])
    np.testing.assert_array_equal(got, np.asarray(expected))
    assert DataConfig().resample == "hamming"
