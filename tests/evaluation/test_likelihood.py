"""Every held-out image counts once, and the standard error is over groups of images."""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from igpt_jax import Config
from igpt_jax.analysis.beside import beside
from igpt_jax.analysis.classifiers import LOGISTIC
from igpt_jax.config import MeshConfig
from igpt_jax.evaluation import Evaluators, Figure, difference, estimate
from igpt_jax.evaluation.base import EachImage, Estimate, image_keys
from igpt_jax.evaluation.likelihood import make_likelihood
from igpt_jax.keys import fold_in
from igpt_jax.objectives import make_objective, token_scores
from tests.evaluation.made import IMAGES, ONE_DEVICE, PALETTE, Images, context, made, means


def losses_alone(model, params, name):
    """(keys [11] of masks) -> float [11]: the objective's loss of each image alone."""
    objective = make_objective(Config(objective=name, model=model.cfg), PALETTE)

    @jax.jit
    def loss(image, key):
        return objective.score(model, params, objective.example({"image": image}, key), "x").summed.loss

    return lambda keys: np.array([float(loss(IMAGES[i : i + 1], keys[i : i + 1])) for i in range(11)])


def test_every_image_has_the_nats_that_it_has_alone_whatever_batches_padding_and_mesh():
    model, params = made()
    single = losses_alone(model, params, "ar")(np.zeros(11))
    for size, mesh in ((8, MeshConfig()), (16, MeshConfig(2, 2, 2)), (2, ONE_DEVICE)):
        figures = Evaluators(context(model, "ar", size, mesh)).measure(params)
        np.testing.assert_allclose(figures.loss.images.values, single, rtol=1e-5)
        assert figures.loss.value == pytest.approx(single.mean(), rel=1e-5)
        assert figures.loss.error == pytest.approx(np.std(single, ddof=1) / math.sqrt(11), rel=1e-4)


def test_bert_likelihood_averages_over_masks_whatever_the_batch_size():
    model, params = made(causal=False)
    keys = image_keys(context(model, "bert"), 0, 11)
    losses = losses_alone(model, params, "bert")
    single = [losses(fold_in(keys, i)).mean() for i in range(5)]
    assert np.ptp(single) > 1e-3
    for size in (11, 4):
        measured = means(make_likelihood, context(model, "bert", size), params)
        assert measured["nats_per_masked_token"] == pytest.approx(np.mean(single), rel=1e-5)


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
    assert plain["bits_per_token"] == pytest.approx(plain["nats_per_token"] / math.log(2))
    assert measured == pytest.approx({f"twice{end}": 2 * plain[f"nats_per_token{end}"] for end in ("", "_se")})


def test_errors_over_groups_against_many_samples():
    """The spread of the estimate over 4000 samples of 300 images of unequal weight, of which a tenth is not measured.

    They are in 60 groups of 1 to 9, and half of the variance is the group's.
    """
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), np.resize([1, 9, 5, 3, 7], 60))
    values = rng.normal(3, 1, (4000, 60))[:, groups] + rng.normal(0, 1, (4000, 300))
    weights = rng.uniform(0.2, 2, values.shape) * (rng.random(values.shape) > 0.1)
    spread = ((values * weights).sum(axis=1) / weights.sum(axis=1)).std()

    def error(of):
        pairs = zip(values, weights, strict=True)
        return np.mean([estimate(Figure(), EachImage(*pair), of).error for pair in pairs])

    assert error(groups) == pytest.approx(spread, rel=0.05)
    assert error(np.arange(300)) < 0.7 * spread


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


def test_figures_have_the_errors_of_groups(monkeypatch):
    """Each held-out image thrice, as variants: the same means, and the same errors as of the images once."""
    monkeypatch.setattr("igpt_jax.analysis.classifiers.PIXELS", (LOGISTIC,))

    class Thrice(Images):
        groups = np.arange(33) // 3

    model, params = made(clf_classes=4)
    once = context(model, "joint")
    images, labels = (np.repeat(x, 3, axis=0) for x in (once.held_out.images, once.held_out.labels))
    of = {}
    for name, where in (("once", once), ("thrice", replace(once, held_out=Thrice(images, labels, "thrice")))):
        figures = beside(Evaluators(where).measure(params), where)
        rows = {row: e for method in figures.cheap.values() for row, e in method.items()}
        gaps = {
            f"minus {row}": difference(e, figures.model["nats_per_token"], figures.groups) for row, e in rows.items()
        }
        of[name] = {key: (e.value, e.error) for key, e in {**figures.model, **rows, **gaps}.items()}
    assert of["thrice"] == {name: pytest.approx(pair, rel=1e-5, abs=1e-7) for name, pair in of["once"].items()}
