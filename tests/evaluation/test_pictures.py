"""Pictures written while training: samples are those of the public sampler, reconstructions keep what is seen."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from igpt_jax import SamplerConfig, sample
from igpt_jax.evaluation.pictures import PictureEvaluator
from igpt_jax.viz import image_grid
from tests.evaluation.made import IMAGES, PALETTE, context, made


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

    def strips(images, known, completions, originals):
        drawn.append((images, known, completions[:, 0]))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("igpt_jax.evaluation.pictures.completion_strips", strips)
    evaluator = PictureEvaluator(context(model, objective), "reconstructions", tmp_path, n=24)
    assert list(evaluator.run(params, 1)) == []
    [(images, known, filled)] = drawn
    assert images.shape == (3, 8, 8, 1)
    quantised = np.asarray(PALETTE.decode(PALETTE.encode(images)))
    np.testing.assert_array_equal(filled[known], quantised[known])
    assert 0.5 < known.mean() < 1
    assert (filled[~known] != quantised[~known]).any()
    assert (images[0] == IMAGES[0]).all()
