"""Classifiers of features: logistic regression by gradient descent, and the vote over draws."""

import numpy as np

from igpt_jax.analysis.classifiers import fit_logistic, vote
from igpt_jax.analysis.probing.classifiers import METHODS, fit_sgd
from tests.analysis.test_classifiers import clouds


def test_gradient_descent_ends_at_the_same_classifier():
    (x, y), (held_out, _) = clouds(), clouds(seed=1)
    same = fit_sgd(x, y, 0.3, steps=2000)(held_out) == fit_logistic(x, y, 1e3)(held_out)
    assert same.mean() > 0.97


def test_most_draws_win_and_equals_are_drawn():
    named = np.array([[1, 1, 4], [1, 4, 4], [4, 4, 4]]).T  # of three images, by three draws
    draws = named.T[..., None].swapaxes(0, 1)
    assert vote(lambda x: x[:, 0], draws).tolist() == [1, 4, 4]
    tied = np.repeat(np.array([[[1]], [[4]]]), 200, axis=1)
    share = (vote(lambda x: x[:, 0], tied) == 1).mean()
    assert 0.35 < share < 0.65


def test_choices_are_in_the_order_of_trial():
    assert METHODS["lbfgs"].choices == tuple(sorted(METHODS["lbfgs"].choices))
    assert METHODS["sgd"].choices == tuple(sorted(METHODS["sgd"].choices, reverse=True))  # paper: from large to small
