"""Sample grids written while training are those of the public sampler."""

import numpy as np
from PIL import Image

from igpt_jax import Palette, sample
from igpt_jax.config import SamplerConfig
from igpt_jax.evaluation.pictures import SampleGrids
from igpt_jax.viz import image_grid


def test_sample_grids_are_written_by_step(tiny, tmp_path):
    model, params = tiny
    palette, cfg = Palette.levels(16), SamplerConfig(temperature=0.7, top_k=5)
    grids = SampleGrids(model, palette, tmp_path / "samples", cfg, n=4)
    assert list(grids.run(params, 7)) == []
    expected = image_grid(sample(model, params, palette, 4, seed=0, temperature=0.7, top_k=5))
    with Image.open(tmp_path / "samples" / "step_00000007.png") as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)
