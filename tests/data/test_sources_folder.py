"""Folders of images: every file once, the same splits every time, and unreadable files skipped and counted."""

import pickle
import shutil
import unicodedata

import numpy as np
import pytest

from igpt_jax import Config, ImageGPT, ModelConfig
from igpt_jax.config import DataConfig
from igpt_jax.data.reading import load_image
from igpt_jax.data.sources import open_source
from igpt_jax.pretrained import Pretrained, class_index
from tests.data.made import labels, noise_png, refused, truncate, values, write


def open_folder(path, **options):
    return [open_source(DataConfig(source=f"folder:{path}", **options), split) for split in ("train", "eval")]


def test_every_image_is_in_one_split_with_its_class(tmp_path):
    root = tmp_path / "my images ü"
    for i in range(40):
        write(root / ("b watchdog" if i % 2 else "a/cat") / f"bild é {i:02}.PNG", i, fmt="PNG")
    write(root / ".hidden" / "a.png", 200)
    write(root / "a" / "._a.png", 200)
    (root / "a" / "notes.txt").write_text("x")
    (root / "b watchdog" / "round").symlink_to(root)
    train, held_out = open_folder(root, holdout=0.3)
    assert sorted(values(train) + values(held_out)) == list(range(40))
    assert 5 <= len(held_out) <= 20
    assert train.class_names == held_out.class_names == ("a", "b watchdog")
    for source in (train, held_out):
        assert values(source) == sorted(values(source), key=lambda v: (v % 2, v))
        records = [source.read(i, None) for i in range(len(source))]
        assert all(record["label"] == record["image"][0, 0, 0] % 2 for record in records)
    again = pickle.loads(pickle.dumps(train))
    assert values(again) == values(train)

    before = set(values(held_out))
    write(root / "a" / "cat" / "new.png", 100)
    assert set(values(open_folder(root, holdout=0.3)[1])) - {100} == before


def test_which_images_are_held_out_is_pinned(tmp_path):
    """A failure means that models trained before would be evaluated on images they were trained on."""
    for form in ("NFC", "NFD"):
        for i in range(20):
            write(tmp_path / form / unicodedata.normalize(form, f"é/{i}.png"), i)
        assert sorted(values(open_folder(tmp_path / form, holdout=0.2)[1])) == [7, 15, 16]


