"""igpt video and training on clips: from files to files, with a model that started from one of pictures."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

import igpt_jax
from igpt_jax.cli import main
from igpt_jax.data.video import load_clip
from igpt_jax.plugins import load_config
from igpt_jax.pretrained import init_from_pretrained, model_from_weights
from igpt_jax.run import Extensions, prepare
from igpt_jax.weights.load import inspect
from tests.cli.conftest import refusal
from tests.cli.made import LEVELS, saved
from tests.conftest import F32_ATOL
from tests.data.made_clips import moving_frames, write_clip, write_frames

pytest.importorskip("av")

F, Y, X = 3, 5, 7


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "clips": saved(root / "clips", (F, Y, X), any_order=True),
        "raster": saved(root / "raster", (F, Y, X)),
        "pictures": saved(root / "pictures", (Y, X)),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    write_clip(root / "a.mp4", moving_frames(9))
    write_clip(root / "b.gif", moving_frames(6, 1))
    write_frames(root / "c", moving_frames(4, 2))
    Image.fromarray(moving_frames(1)[0]).save(root / "p.png")
    return root


def test_new_clips_in_every_form(models, tmp_path):
    model = ["video", "sample", "--model", models["clips"], "-n", "3", "--frames", "5", "--seed", "2"]
    assert main([*model, "--out", str(tmp_path / "a.npy")]) == 0
    clips = np.load(tmp_path / "a.npy")
    assert (clips.dtype, clips.shape) == (np.uint8, (3, 5, Y, X, 1))
    for name in ("a.gif", "a.mp4", "a.png", "clips"):
        assert main([*model, "--out", str(tmp_path / name)]) == 0
    for path in (tmp_path / "a.gif", tmp_path / "a.mp4", *(tmp_path / "clips").iterdir()):
        assert len(load_clip(path, 5, 1, 3, lambda length, span: length - span)) == 5
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["0.gif", "1.gif", "2.gif"]
    with Image.open(tmp_path / "a.png") as sheet:
        assert json.loads(sheet.text["igpt"])["seed"] == 2
    assert main(["video", "sample", "--model", models["clips"]]) == 0
    with Image.open(f"{models['clips']}/video-seed0.gif") as image:
        assert image.n_frames == F


def test_clips_and_pictures_go_on(models, files, tmp_path):
    out = str(tmp_path / "x.npy")
    model = ["--model", models["clips"], "--out", out]
    assert main(["video", "complete", *(str(files / name) for name in ("a.mp4", "b.gif", "c")), "-n", "2", *model]) == 0
    drawn = np.load(out)
    assert drawn.shape == (6, F, Y, X, 1)  # two frames of each clip, and one new one
    last = load_clip(files / "c", 2, 1, 1, lambda length, span: length - span)
    from igpt_jax.data.transforms import fit

    context = np.asarray(LEVELS.decode(LEVELS.encode(np.stack([fit(frame, (Y, X)) for frame in last]))))
    np.testing.assert_array_equal(drawn[4:, :2], context[None].repeat(2, axis=0))
    assert main(["video", "complete", str(files / "p.png"), "--frames", "6", *model]) == 0
    assert np.load(out).shape == (1, 7, Y, X, 1)


def test_frames_between_two_files(models, files, tmp_path):
    sheet = tmp_path / "x.png"
    ends = [str(files / "p.png"), str(files / "c")]
    assert main(["video", "between", *ends, "-n", "2", "--model", models["clips"], "--out", str(sheet)]) == 0
    with Image.open(sheet) as image:
        assert image.size[0] > 3 * 64


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sample", "FILES/a.mp4", "--model", "clips"], "video sample: takes no file, not 1"),
        (["complete", "--model", "clips"], "video complete: takes at least one file, not 0"),
        (["between", "FILES/a.mp4", "--model", "clips"], "takes two files"),
        (["between", "FILES/a.mp4", "FILES/c", "--frames", "9", "--model", "clips"], "leave out --frames"),
        (["between", "FILES/a.mp4", "FILES/c", "--model", "raster"], "model.any_order: frames between others"),
        (["sample", "--model", "pictures"], "is one of pictures, not of clips"),
        (["sample", "-n", "0", "--model", "clips"], "-n 0: must be at least 1"),
        (["sample", "--frames", "0", "--model", "clips"], "--frames 0: must be at least 1"),
        (["sample", "--keep", "3", "--model", "clips"], "keep: must be in 1..2 of the model's 3 frames; got 3"),
        (["sample", "--fps", "0", "--model", "clips"], "--fps 0: must be in 0.1..100"),
        (["sample", "--out", "x.avi", "--model", "clips"], "--out x.avi: must end in .gif, .mp4, .png, .npy, or be"),
        (["sample", "--out", "FILES", "--model", "clips"], "is a directory that holds something"),
        (["sample"], "--model: missing"),
        (["complete", "FILES/none.mp4", "--model", "clips"], "none.mp4' cannot be read as a clip: No such file"),
        (["complete", "FILES/none.png", "--model", "clips"], "none.png' cannot be read as an image"),
        (["complete", "FILES/a.mp4", "FILES/p.png", "--model", "clips"], "different numbers of frames (1, 2)"),
    ],
)
@pytest.mark.usefixtures("empty")
def test_bad_input(models, files, words, says):
    words = [models.get(word, word.replace("FILES", str(files))) for word in words]
    assert says in refusal("video", *words)


@pytest.mark.parametrize("command", [["sample"], ["complete", "FILES/p.png"]])
def test_commands_for_pictures_name_the_one_for_clips(models, files, command):
    words = [word.replace("FILES", str(files)) for word in command]
    assert "draws clips of 3 frames; igpt video draws with it" in refusal(*words, "--model", models["clips"])


def test_a_model_of_pictures_starts_one_of_clips(tmp_path):
    """Its first frame is what the model of pictures says, before training."""
    pictures = saved(tmp_path / "pictures", (9, 9))
    cfg = dataclasses.replace(load_config("moving_digits", True), init_from=pictures)
    cfg = dataclasses.replace(cfg, model=model_from_weights(cfg.model, inspect(pictures).config.model))
    run = prepare(cfg, tmp_path / "clips", Extensions())
    params = init_from_pretrained(run.program.init(), run.initial, cfg.model.grid).params
    there, here = igpt_jax.load_pretrained(pictures), run.program.model
    assert here.cfg.grid == (3, 9, 9)
    tokens = np.random.default_rng(0).integers(0, 5, (2, 3 * 81))
    first = jax.jit(here.apply)({"params": params}, tokens)[:, :81]
    picture = jax.jit(there.model.apply)({"params": there.params}, tokens[:, :81])
    assert np.abs(picture).max() > 0.5
    np.testing.assert_allclose(first, picture, atol=F32_ATOL)
