"""Sources that others wrote: IDX files, scikit-learn's digits, TFDS and the release's tokenised images."""

import gzip
import io
import pickle
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from igpt_jax import Palette
from igpt_jax.config import DataConfig
from igpt_jax.data.sources import open_source
from tests.data.made import labels, refused, values


def opened(source, split, **settings):
    return open_source(DataConfig(source=source, **settings), split)


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def pictures(rng):
    return rng.integers(0, 256, (6, 3, 4), np.uint8), np.array([0, 255, 1, 2, 0, 1], np.uint8)


@pytest.mark.parametrize("style", ["-{}-idx{}-ubyte", "-{}-idx{}-ubyte.gz", "-{}.idx{}-ubyte", "-{}.idx{}-ubyte.gz"])
def test_idx_round_trip(tmp_path, pictures, style):
    images, labels = pictures
    for prefix, part in (("train", slice(4)), ("t10k", slice(4, None))):
        for kind, array in (("images", images[part]), ("labels", labels[part])):
            body = idx_bytes(array)
            name = prefix + style.format(kind, array.ndim)
            (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith("gz") else body)
    train, held_out = (opened(f"idx:{tmp_path}", split, channels=1) for split in ("train", "eval"))
    records = [source.read(i, None) for source, n in ((train, 4), (held_out, 2)) for i in range(n)]
    np.testing.assert_array_equal(np.stack([r["image"] for r in records])[..., 0], images)
    assert [r["label"] for r in records] == labels.tolist()
    assert train.class_names == tuple(map(str, range(256)))
    assert train.digest != held_out.digest
    assert train.digest == opened(f"idx:{tmp_path}", "train").digest


@pytest.mark.parametrize(
    ("harm", "kind", "says"),
    [
        (lambda b: b[:-1], "images", "but it has 71"),
        (lambda b: b + b"\0", "images", "but it has 73"),
        (lambda b: b"\0\0\x0d" + b[3:], "images", "magic number"),
        (lambda b: b[:2], "labels", "magic number"),
        (lambda b: b[:6], "labels", "ends within its header"),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], "images", "but it has 72"),
        (lambda b: b[:4] + b"\0\0\0\5" + b[8:-1], "labels", "has 5 labels, but .* has 6 images"),
        (lambda b: bytes((0, 0, 8, 3)) + struct.pack(">3I", 0, 3, 4), "images", "holds no image"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_files_are_named(tmp_path, pictures, harm, kind, says, zipped):
    for name, array in zip(("images", "labels"), pictures, strict=True):
        body = harm(idx_bytes(array)) if name == kind else idx_bytes(array)
        path = tmp_path / f"train-{name}-idx{array.ndim}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(body) if zipped else body)
    assert f"train-{kind}-idx" in refused(says, opened, f"idx:{tmp_path}", "train")


def test_idx_damage_of_the_compression_and_missing_files(tmp_path, pictures):
    refused(r"no train-images-idx3-ubyte", opened, f"idx:{tmp_path}", "train")
    body = gzip.compress(idx_bytes(pictures[0]))
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    for bad in (body[:-12], body[:10] + b"\xff" * 8 + body[18:], b"not gzip at all, no"):
        path.write_bytes(bad)
        refused(r"t10k-images-idx3-ubyte\.gz' is damaged", opened, f"idx:{tmp_path}", "eval")
    path.write_bytes(body)
    unlabelled = opened(f"idx:{tmp_path}", "eval")
    assert labels(unlabelled) == [-1] * 6


def test_digits_have_their_values_labels_and_splits():
    from sklearn.datasets import load_digits

    train, held_out = (opened("digits", split, channels=1) for split in ("train", "eval"))
    raw, labels = load_digits(return_X_y=True)
    assert (len(train), len(held_out)) == (1500, 297)
    levels = {v: round(v * 255 / 16) for v in range(17)}
    for source, offset in ((train, 0), (held_out, 1500)):
        for i in (0, len(source) - 1):
            record = source.read(i, None)
            assert record["image"].shape == (8, 8, 1)
            assert record["image"].dtype == np.uint8
            assert record["image"].ravel().tolist() == [levels[int(v)] for v in raw[offset + i]]
            assert record["label"] == labels[offset + i]
    colour = opened("digits", "train", channels=3).read(3, None)["image"]
    np.testing.assert_array_equal(colour, np.repeat(train.read(3, None)["image"], 3, 2))
    assert train.digest == opened("digits", "train", channels=3).digest != held_out.digest


@pytest.fixture
def tfds_home(tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))  # TFDS has read TFDS_DATA_DIR at import
    return tmp_path


