"""Clips as sheets and as animations that other readers, and our own, read back."""

import json

import numpy as np
import pytest
from PIL import Image

from igpt_jax.data.video import load_clip
from igpt_jax.viz import clip_sheet, image_grid, save_animation
from tests.data.made import refused


@pytest.fixture
def clips(rng):
    """Two clips of five frames in six colours, each frame of its own."""
    return rng.choice(np.arange(0, 240, 40, dtype=np.uint8), (2, 5, 9, 8, 3))


def test_a_sheet_has_a_row_a_clip_and_titles_above(clips):
    sheet = clip_sheet(clips)
    scale, gap = 8, 6
    assert sheet.shape == (2 * (9 * scale + gap) + gap, 5 * (8 * scale + gap) + gap, 3)
    for b in range(2):
        for t in range(5):
            top, left = gap + b * (9 * scale + gap), gap + t * (8 * scale + gap)
            np.testing.assert_array_equal(sheet[top::scale, left::scale][:9, :8], clips[b, t])
    titled = clip_sheet(clips, [("known", 2), ("drawn", 3)])
    np.testing.assert_array_equal(titled[20:], sheet)
    assert len(np.unique(titled[:20].reshape(-1, 3), axis=0)) > 2
    assert clip_sheet(clips[..., :1]).shape == sheet.shape


def test_a_gif_is_read_back_as_it_was_drawn(clips, tmp_path):
    path = tmp_path / "new" / "a.gif"
    save_animation(path, clips, fps=5, text={"igpt": "x"})
    back = load_clip(path, 5, 1, 3, lambda length, span: 0)
    np.testing.assert_array_equal(back, np.stack([image_grid(clips[:, t]) for t in range(5)]))
    with Image.open(path) as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (5, 200, 0)
        assert json.loads(image.info["comment"]) == {"igpt": "x"}
    assert [p.name for p in path.parent.iterdir()] == ["a.gif"]


def test_an_mp4_is_read_back_nearly_as_it_was_drawn(clips, tmp_path):
    import av

    path, clips = tmp_path / "a.mp4", np.pad(clips[..., :1], ((0, 0), (0, 0), (7, 7), (7, 7), (0, 0)))
    save_animation(path, clips, fps=12.5, text={"igpt": "x"})
    grids = np.stack([image_grid(clips[:, t]) for t in range(5)])
    assert grids.shape[1] % 2 == 1  # which H.264 does not take
    back = load_clip(path, 5, 1, 3, lambda length, span: 0)[:, : grids.shape[1], : grids.shape[2]]
    assert np.abs(back.astype(int) - grids).mean() < 3
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, float(stream.average_rate)) == (5, 12.5)
        assert json.loads(container.metadata["comment"]) == {"igpt": "x"}


def test_without_pyav_an_mp4_is_refused_and_a_gif_is_not(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("igpt_jax.viz.importlib.util.find_spec", lambda name: None)
    refused("pip install 'igpt_jax.video.', or write a .gif", save_animation, tmp_path / "a.mp4", clips)
    save_animation(tmp_path / "a.gif", clips)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]