def test_variants_of_one_picture_are_on_the_same_side(tmp_path):
    for i in range(60):
        write(tmp_path / f"hand{i // 6:02}-skin{i % 6}.png", i)

    def hands(**options):
        return [{v // 6 for v in values(half)} for half in open_folder(tmp_path, holdout=0.4, **options)]

    assert set.intersection(*hands())
    train, held_out = hands(group=r"-skin\d")
    assert not train & held_out
    assert train | held_out == set(range(10))
    refused("at least two", open_folder, tmp_path, group=".*")
    refused("data.group", open_folder, tmp_path, group="(")


def test_neither_split_of_a_small_folder_is_empty(tmp_path):
    refused("no folder", open_folder, tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("x")
    refused("no image", open_folder, tmp_path)
    write(tmp_path / "0.png", 0)
    refused("at least two", open_folder, tmp_path)
    write(tmp_path / "1.png", 1)
    for share in (1e-9, 1 - 1e-9):
        train, held_out = open_folder(tmp_path, holdout=share)
        assert (len(train), len(held_out)) == (1, 1)
        assert train.read(0, None)["label"] == -1
        assert train.class_names == ()


def test_split_folders_share_their_class_numbers(tmp_path):
    for name, value in (("train/a/0", 0), ("train/c/1", 1), ("valid/b/2", 2), ("valid/c/3", 3)):
        write(tmp_path / f"{name}.png", value)
    train, held_out = open_folder(tmp_path)
    assert train.class_names == held_out.class_names == ("a", "b", "c")
    assert [(values(half), labels(half)) for half in (train, held_out)] == [([0, 1], [0, 2]), ([2, 3], [1, 2])]


def test_the_digest_depends_on_the_names_of_a_split(tmp_path):
    def digests(name="a"):
        return [source.digest for source in open_folder(tmp_path / name, holdout=0.2)]

    for i in range(20):
        write(tmp_path / "a" / f"é/{i}.png", i)
    before = digests()
    assert before[0] != before[1]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert digests("b") == before
    added = write(tmp_path / "a" / "é/new.png", 0)
    assert [x == y for x, y in zip(before, digests(), strict=True)].count(False) == 1  # the split that has it
    added.unlink()
    assert digests() == before
    for i in (0, 7):  # 7 is held out
        (tmp_path / "a" / f"é/{i}.png").unlink()
    assert not set(digests()) & set(before)


@pytest.fixture
def ten_images(tmp_path):
    """A folder with ten images to train on, and the path of each."""
    noise_png(tmp_path / "val" / "0.png")
    return tmp_path, [noise_png(tmp_path / "train" / f"{i}.png", i) for i in range(10)]


def test_unreadable_files_are_skipped_counted_and_named_once(ten_images, caplog):
    root, paths = ten_images
    paths[3].write_bytes(b"")
    truncate(paths[5])
    paths[7].unlink()
    paths[7].symlink_to(root / "gone.png")
    train = open_folder(root, max_unreadable=0.4)[0]
    paths[9].unlink()  # after the folder was opened
    assert (len(train), train.unreadable) == (10, 0)
    for bad, next_readable in ((3, 4), (5, 6), (7, 8), (9, 0)) * 2:
        np.testing.assert_array_equal(train.read(bad, None)["image"], load_image(paths[next_readable], 3))
    assert train.unreadable == 4
    for message, i in zip(caplog.messages, (3, 5, 7, 9), strict=True):
        assert message.startswith(f"skipped: {str(paths[i])!r}")
    assert "must be one of JPEG, PNG" in caplog.messages[0]
    assert pickle.loads(pickle.dumps(train)).unreadable == 4


def test_too_many_unreadable_files_stop_the_run(ten_images):
    root, paths = ten_images
    truncate(paths[2])
    truncate(paths[4])
    train = open_folder(root, max_unreadable=0.1)[0]
    train.read(2, None)
    way_out = r"raise data.max_unreadable to 0.2$"
    refused(rf"at least 2 of 10 images .*'2.png', '4.png'; .*{way_out}", train.read, 4, None)
    assert open_folder(root, max_unreadable=0.2)[0].read(4, None)["image"].shape == (16, 16, 3)
    truncate(paths[6])
    refused(r"raise data.max_unreadable to 0.4$", values, open_folder(root, max_unreadable=0.2)[0])


def test_pictures_that_are_not_read_are_counted_in_one_line(tmp_path, caplog):
    """A folder of ten pictures and fifty that are not read is not ten pictures without a word."""
    pictures = [write(tmp_path / "a" / f"{i}.png", i) for i in range(8)]
    pictures += [write(tmp_path / "a" / "8.JPE", 8, fmt="JPEG"), write(tmp_path / "a" / "9.tif", 9)]
    for name in ("._2.heic", "README.md", "labels.json"):
        (tmp_path / name).touch()
    assert sum(map(len, open_folder(tmp_path))) == 10
    assert caplog.messages == []
    for i in range(50):
        (tmp_path / "a" / f"{i}.HEIC").touch()
    (tmp_path / "1.svg").touch()
    assert sum(map(len, open_folder(tmp_path))) == 10
    [line] = caplog.messages
    assert line.startswith(f"folder:{tmp_path}: 10 images; 50 .heic and 1 .svg files are not read (formats read: JPEG")
    for path in pictures:
        path.write_bytes(b"")
    says = r"none of the \d+ images .* can be read; 50 .heic and 1 .svg files"
    refused(says, open_folder, tmp_path, max_unreadable=1)
    refused("at least 1 of 10 images", open_folder, tmp_path, max_unreadable=0.01)
    for path in pictures:
        path.unlink()
    refused(r"no image in .*; 50 .heic and 1 .svg files are not read \(formats read: JPEG, PNG", open_folder, tmp_path)


def test_the_whole_of_a_folder_is_every_image_once(tmp_path):
    def whole(name):
        return open_source(DataConfig(source=f"folder:{tmp_path / name}"), "all")

    for i in range(12):
        write(tmp_path / "flat" / ("cat" if i < 7 else "dog") / f"{i:02}.png", i)
    source = whole("flat")
    assert values(source) == list(range(12))
    assert labels(source) == [0] * 7 + [1] * 5
    write(tmp_path / "one" / "0.png", 3)
    assert values(whole("one")) == [3]  # though no image can be held out

    for name, value in (("train/b/0", 5), ("train/c/1", 4), ("test/a/2", 3)):
        write(tmp_path / "split" / f"{name}.png", value)
    source = whole("split")
    assert values(source) == [5, 4, 3]
    assert labels(source) == [1, 2, 0]
    assert source.class_names == ("a", "b", "c")
    assert values(pickle.loads(pickle.dumps(source))) == [5, 4, 3]


def test_names_are_compared_in_one_normal_form(tmp_path):
    """Accents in one piece under train/, in two under val/: the same classes, groups and halves."""
    for half, form in (("train", "NFC"), ("val", "NFD")):
        for k, name in enumerate(("caf\u00e9", "th\u00e9")):
            write(tmp_path / half / unicodedata.normalize(form, name) / "0.png", 2 * k)
    for source in open_folder(tmp_path):
        assert source.class_names == ("caf\u00e9", "th\u00e9")
        assert source.labels.tolist() == [0, 1]
    halves = {}
    for form in ("NFC", "NFD"):
        for i in range(10):
            write(tmp_path / form / unicodedata.normalize(form, f"\u00e9{i}-\u00fc.png"), i)
        opened = open_folder(tmp_path / form, group="-\u00fc")
        halves[form] = [(values(source), source.groups.tolist(), source.digest) for source in opened]
    assert halves["NFC"] == halves["NFD"]
    cfg = Config(model=ModelConfig.preset("tiny", cond_classes=2))
    model = Pretrained(ImageGPT(cfg.model), {}, None, cfg, 0, class_names=("caf\u00e9",))
    assert class_index(model, "cafe\u0301") == 0
