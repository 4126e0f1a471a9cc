"""The probe as a whole: it finds the class in the features, and chooses nothing on held-out images."""

from dataclasses import replace

import numpy as np
import pytest

from igpt_jax import InputError
from igpt_jax.config import ProbeConfig
from igpt_jax.pretrained import Pretrained
from igpt_jax.probing import Method, Row, probe
from igpt_jax.probing.linear_probe import _around, _Bench, _draw_subset, _fold_accuracies
from tests.evaluation.made import PALETTE, Images, context, made

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 3, 160)
PICTURES = np.clip(RNG.normal(60, 20, (160, 8, 8, 1)) + 60 * CLASSES[:, None, None, None], 0, 255).astype(np.uint8)
TRAIN, HELD_OUT = Images(PICTURES[:120], CLASSES[:120]), Images(PICTURES[120:], CLASSES[120:])


@pytest.fixture
def weights(monkeypatch):
    """A model with random weights, whose run has these images; both halves can be replaced."""
    model, params = made()
    where = context(model, "ar")
    halves = {"train": TRAIN, "eval": HELD_OUT}

    def open_data(cfg, mesh, whole):
        return replace(where.data, train=halves["train"], held_out=halves["eval"], mesh=mesh)

    monkeypatch.setattr("igpt_jax.evaluation.context.open_data", open_data)
    return Pretrained(model, params, PALETTE, where.cfg, 3), halves


def test_all_rows_are_there_and_brightness_is_read_off(weights):
    figures = probe(weights[0], ProbeConfig(together=2, per_class=(1, 5), subsets=2))
    assert figures.images == {"train": 120, "held_out": 40}
    names = [row.name for row in figures.rows]
    few = [f"{what}, {n} labels a class" for n in (1, 5) for what in ("raw pixels", f"layer {figures.best_layer}")]
    neighbours = ["raw pixels, nearest neighbours", f"layer {figures.best_layer}, nearest neighbours"]
    assert names == ["raw pixels", "layer 0", "layer 1", "layers 0 1 together", *neighbours, *few]
    assert all(row.accuracy > 0.8 for row in figures.rows)
    first = figures.rows[0]
    assert first.error == pytest.approx(np.sqrt(first.accuracy * (1 - first.accuracy) / 40))
    best = figures.layers[figures.best_layer]
    assert best.validation == max(row.validation for row in figures.layers.values())


def test_nothing_is_chosen_on_held_out_images(weights):
    """Other held-out labels change the accuracies, and nothing else."""
    pretrained, halves = weights
    expected = probe(pretrained, ProbeConfig(neighbours=False))
    halves["eval"] = Images(HELD_OUT.images, (HELD_OUT.labels + 1) % 3)
    figures = probe(pretrained, ProbeConfig(neighbours=False))
    assert figures.best_layer == expected.best_layer
    assert [(r.setting, r.validation) for r in figures.rows] == [(r.setting, r.validation) for r in expected.rows]
    assert all(row.accuracy < 0.2 for row in figures.rows)


def test_one_class_and_too_few_images_are_refused(weights):
    pretrained, halves = weights
    with pytest.raises(InputError, match="100 labels a class, but class 0 has"):
        probe(pretrained, ProbeConfig(per_class=(100,)))
    halves["train"] = Images(TRAIN.images, np.zeros(120, int))
    with pytest.raises(InputError, match="have one class"):
        probe(pretrained)


def test_features_that_do_not_fit_into_memory_are_refused_before_they_are_read(weights, monkeypatch):
    needed = 160 * 2 * weights[0].config.model.d_model * 4  # images, layers, width, bytes
    monkeypatch.setattr("igpt_jax.probing.features.memory_of_the_host", lambda: needed - 1)
    with pytest.raises(InputError, match="name fewer --layers"):
        probe(weights[0], ProbeConfig(neighbours=False))
    monkeypatch.setattr("igpt_jax.probing.features.memory_of_the_host", lambda: needed)
    assert len(probe(weights[0], ProbeConfig(neighbours=False)).layers) == 2


def test_the_attentive_probe_is_of_the_best_layer_and_its_slots_must_fit_into_memory(weights, monkeypatch):
    settings = ProbeConfig(neighbours=False, attentive=True)
    monkeypatch.setattr("igpt_jax.probing.attentive.STEPS", 50)
    figures = probe(weights[0], settings)
    assert figures.rows[-1].name == f"layer {figures.best_layer}, attentive"
    assert figures.rows[-1].accuracy > 0.8
    model = weights[0].config.model
    needed = (2 * 120 + 40) * model.n_ctx * model.d_model * 4  # images, those of training twice; slots, width, bytes
    monkeypatch.setattr("igpt_jax.probing.features.memory_of_the_host", lambda: needed - 1)
    with pytest.raises(InputError, match=r"features of every slot .* take fewer --train-images"):
        probe(weights[0], settings)


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

    method = Method("x", (1.0,), fit)
    assert list(_fold_accuracies(method, x, y, 1.0, 4)) == [1.0] * 4
    assert sorted(tested) == list(range(12))


def test_the_best_layer_is_that_of_the_validation_images(weights, monkeypatch):
    """Though another is better on the held-out ones."""
    rows = {"layer 0": (0.9, 0.1), "layer 1": (0.8, 0.7)}

    def measure(self, name, method, take):
        return Row(name, "C 1", *rows.get(name, (0.5, 0.5)), 0.0)

    monkeypatch.setattr(_Bench, "measure", measure)
    assert probe(weights[0], ProbeConfig(neighbours=False)).best_layer == 0
