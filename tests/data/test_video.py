"""Frames of clip files: those that were asked for, read without the others, and damage named in one line."""

import functools
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from igpt_jax.config import DataConfig
from igpt_jax.data import video
from igpt_jax.data.sources import window_start
from igpt_jax.data.video import load_clip, load_last_frames
from tests.data.made import refused
from tests.data.made_clips import moving_frames, write_clip, write_frames, write_timed

pytest.importorskip("av")

FROM_START = functools.partial(window_start, rng=None)


def at(start):
    return lambda length, span: start


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """One clip of 30 frames in every format, and all of its frames as they are decoded one after another."""
    folder, frames = tmp_path_factory.mktemp("clips"), moving_frames(30)
    paths = {suffix: write_clip(folder / f"a{suffix}", frames) for suffix in (".mp4", ".webm", ".gif")}
    paths["folder"] = write_frames(folder / "a", frames)
    return {kind: (path, load_clip(path, 30, 1, 3, at(0))) for kind, path in paths.items()}


@pytest.mark.parametrize("kind", [".mp4", ".webm", ".gif", "folder"])
def test_a_window_is_the_same_frames_as_in_the_whole_clip(clips, kind):
    path, whole = clips[kind]
    difference = np.abs(whole.astype(int) - moving_frames(30)).mean()
    assert difference == 0 if kind == "folder" else difference < 12  # the codecs lose a little
    lengths = set()
    for start in range(0, 27):  # keyframes are at 0, 8, 16, 24; so windows begin on, after and before them
        for frames, step in ((4, 1), (2, 2)):
            window = load_clip(path, frames, step, 3, lambda n, span, s=start: lengths.add(n) or min(s, n - span))
            first = min(start, 30 - (frames - 1) * step - 1)
            np.testing.assert_array_equal(window, whole[first : first + frames * step : step][:frames])
    assert lengths == {30}


def test_a_long_clip_is_not_decoded_whole(tmp_path, monkeypatch):
    """Decoding begins at the keyframe before the window, and ends with its last frame."""
    path = write_clip(tmp_path / "long.mp4", moving_frames(200), every=10)
    decoded, real = [], video._frames

    def counted(*args):
        for found in real(*args):
            decoded.append(found)
            yield found

    monkeypatch.setattr(video, "_frames", counted)
    assert load_clip(path, 4, 1, 3, at(155)).shape == (4, 32, 48, 3)
    assert len(decoded) <= 10 + 4


def test_frames_that_last_differently_long_are_counted_and_wide_pixels_shown_square(tmp_path):
    """A still picture in the middle of a screen recording: ten frames in ten seconds, and then twenty in one."""
    greys = list(range(20, 230, 7))
    times = [*range(0, 10_000, 1000), *range(10_000, 11_000, 50)]
    path = write_timed(tmp_path / "pause.mp4", greys, times, Fraction(3, 2))
    last = load_last_frames(path, 4, DataConfig())
    assert last.shape == (4, 32, 72, 3)
    np.testing.assert_allclose(last.mean(axis=(1, 2, 3)), greys[-4:], atol=3)
    for start in (5, 15):
        middle = load_clip(path, 4, 2, 3, at(start)).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(middle, greys[start : start + 7 : 2], atol=3)


def test_an_index_that_promises_too_much_is_not_believed(clips, monkeypatch):
    path, whole = clips[".mp4"]
    times = video.frame_times(path)
    monkeypatch.setattr(video, "frame_times", lambda path: [*times, times[-1] + 512, times[-1] + 1024])
    window = load_clip(path, 3, 1, 3, lambda length, span: length - span)
    np.testing.assert_array_equal(window, whole[-3:])


def test_grey_and_transparent_frames(clips, tmp_path):
    path, whole = clips[".webm"]
    grey = load_clip(path, 30, 1, 1, at(0))
    np.testing.assert_array_equal(grey[7, ..., 0], np.asarray(Image.fromarray(whole[7]).convert("L")))
    upper, lower = np.zeros((2, 6, 8, 4), np.uint8)
    upper[:3], lower[3:] = (255, 0, 0, 255), (0, 255, 0, 255)
    images = [Image.fromarray(layer) for layer in (upper, lower)]
    images[0].save(tmp_path / "t.gif", save_all=True, append_images=images[1:], disposal=2)
    red, green = load_clip(tmp_path / "t.gif", 2, 1, 3, at(0))
    for half, color in ((red[:3], (255, 0, 0)), (red[3:], 255), (green[:3], 255), (green[3:], (0, 255, 0))):
        assert (half == color).all()


