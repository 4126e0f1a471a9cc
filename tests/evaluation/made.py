"""Held-out images in memory, and what an evaluator is made from."""

import copy

import jax
import numpy as np

from igpt_jax import Config, ImageGPT, ModelConfig, Palette
from igpt_jax.config import DataConfig, MeshConfig, TrainConfig
from igpt_jax.data.sources import Source
from igpt_jax.datasets import Data
from igpt_jax.evaluation import EvalContext, estimate
from igpt_jax.evaluation.base import Driver
from igpt_jax.objectives import make_objective
from igpt_jax.parallel.mesh import make_mesh
from tests.conftest import randomized

PALETTE = Palette.levels(16)
IMAGES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1), np.uint8)
LABELS = np.array([0, 1, 2, 3, 0, 1, -1, 3, 0, -1, 2], np.int32)
ONE_DEVICE = MeshConfig(1, 1, 1)


class Images(Source):
    name, class_names = "made", tuple("abcd")

    def __init__(self, images=IMAGES, labels=LABELS, digest="made"):
        self.images, self.labels, self.digest = images, labels, digest

    def __len__(self):
        return len(self.images)

    def read(self, i, rng):
        return {"image": self.images[i], "label": int(self.labels[i])}


def made(scale=0.3, **cfg):
    model = ImageGPT(ModelConfig.preset("tiny", n_layer=1, **cfg))
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64), np.int32))["params"]
    return model, randomized(params, scale)


def context(model, objective, batch_size=8, mesh=ONE_DEVICE, images=None, palette=PALETTE):
    where = make_mesh(mesh, jax.devices()[: 1 if mesh == ONE_DEVICE else 8])
    cfg = Config(
        objective=objective,
        model=model.cfg,
        data=DataConfig(channels=1),
        train=TrainConfig(eval_batch_size=batch_size),
    )
    images = images or Images()
    held_out = copy.copy(images)
    held_out.digest = "held out"
    data = Data(images, held_out, cfg, where)
    bound = make_objective(cfg, palette)
    return EvalContext(model, bound, palette, cfg, data, data.held_out)


def run(make, where, params):
    """name -> EachImage, of one evaluator."""
    return Driver(where, make(where), "it").run(params)


def means(make, where, params):
    """name -> value, of one evaluator."""
    evaluator, images = make(where), run(make, where, params)
    found = {
        name: estimate(figure, images[name], where.groups).value
        for name, figure in evaluator.figures.items()
        if name in images
    }
    return found | dict(evaluator.derive(images))
