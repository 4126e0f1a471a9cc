"""Sources: every record once, the right pixels, and one clear line where a file is not what it should be."""

import gzip
import io
import logging
import pickle
import shutil
import struct
import sys
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igpt_jax.config import DataConfig, InputError
from igpt_jax.data import folder as folders
from igpt_jax.data.sources import load_image, open_source

FASHION = Path("/usr/share/datasets/fashion-mnist")


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def write(path, value, size=(4, 5), fmt=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path, fmt)
    return path


def truncate(path):
    """Leaves the header readable and the pixels not."""
    path.write_bytes(path.read_bytes()[:-40])


def noise_png(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return path


def values(source):
    return [int(source[i]["image"][0, 0, 0]) for i in range(len(source))]


# load_image

MARKED = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40


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


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    Image.fromarray(MARKED).save(tmp_path / "a.png", exif=b"Exif\0\0no such thing")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png", 1)[..., 0], MARKED)


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
    for name in (
        "cut.png",
        "empty.jpg",
        "text.png",
        "bomb.png",
        "large.png",
        "folder.png",
        "missing.png",
        "wrong.tiff",
    ):
        with pytest.raises(InputError) as caught:
            load_image(tmp_path / name, 3)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert ("are more than" in str(caught.value)) == (name == "large.png")


# digits


def test_digits_split_and_values():
    from sklearn.datasets import load_digits

    train, held_out = (open_source(DataConfig(source="digits", channels=1), split) for split in ("train", "eval"))
    raw, labels = load_digits(return_X_y=True)
    assert (len(train), len(held_out)) == (1500, 297)
    levels = {v: round(v * 255 / 16) for v in range(17)}
    for source, offset in ((train, 0), (held_out, 1500)):
        for i in (0, len(source) - 1):
            record = source[i]
            assert record["image"].shape == (8, 8, 1)
            assert record["image"].dtype == np.uint8
            assert record["image"].ravel().tolist() == [levels[int(v)] for v in raw[offset + i]]
            assert record["label"] == labels[offset + i]
    colour = open_source(DataConfig(source="digits", channels=3), "train")[3]["image"]
    np.testing.assert_array_equal(colour, np.repeat(train[3]["image"], 3, 2))
    assert train.digest == open_source(DataConfig(source="digits", channels=3), "train").digest != held_out.digest


@pytest.mark.parametrize("name", ["mnist", "folder:", "folder", "tfds", "s3:bucket", "Digits", "digits:8", ""])
def test_an_unknown_source_lists_the_known(name):
    with pytest.raises(InputError, match=r"digits, folder:PATH, idx:PATH, tfds:NAME"):
        open_source(DataConfig(source=name), "train")


# folder


def folder(path, **options):
    return [open_source(DataConfig(source=f"folder:{path}", **options), split) for split in ("train", "eval")]


def test_folder_classes_order_and_holdout(tmp_path):
    root = tmp_path / "my pictures ü"
    for i in range(40):
        write(root / ("b dog" if i % 2 else "a/cat") / f"bild é {i:02}.PNG", i, fmt="PNG")
    write(root / ".hidden" / "a.png", 200)
    write(root / "a" / "._a.png", 200)
    (root / "a" / "notes.txt").write_text("x")
    (root / "b dog" / "round").symlink_to(root)
    train, held_out = folder(root, holdout=0.3)
    assert sorted(values(train) + values(held_out)) == list(range(40))
    assert 5 <= len(held_out) <= 20
    assert train.class_names == held_out.class_names == ("a", "b dog")
    for source in (train, held_out):
        evens = [v for v in values(source) if v % 2 == 0]
        assert values(source) == sorted(evens) + sorted(set(values(source)) - set(evens))
        assert all(source[i]["label"] == source[i]["image"][0, 0, 0] % 2 for i in range(len(source)))
    again = pickle.loads(pickle.dumps(train))
    assert values(again) == values(train)

    before = set(values(held_out))
    write(root / "a" / "cat" / "new.png", 100)
    assert set(values(folder(root, holdout=0.3)[1])) - {100} == before


def test_what_a_folder_holds_out_is_pinned(tmp_path):
    """A failure means that models trained before would be evaluated on images they have seen."""
    for form in ("NFC", "NFD"):
        for i in range(20):
            write(tmp_path / form / unicodedata.normalize(form, f"é/{i}.png"), i)
        assert sorted(values(folder(tmp_path / form, holdout=0.2)[1])) == [7, 15, 16]


def test_both_halves_of_a_small_folder_hold_something(tmp_path):
    write(tmp_path / "0.png", 0)
    with pytest.raises(InputError, match="at least two"):
        folder(tmp_path)
    write(tmp_path / "1.png", 1)
    for share in (1e-9, 1 - 1e-9):
        train, held_out = folder(tmp_path, holdout=share)
        assert (len(train), len(held_out)) == (1, 1)
        assert train[0]["label"] == -1
        assert train.class_names == ()


def test_named_splits_share_their_class_numbers(tmp_path):
    for name, value in (("train/a/0", 0), ("train/c/1", 1), ("valid/b/2", 2), ("valid/c/3", 3)):
        write(tmp_path / f"{name}.png", value)
    train, held_out = folder(tmp_path)
    assert train.class_names == held_out.class_names == ("a", "b", "c")
    assert [(v, source[i]["label"]) for source in (train, held_out) for i, v in enumerate(values(source))] == [
        (0, 0),
        (1, 2),
        (2, 1),
        (3, 2),
    ]


def test_unreadable_files_are_left_out_replaced_counted_and_said_once(tmp_path, caplog):
    for i in range(10):
        noise_png(tmp_path / "train" / f"{i}.png", i)
    noise_png(tmp_path / "val" / "0.png")
    (tmp_path / "train" / "3.png").write_bytes(b"")
    truncate(tmp_path / "train" / "5.png")
    truncate(tmp_path / "train" / "9.png")
    train = folder(tmp_path, max_unreadable=0.3)[0]
    assert (len(train), train.unreadable) == (9, 1)
    pixels = {i: load_image(tmp_path / "train" / f"{i}.png", 3) for i in (6, 0)}
    for _ in range(2):
        np.testing.assert_array_equal(train[4]["image"], pixels[6])  # 5.png, now in fourth place -> the next
    assert train.unreadable == 2
    np.testing.assert_array_equal(train[8]["image"], pixels[0])  # 9.png, the last -> the first
    assert train.unreadable == 3
    opened, *read = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert opened.endswith(
        "train': skipped 1 of 10 images that cannot be read ('3.png': it is none of JPEG, PNG, WEBP, GIF, BMP)"
    )
    assert [message.partition(".png'")[0][-1] for message in read] == [*"59"]
    assert pickle.loads(pickle.dumps(train)).unreadable == 3


def test_both_splits_of_a_folder_share_one_check_of_its_headers(tmp_path, caplog, monkeypatch):
    for i in range(40):
        write(tmp_path / f"{i:02}.png", i)
    for i in (3, 5, 7, 9):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    checked = []
    check = folders.image_fault
    monkeypatch.setattr(folders, "image_fault", lambda path: checked.append(path) or check(path))
    train, held_out = folder(tmp_path, max_unreadable=0.5)
    assert (len(train) + len(held_out), train.unreadable, held_out.unreadable, len(checked)) == (36, 4, 4, 40)
    why = "it is none of JPEG, PNG, WEBP, GIF, BMP"
    assert [r.message for r in caplog.records] == [
        f"folder '{tmp_path}': skipped 4 of 40 images that cannot be read "
        f"('03.png': {why}; '05.png': {why}; '07.png': {why}; ...)"
    ]
    write(tmp_path / "03.png", 3)  # the same names as before
    train, held_out = folder(tmp_path, max_unreadable=0.5)
    assert (len(train) + len(held_out), len(checked)) == (37, 80)
    assert "skipped 3 of 40" in caplog.messages[-1]
    assert "..." not in caplog.messages[-1]


def test_the_digest_of_a_folder_is_of_the_names_it_keeps(tmp_path):
    def digests():
        return [source.digest for source in folder(tmp_path / "a", holdout=0.2)]

    for i in range(20):
        write(tmp_path / "a" / f"é/{i}.png", i)
    before = digests()
    assert before[0] != before[1]
    assert [len(bytes.fromhex(digest)) for digest in before] == [32, 32]
    assert digests() == before
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert [source.digest for source in folder(tmp_path / "b", holdout=0.2)] == before
    added = write(tmp_path / "a" / "é/new.png", 0)
    after = digests()
    assert [x == y for x, y in zip(before, after, strict=True)].count(False) == 1  # the split that has it
    added.unlink()
    assert digests() == before
    for i in (0, 7):  # 7 is held out
        (tmp_path / "a" / f"é/{i}.png").unlink()
    assert not set(digests()) & set(before)


def test_too_many_unreadable_files_stop_the_run(tmp_path):
    for i in range(8):
        noise_png(tmp_path / "train" / f"{i}.png", i)
    noise_png(tmp_path / "val" / "0.png")
    truncate(tmp_path / "train" / "2.png")
    truncate(tmp_path / "train" / "4.png")
    train = folder(tmp_path, max_unreadable=0.2)[0]
    train[2]
    with pytest.raises(InputError, match=r"2 of 8 images .*'2.png', '4.png'.*--data.max-unreadable"):
        train[4]
    (tmp_path / "train" / "0.png").write_bytes(b"x")
    (tmp_path / "train" / "1.png").unlink()
    (tmp_path / "train" / "1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"2 of 8 images .*'0.png', '1.png'"):
        folder(tmp_path, max_unreadable=0.2)
    for i in range(8):
        path = tmp_path / "train" / f"{i}.png"
        path.unlink()
        path.write_bytes(b"x")
    with pytest.raises(InputError, match="none of the 8"):
        folder(tmp_path, max_unreadable=1.0)


def test_a_folder_whose_pixels_all_fail_ends(tmp_path):
    for i in range(4):
        truncate(noise_png(tmp_path / f"{i}.png", i))
    with pytest.raises(InputError, match="none of the"):
        folder(tmp_path, max_unreadable=1.0)[0][0]


def test_a_folder_without_images(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        folder(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="no image"):
        folder(tmp_path)


# idx


def idx_bytes(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def pictures(rng):
    return rng.integers(0, 256, (6, 3, 4), np.uint8), np.array([0, 3, 1, 2, 0, 1], np.uint8)


@pytest.mark.parametrize("style", ["-{}-idx{}-ubyte", "-{}-idx{}-ubyte.gz", "-{}.idx{}-ubyte", "-{}.idx{}-ubyte.gz"])
def test_idx_round_trip(tmp_path, pictures, style):
    images, labels = pictures
    for prefix, part in (("train", slice(4)), ("t10k", slice(4, None))):
        for kind, array in (("images", images[part]), ("labels", labels[part])):
            body = idx_bytes(array)
            name = prefix + style.format(kind, array.ndim)
            (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith("gz") else body)
    train, held_out = (open_source(DataConfig(source=f"idx:{tmp_path}", channels=1), s) for s in ("train", "eval"))
    records = [train[i] for i in range(4)] + [held_out[i] for i in range(2)]
    np.testing.assert_array_equal(np.stack([r["image"] for r in records])[..., 0], images)
    assert [r["label"] for r in records] == labels.tolist()
    assert train.class_names == ("0", "1", "2", "3")
    assert train.digest != held_out.digest
    assert train.digest == open_source(DataConfig(source=f"idx:{tmp_path}"), "train").digest


@pytest.mark.parametrize(
    ("harm", "kind", "says"),
    [
        (lambda b: b[:-1], "images", "ends after 71"),
        (lambda b: b + b"\0", "images", "more follow"),
        (lambda b: b"\0\0\x0d" + b[3:], "images", "magic number"),
        (lambda b: b[:2], "labels", "magic number"),
        (lambda b: b[:6], "labels", "ends within its header"),
        (lambda b: b[:4] + b"\xff" * 12 + b[16:], "images", "ends after 72"),
        (lambda b: b[:4] + b"\0\0\0\5" + b[8:-1], "labels", "5 labels, but .* 6 images"),
        (lambda b: bytes((0, 0, 8, 3)) + struct.pack(">3I", 0, 3, 4), "images", "holds no image"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_idx_files_are_named(tmp_path, pictures, harm, kind, says, zipped):
    for name, array in zip(("images", "labels"), pictures, strict=True):
        body = harm(idx_bytes(array)) if name == kind else idx_bytes(array)
        path = tmp_path / f"train-{name}-idx{array.ndim}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(body) if zipped else body)
    with pytest.raises(InputError, match=says) as caught:
        open_source(DataConfig(source=f"idx:{tmp_path}"), "train")
    assert f"train-{kind}-idx" in str(caught.value)


def test_idx_damage_of_the_compression_and_missing_files(tmp_path, pictures):
    with pytest.raises(InputError, match=r"no train-images-idx3-ubyte"):
        open_source(DataConfig(source=f"idx:{tmp_path}"), "train")
    body = gzip.compress(idx_bytes(pictures[0]))
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    for bad in (body[:-12], body[:10] + b"\xff" * 8 + body[18:], b"not gzip at all, no"):
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz' is damaged"):
            open_source(DataConfig(source=f"idx:{tmp_path}"), "eval")
    path.write_bytes(body)
    unlabelled = open_source(DataConfig(source=f"idx:{tmp_path}"), "eval")
    assert [unlabelled[i]["label"] for i in range(6)] == [-1] * 6


@pytest.mark.skipif(not FASHION.is_dir(), reason="fashion-mnist is not on this machine")
def test_fashion_mnist():
    held_out = open_source(DataConfig(source=f"idx:{FASHION}", channels=1), "eval")
    assert len(held_out) == 10_000
    assert np.bincount([held_out[i]["label"] for i in range(10_000)]).tolist() == [1000] * 10


# tfds


@pytest.fixture
def tfds_home(tmp_path, monkeypatch):
    from tensorflow_datasets.core import constants

    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))  # TFDS_DATA_DIR has been read by now
    return tmp_path


@pytest.fixture
def tiny_tfds(tfds_home):
    """A dataset prepared without TensorFlow: its images are PNG files already."""
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


def test_tfds_records_are_read_without_tensorflow(tiny_tfds):
    train, held_out = (open_source(DataConfig(source=tiny_tfds), split) for split in ("train", "eval"))
    assert (len(train), len(held_out)) == (7, 3)
    assert sorted(values(train)) == list(range(7))
    assert sorted(values(held_out)) == [7, 8, 9]
    for record in (train[0], pickle.loads(pickle.dumps(train))[1]):
        value = record["image"][0, 0, 0]
        assert record["image"].shape == (3, 4 + value, 3)
        assert record["label"] == value % 2
    assert train.class_names == ("even", "odd")
    assert train.digest == open_source(DataConfig(source=tiny_tfds), "train").digest != held_out.digest
    assert open_source(DataConfig(source=tiny_tfds, channels=1), "eval")[0]["image"].shape[2] == 1
    assert len(open_source(DataConfig(source=tiny_tfds, train_split="train[:3]+test"), "train")) == 6
    assert "tensorflow" not in sys.modules
    with pytest.raises(InputError, match=r"split 'valid'.*train.*test"):
        open_source(DataConfig(source=tiny_tfds, eval_split="valid"), "eval")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnist", r"has not prepared 'mnist'.*tfds build mnist --file_format=array_record.*igpt_jax\[openai\]"),
        ("no_such_data_set", "knows no dataset 'no_such_data_set'"),
        ("mnist:9.9.9", "tfds build"),
        ("Not A Name", "TFDS"),
    ],
)
def test_tfds_that_is_not_there(tfds_home, name, says):
    with pytest.raises(InputError, match=says) as caught:
        open_source(DataConfig(source=f"tfds:{name}"), "train")
    assert "\n" not in str(caught.value)