@pytest.fixture
def tiny_tfds(tfds_home):
    """A dataset that is prepared without TensorFlow, because its images are PNG files already."""
    pytest.importorskip("importlib_resources")
    import tensorflow_datasets as tfds

    class IgptTinyPictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=["even", "odd"]),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 7), "test": self._generate_examples(7, 10)}

        def _generate_examples(self, first, last):
            for i in range(first, last):
                file = io.BytesIO()
                Image.fromarray(np.full((3, 4 + i, 3), i, np.uint8)).save(file, "PNG")
                file.seek(0)
                yield i, {"image": file, "label": i % 2}

    IgptTinyPictures(data_dir=tfds_home, file_format="array_record").download_and_prepare()
    return "tfds:igpt_tiny_pictures"


def test_tfds_records_are_read_without_tensorflow(tiny_tfds, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]:
        monkeypatch.delitem(sys.modules, name)  # another test has imported it
    train, held_out = (opened(tiny_tfds, split) for split in ("train", "eval"))
    assert (len(train), len(held_out)) == (7, 3)
    assert sorted(values(train)) == list(range(7))
    assert sorted(values(held_out)) == [7, 8, 9]
    for record in (train.read(0, None), pickle.loads(pickle.dumps(train)).read(1, None)):
        value = record["image"][0, 0, 0]
        assert record["image"].shape == (3, 4 + value, 3)
        assert record["label"] == value % 2
    assert train.class_names == ("even", "odd")
    assert train.digest == opened(tiny_tfds, "train").digest != held_out.digest
    assert opened(tiny_tfds, "eval", channels=1).read(0, None)["image"].shape[2] == 1
    assert len(opened(tiny_tfds, "train", train_split="train[:3]+test")) == 6
    assert "tensorflow" not in sys.modules
    refused(r"split 'valid'.*train.*test", opened, tiny_tfds, "eval", eval_split="valid")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnist", r"has not prepared 'mnist'.*tfds build mnist --file_format=array_record.*\[openai\]"),
        ("no_such_data_set", "knows no dataset 'no_such_data_set'"),
        ("mnist:9.9.9", "tfds build"),
        ("Not A Name", "TFDS"),
    ],
)
def test_a_tfds_dataset_that_is_missing_is_refused_with_the_way_out(tfds_home, name, says):
    refused(says, opened, f"tfds:{name}", "train")


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


def tokens(folder, split="eval", **settings):
    return opened(f"tokens:{folder}/cifar10", split, **settings)


@pytest.mark.parametrize(("split", "letters"), [("train", "tr"), ("eval", "te")])
def test_pictures_encode_to_the_ids_that_are_stored(folder, split, letters):
    source, palette = tokens(folder, split), Palette.load(folder / "kmeans_centers.npy")
    assert len(source) == len(IDS[letters])
    assert source.class_names == tuple("0123456789")
    for i, ids in enumerate(IDS[letters]):
        image = source.read(i, None)["image"]
        np.testing.assert_array_equal(image, palette.decode(ids.reshape(8, 8)))
        np.testing.assert_array_equal(palette.encode(image), ids.reshape(8, 8))
        assert source.read(i, None)["label"] == i % 10


