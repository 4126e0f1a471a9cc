"""Classifiers of features: scikit-learn's own, the same model by gradient descent, and how settings are chosen."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from igpt_jax.probing.classifiers import METHODS, Method, choose, fit_logistic, fit_neighbours, fit_sgd, vote


def clouds(n=300, seed=0):
    """Points around three centres, of classes 2, 5 and 7, that overlap; one feature is large and tells nothing."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = np.array([[0, 0], [2, 0], [0, 2]])[y] + rng.normal(size=(n, 2))
    noise = rng.normal(1000, 100, (n, 1))
    return np.concatenate([x, noise], axis=1).astype(np.float32), np.array([2, 5, 7])[y]


def test_logistic_regression_is_that_of_scikit_learn():
    (x, y), (held_out, _) = clouds(), clouds(seed=1)
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    expected = LogisticRegression(C=0.3, max_iter=1000).fit((x - mean) / deviation, y)
    np.testing.assert_array_equal(fit_logistic(x, y, 0.3)(held_out), expected.predict((held_out - mean) / deviation))


def test_gradient_descent_ends_at_the_same_classifier():
    (x, y), (held_out, _) = clouds(), clouds(seed=1)
    same = fit_sgd(x, y, 0.3, steps=2000)(held_out) == fit_logistic(x, y, 1e3)(held_out)
    assert same.mean() > 0.97


def test_neighbours_by_hand():
    predict = fit_neighbours(np.array([[0.0], [1.0], [5.0]]), np.array([4, 4, 9]), 1)
    np.testing.assert_array_equal(predict(np.array([[0.9], [4.0]])), [4, 9])


@pytest.mark.parametrize(
    ("accuracies", "most", "expected", "tried"),
    [
        ([0.1, 0.5, 0.4, 0.6, 0.3, 0.2, 0.9], np.inf, (3, 0.6), 6),  # two worse in a row end it
        ([0.1, 0.5, 0.4, 0.6, 0.3, 0.7, 0.9], np.inf, (6, 0.9), 7),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], np.inf, (0, 0.5), 7),
        ([0.1, 0.5, 0.6, 0.9, 0.9, 0.9, 0.9], 2, (2, 0.6), 3),
    ],
)
def test_the_best_setting_is_chosen(accuracies, most, expected, tried):
    asked = []

    def accuracy(setting):
        asked.append(setting)
        return accuracies[int(setting)]

    assert choose(Method("x", tuple(range(7)), fit_logistic), accuracy, most) == expected
    assert len(asked) == tried


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