@pytest.mark.parametrize("turned", range(8))
def test_clips_are_turned_and_mirrored_as_players_do(turned):
    """Every display matrix: (x, y) moves to (a x + c y, b x + d y)."""
    swap, a, d = turned & 1, 1 - (turned & 2), 1 - (turned & 4) // 2
    linear = np.array([[0, a], [d, 0]] if swap else [[a, 0], [0, d]])
    matrix = np.zeros((3, 3), np.int32)
    matrix[:2, :2] = linear * 65536
    kind = SimpleNamespace(name="DISPLAYMATRIX")
    data = type("Data", (), {"type": kind, "__bytes__": lambda self: matrix.tobytes()})()
    picture = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    y, x = np.indices((2, 3))
    moved = np.stack([x.ravel(), y.ravel()], axis=1) @ linear
    moved -= moved.min(axis=0)
    expected = np.zeros((moved[:, 1].max() + 1, moved[:, 0].max() + 1, 1), np.uint8)
    expected[moved[:, 1], moved[:, 0], 0] = picture.ravel()
    np.testing.assert_array_equal(video._as_displayed(picture, SimpleNamespace(side_data=[data])), expected)


def test_numbered_pictures_are_sorted_by_their_numbers(tmp_path):
    frames = np.arange(12, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3).repeat(4, axis=1).repeat(4, axis=2)
    folder = write_frames(tmp_path / "a", frames, "walk-{}.png")  # 10 comes after 9
    Image.new("RGB", (2, 2)).save(folder / "cover.png")
    assert load_clip(folder, 4, 2, 1, at(5))[:, 0, 0, 0].tolist() == [5, 7, 9, 11]


def test_the_last_frames_and_pictures(clips, tmp_path):
    path, whole = clips[".webm"]
    cfg = DataConfig(frame_step=3)
    np.testing.assert_array_equal(load_last_frames(path, 4, cfg), whole[[20, 23, 26, 29]])
    short = write_clip(tmp_path / "short.mp4", moving_frames(5))
    assert len(load_last_frames(short, 4, cfg)) == 2  # frames 1 and 4
    Image.new("RGB", (6, 5), "red").save(tmp_path / "a.png")
    assert load_last_frames(tmp_path / "a.png", 4, cfg).shape == (1, 5, 6, 3)


def test_what_cannot_be_read_is_named_in_one_line(clips, tmp_path):
    path, _ = clips[".mp4"]
    refused(f"'{path}' has 30 frames, but 33 are needed", load_clip, path, 17, 2, 3, FROM_START)
    files = {
        "empty.mp4": b"",
        "noise.mp4": np.random.default_rng(0).bytes(3000),
        "cut.mp4": path.read_bytes()[:900],
        "text.webm": b"#EXTM3U\nfile:///etc/passwd\n",
        "a.avi": b"RIFF",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        refused(f"'{tmp_path / name}' cannot be read as a clip: ", load_clip, tmp_path / name, 2, 1, 3, FROM_START)
    refused("missing.mp4' cannot be read as a clip: No such file", load_clip, "missing.mp4", 2, 1, 3, FROM_START)
    mixed = write_frames(tmp_path / "mixed", moving_frames(3))
    Image.new("RGB", (5, 5)).save(mixed / "frame001.png")
    refused("its frames have different sizes .48 x 32, 5 x 5.", load_clip, mixed, 3, 1, 3, FROM_START)
    (mixed / "frame001.png").write_bytes(b"")
    refused("frame001.png' cannot be read as an image", load_clip, mixed, 3, 1, 3, FROM_START)
    (tmp_path / "none").mkdir()
    refused("none' holds no frame", load_last_frames, tmp_path / "none", 3, DataConfig())


def test_without_pyav_or_with_too_many_pixels_nothing_is_decoded(clips, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 32 * 48 - 1)
    refused("48 x 32 pixels are more than the 1535 allowed", load_clip, clips[".mp4"][0], 2, 1, 3, FROM_START)
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    refused(r"needs PyAV; pip install 'igpt_jax\[video\]'", load_clip, clips[".mp4"][0], 2, 1, 3, FROM_START)
    assert load_clip(clips["folder"][0], 2, 1, 3, FROM_START).shape == (2, 32, 48, 3)
