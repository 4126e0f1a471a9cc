"""Classifiers: scikit-learn's own, those by gradient descent, how a setting is chosen, and those beside an accuracy."""

import logging
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from igpt_jax.analysis.beside import beside
from igpt_jax.analysis.classifiers import (
    PIXELS,
    TREES,
    Method,
    choose,
    classify_pixels,
    fit_logistic,
    fit_neighbours,
    fit_support_vectors,
    fit_trees,
    vote,
)
from igpt_jax.analysis.probing.classifiers import METHODS, Moments, Weights, class_logits, fit_attentive, fit_sgd
from igpt_jax.evaluation import Evaluators, difference
from tests.evaluation.made import IMAGES, LABELS, Images, context, made


def clouds(n=300, seed=0):
    """Points around three centres, of classes 2, 5 and 7, that overlap; one feature is large and tells nothing."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = np.array([[0, 0], [2, 0], [0, 2]])[y] + rng.normal(size=(n, 2))
    noise = rng.normal(1000, 100, (n, 1))
    return np.concatenate([x, noise], axis=1).astype(np.float32), np.array([2, 5, 7])[y]


def test_neighbours_are_all_images_if_they_are_fewer():
    predict = fit_neighbours(np.array([[0.0], [1.0], [5.0]]), np.array([4, 4, 9]), 20)
    np.testing.assert_array_equal(predict(np.array([[4.0]])), [4])


def test_support_vectors_and_trees_name_what_no_plane_divides():
    """Four clouds, two classes crosswise: the linear classifier is at a loss."""

    def crosswise(seed):
        rng = np.random.default_rng(seed)
        corners = rng.integers(0, 2, (400, 2))
        return corners + rng.normal(0, 0.15, (400, 2)), np.where(corners[:, 0] == corners[:, 1], 3, 8)

    (x, y), (held_out, labels) = crosswise(0), crosswise(1)
    assert np.mean(fit_logistic(x, y, 1.0)(held_out) == labels) < 0.65
    assert np.mean(fit_support_vectors(x, y, 1.0)(held_out) == labels) > 0.98
    assert np.mean(fit_trees(x, y, 50)(held_out) == labels) > 0.98


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


@pytest.mark.parametrize(
    ("accuracies", "expected", "tried"),
    [
        ([0.1, 0.5, 0.4, 0.6, 0.3, 0.2, 0.9], (3, 0.6), 6),  # two worse in a row end it
        ([0.1, 0.5, 0.4, 0.6, 0.3, 0.7, 0.9], (6, 0.9), 7),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], (0, 0.5), 7),
    ],
)
def test_the_best_setting_is_chosen(accuracies, expected, tried):
    asked = []

    def accuracy(tried):
        asked.append(tried)
        return accuracies[int(tried)]

    assert choose(Method("x", "C", tuple(range(7)), fit_logistic), accuracy) == expected
    assert len(asked) == tried


def test_choices_are_in_the_order_of_trial():
    assert METHODS["lbfgs"].choices == tuple(sorted(METHODS["lbfgs"].choices))
    assert METHODS["sgd"].choices == tuple(sorted(METHODS["sgd"].choices, reverse=True))  # paper: from large to small


def marked(n, seed):
    """Twelve slots show classes at random, and a mark tells which one shows that of the image."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, 3, (n, 12))
    at = rng.integers(0, 12, n)
    x = np.concatenate([np.eye(3)[shown], np.zeros((n, 12, 1))], axis=2)
    x[np.arange(n), at, 3] = 1
    return (5 + 3 * x).astype(np.float32), np.array([2, 5, 7])[shown[np.arange(n), at]]


def test_it_finds_the_slot_that_tells_the_class_and_an_average_does_not():
    (x, y), (held_out, expected) = marked(600, 0), marked(200, 1)
    accuracy = (fit_attentive(x, y, 1e-2, steps=600, batch=64)(held_out) == expected).mean()
    average = (fit_logistic(x.mean(axis=1), y, 1.0)(held_out.mean(axis=1)) == expected).mean()
    assert accuracy > 0.95
    assert average < 0.7


def test_the_attentive_probe_averages_standardised_slots_by_its_queries():
    """With queries of zero all alike; otherwise as if the features had mean 0 and variance 1."""
    rng = np.random.default_rng(0)
    x_BTD, mean, deviation = rng.normal(size=(5, 7, 4)), rng.normal(size=4), np.exp(rng.normal(size=4))
    queries_HD, w_HDC, b_C = (rng.normal(size=shape) for shape in ((2, 4), (2, 4, 3), (3,)))

    def logits(queries_HD, moments, x_BTD):
        return class_logits(Weights(queries_HD, jnp.asarray(w_HDC), jnp.asarray(b_C)), moments, jnp.asarray(x_BTD))

    as_they_are, standardised = Moments(np.zeros(4), np.ones(4)), (x_BTD - mean) / deviation
    expected = logits(queries_HD, as_they_are, standardised)
    np.testing.assert_allclose(logits(queries_HD, Moments(mean, deviation), x_BTD), expected, rtol=1e-4, atol=1e-5)
    linear = x_BTD.mean(axis=1) @ w_HDC.sum(axis=0) + b_C
    np.testing.assert_allclose(logits(np.zeros((2, 4)), as_they_are, x_BTD), linear, rtol=1e-5, atol=1e-6)