def test_all_layouts_of_tokens_that_may_be_there(folder):
    expected = tokens(folder).read(3, None)["image"]
    np.save(folder / "cifar10_teX.npy", IDS["te"].reshape(-1, 8, 8).astype(np.int64))
    np.save(folder / "cifar10_teY.npy", np.arange(7)[::-1].copy())
    source = tokens(folder)
    np.testing.assert_array_equal(source.read(3, None)["image"], expected)
    assert source.read(0, None)["label"] == 6
    (folder / "cifar10_teY.npy").unlink()
    source = tokens(folder)
    assert source.read(0, None)["label"] == -1
    assert source.class_names == ()
    (folder / "cifar10_teX.npy").rename(folder / "cifar10_vaX.npy")
    np.testing.assert_array_equal(tokens(folder, eval_split="validation").read(3, None)["image"], expected)


def test_workers_get_the_path_of_tokens_and_not_the_images(folder):
    source = tokens(folder)
    stored = pickle.dumps(source)
    np.testing.assert_array_equal(pickle.loads(stored).read(5, None)["image"], source.read(5, None)["image"])
    (folder / "cifar10_teX.npy").unlink()
    refused("there is no .*cifar10_teX.npy", lambda: pickle.loads(stored).read(5, None))


def test_other_tokens_have_another_digest(folder):
    digests = {tokens(folder).digest, tokens(folder, "train").digest}
    np.save(folder / "cifar10_teX.npy", IDS["te"][::-1].copy())
    digests.add(tokens(folder).digest)
    np.save(folder / "cifar10_teY.npy", np.zeros(7, int))
    digests.add(tokens(folder).digest)
    assert len(digests) == 4


def test_bad_token_files_are_named(folder):
    def ids(array):
        np.save(folder / "cifar10_teX.npy", array)

    refused("data.eval_split: must be one of train, validation, test", tokens, folder, eval_split="val")
    refused("there is no .*cifar10_vaX.npy.*igpt fetch --dataset", tokens, folder, eval_split="validation")
    refused("data.channels: must be 3", tokens, folder, channels=1)
    for wrong in (np.zeros((7, 60), int), np.zeros((0, 64), int), np.zeros((7, 8, 8, 3), int), np.zeros(64, int)):
        ids(wrong)
        refused(r"cifar10_teX.npy: has shape .* not \[n, side", tokens, folder)
    ids(np.zeros((7, 64)))
    refused("holds float64, not ids", tokens, folder)
    ids(np.full((7, 64), 512))
    refused("image 2 has ids 512 to 512, and the palette 0 to 511", lambda: tokens(folder).read(2, None))
    ids(np.zeros((6, 64), int))
    refused("cifar10_teY.npy: has 7 labels for 6 images", tokens, folder)
    ids(IDS["te"])
    np.save(folder / "cifar10_teY.npy", np.ones((7, 10)))
    refused("a row does not have a 1 in one place", tokens, folder)
    np.save(folder / "cifar10_teY.npy", np.zeros(7))
    refused("not class numbers", tokens, folder)
    (folder / "cifar10_teX.npy").write_bytes((folder / "cifar10_teX.npy").read_bytes()[:-100])
    refused("cifar10_teX.npy' cannot be read", tokens, folder)
    np.save(folder / "cifar10_teX.npy", np.array([{}]), allow_pickle=True)
    refused("cifar10_teX.npy' cannot be read", tokens, folder)


def test_a_palette_that_does_not_tell_its_colours_apart(folder):
    same = colors()
    same[7] = same[3] + 1e-4
    np.save(folder / "kmeans_centers.npy", same)
    refused("two of its colours round to the same pixel", tokens, folder)
    np.save(folder / "kmeans_centers.npy", colors() + 2)
    refused(r"lie in \[-1, 1\]", tokens, folder)
    np.save(folder / "kmeans_centers.npy", colors()[:, :2])
    refused("not that of a palette", tokens, folder)
    (folder / "kmeans_centers.npy").unlink()
    refused("there is no .*kmeans_centers.npy", tokens, folder)
