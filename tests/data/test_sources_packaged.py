"""Sources that come with packages: scikit-learn's digits and TFDS."""

import io
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from igpt_jax.config import DataConfig
from igpt_jax.data.sources import open_source
from tests.data.made import refused, values


def test_digits_have_their_values_labels_and_splits():
    from sklearn.datasets import load_digits

    train, held_out = (open_source(DataConfig(source="digits", channels=1), split) for split in ("train", "eval"))
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
    colour = open_source(DataConfig(source="digits", channels=3), "train").read(3, None)["image"]
    np.testing.assert_array_equal(colour, np.repeat(train.read(3, None)["image"], 3, 2))
    assert train.digest == open_source(DataConfig(source="digits", channels=3), "train").digest != held_out.digest


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
    train, held_out = (open_source(DataConfig(source=tiny_tfds), split) for split in ("train", "eval"))
    assert (len(train), len(held_out)) == (7, 3)
    assert sorted(values(train)) == list(range(7))
    assert sorted(values(held_out)) == [7, 8, 9]
    for record in (train.read(0, None), pickle.loads(pickle.dumps(train)).read(1, None)):
        value = record["image"][0, 0, 0]
        assert record["image"].shape == (3, 4 + value, 3)
        assert record["label"] == value % 2
    assert train.class_names == ("even", "odd")
    assert train.digest == open_source(DataConfig(source=tiny_tfds), "train").digest != held_out.digest
    assert open_source(DataConfig(source=tiny_tfds, channels=1), "eval").read(0, None)["image"].shape[2] == 1
    assert len(open_source(DataConfig(source=tiny_tfds, train_split="train[:3]+test"), "train")) == 6
    assert "tensorflow" not in sys.modules
    refused(r"split 'valid'.*train.*test", open_source, DataConfig(source=tiny_tfds, eval_split="valid"), "eval")


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
    refused(says, open_source, DataConfig(source=f"tfds:{name}"), "train")
