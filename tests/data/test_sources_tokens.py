"""`tokens:PREFIX`: files of the release's layout, whose pictures encode to the very ids that are stored."""

import pickle

import numpy as np
import pytest

from igpt_jax import Palette
from igpt_jax.config import DataConfig
from igpt_jax.data.sources import open_source
from tests.data.made import refused

IDS = {name: np.random.default_rng(i).integers(0, 512, (n, 64)) for i, (name, n) in enumerate([("tr", 20), ("te", 7)])}


def colors(n=512):
    """n colours no two of which round to the same pixel."""
    rng = np.random.default_rng(9)
    numbers = rng.choice(64**3, n, replace=False)
    pixels = np.stack([numbers // 64**2, numbers // 64 % 64, numbers % 64], axis=1) * 4
    return ((pixels + rng.uniform(0, 0.4, pixels.shape)) / 127.5 - 1).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "kmeans_centers.npy", colors())
    for name, ids in IDS.items():
        np.save(tmp_path / f"cifar10_{name}X.npy", ids.astype(np.uint16))
        np.save(tmp_path / f"cifar10_{name}Y.npy", np.eye(10, dtype=np.float32)[np.arange(len(ids)) % 10])
    return tmp_path


def opened(folder, split="eval", **settings):
    cfg = DataConfig(source=f"tokens:{folder}/cifar10", **settings)
    return open_source(cfg, split)


@pytest.mark.parametrize(("split", "letters"), [("train", "tr"), ("eval", "te")])
def test_pictures_encode_to_the_ids_that_are_stored(folder, split, letters):
    source, palette = opened(folder, split), Palette.load(folder / "kmeans_centers.npy")
    assert len(source) == len(IDS[letters])
    assert source.class_names == tuple("0123456789")
    for i, ids in enumerate(IDS[letters]):
        image = source.read(i, None)["image"]
        np.testing.assert_array_equal(image, palette.decode(ids.reshape(8, 8)))
        np.testing.assert_array_equal(palette.encode(image), ids.reshape(8, 8))
        assert source.read(i, None)["label"] == i % 10


def test_all_layouts_that_may_be_there(folder):
    expected = opened(folder).read(3, None)["image"]
    np.save(folder / "cifar10_teX.npy", IDS["te"].reshape(-1, 8, 8).astype(np.int64))
    np.save(folder / "cifar10_teY.npy", np.arange(7)[::-1].copy())
    source = opened(folder)
    np.testing.assert_array_equal(source.read(3, None)["image"], expected)
    assert source.read(0, None)["label"] == 6
    (folder / "cifar10_teY.npy").unlink()
    source = opened(folder)
    assert source.read(0, None)["label"] == -1
    assert source.class_names == ()
    (folder / "cifar10_teX.npy").rename(folder / "cifar10_vaX.npy")
    np.testing.assert_array_equal(opened(folder, eval_split="validation").read(3, None)["image"], expected)


def test_workers_get_the_path_and_not_the_images(folder):
    source = opened(folder)
    stored = pickle.dumps(source)
    np.testing.assert_array_equal(pickle.loads(stored).read(5, None)["image"], source.read(5, None)["image"])
    (folder / "cifar10_teX.npy").unlink()
    refused("there is no .*cifar10_teX.npy", lambda: pickle.loads(stored).read(5, None))


def test_other_files_have_another_digest(folder):
    digests = {opened(folder).digest, opened(folder, "train").digest}
    np.save(folder / "cifar10_teX.npy", IDS["te"][::-1].copy())
    digests.add(opened(folder).digest)
    np.save(folder / "cifar10_teY.npy", np.zeros(7, int))
    digests.add(opened(folder).digest)
    assert len(digests) == 4


def test_bad_files_are_named(folder):
    def ids(array):
        np.save(folder / "cifar10_teX.npy", array)

    refused("data.eval_split: must be one of train, validation, test", opened, folder, eval_split="val")
    refused("there is no .*cifar10_vaX.npy.*igpt fetch --dataset", opened, folder, eval_split="validation")
    refused("data.channels: must be 3", opened, folder, channels=1)
    for wrong in (np.zeros((7, 60), int), np.zeros((0, 64), int), np.zeros((7, 8, 8, 3), int), np.zeros(64, int)):
        ids(wrong)
        refused(r"cifar10_teX.npy: has shape .* not \[n, side", opened, folder)
    ids(np.zeros((7, 64)))
    refused("holds float64, not ids", opened, folder)
    ids(np.full((7, 64), 512))
    refused("image 2 has ids 512 to 512, and the palette 0 to 511", lambda: opened(folder).read(2, None))
    ids(np.zeros((6, 64), int))
    refused("cifar10_teY.npy: has 7 labels for 6 images", opened, folder)
    ids(IDS["te"])
    np.save(folder / "cifar10_teY.npy", np.ones((7, 10)))
    refused("a row does not have a 1 in one place", opened, folder)
    np.save(folder / "cifar10_teY.npy", np.zeros(7))
    refused("not class numbers", opened, folder)
    (folder / "cifar10_teX.npy").write_bytes((folder / "cifar10_teX.npy").read_bytes()[:-100])
    refused("cifar10_teX.npy' cannot be read", opened, folder)
    np.save(folder / "cifar10_teX.npy", np.array([{}]), allow_pickle=True)
    refused("cifar10_teX.npy' cannot be read", opened, folder)


def test_a_palette_that_does_not_tell_its_colours_apart(folder):
    same = colors()
    same[7] = same[3] + 1e-4
    np.save(folder / "kmeans_centers.npy", same)
    refused("two of its colours round to the same pixel", opened, folder)
    np.save(folder / "kmeans_centers.npy", colors() + 2)
    refused(r"lie in \[-1, 1\]", opened, folder)
    np.save(folder / "kmeans_centers.npy", colors()[:, :2])
    refused("not that of a palette", opened, folder)
    (folder / "kmeans_centers.npy").unlink()
    refused("there is no .*kmeans_centers.npy", opened, folder)
