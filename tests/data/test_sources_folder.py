"""Folders of pictures: every one once, the same halves every time, and unreadable files left out and counted."""

import logging
import pickle
import shutil
import unicodedata

import numpy as np
import pytest

from igpt_jax.config import DataConfig, InputError
from igpt_jax.data import folder as folders
from igpt_jax.data.sources import load_image, open_source
from tests.data.made import noise_png, truncate, values, write


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
