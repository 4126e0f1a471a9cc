"""Sources of clips: digits that move pixel by pixel, and folders of clip files."""

import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from igpt_jax.config import Config, DataConfig, ModelConfig
from igpt_jax.data.sources import open_source, window_start
from igpt_jax.data.sources.digits import LENGTH, SIDE, MovingDigits
from igpt_jax.data.transforms import make_preprocess
from igpt_jax.datasets import open_data
from tests.data.made import refused
from tests.data.made_clips import moving_frames, write_clip, write_frames

pytest.importorskip("av")


def digits(split="train", where="16x20", **settings):
    return MovingDigits(DataConfig(source=f"moving_digits:{where}", channels=1, **settings), split, where)


def whole(source, i):
    return source.with_frames(LENGTH).read(i, None)["image"][..., 0]


def front_places(source, i, rows, columns):
    """Where the front digit is in every frame, found by looking for all of its ink: int [L, 2]."""
    front = np.random.Generator(np.random.Philox(key=source._stream << 64 | i)).integers(len(source._digits), size=2)[1]
    ink, places = source._digits[front], []
    for frame in whole(source, i):
        corners = np.ndindex(rows - SIDE + 1, columns - SIDE + 1)
        fits = [(y, x) for y, x in corners if (frame[y : y + SIDE, x : x + SIDE] == ink)[ink > 0].all()]
        assert len(fits) == 1
        places += fits
    return np.array(places)


def walked(place, velocity, room):
    """The same, one step after another: at a wall the digit turns, and walks the rest of its step back."""
    places = []
    for _ in range(LENGTH):
        places.append(place)
        place += velocity
        if not 0 <= place <= room:
            place, velocity = (-place if place < 0 else 2 * room - place), -velocity
    return places


def test_digits_move_by_whole_pixels_and_bounce_off_the_walls():
    source, speeds = digits(), set()
    for i in range(6):
        places = front_places(source, i, 16, 20)
        for axis, room in ((0, 8), (1, 12)):
            velocities = [
                v for v in range(-room, room + 1) if walked(places[0, axis], v, room) == places[:, axis].tolist()
            ]
            assert velocities
            speeds.add(min(map(abs, velocities)))
        assert (places != places[0]).any()
    assert speeds <= {0, 1, 2, 3}
    assert len(speeds) > 2


def test_the_second_digit_hides_the_first():
    """Where both have ink, the pixel is that of the second; elsewhere of the one that has; else black."""
    source, hidden = digits(where="12x12"), 0
    for i in range(8):
        back, front = np.random.Generator(np.random.Philox(key=i)).integers(len(source._digits), size=2)
        alone = MovingDigits(DataConfig(channels=1), "train", "12x12")
        alone._digits = source._digits.copy()
        layers = []
        for shown in (back, front):  # the same clip with the other digit black
            alone._digits[:] = 0
            alone._digits[shown] = source._digits[shown]
            layers.append(whole(alone, i).copy())
        if back == front:
            continue
        np.testing.assert_array_equal(whole(source, i), np.where(layers[1] > 0, layers[1], layers[0]))
        hidden += ((layers[0] > 0) & (layers[1] > 0)).sum()
    assert hidden > 300


def test_a_clip_is_a_function_of_split_and_index():
    train, held_out = digits(), digits("eval")
    assert (len(train), len(held_out)) == (10_000, 500)
    np.testing.assert_array_equal(whole(train, 7), whole(digits(), 7))
    assert len({whole(source, i).tobytes() for source in (train, held_out) for i in range(5)}) == 10
    assert len({source.digest for source in (train, held_out, digits(where="16x16"))}) == 3
    assert train.digest == digits().digest
    shown = {digit.tobytes() for digit in held_out._digits}
    assert len(held_out._digits) == 297
    assert not shown & {digit.tobytes() for digit in train._digits}


