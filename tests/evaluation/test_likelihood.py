"""Every held-out image counts once, and the standard error is over images."""

import math

import numpy as np
import pytest

from igpt_jax import Config
from igpt_jax.config import MeshConfig
from igpt_jax.evaluation.base import eval_keys
from igpt_jax.evaluation.likelihood import Likelihood
from igpt_jax.keys import stream
from igpt_jax.objectives import make_objective, score
from tests.evaluation.made import IMAGES, ONE_DEVICE, PALETTE, context, made


def loss_of(model, params, name, keys, images=IMAGES):
    objective = make_objective(Config(objective=name, model=model.cfg), PALETTE)
    return float(score(model, params, objective.example({"image": images}, keys), objective.loss_name).loss())


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


def test_the_standard_error_is_that_of_the_images():
    """Alone for each image: the nats that `nats` holds, and their error; a padded row and five masks change neither."""
    for name, cfg in (("ar", {}), ("bert", {"causal": False})):
        model, params = made(**cfg)
        likelihood = Likelihood(context(model, name, 8, MeshConfig()))
        measured = dict(likelihood.run(params, 0))
        assert likelihood.nats is not None
        assert likelihood.nats.shape == (11,)
        metric = "nats_per_token" if name == "ar" else "nats_per_masked_token"
        assert measured[f"{metric}_se"] == pytest.approx(likelihood.nats.std(ddof=1) / math.sqrt(11), rel=0.05)
        if name == "ar":
            single = [loss_of(model, params, name, None, IMAGES[i : i + 1]) for i in range(11)]
            np.testing.assert_allclose(likelihood.nats, single, rtol=1e-5)
            assert measured[f"{metric}_se"] == pytest.approx(np.std(single, ddof=1) / math.sqrt(11), rel=1e-4)
