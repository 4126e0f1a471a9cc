"""Standard errors against the spread of many samples, and over groups of images."""

from dataclasses import replace

import numpy as np
import pytest

from igpt_jax.evaluation import summarize
from igpt_jax.evaluation.accuracy import Accuracy
from igpt_jax.evaluation.likelihood import Likelihood
from igpt_jax.evaluation.standard_error import mean_error, ratio_error
from tests.evaluation.made import Images, context, made


def test_the_error_of_a_ratio_against_many_samples():
    """Images of unequal weight: the spread of the estimate over 4000 samples of 50 images."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 2, (4000, 50))
    totals = weights * rng.normal(3, 1, weights.shape)
    spread = (totals.sum(axis=1) / weights.sum(axis=1)).std()
    errors = [ratio_error(t, w) for t, w in zip(totals, weights, strict=True)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.05)


def test_the_error_over_groups_against_many_samples():
    """Of 300 images in 60 groups of 1 to 9, where half of the variance is the group's; a tenth is not measured."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), np.resize([1, 9, 5, 3, 7], 60))
    values = rng.normal(3, 1, (4000, 60))[:, groups] + rng.normal(0, 1, (4000, 300))
    values[:, rng.random(300) < 0.1] = np.nan
    spread = np.nanmean(values, axis=1).std()
    assert np.mean([mean_error(x, groups) for x in values]) == pytest.approx(spread, rel=0.05)
    assert np.mean([mean_error(x) for x in values]) < 0.7 * spread


def test_groups_of_one_image_change_nothing_and_one_group_has_no_error():
    values = np.random.default_rng(0).normal(size=9)
    assert mean_error(values, np.arange(9)[::-1]) == pytest.approx(values.std(ddof=1) / 3) == mean_error(values)
    assert np.isnan(mean_error(values, np.zeros(9, int)))


def test_figures_have_the_errors_of_groups():
    """Each held-out image thrice, as variants: the same means, and the same errors as of the images once."""

    class Thrice(Images):
        def group(self, i):
            return str(i // 3)

    model, params = made(clf_classes=4)
    once = context(model, "joint")
    images, labels = (np.repeat(x, 3, axis=0) for x in (once.held_out.images, once.held_out.labels))
    of = {}
    for name, where in (("once", once), ("thrice", replace(once, held_out=Thrice(images, labels)))):
        likelihood, accuracy = Likelihood(where), Accuracy(where)
        measured = dict(likelihood.run(params, 0)) | dict(accuracy.run(params, 0))
        of[name] = summarize(measured, where, likelihood.nats, accuracy.right)
    assert (of["thrice"].images, of["thrice"].groups, of["once"].groups) == (33, 11, 11)
    for kind in ("nats", "errors"):
        assert getattr(of["thrice"], kind) == pytest.approx(getattr(of["once"], kind), rel=1e-5)
    for kind in ("differences", "accuracies", "accuracy_differences"):
        thrice, once_too = getattr(of["thrice"], kind), getattr(of["once"], kind)
        assert thrice.keys() == once_too.keys()
        for name, pair in thrice.items():
            assert pair == pytest.approx(once_too[name], rel=1e-5, abs=1e-7)
