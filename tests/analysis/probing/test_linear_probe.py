"""The probe as a whole: it finds the class in the features, and chooses nothing on held-out images."""

from dataclasses import replace

import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.analysis.classifiers import TREES, Method
from igpt_jax.analysis.probing import RAW_PIXELS, Row, probe
from igpt_jax.analysis.probing.classifiers import METHODS
from igpt_jax.analysis.probing.linear_probe import _around, _draw_subset, _fold_accuracies, _Parts, _pixels, _read_parts
from igpt_jax.config import ProbeConfig
from igpt_jax.evaluation.evaluate import make_eval_context
from igpt_jax.pretrained import Pretrained
from tests.evaluation.made import PALETTE, Images, context, made

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 3, 160)
PICTURES = np.clip(RNG.normal(60, 20, (160, 8, 8, 1)) + 60 * CLASSES[:, None, None, None], 0, 255).astype(np.uint8)
TRAIN, HELD_OUT = Images(PICTURES[:120], CLASSES[:120]), Images(PICTURES[120:], CLASSES[120:])


@pytest.fixture
def weights(monkeypatch):
    """A model with random weights, whose run has these images; both halves can be replaced. Forests are small."""
    monkeypatch.setitem(METHODS, "trees", replace(TREES, choices=(20,)))
    model, params = made()
    where = context(model, "ar")
    halves = {"train": TRAIN, "eval": HELD_OUT}

    def open_data(cfg, mesh, source, whole):
        return replace(where.data, train=halves["train"], held_out=halves["eval"], mesh=mesh)

    monkeypatch.setattr("igpt_jax.evaluation.evaluate.open_data", open_data)
    return Pretrained(model, params, PALETTE, where.cfg, 3), halves


def test_all_rows_are_there_and_brightness_is_read_off(weights, monkeypatch):
    monkeypatch.setattr("igpt_jax.analysis.probing.classifiers.STEPS", 50)  # of the attentive probe
    figures = probe(weights[0], ProbeConfig(together=2, per_class=(1, 3), subsets=2, attentive=True))
    assert figures.images == {"train": 120, "held_out": 40}
    names = [row.name for row in figures.rows]
    both = ("raw pixels", f"layer {figures.best_layer}")
    others = (", nearest neighbours", ", support vector machine", ", extra trees")
    few = [f"{what}{how}, {n} labels a class" for n in (1, 3) for how in ("", *others) for what in both]
    assert names == [
        *("raw pixels", "layer 0", "layer 1", "layers 0 1 together"),
        *(f"{what}{how}" for how in others for what in both),
        f"layer {figures.best_layer}, attentive",
        *few,
    ]
    assert set(RAW_PIXELS) == {name for name in names if name.startswith("raw pixels") and name not in few}
    assert all(row.accuracy > 0.8 for row in figures.rows)
    settings = {row.name: row.setting for row in figures.rows}
    assert [settings[f"raw pixels{how}, 1 labels a class"] for how in ("", *others)] == [
        "C 1",
        "k 1",
        "C 1",
        "trees 20",
    ]
    assert settings["raw pixels, support vector machine, 3 labels a class"] == "C by folds"
    first = figures.rows[0]
    assert first.error == pytest.approx(np.sqrt(first.accuracy * (1 - first.accuracy) / 40))
    best = figures.layers[figures.best_layer]
    assert best.validation == max(row.validation for row in figures.layers.values())


def test_nothing_is_chosen_on_held_out_images(weights):
    """Other held-out labels change the accuracies, and nothing else."""
    pretrained, halves = weights
    expected = probe(pretrained, ProbeConfig(others=()))
    halves["eval"] = Images(HELD_OUT.images, (HELD_OUT.labels + 1) % 3)
    figures = probe(pretrained, ProbeConfig(others=()))
    assert figures.best_layer == expected.best_layer
    assert [(r.setting, r.validation) for r in figures.rows] == [(r.setting, r.validation) for r in expected.rows]
    assert all(row.accuracy < 0.2 for row in figures.rows)


