"""Every held-out image counts once, and the baselines are what a hand computes."""

import math

import jax
import numpy as np
import pytest

from igpt_jax import Config, Palette
from igpt_jax.config import MeshConfig
from igpt_jax.evaluation.base import eval_keys
from igpt_jax.evaluation.baselines import histogram_nats, uniform_nats
from igpt_jax.evaluation.likelihood import Likelihood
from igpt_jax.keys import stream
from igpt_jax.objectives import make_objective, score
from igpt_jax.parallel.mesh import make_mesh
from tests.evaluation.made import IMAGES, ONE_DEVICE, PALETTE, context, made


def loss_of(model, params, name, keys):
    objective = make_objective(Config(objective=name, model=model.cfg), PALETTE)
    return float(score(model, params, objective.example({"image": IMAGES}, keys), objective.loss_name).loss())


def test_the_mean_does_not_depend_on_batches_padding_or_mesh():
    model, params = made()
    expected = loss_of(model, params, "ar", None)
    for size, mesh in ((8, MeshConfig()), (16, MeshConfig(2, 2, 2)), (2, ONE_DEVICE)):
        measured = dict(Likelihood(context(model, "ar", size, mesh)).run(params, 0))
        assert measured["nats_per_token"] == pytest.approx(expected, rel=1e-5)
        assert measured["bits_per_token"] == pytest.approx(expected / math.log(2), rel=1e-5)


def test_bert_likelihood_averages_over_masks_whatever_the_batch_size():
    model, params = made(causal=False)
    single = [loss_of(model, params, "bert", eval_keys(stream(0, "eval"), 0, 11, i)) for i in range(5)]
    assert np.ptp(single) > 1e-3
    for size in (11, 4):
        measured = dict(Likelihood(context(model, "bert", size)).run(params, 0))
        assert measured["nats_per_masked_token"] == pytest.approx(np.mean(single), rel=1e-5)


def batches(images, size):
    """One weighted batch of `size`, filled up with zeros that do not count."""
    pad = [(0, size - len(images))]
    return [{"image": np.pad(images, pad + [(0, 0)] * 3), "weight": (np.arange(size) < len(images)).astype(np.float32)}]


def test_histogram_by_hand():
    """Two positions, four colours. Position 0 saw colour 0 twice, so p(0) = 3/6; position 1 saw colours 1 and 2."""
    palette = Palette.levels(4)
    grey = np.asarray(palette.decode(np.array([[0, 1], [0, 2], [0, 3]])))[:, None]  # [B, 1, 2, 1]
    train, held_out = batches(grey[:2], 4), batches(grey[2:], 2)
    expected = -(math.log(3 / 6) + math.log(1 / 6)) / 2
    mesh = make_mesh(MeshConfig(2, 1, 1), jax.devices()[:2])
    assert histogram_nats(lambda: train, lambda: held_out, palette, mesh) == pytest.approx(expected)
    assert uniform_nats(4) == pytest.approx(math.log(4))
