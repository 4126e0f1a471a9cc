"""Cheap classifiers: scikit-learn's own, how their setting is chosen, and what they say beside a model's accuracy."""

import logging
from dataclasses import replace

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
    Method,
    choose,
    classify_pixels,
    fit_logistic,
    fit_neighbours,
    fit_support_vectors,
    fit_trees,
)
from igpt_jax.evaluation import Evaluators, difference
from tests.evaluation.made import IMAGES, LABELS, Images, context, made


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


def test_neighbours_by_hand():
    predict = fit_neighbours(np.array([[0.0], [1.0], [5.0]]), np.array([4, 4, 9]), 1)
    np.testing.assert_array_equal(predict(np.array([[0.9], [4.0]])), [4, 9])
    all_of_them = fit_neighbours(np.array([[0.0], [1.0], [5.0]]), np.array([4, 4, 9]), 20)
    np.testing.assert_array_equal(all_of_them(np.array([[4.0]])), [4])


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


@pytest.fixture
def four_classes(monkeypatch):
    """A model with a head, and 200 training and 90 held-out images of four grey levels with noise; some unlabelled."""

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
    right = classify_pixels(where)
    named, settings = zip(*(name.rsplit(" ", 1) for name in right), strict=True)
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
    for images, classifier in zip(right.values(), expected, strict=True):
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
    assert list(cheap) == list(classify_pixels(where))
    ours = figures.model["accuracy"].images.values[labelled]
    for name, images in classify_pixels(where).items():
        theirs = images.values[labelled]
        mean_and_error = [(x.mean(), x.std(ddof=1) / np.sqrt(80)) for x in (theirs, theirs - ours)]
        assert (cheap[name].value, cheap[name].error) == pytest.approx(mean_and_error[0])
        gap = difference(cheap[name], figures.model["accuracy"], figures.groups)
        assert (gap.value, gap.error) == pytest.approx(mean_and_error[1])
    learned = replace(where, kind="training")  # `--split all` and `--split train`: they have seen what is measured
    assert not beside(alone, learned).cheap
    assert not beside(alone, replace(where, held_out=where.data.train)).cheap


def test_fewer_images_are_fitted_or_none(four_classes, monkeypatch, caplog):
    """So that it stays quick: 64 pixels, 4 classes."""
    _, where = four_classes
    monkeypatch.setattr("igpt_jax.analysis.classifiers.FITTED_NUMBERS", 64 * 4 * 90)
    taken = where.data.train.labels[np.linspace(0, 199, 90).round().astype(int)]
    assert all(f", {(taken >= 0).sum()} images, " in name for name in classify_pixels(where))
    monkeypatch.setattr("igpt_jax.analysis.classifiers.FITTED_NUMBERS", 64 * 4 * 30)
    with caplog.at_level(logging.INFO):
        assert classify_pixels(where) == {}
    assert "no cheap classifiers beside the accuracy: 4 classes" in caplog.text


def test_images_of_one_class_have_no_classifiers(four_classes, caplog):
    _, where = four_classes
    where.data.train.labels[:] = 2
    with caplog.at_level(logging.INFO):
        assert classify_pixels(where) == {}
    assert "too few labels or classes among the 200 training images" in caplog.text


def test_one_image_has_no_classifiers(four_classes, caplog):
    _, where = four_classes
    alone = replace(where, data=replace(where.data, train=Images(IMAGES[:1], LABELS[:1])))
    with caplog.at_level(logging.INFO):
        assert classify_pixels(alone) == {}
    assert "made has too few groups of images (1) to set 10%" in caplog.text
