"""Pictures written while training: samples are those of the public sampler, reconstructions keep what is seen."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from igpt_jax import ImageGPT, ModelConfig, SamplerConfig, sample
from igpt_jax.evaluation.pictures import PICTURES, PictureEvaluator
from igpt_jax.evaluation.quality import make_restoration
from igpt_jax.viz import image_grid
from tests.conftest import randomized
from tests.evaluation.made import IMAGES, LABELS, PALETTE, Images, context, made, means


def made_clips(**cfg):
    """A model of clips of four frames of 3 x 5 pixels."""
    model = ImageGPT(ModelConfig.preset("tiny", grid=(4, 3, 5), n_layer=1, **cfg))
    return model, randomized(jax.jit(model.init)(jax.random.key(0), np.zeros((1, 60), np.int32))["params"], 0.3)


def test_samples_are_written_by_step(tmp_path):
    model, params = made()
    sampler = SamplerConfig(temperature=0.7, top_k=5)
    made_from = context(model, "ar")
    made_from = dataclasses.replace(made_from, cfg=dataclasses.replace(made_from.cfg, sampler=sampler))
    assert list(PictureEvaluator(made_from, "samples", tmp_path / "samples", n=4).run(params, 7)) == []
    expected = image_grid(sample(model, params, PALETTE, 4, sampler=sampler))
    with Image.open(tmp_path / "samples" / "step_00000007.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)


@pytest.mark.parametrize("objective", ["bert", "joint"])
def test_reconstructions_keep_what_is_seen(tmp_path, monkeypatch, objective):
    """Of images without labels, too."""
    model, params = made(causal=False, clf_classes=4 * (objective == "joint"))
    drawn = []

    def strips(columns, known):
        drawn.append((columns[0][1], known, columns[1][1]))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("igpt_jax.evaluation.pictures.strips", strips)
    evaluator = PictureEvaluator(context(model, objective), "reconstructions", tmp_path, n=24)
    assert list(evaluator.run(params, 1)) == []
    [(images, known, filled)] = drawn
    assert images.shape == (3, 8, 8, 1)
    quantised = np.asarray(PALETTE.decode(PALETTE.encode(images)))
    np.testing.assert_array_equal(filled[known], quantised[known])
    assert 0.5 < known.mean() < 1
    assert (filled[~known] != quantised[~known]).any()
    assert (images[0] == IMAGES[0]).all()


def test_pictures_of_clips_are_sheets(monkeypatch):
    """Rows of new clips; held-out clips above two completions, whose first half is known."""
    clips = np.random.default_rng(1).integers(0, 256, (5, 4, 3, 5, 1), np.uint8)
    model, params = made_clips()
    made_from = context(model, "ar", images=Images(clips, np.full(5, -1)))
    rows = []
    monkeypatch.setattr(
        "igpt_jax.evaluation.pictures.clip_sheet", lambda clips, titles=(): rows.append((clips, titles)) or clips
    )
    PICTURES["samples"].draw(made_from, params, 16)
    PICTURES["completions"].draw(made_from, params, 16)
    (drawn, _), (sheet, titles) = rows
    assert drawn.shape == (2, 4, 3, 5, 1)
    assert sheet.shape == (6, 4, 3, 5, 1)
    assert titles == [("known", 2), ("original, then two drawn", 2)]
    quantised = np.asarray(PALETTE.decode(PALETTE.encode(clips)))
    for i, clip in ((0, 0), (3, 4)):
        np.testing.assert_array_equal(sheet[i], clips[clip])
        for row in sheet[i + 1 : i + 3]:
            np.testing.assert_array_equal(row[:2], quantised[clip, :2])
            assert (row[2:] != quantised[clip, 2:]).any()


def test_reconstructions_of_clips_are_sheets():
    model, params = made_clips(causal=False)
    clips = np.random.default_rng(1).integers(0, 256, (2, 4, 3, 5, 1), np.uint8)
    sheet = PICTURES["reconstructions"].draw(context(model, "bert", images=Images(clips, np.full(2, -1))), params, 16)
    assert sheet.shape == (4 * (3 * 22 + 6) + 6, 4 * (5 * 22 + 6) + 6, 3)  # each clip above its reconstruction


def test_restorations_are_drawn_and_measured(monkeypatch):
    model, params = made(aligned_values=9)
    plain = context(model, "ar", images=Images(IMAGES[:2], np.full(2, -1)))
    cfg = dataclasses.replace(plain.cfg, data=dataclasses.replace(plain.cfg.data, degrade=("gaussian:0.2",)))
    made_from = dataclasses.replace(plain, data=dataclasses.replace(plain.data, cfg=cfg))
    shown = []
    monkeypatch.setattr("igpt_jax.evaluation.pictures.strips", lambda columns: shown.extend(columns))
    PICTURES["restorations"].draw(made_from, params, 16)
    assert [(title, images.shape[:2]) for title, images in shown] == [
        ("degraded", (2, 8)),
        ("draw", (2, 3)),
        ("mean", (2, 8)),
        ("original", (2, 8)),
    ]
    figures = means(make_restoration, made_from, params)
    assert 0 < figures["mean_psnr"] < figures["palette_psnr"]
    assert 0 < figures["degraded_psnr"] < figures["palette_psnr"]
    assert figures["mean_ssim"] < 1


def test_completions_name_the_class_where_a_run_does_not_draw_without_one(monkeypatch):
    model, params = made(cond_classes=4)
    plain, asked = context(model, "ar", images=Images(IMAGES[:2], LABELS[:2])), []

    def drawn(*args, classes, **options):
        asked.append(classes)
        return np.zeros((2, 1, 8, 8, 1), np.uint8)

    monkeypatch.setattr("igpt_jax.evaluation.pictures.complete", drawn)
    for dropout in (0.0, 0.1):
        PICTURES["completions"].draw(
            dataclasses.replace(plain, cfg=dataclasses.replace(plain.cfg, class_dropout=dropout)), params, 16
        )
    assert asked[0].tolist() == LABELS[:2].tolist()
    assert asked[1] is None
