"""Standard errors against the spread of many samples, and over groups of images."""

from dataclasses import replace

import numpy as np
import pytest

from igpt_jax.analysis.beside import beside
from igpt_jax.evaluation import Evaluators, Figure, difference, estimate
from igpt_jax.evaluation.base import EachImage
from tests.evaluation.made import Images, context, made


def error(values, weights=None, groups=None):
    weights = ~np.isnan(values) if weights is None else weights
    return estimate(Figure(), EachImage(values, weights), np.arange(len(values)) if groups is None else groups).error


def test_the_error_of_a_ratio_against_many_samples():
    """Images of unequal weight: the spread of the estimate over 4000 samples of 50 images."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.2, 2, (4000, 50))
    totals = weights * rng.normal(3, 1, weights.shape)
    spread = (totals.sum(axis=1) / weights.sum(axis=1)).std()
    errors = [error(t / w, w) for t, w in zip(totals, weights, strict=True)]
    assert np.mean(errors) == pytest.approx(spread, rel=0.05)


def test_the_error_over_groups_against_many_samples():
    """Of 300 images in 60 groups of 1 to 9, where half of the variance is the group's; a tenth is not measured."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), np.resize([1, 9, 5, 3, 7], 60))
    values = rng.normal(3, 1, (4000, 60))[:, groups] + rng.normal(0, 1, (4000, 300))
    values[:, rng.random(300) < 0.1] = np.nan
    spread = np.nanmean(values, axis=1).std()
    assert np.mean([error(x, groups=groups) for x in values]) == pytest.approx(spread, rel=0.05)
    assert np.mean([error(x) for x in values]) < 0.7 * spread


def test_figures_have_the_errors_of_groups():
    """Each held-out image thrice, as variants: the same means, and the same errors as of the images once."""

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
