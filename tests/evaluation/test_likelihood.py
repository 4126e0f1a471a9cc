"""Every held-out image counts once, and the standard error is over groups of images."""

import math
from dataclasses import replace

import numpy as np
import pytest

from igpt_jax import Config
from igpt_jax.config import MeshConfig
from igpt_jax.evaluation import Evaluators, Figure, difference, estimate
from igpt_jax.evaluation.base import EachImage, Estimate, image_keys
from igpt_jax.evaluation.likelihood import make_likelihood
from igpt_jax.keys import fold_in
from igpt_jax.objectives import make_objective, token_scores
from tests.evaluation.made import IMAGES, ONE_DEVICE, PALETTE, context, made, means, run


def loss_of(model, params, name, keys, images=IMAGES):
    objective = make_objective(Config(objective=name, model=model.cfg), PALETTE)
    return float(objective.score(model, params, objective.example({"image": images}, keys), "x").summed.loss)


def test_the_mean_does_not_depend_on_batches_padding_or_mesh():
    model, params = made()
    expected = loss_of(model, params, "ar", None)
    for size, mesh in ((8, MeshConfig()), (16, MeshConfig(2, 2, 2)), (2, ONE_DEVICE)):
        measured = dict(Evaluators(context(model, "ar", size, mesh)).run(params, 0))
        assert measured["nats_per_token"] == pytest.approx(expected, rel=1e-5)
        assert measured["bits_per_token"] == pytest.approx(expected / math.log(2), rel=1e-5)


def test_bert_likelihood_averages_over_masks_whatever_the_batch_size():
    model, params = made(causal=False)
    keys = image_keys(context(model, "bert"), 0, 11)
    single = [loss_of(model, params, "bert", fold_in(keys, i)) for i in range(5)]
    assert np.ptp(single) > 1e-3
    for size in (11, 4):
        measured = means(make_likelihood, context(model, "bert", size), params)
        assert measured["nats_per_masked_token"] == pytest.approx(np.mean(single), rel=1e-5)


def test_the_nats_of_each_image_are_those_it_has_alone():
    model, params = made()
    images = run(make_likelihood, context(model, "ar", 8, MeshConfig()), params)["nats_per_token"]
    single = [loss_of(model, params, "ar", None, IMAGES[i : i + 1]) for i in range(11)]
    np.testing.assert_allclose(images.values, single, rtol=1e-5)
    measured = dict(Evaluators(context(model, "ar")).run(params, 0))
    assert measured["nats_per_token_se"] == pytest.approx(np.std(single, ddof=1) / math.sqrt(11), rel=1e-4)


def test_another_loss_is_measured_as_it_is_trained():
    """Label smoothing as a row: it replaces `score` alone, and has no bits."""

    def score(model, params, example, loss_name):
        scores = token_scores(model, params, example, loss_name)
        (mean,) = scores.losses.values()
        return scores._replace(losses={loss_name: mean._replace(total=2 * mean.total)})

    model, params = made()
    where = context(model, "ar")
    own = replace(where.objective, score=score, loss_name="twice", loss_figure=Figure())
    measured = dict(Evaluators(replace(where, objective=own)).run(params, 0))
    plain = dict(Evaluators(where).run(params, 0))
    assert measured == pytest.approx({f"twice{end}": 2 * plain[f"nats_per_token{end}"] for end in ("", "_se")})


def test_standard_errors_are_over_groups_and_leave_out_what_was_not_measured():
    values, weights = np.array([1.0, 1.0, 4.0, 4.0, 100.0]), np.array([1.0, 1, 1, 1, 0])
    alone = estimate(Figure(), EachImage(values, weights), np.arange(5))
    assert (alone.value, alone.error) == pytest.approx((2.5, np.std(values[:4], ddof=1) / 2))
    paired = estimate(Figure(), EachImage(values, weights), np.array([0, 0, 1, 1, 2]))
    assert paired.error == pytest.approx(np.std([1, 4], ddof=1) / math.sqrt(2))
    one = estimate(Figure(), EachImage(values, weights), np.zeros(5, int))
    assert math.isnan(one.error)
    ratio = estimate(Figure(), EachImage(values, np.array([3.0, 1, 1, 1, 0])), np.arange(5))
    assert ratio.value == pytest.approx(12 / 6)


def test_pairing_is_a_subtraction_of_images():
    rng = np.random.default_rng(0)
    a, b = (EachImage(rng.normal(size=20), np.ones(20)) for _ in range(2))
    gap = difference(Estimate(Figure(), 0, images=a), Estimate(Figure(), 0, images=b), np.arange(20))
    assert gap is not None
    assert (gap.value, gap.error) == pytest.approx(
        ((a.values - b.values).mean(), np.std(a.values - b.values, ddof=1) / math.sqrt(20))
    )