@pytest.fixture
def four_classes(monkeypatch):
    """A model with a head, and 200 training and 90 held-out images of four grey levels with noise; some unlabelled.

    Forests are small.
    """
    monkeypatch.setattr("igpt_jax.analysis.classifiers.PIXELS", (*PIXELS[:3], replace(TREES, choices=(20,))))

    def draw(n, seed, digest="made"):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 4, n)
        images = np.clip(50 + 20 * labels[:, None, None, None] + rng.normal(0, 60, (n, 8, 8, 1)), 0, 255)
        return Images(images.astype(np.uint8), np.where(np.arange(n) % 9 == 5, -1, labels).astype(np.int32), digest)

    model, params = made(clf_classes=4)
    where = context(model, "joint", images=draw(200, 0))
    return params, where.__class__(**vars(where) | {"held_out": draw(90, 1, "held out")})


def pixels(source):
    return source.images.reshape(len(source), -1).astype(np.float32) / 255, source.labels


def test_classifiers_of_pixels_are_those_of_scikit_learn(four_classes):
    """Fitted to all labelled training images, at the setting that their names say."""
    _, where = four_classes
    (x, y), (held_out_x, held_out_y) = pixels(where.data.train), pixels(where.held_out)
    x, y, labelled = x[y >= 0], y[y >= 0], held_out_y >= 0
    correct = classify_pixels(where)
    named, settings = zip(*(name.rsplit(" ", 1) for name in correct), strict=True)
    assert named == (
        f"logistic regression on pixels, {len(x)} images, C",
        f"nearest neighbours on pixels, {len(x)} images, k",
        f"support vector machine on pixels, {len(x)} images, C",
        f"extra trees on pixels, {len(x)} images, trees",
    )
    c, k, kernel_c, trees = map(float, settings)
    expected = (
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)),
        KNeighborsClassifier(int(k)),
        SVC(C=kernel_c),
        ExtraTreesClassifier(int(trees), random_state=0),
    )
    for images, classifier in zip(correct.values(), expected, strict=True):
        theirs = (classifier.fit(x, y).predict(held_out_x) == held_out_y)[labelled]
        np.testing.assert_array_equal(images.values[labelled], theirs)
        np.testing.assert_array_equal(images.weights, labelled)
        assert 0.3 < theirs.mean() < 1


def test_a_support_vector_machine_has_fewer_images_where_they_are_many(four_classes, monkeypatch):
    _, where = four_classes
    monkeypatch.setattr("igpt_jax.analysis.classifiers.KERNEL_NUMBERS", 64 * 100**2)
    assert [name.split(", ")[1] for name in classify_pixels(where)] == ["178 images"] * 2 + ["100 images", "178 images"]
    monkeypatch.setattr("igpt_jax.analysis.classifiers.KERNEL_NUMBERS", 64 * 39**2)
    assert not any(name.startswith("support") for name in classify_pixels(where))  # of 4 classes


def test_they_stand_beside_the_accuracy_image_by_image(four_classes):
    params, where = four_classes
    alone = Evaluators(where).measure(params)
    figures = beside(alone, where)
    assert figures.accuracy == figures.model["accuracy"].value
    cheap, labelled = figures.cheap["accuracy"], where.held_out.labels >= 0
    ours, alone_there = figures.model["accuracy"].images.values[labelled], classify_pixels(where)
    assert list(cheap) == list(alone_there)
    for name, images in alone_there.items():
        theirs = images.values[labelled]
        mean_and_error = [(x.mean(), x.std(ddof=1) / np.sqrt(80)) for x in (theirs, theirs - ours)]
        assert (cheap[name].value, cheap[name].error) == pytest.approx(mean_and_error[0])
        gap = difference(cheap[name], figures.model["accuracy"], figures.groups)
        assert (gap.value, gap.error) == pytest.approx(mean_and_error[1])
    learned = replace(where, kind="training")  # `--split all` and `--split train`: they have seen what is measured
    assert not beside(alone, learned).cheap
    assert not beside(alone, replace(where, held_out=where.data.train)).cheap


def test_fewer_images_are_fitted_so_that_it_stays_quick(four_classes, monkeypatch):
    """64 pixels, 4 classes."""
    _, where = four_classes
    monkeypatch.setattr("igpt_jax.analysis.classifiers.FITTED_NUMBERS", 64 * 4 * 90)
    taken = where.data.train.labels[np.linspace(0, 199, 90).round().astype(int)]
    assert all(f", {(taken >= 0).sum()} images, " in name for name in classify_pixels(where))


@pytest.mark.parametrize(
    ("numbers", "train", "why"),
    [
        (64 * 4 * 30, Images(), "no cheap classifiers beside the accuracy: 4 classes"),
        (10**9, Images(labels=np.full(11, 2)), "too few labels or classes among the 11 training images"),
        (10**9, Images(IMAGES[:1], LABELS[:1]), "made has too few groups of images (1) to set 10%"),
    ],
)
def test_there_are_none_where_images_or_classes_do_not_suffice(four_classes, numbers, train, why, monkeypatch, caplog):
    monkeypatch.setattr("igpt_jax.analysis.classifiers.FITTED_NUMBERS", numbers)
    _, where = four_classes
    with caplog.at_level(logging.INFO):
        assert classify_pixels(replace(where, data=replace(where.data, train=train))) == {}
    assert why in caplog.text