def test_images_of_one_class_are_refused(weights):
    pretrained, halves = weights
    halves["train"] = Images(TRAIN.images, np.zeros(120, int))
    with pytest.raises(InputError, match="have one class"):
        probe(pretrained)


def test_a_method_with_a_limit_is_fitted_to_fewer_images_and_says_so(weights):
    """Both when its setting is chosen and when it is fitted again; the images are spread evenly."""
    fitted = []

    def fit(x, y, setting):
        fitted.append(y)
        return lambda asked: np.zeros(len(asked), int)

    parts = _read_parts(*make_eval_context(weights[0]), (0,), ProbeConfig())
    method = Method("some", "C", (1, 3), fit, lambda width, classes: 2000 * classes // width)
    row = parts.measure("some", method, _pixels)
    assert row.setting == "C 1, 93 images"  # 64 pixels
    rest, everything = parts.rest.labels, parts.all_labels
    expected = [labels[np.linspace(0, len(labels) - 1, 93).round().astype(int)] for labels in (rest, rest, everything)]
    np.testing.assert_array_equal(fitted, expected)


def test_a_classifier_that_may_have_too_few_images_is_left_out(weights, monkeypatch):
    """40 images of 3 classes are enough for the rows of all images, and not for 20 labels a class."""
    monkeypatch.setattr("igpt_jax.analysis.classifiers.TREE_NUMBERS", 40 * 3)
    settings = ProbeConfig(layers=(0,), per_class=(2, 20), subsets=1, others=("trees",))
    names = [row.name for row in probe(weights[0], settings).rows if "extra trees" in row.name]
    both = ["raw pixels, extra trees", "layer 0, extra trees"]
    assert names == [*both, *(f"{name}, 2 labels a class" for name in both)]
    monkeypatch.setattr("igpt_jax.analysis.classifiers.TREE_NUMBERS", 29 * 3)
    assert not any("extra trees" in row.name for row in probe(weights[0], settings).rows)


def test_layers_around_the_best_one():
    assert [list(_around(center, 3, 5)) for center in (0, 2, 4)] == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert list(_around(1, 9, 4)) == [0, 1, 2, 3]


def test_subsets_have_as_many_labels_of_each_class():
    labels = np.repeat([3, 1, 8], [10, 20, 30])
    rows = _draw_subset(labels, 4, np.random.default_rng(0))
    assert len(set(rows)) == 12
    assert np.unique(labels[rows], return_counts=True)[1].tolist() == [4, 4, 4]


def test_folds_divide_the_images_and_no_image_is_seen():
    """A classifier that knows the images it was fitted to by heart, and nothing else."""
    x, y = np.arange(12)[:, None], np.repeat([0, 1, 2], 4)
    tested = []

    def fit(seen, labels, setting):
        def predict(asked):
            assert not set(asked[:, 0]) & set(seen[:, 0])
            tested.extend(asked[:, 0])
            assert sorted(y[asked[:, 0]]) == [0, 1, 2]
            return y[asked[:, 0]]

        return predict

    method = Method("by heart", "x", (1.0,), fit)
    assert list(_fold_accuracies(method, x, y, 4, 1.0)) == [1.0] * 4
    assert sorted(tested) == list(range(12))


def test_the_best_layer_is_that_of_the_validation_images(weights, monkeypatch):
    """Though another is better on the held-out ones. The best classifier of pixels is that of the held-out ones."""
    rows = {"layer 0": (0.9, 0.1), "layer 1": (0.8, 0.7), "raw pixels, extra trees": (0.2, 0.6)}

    def measure(self, name, method, take):
        return Row(name, "C 1", *rows.get(name, (0.5, 0.5)), 0.0)

    monkeypatch.setattr(_Parts, "measure", measure)
    figures = probe(weights[0], ProbeConfig(others=("trees",)))
    assert figures.best_layer == 0
    assert figures.best_pixels is not None
    assert figures.best_pixels.name == "raw pixels, extra trees"
