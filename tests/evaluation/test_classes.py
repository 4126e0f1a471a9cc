"""Accuracy counts every labelled image once; a BERT model's answer is the vote of five masked passes."""

import jax
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig, Palette
from igpt_jax.config import MeshConfig
from igpt_jax.evaluation.classes import Accuracy, majority, make_classifier
from igpt_jax.evaluation.likelihood import Likelihood, eval_keys
from igpt_jax.keys import fold_in
from igpt_jax.objectives import draw_keep, make_bert, stream
from igpt_jax.parallel.mesh import make_mesh
from tests.conftest import randomized

PALETTE = Palette.levels(16)
IMAGES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1), np.uint8)
LABELS = np.array([0, 1, 2, 3, 0, 1, -1, 3, 0, -1, 2], np.int32)


def made(**cfg):
    model = ImageGPT(ModelConfig.preset("tiny", n_layer=1, **cfg))
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64), np.int32))["params"]
    return model, randomized(params, 0.3)


def batches(size):
    """Batches of `size`; the last is filled up with zeros that have a label but no weight."""
    for lo in range(0, len(IMAGES), size):
        n = len(IMAGES[lo : lo + size])
        pad = [(0, size - n)]
        yield {
            "image": np.pad(IMAGES[lo : lo + size], pad + [(0, 0)] * 3),
            "label": np.pad(LABELS[lo : lo + size], pad),
            "weight": (np.arange(size) < n).astype(np.float32),
        }


def test_the_majority_wins():
    named_MB = np.array([[2, 0, 1], [2, 1, 3], [0, 1, 3]])
    keys = fold_in(jax.random.key(0), np.arange(3))
    np.testing.assert_array_equal(majority(named_MB, 4, keys), [2, 1, 3])


def test_a_tie_is_broken_at_random_among_the_tied():
    keys = fold_in(jax.random.key(0), np.arange(300))
    named = np.broadcast_to(np.array([2, 2, 0, 0, 1])[:, None], (5, 300))
    won = np.asarray(majority(named, 4, keys))
    assert set(won) == {0, 2}
    assert 100 < (won == 0).sum() < 200


def test_accuracy_of_a_causal_model():
    model, params = made(clf_classes=4)
    tokens = np.asarray(PALETTE.encode(IMAGES)).reshape(11, 64)
    _, classes = model.apply({"params": params}, tokens, method="logits_and_classes")
    has = LABELS >= 0
    expected = (np.asarray(classes).argmax(-1) == LABELS)[has].mean()
    assert 0 < expected < 1
    for size, mesh in ((8, MeshConfig()), (2, MeshConfig(1, 1, 1))):
        where = make_mesh(mesh, jax.devices()[: 8 if mesh.data == -1 else 1])
        found = dict(Accuracy(model, PALETTE, lambda size=size: batches(size), where).run(params, 0))
        assert found["accuracy"] == pytest.approx(expected)


def test_a_bert_model_votes_over_five_masks_whatever_the_batch():
    model, params = made(causal=False, clf_classes=4)
    tokens = np.asarray(PALETTE.encode(IMAGES)).reshape(11, 64)
    keys = eval_keys(stream(0, "eval"), 0, 11, 0)
    votes = np.zeros((11, 4), int)
    for mask in range(5):
        keep = draw_keep(jax.vmap(jax.random.fold_in, (0, None))(keys, mask), 64)
        _, classes = model.apply({"params": params}, tokens, keep, method="logits_and_classes")
        votes[np.arange(11), np.asarray(classes).argmax(-1)] += 1
    assert (votes.max(1) < 5).any()  # the masks do not all agree, so one alone would not do
    named = np.asarray(jax.jit(make_classifier(model))(params, tokens, keys))
    assert (votes[np.arange(11), named] == votes.max(1)).all()
    expected = (named == LABELS)[LABELS >= 0].mean()
    for size in (8, 2):
        where = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
        found = dict(Accuracy(model, PALETTE, lambda size=size: batches(size), where).run(params, 0))
        assert found["accuracy"] == pytest.approx(expected)


def test_bert_likelihood_averages_over_masks_whatever_the_batch():
    model, params = made(causal=False)
    objective, where = make_bert(model, PALETTE), make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    keys = [eval_keys(stream(0, "eval"), 0, 11, i) for i in range(5)]
    single = [float(objective(params, {"image": IMAGES}, each).loss()) for each in keys]
    assert np.ptp(single) > 1e-3
    for size in (11, 4):
        run = Likelihood(objective, lambda size=size: batches(size), where, draws=5).run(params, 0)
        assert dict(run)["nats_per_masked_token"] == pytest.approx(np.mean(single), rel=1e-5)


def test_without_labels_or_a_head_there_is_no_accuracy():
    with pytest.raises(InputError, match="no classification head"):
        make_classifier(made()[0])
    model, params = made(clf_classes=4)
    unlabelled = [{**batch, "label": np.full(8, -1, np.int32)} for batch in batches(8)]
    with pytest.raises(InputError, match="no held-out image has a label"):
        dict(Accuracy(model, PALETTE, lambda: unlabelled, make_mesh(MeshConfig())).run(params, 0))