def test_windows_are_parts_of_the_clip(rng):
    source, clip = digits(frame_step=2), whole(digits(), 3)
    middle = source.with_frames(6).read(3, None)["image"][..., 0]
    np.testing.assert_array_equal(middle, clip[(LENGTH - 11) // 2 :][:11:2])
    drawn = [source.with_frames(6).read(3, rng)["image"][..., 0] for _ in range(300)]
    parts = [clip[s : s + 11 : 2] for s in range(LENGTH - 10)]
    seen = [any((part == window).all() for window in drawn) for part in parts]
    assert all(seen)
    assert all(any((part == window).all() for part in parts) for window in drawn)
    refused("has 64 frames, but 65 are needed", source.with_frames(33).read, 0, None)
    assert [window_start(9, 4, rng) for _ in range(200)].count(5) > 10  # the last place is one of them


@pytest.mark.parametrize("where", ["8x12", "12", "300x12", "ax9", "12x12x12"])
def test_sizes_of_moving_digits_are_checked(where):
    refused("takes sizes of 9 to 256", open_source, DataConfig(source=f"moving_digits:{where}"), "train")


def test_one_draw_of_the_geometry_serves_all_frames_of_a_clip(rng):
    clip = rng.integers(0, 256, (1, 30, 40, 3), np.uint8).repeat(5, axis=0)  # a clip that does not move
    for augment in ("shift", "cifar", "imagenet"):
        transform = make_preprocess(DataConfig(augment=augment, flip=True), (12, 12), train=True)
        results = [transform(clip, np.random.default_rng(seed)) for seed in range(8)]
        assert len({result.tobytes() for result in results}) > 2
        for result in results:
            np.testing.assert_array_equal(result, result[:1].repeat(5, axis=0))
        np.testing.assert_array_equal(transform(clip[0], np.random.default_rng(2)), results[2][0])


@pytest.fixture
def folder(tmp_path):
    """Six clips in two classes: files and a folder of pictures; and what is no clip."""
    for i in range(4):
        write_clip(tmp_path / "walk" / f"{i}.mp4", moving_frames(12, i))
    write_clip(tmp_path / "run" / "b.gif", moving_frames(12, 9))
    write_frames(tmp_path / "run" / "c", moving_frames(12, 8))
    write_frames(tmp_path / "run" / "one", moving_frames(1))
    (tmp_path / "run" / "notes.txt").write_text("")
    write_clip(tmp_path / "run" / ".hidden" / "d.gif", moving_frames(3))
    return tmp_path


def both(folder, frames=4, **settings):
    cfg = DataConfig(**({"source": f"clips:{folder}", "holdout": 0.4} | settings))
    return [open_source(cfg, split, frames) for split in ("train", "eval")]


def test_clips_are_listed_labelled_and_held_out(folder):
    train, held_out = both(folder)
    records = [source.read(i, None) for source in (train, held_out) for i in range(len(source))]
    assert len(records) == 6
    assert len(held_out) >= 1
    assert {record["image"].shape for record in records} == {(4, 32, 48, 3)}
    assert train.class_names == ("run", "walk")
    assert sorted(record["label"] for record in records) == [0, 0, 1, 1, 1, 1]
    assert len(open_source(DataConfig(source=f"clips:{folder}"), "all", 4)) == 6
    assert train.digest != held_out.digest
    assert train.digest == both(folder)[0].digest
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(train)).read(0, None)["image"], train.read(0, None)["image"]
    )
    assert both(folder, None)[0].read(0, None)["image"].shape == (32, 48, 3)  # single frames, for a model of pictures


def test_clips_that_cannot_be_used_are_skipped_named_and_limited(folder, caplog):
    (folder / "walk" / "0.mp4").write_bytes(b"")
    write_clip(folder / "walk" / "1.mp4", moving_frames(3))
    Image.new("RGB", (3, 3)).save(folder / "run" / "c" / "frame004.png")
    train, held_out = both(folder, 4, max_unreadable=0.6)
    with caplog.at_level(logging.WARNING):
        for source in (train, held_out, train, held_out):
            assert {source.read(i, None)["image"].shape for i in range(len(source))} == {(4, 32, 48, 3)}
    assert len(caplog.messages) == 3
    for words in ("0.mp4' cannot be read", "1.mp4' has 3 frames, but 4 are needed", "different sizes (3 x 3, 48 x 32)"):
        assert sum(words in line for line in caplog.messages) == 1
    strict = both(folder, 4, max_unreadable=0.0)
    refused(
        "at least 1 of 6 clips in .* cannot be read, such as .*raise data.max_unreadable to 0.2",
        lambda: [source.read(i, None) for source in strict for i in range(len(source))],
    )
    refused("none of the", lambda: both(folder, 40, max_unreadable=1.0)[0].read(0, None))


def test_folders_without_clips_are_refused(tmp_path):
    write_frames(tmp_path, moving_frames(2))  # the frames of a clip are in a folder of their own
    refused("no clip in .* folders of numbered pictures", both, tmp_path)
    write_clip(tmp_path / "1.gif", moving_frames(3))
    refused("has one clip; holding some out needs", both, tmp_path)


def test_grids_and_sources_must_agree(folder):
    def opened(source, grid):
        cfg = Config(model=ModelConfig.preset("tiny", grid=grid), data=DataConfig(source=source, channels=1))
        return open_data(cfg)

    refused("digits holds pictures, but model.grid .4, 8, 8. is one of clips of 4 frames", opened, "digits", (4, 8, 8))
    refused("is not rows and columns", opened, "moving_digits", (64,))
    data = opened("moving_digits", (4, 12, 12))
    assert next(data.train_batches(0))["image"].shape == (128, 4, 12, 12, 1)
    assert data.images(data.held_out, 3).shape == (3, 4, 12, 12, 1)
    assert data.size == (12, 12)
    frames = opened("moving_digits", (12, 12))
    assert next(frames.train_batches(0))["image"].shape == (128, 12, 12, 1)
