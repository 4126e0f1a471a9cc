"""Each loss is the one the paper defines, as numpy computes it; padding and missing labels are not seen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from igpt_jax import Config, ImageGPT, InputError, ModelConfig, Palette
from igpt_jax.config import MeshConfig, OptimConfig
from igpt_jax.keys import fold_in
from igpt_jax.objectives import MASKED, OBJECTIVES, draw_keep, headline, token_nats
from igpt_jax.parallel.mesh import make_mesh, put_batch
from igpt_jax.training.optimizer import make_optimizer
from igpt_jax.training.state import make_init, make_train_step
from tests.conftest import randomized

PALETTE = Palette.levels(16)


def images(n):
    return np.random.default_rng(1).integers(0, 256, (n, 8, 8, 1), np.uint8)


def keys(n, seed=0):
    return fold_in(jax.random.key(seed), np.arange(n))


def made(**cfg):
    model = ImageGPT(ModelConfig.preset("tiny", **cfg))
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64), np.int32))["params"]
    return model, randomized(params, 0.1)


def nats_of(logits, targets):
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]


def value(mean):
    return float(mean.total) / float(mean.weight)


def run(objective, *args):
    """(loss, means)."""
    terms = objective(*args)
    return terms.loss(), terms.means


def test_ar_against_numpy(tiny):
    model, params = tiny
    image = images(3)
    tokens = np.asarray(PALETTE.encode(image)).reshape(3, 64)
    logits = model.apply({"params": params}, tokens)
    nats = nats_of(logits, tokens)
    np.testing.assert_allclose(token_nats(logits, tokens), nats, atol=1e-5)
    loss, means = run(OBJECTIVES["ar"](model, PALETTE), params, {"image": image}, keys(3))
    np.testing.assert_allclose([loss, value(means["nats_per_token"])], nats.mean(), rtol=1e-6)


def test_bert_counts_blanked_tokens_alone_and_images_alike():
    model, params = made(causal=False)
    image = images(3)
    tokens = np.asarray(PALETTE.encode(image)).reshape(3, 64)
    keep = np.asarray(draw_keep(keys(3), 64))
    nats = nats_of(model.apply({"params": params}, tokens, keep), tokens)
    expected = np.mean([row[~k].mean() for row, k in zip(nats, keep)])
    blanked = (~keep).sum(1)
    assert len(set(blanked)) > 1  # so that a mean over all blanked tokens would be another number
    assert abs(nats[~keep].mean() - expected) > 1e-4
    loss, means = run(OBJECTIVES["bert"](model, PALETTE), params, {"image": image}, keys(3))
    np.testing.assert_allclose([loss, value(means["nats_per_masked_token"])], expected, rtol=1e-6)
    other, _ = run(OBJECTIVES["bert"](model, PALETTE), params, {"image": image}, keys(3, seed=1))
    assert abs(other - loss) > 1e-4  # another key, another mask


def test_bert_leaves_out_an_image_of_which_nothing_was_blanked(monkeypatch):
    model, params = made(causal=False)
    image = images(2)
    keep = np.ones((2, 64), bool)
    keep[1, ::7] = False
    monkeypatch.setattr("igpt_jax.objectives.draw_keep", lambda keys_B, n_ctx: jnp.asarray(keep))
    loss, _ = run(OBJECTIVES["bert"](model, PALETTE), params, {"image": image}, keys(2))
    tokens = np.asarray(PALETTE.encode(image)).reshape(2, 64)
    nats = nats_of(model.apply({"params": params}, tokens, keep), tokens)
    np.testing.assert_allclose(loss, nats[1][~keep[1]].mean(), rtol=1e-6)


def test_masks_blank_fifteen_in_a_hundred_each_image_with_its_own():
    keep = np.asarray(draw_keep(keys(400), 256))
    assert abs((~keep).mean() - MASKED) < 0.004  # 3.6 standard deviations of 102,400 draws
    assert 0.5 < (~keep).sum(1).std() / np.sqrt(256 * MASKED * (1 - MASKED)) < 1.5  # independent, no fixed number
    np.testing.assert_array_equal(keep[7], draw_keep(keys(400)[7:8], 256)[0])  # whatever the company
    assert (keep[0] != keep[1]).any()


@pytest.mark.parametrize("causal", [True, False])
def test_joint_is_the_sum_and_skips_images_without_a_label(causal):
    model, params = made(causal=causal, clf_classes=4)
    image, label = images(4), np.array([3, -1, 0, 1], np.int32)
    tokens = np.asarray(PALETTE.encode(image)).reshape(4, 64)
    keep = None if causal else draw_keep(keys(4), 64)
    _, classes = model.apply({"params": params}, tokens, keep, method="logits_and_classes")
    has = label >= 0
    clf = nats_of(np.asarray(classes)[has], label[has]).mean()
    gen, _ = run(OBJECTIVES["ar" if causal else "bert"](model, PALETTE), params, {"image": image}, keys(4))
    loss, means = run(OBJECTIVES["joint"](model, PALETTE), params, {"image": image, "label": label}, keys(4))
    np.testing.assert_allclose(value(means["clf_nats"]), clf, rtol=1e-5)
    np.testing.assert_allclose(value(means[headline(model.cfg)]), gen, rtol=1e-6)
    np.testing.assert_allclose(loss, gen + clf, rtol=1e-6)
    right = (np.asarray(classes).argmax(-1) == label)[has].mean()
    np.testing.assert_allclose(value(means["clf_accuracy"]), right, rtol=1e-6)


def test_fresh_joint_loss_is_ln_v_plus_ln_c():
    model = ImageGPT(ModelConfig.preset("tiny", clf_classes=4))
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64), np.int32))["params"]
    batch = {"image": images(2), "label": np.array([3, 0], np.int32)}
    loss, _ = run(OBJECTIVES["joint"](model, PALETTE), params, batch, keys(2))
    np.testing.assert_allclose(loss, np.log(16) + np.log(4), rtol=1e-6)


def test_a_class_conditional_model_is_told_the_label():
    model, params = made(cond_classes=4)
    ar = OBJECTIVES["ar"](model, PALETTE)
    image = images(2)
    tokens = np.asarray(PALETTE.encode(image)).reshape(2, 64)
    for label in ([0, 3], [-1, 2]):
        nats = nats_of(model.apply({"params": params}, tokens, class_B=np.array(label)), tokens)
        loss, _ = run(ar, params, {"image": image, "label": np.array(label, np.int32)}, keys(2))
        np.testing.assert_allclose(loss, nats.mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "cfg"),
    [("ar", {}), ("bert", {"causal": False}), ("joint", {"clf_classes": 4})],
    ids=["ar", "bert", "joint"],
)
def test_padding_rows_do_not_count(name, cfg):
    model, params = made(**cfg)
    objective, label = OBJECTIVES[name](model, PALETTE), np.array([1, 0, 3, 2], np.int32)
    image, weight = images(4), np.array([1, 1, 0, 0], np.float32)
    expected, means = run(objective, params, {"image": image[:2], "label": label[:2]}, keys(2))
    found, padded = run(objective, params, {"image": image, "label": label, "weight": weight}, keys(4))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for key in means:
        np.testing.assert_allclose(value(padded[key]), value(means[key]), rtol=1e-6)


def test_masks_depend_neither_on_microbatches_nor_on_the_mesh():
    """One BERT step, computed in one piece on one device, in parts, and on a mesh of all three axes."""
    model = ImageGPT(ModelConfig.preset("tiny", causal=False, n_layer=1))
    tx = make_optimizer(OptimConfig(lr=1e-2, schedule="constant"), 10)
    losses = []
    for mesh, parts in ((MeshConfig(1, 1, 1), 1), (MeshConfig(1, 1, 1), 2), (MeshConfig(2, 2, 2), 1)):
        devices = jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor]
        where = make_mesh(mesh, devices)
        init, abstract = make_init(model, tx, 0, False, where)
        objective = OBJECTIVES["bert"](model, PALETTE)
        step = make_train_step(objective, tx, seed=0, microbatches=parts, ema_decay=None, abstract=abstract, mesh=where)
        state = init()
        for _ in range(2):
            state, metrics = step(state, put_batch({"image": images(8)}, where))
        losses.append(float(metrics["nats_per_masked_token"]))
    np.testing.assert_allclose(losses, losses[0], rtol=2e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_with_unequal_labels_give_the_step_of_the_whole(parts):
    """Some parts hold no label at all; plain gradient descent, so that the parameters tell the gradient.

    The pass that weighs the terms over the whole batch leaves no product behind.
    """
    model = ImageGPT(ModelConfig.preset("tiny", n_layer=1, clf_classes=4))
    batch = {"image": images(8), "label": np.array([3, -1, -1, -1, 0, -1, 2, -1], np.int32)}
    objective, tx = OBJECTIVES["joint"](model, PALETTE), optax.sgd(1.0)
    where = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    init, abstract = make_init(model, tx, 0, False, where)
    ended, products = [], []
    for n in (1, parts):
        step = make_train_step(objective, tx, seed=0, microbatches=n, ema_decay=None, abstract=abstract, mesh=where)
        products.append(step.lower(abstract, put_batch(batch, where)).as_text().count("dot_general"))
        ended.append(step(init(), put_batch(batch, where)))
    assert products[0] == products[1]
    (whole, metrics), (summed, metrics_of_parts) = ended
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, summed.params)
    assert metrics_of_parts == {name: pytest.approx(x, rel=1e-5) for name, x in jax.device_get(metrics).items()}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"objective": "bert"}, "model.causal"),
        ({"model": ModelConfig.preset("tiny", causal=False)}, "model.causal"),
        ({"objective": "joint"}, "model.clf_classes"),
        ({"model": ModelConfig.preset("tiny", clf_classes=3)}, "model.clf_classes"),
        ({"objective": "joint", "model": ModelConfig.preset("tiny", clf_classes=3, cond_classes=3)}, "cond_classes"),
    ],
)
def test_an_objective_that_does_not_fit_the_model_is_named(changes, named):
    with pytest.raises(InputError, match=named):
        dataclasses.replace(Config(), **changes)
