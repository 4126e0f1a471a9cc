"""Models with every tensor random and of some size, made without the code under test."""

import functools

import jax
import numpy as np

from igpt_jax import ImageGPT, ModelConfig, Palette
from igpt_jax.config import Config, DataConfig
from igpt_jax.model import abstract_params
from igpt_jax.parallel.mesh import path_name
from igpt_jax.pretrained import Pretrained

GRID = (10, 10)  # more positions than one chunk of the chunked attention


def random_params(model, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        name = path_name(path)
        if name.endswith("/g"):
            return jax.numpy.asarray(1 + 0.3 * rng.standard_normal(x.shape), x.dtype)
        scale = model.cfg.d_model**-0.5 if name.endswith("/w") else 0.3
        return jax.numpy.asarray(scale * rng.standard_normal(x.shape), x.dtype)

    return jax.tree.map_with_path(leaf, abstract_params(model.cfg))


@functools.cache
def pretrained(seed=0, channels=3, step=7, **model):
    """A model of random weights; shared between tests, since arrays and dataclasses are immutable."""
    cfg = ModelConfig(**(dict(grid=GRID, vocab_size=21, n_layer=2, n_head=2, d_model=32) | model))
    net = ImageGPT(cfg)
    centers = np.random.default_rng(seed + 1).uniform(-1, 1, (cfg.vocab_size, channels)).astype(np.float32)
    config = Config(
        name="made",
        objective="joint" if cfg.clf_classes else "ar" if cfg.causal else "bert",
        model=cfg,
        data=DataConfig(channels=channels),
    )
    return Pretrained(net, random_params(net, seed), Palette(centers), config, step)


def tokens(cfg, batch=2):
    return np.random.default_rng(5).integers(0, cfg.vocab_size, (batch, cfg.n_ctx)).astype(np.int32)


def assert_same_bits(a, b):
    """Two parameter trees, as bits: NaN equals itself and -0 is not 0."""
    a, b = (dict(jax.tree.leaves_with_path(tree)) for tree in (a, b))
    assert a.keys() == b.keys()
    for path, x in a.items():
        assert (x.dtype, x.shape) == (b[path].dtype, b[path].shape) == (np.float32, x.shape), path
        np.testing.assert_array_equal(np.asarray(x).view(np.uint32), np.asarray(b[path]).view(np.uint32), str(path))


def assert_same(a, b):
    """Two `Pretrained`: parameters, palette and what the model computes."""
    assert_same_bits(a.params, b.params)
    assert a.model.cfg == b.model.cfg
    assert a.config.objective == b.config.objective
    assert (a.palette is None) == (b.palette is None)
    if a.palette is not None:
        np.testing.assert_array_equal(a.palette.centers.view(np.uint32), b.palette.centers.view(np.uint32))
