"""Every held-out image counts once, and the baselines are what a hand computes."""

import math

import jax
import numpy as np
import pytest

from igpt_jax import Palette
from igpt_jax.config import MeshConfig
from igpt_jax.evaluation.likelihood import Likelihood, histogram_nats, uniform_nats
from igpt_jax.objectives import make_ar
from igpt_jax.parallel.mesh import make_mesh

PALETTE = Palette.levels(16)


def batches(images, size):
    """Weighted batches of `size`, the last filled up with zeros that do not count."""
    out = []
    for lo in range(0, len(images), size):
        part = images[lo : lo + size]
        image = np.zeros((size, *images.shape[1:]), np.uint8)
        image[: len(part)] = part
        out.append({"image": image, "weight": (np.arange(size) < len(part)).astype(np.float32)})
    return out


def test_the_mean_does_not_depend_on_batches_padding_or_mesh(tiny):
    model, params = tiny
    images = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1), np.uint8)
    objective = make_ar(model, PALETTE)
    expected = float(objective(params, {"image": images}, jax.random.key(0)).loss())
    for size, mesh in ((8, MeshConfig()), (16, MeshConfig(2, 2, 2)), (2, MeshConfig(1, 1, 8))):
        evaluator = Likelihood(objective, lambda size=size: batches(images, size), make_mesh(mesh))
        found = dict(evaluator.run(params, 0))
        assert found["nats_per_token"] == pytest.approx(expected, rel=1e-5)
        assert found["bits_per_token"] == pytest.approx(expected / math.log(2), rel=1e-5)


def test_histogram_by_hand():
    """Two positions, four colours. Position 0 saw colour 0 twice, so p(0) = 3/6; position 1 saw colours 1 and 2."""
    palette = Palette.levels(4)
    grey = np.asarray(palette.decode(np.array([[0, 1], [0, 2], [0, 3]])))[:, None]  # [B, 1, 2, 1]
    train, held_out = batches(grey[:2], 4), batches(grey[2:], 2)
    expected = -(math.log(3 / 6) + math.log(1 / 6)) / 2
    mesh = make_mesh(MeshConfig(2, 1, 1), jax.devices()[:2])
    assert histogram_nats(lambda: train, lambda: held_out, palette, mesh) == pytest.approx(expected)
    assert uniform_nats(4) == pytest.approx(math.log(4))
