"""IDX files, plain and compressed: every record once, and a damaged file is named."""

import gzip
import struct

import numpy as np
import pytest

from igpt_jax.config import DataConfig
from igpt_jax.data.sources import open_source
from tests.data.made import refused


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
    train, held_out = (open_source(DataConfig(source=f"idx:{tmp_path}", channels=1), s) for s in ("train", "eval"))
    records = [source.read(i, None) for source, n in ((train, 4), (held_out, 2)) for i in range(n)]
    np.testing.assert_array_equal(np.stack([r["image"] for r in records])[..., 0], images)
    assert [r["label"] for r in records] == labels.tolist()
    assert train.class_names == tuple(map(str, range(256)))
    assert train.digest != held_out.digest
    assert train.digest == open_source(DataConfig(source=f"idx:{tmp_path}"), "train").digest


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
    assert f"train-{kind}-idx" in refused(says, open_source, DataConfig(source=f"idx:{tmp_path}"), "train")


def test_idx_damage_of_the_compression_and_missing_files(tmp_path, pictures):
    refused(r"no train-images-idx3-ubyte", open_source, DataConfig(source=f"idx:{tmp_path}"), "train")
    body = gzip.compress(idx_bytes(pictures[0]))
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    for bad in (body[:-12], body[:10] + b"\xff" * 8 + body[18:], b"not gzip at all, no"):
        path.write_bytes(bad)
        refused(r"t10k-images-idx3-ubyte\.gz' is damaged", open_source, DataConfig(source=f"idx:{tmp_path}"), "eval")
    path.write_bytes(body)
    unlabelled = open_source(DataConfig(source=f"idx:{tmp_path}"), "eval")
    assert [unlabelled.read(i, None)["label"] for i in range(6)] == [-1] * 6
