"""Pictures written while training: samples are those of the public sampler, and BERT's program is compiled once."""

import jax
import numpy as np
from PIL import Image

from igpt_jax import ImageGPT, ModelConfig, Palette, sample
from igpt_jax.config import SamplerConfig
from igpt_jax.evaluation.pictures import Reconstructions, SampleGrids, likeliest
from igpt_jax.viz import image_grid


def test_sample_grids_are_written_by_step(tiny, tmp_path):
    model, params = tiny
    palette, cfg = Palette.levels(16), SamplerConfig(temperature=0.7, top_k=5)
    grids = SampleGrids(model, palette, tmp_path / "samples", cfg, n=4)
    assert list(grids.run(params, 7)) == []
    expected = image_grid(sample(model, params, palette, 4, seed=0, temperature=0.7, top_k=5))
    with Image.open(tmp_path / "samples" / "step_00000007.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)


def test_reconstructions_keep_what_is_seen_and_compile_once(tmp_path, monkeypatch):
    model, palette = ImageGPT(ModelConfig.preset("tiny", causal=False, n_layer=1)), Palette.levels(16)
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64), np.int32))["params"]
    images = np.asarray(palette.decode(np.random.default_rng(0).integers(0, 16, (3, 8, 8))))
    drawn = []

    def strips(given, known, completions, originals):
        drawn.append((known, completions[:, 0]))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("igpt_jax.evaluation.pictures.completion_strips", strips)
    pictures = Reconstructions(model, palette, tmp_path, images)
    before = likeliest._cache_size()
    for step in (1, 2):
        assert list(pictures.run(params, step)) == []
    assert likeliest._cache_size() == before + 1
    for known, filled in drawn:
        np.testing.assert_array_equal(filled[known], images[known])
        assert (filled[~known] != images[~known]).any()
