"""Random weights as workdirs, for commands that draw."""

import jax
import numpy as np
from PIL import Image

from igpt_jax import Config, ImageGPT, ModelConfig, Palette
from igpt_jax.config import DataConfig, PaletteConfig, SamplerConfig
from igpt_jax.model.decoder import example_inputs
from igpt_jax.pretrained import Pretrained, save_pretrained
from tests.conftest import randomized

COLORS = 5
LEVELS = Palette.levels(COLORS)


def write_pictures(folder, **pictures):
    """uint8 [y, x] each."""
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def read_picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


def saved(workdir, grid=(4, 4), class_names=(), class_dropout=0.1, sampler=None, data=None, objective="ar", **model):
    """The directory's name. The weights are of a size that shows."""
    cfg = ModelConfig(grid=grid, vocab_size=COLORS, n_layer=1, n_head=2, d_model=16, **model)
    decoder = ImageGPT(cfg)
    params = randomized(jax.jit(decoder.init)(jax.random.key(0), example_inputs(cfg))["params"], 0.3)
    config = Config(
        objective=objective,
        model=cfg,
        class_dropout=class_dropout,
        data=DataConfig(channels=1, **data or {}),
        palette=PaletteConfig("levels"),
        sampler=sampler or SamplerConfig(),
    )
    save_pretrained(Pretrained(decoder, params, LEVELS, config, 20, class_names=class_names), workdir)
    return str(workdir)
