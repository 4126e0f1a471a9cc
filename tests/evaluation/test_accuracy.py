"""Accuracy counts every labelled image once, by the vote of five masked passes or by Bayes' rule."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig, Palette
from igpt_jax.config import MeshConfig
from igpt_jax.evaluation import Evaluators
from igpt_jax.evaluation.base import image_keys
from igpt_jax.evaluation.likelihood import majority, make_accuracy, make_bayes
from igpt_jax.evaluation.orders import make_orders
from igpt_jax.keys import fold_in
from igpt_jax.objectives.bert import draw_visible
from tests.conftest import randomized
from tests.evaluation.made import IMAGES, LABELS, ONE_DEVICE, PALETTE, Images, context, made, means

TOKENS = np.asarray(PALETTE.encode(IMAGES)).reshape(11, 64)


def test_the_majority_wins():
    classes_MB = np.array([[2, 0, 1], [2, 1, 3], [0, 1, 3]])
    keys = fold_in(jax.random.key(0), np.arange(3))
    np.testing.assert_array_equal(majority(classes_MB, 4, keys), [2, 1, 3])


def test_a_tie_is_broken_at_random_among_the_tied():
    keys = fold_in(jax.random.key(0), np.arange(300))
    classes = np.broadcast_to(np.array([2, 2, 0, 0, 1])[:, None], (5, 300))
    winners = np.asarray(majority(classes, 4, keys))
    assert set(winners) == {0, 2}
    assert 100 < (winners == 0).sum() < 200


def test_accuracy_of_a_causal_model():
    model, params = made(clf_classes=4)
    _, classes = model.apply({"params": params}, TOKENS, method="logits_and_classes")
    expected = (np.asarray(classes).argmax(-1) == LABELS)[LABELS >= 0].mean()
    assert 0 < expected < 1
    for size, mesh in ((8, MeshConfig()), (2, ONE_DEVICE)):
        measured = dict(Evaluators(context(model, "joint", size, mesh)).run(params, 0))
        assert measured["accuracy"] == measured["clf_accuracy"] == pytest.approx(expected)
        assert measured["accuracy_se"] == pytest.approx(np.sqrt(expected * (1 - expected) / 8))  # of 9 labelled images


def test_a_bert_model_votes_over_five_masks_whatever_the_batch_size():
    model, params = made(causal=False, clf_classes=4)
    image = fold_in(image_keys(context(model, "joint"), 0, 11), 0)
    keys = [fold_in(image, i) for i in range(6)]  # the sixth breaks ties

    @jax.jit
    def vote(clf):
        visible = [draw_visible(key, 64) for key in keys[:5]]
        logits = [
            model.apply({"params": params | {"clf": clf}}, TOKENS, v, method="logits_and_classes") for v in visible
        ]
        classes_MB = jnp.stack([jnp.argmax(classes, axis=-1) for _, classes in logits])
        return classes_MB, majority(classes_MB, 4, keys[5])

    for seed in range(30):  # until a head is drawn for which one mask would not do
        clf = jax.random.normal(jax.random.key(seed), (4, 32))
        classes_MB, winners = (np.asarray(x) for x in vote(clf - clf.mean(0)[None]))
        if (classes_MB[0] != winners).any():
            break
    else:
        pytest.fail("one mask would do for every head")
    params = params | {"clf": clf - clf.mean(0)[None]}
    for size in (11, 4):
        agree = context(model, "joint", size, images=Images(labels=winners))
        assert means(make_accuracy, agree, params)["accuracy"] == 1
        others = context(model, "joint", size, images=Images(labels=(winners + (np.arange(11) % 4 == 0)) % 4))
        assert means(make_accuracy, others, params)["accuracy"] == pytest.approx(8 / 11)


def test_without_labels_there_is_no_accuracy(caplog):
    model, params = made(clf_classes=4)
    unlabelled = Images(IMAGES, np.full(11, -1))
    figures = Evaluators(context(model, "joint", images=unlabelled)).measure(params)
    assert list(figures.model) == ["nats_per_token"]
    assert "accuracy is not measured: it counts none of the held-out images" in caplog.text


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (make_bayes, "bayes: this model reads no classes"),
        (make_orders, "orders: this model reads images in raster order only"),
    ],
)
def test_an_evaluator_that_does_not_fit_the_model_is_refused(make, why):
    with pytest.raises(InputError, match=why):
        make(context(made()[0], "ar"))


class OfThree(Images):
    class_names = tuple("abc")


def test_bayes_is_that_of_the_enumeration_whatever_the_batches_and_the_mesh():
    """Of all 81 pictures of 2 x 2 pixels in 3 colours; the prior is that of the training images."""
    model = ImageGPT(ModelConfig(grid=(2, 2), vocab_size=3, n_layer=1, n_head=2, d_model=16, cond_classes=3))
    tokens, palette = np.array(list(itertools.product(range(3), repeat=4))), Palette.levels(3)
    params = randomized(jax.jit(model.init)(jax.random.key(0), tokens)["params"], 0.5)
    labels, pictures = np.random.default_rng(0).integers(-1, 3, 81), palette.decode(tokens.reshape(-1, 2, 2))

    def measure(labels, mesh=ONE_DEVICE, batch_size=8):
        where = context(model, "ar", batch_size, mesh, OfThree(np.asarray(pictures), labels), palette)
        train = OfThree(np.asarray(pictures)[:9], np.array([0, 0, 0, 0, 0, 1, 2, 2, 2]))
        where = replace(where, data=replace(where.data, train=train))
        return dict(Evaluators(where, ["bayes"]).run(params, 0))

    log_p = jax.jit(lambda class_B: jax.nn.log_softmax(model.apply({"params": params}, tokens, class_B=class_B)))
    log_p_of_slots = np.stack([np.asarray(log_p(np.full(81, c)), np.float64) for c in range(3)])
    log_p_of_class = np.take_along_axis(log_p_of_slots, tokens[None, ..., None], -1)[..., 0].sum(axis=2)
    assert np.exp(log_p_of_class).sum(axis=1) == pytest.approx([1, 1, 1], rel=1e-5)
    joint = log_p_of_class + np.log(np.array([5, 1, 3]) / 9)[:, None]
    mixture, named = np.exp(joint).sum(axis=0), joint.argmax(axis=0)
    assert mixture.sum() == pytest.approx(1, rel=1e-5)
    correct = (named == labels)[labels >= 0]
    measured = measure(labels)
    assert measured["bayes_accuracy"] == pytest.approx(correct.mean())
    assert measured["bayes_accuracy_se"] == pytest.approx(correct.std(ddof=1) / np.sqrt(len(correct)))
    assert measured["marginal_nats"] == pytest.approx(-np.log(mixture).mean() / 4, rel=1e-5)
    assert measure(labels, MeshConfig(2, 2, 2)) == pytest.approx(measured, rel=1e-5)
    at_once = measure(named, batch_size=100)
    assert at_once["bayes_accuracy"] == 1
    assert at_once["marginal_nats"] == pytest.approx(measured["marginal_nats"], rel=1e-5)
