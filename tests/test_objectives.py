"""Each loss is the one the paper defines, as numpy computes it; padding and missing labels are not seen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from igpt_jax import Config, ImageGPT, ModelConfig, Palette
from igpt_jax.config import DataConfig, MeshConfig, OptimConfig, TrainConfig
from igpt_jax.keys import fold_in
from igpt_jax.objectives import drop_classes, make_objective, token_nats
from igpt_jax.objectives.bert import MASKED, draw_visible
from igpt_jax.parallel.mesh import make_mesh, put_batch
from igpt_jax.sequence import patch_side, patches, raster_inputs, surroundings, window_side
from igpt_jax.training.optimizer import make_optimizer
from igpt_jax.training.step import make_init, make_program, make_train_step
from tests.data.made import refused
from tests.model.made import made as made_with_noise
from tests.model.made import run as apply

PALETTE = Palette.levels(16)


def images(n):
    return np.random.default_rng(1).integers(0, 256, (n, 8, 8, 1), np.uint8)


def keys(n, seed=0):
    return fold_in(jax.random.key(seed), np.arange(n))


made = functools.partial(made_with_noise, 0.1)


def nats_of(logits, targets):
    logits = np.asarray(logits, np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]


def value(mean):
    return float(mean.value)


def run(name, model, params, batch, keys_B):
    """(loss, means)."""
    objective = make_objective(Config(objective=name, model=model.cfg), PALETTE)

    @jax.jit
    def scored(params, batch, keys_B):
        return objective.score(model, params, objective.example(batch, keys_B), objective.loss_name).summed

    scores = scored(params, batch, keys_B)
    assert set(scores.each) == set(objective.figures)
    return scores.loss, scores.each


def test_ar_against_numpy(tiny):
    model, params = tiny
    image = images(3)
    tokens = np.asarray(PALETTE.encode(image)).reshape(3, 64)
    logits = apply(model, {"params": params}, tokens)
    nats = nats_of(logits, tokens)
    np.testing.assert_allclose(token_nats(logits, tokens), nats, atol=1e-5)
    loss, means = run("ar", model, params, {"image": image}, keys(3))
    np.testing.assert_allclose([loss, value(means["nats_per_token"])], nats.mean(), rtol=1e-6)


def test_bert_counts_blanked_tokens_alone_and_images_alike():
    model, params = made(causal=False)
    image = images(3)
    tokens = np.asarray(PALETTE.encode(image)).reshape(3, 64)
    visible = np.asarray(draw_visible(keys(3), 64))
    nats = nats_of(apply(model, {"params": params}, tokens, visible), tokens)
    expected = np.mean([row[~k].mean() for row, k in zip(nats, visible)])
    blanked = (~visible).sum(1)
    assert len(set(blanked)) > 1  # so that a mean over all blanked tokens would be another number
    assert abs(nats[~visible].mean() - expected) > 1e-4
    loss, means = run("bert", model, params, {"image": image}, keys(3))
    np.testing.assert_allclose([loss, value(means["nats_per_masked_token"])], expected, rtol=1e-6)
    other, _ = run("bert", model, params, {"image": image}, keys(3, seed=1))
    assert abs(other - loss) > 1e-4  # another key, another mask


def test_bert_leaves_out_an_image_of_which_nothing_was_blanked(monkeypatch):
    model, params = made(causal=False)
    image = images(2)
    visible = np.ones((2, 64), bool)
    visible[1, ::7] = False
    monkeypatch.setattr("igpt_jax.objectives.bert.draw_visible", lambda keys_B, n_ctx: jnp.asarray(visible))
    loss, _ = run("bert", model, params, {"image": image}, keys(2))
    tokens = np.asarray(PALETTE.encode(image)).reshape(2, 64)
    nats = nats_of(apply(model, {"params": params}, tokens, visible), tokens)
    np.testing.assert_allclose(loss, nats[1][~visible[1]].mean(), rtol=1e-6)


def test_masks_blank_fifteen_in_a_hundred_each_image_with_its_own():
    visible = np.asarray(draw_visible(keys(400), 256))
    assert abs((~visible).mean() - MASKED) < 0.004  # 3.6 standard deviations of 102,400 draws
    assert 0.5 < (~visible).sum(1).std() / np.sqrt(256 * MASKED * (1 - MASKED)) < 1.5  # independent, no fixed number
    np.testing.assert_array_equal(visible[7], draw_visible(keys(400)[7:8], 256)[0])  # alone or among others
    assert (visible[0] != visible[1]).any()


@pytest.mark.parametrize("causal", [True, False])
def test_joint_is_the_sum_and_skips_images_without_a_label(causal):
    model, params = made(causal=causal, clf_classes=4, clf_layer=None if causal else 1)
    headless = ImageGPT(dataclasses.replace(model.cfg, clf_classes=0, clf_layer=None))
    headless_params = {name: x for name, x in params.items() if name != "clf"}
    image, label = images(4), np.array([3, -1, 0, 1], np.int32)
    tokens = np.asarray(PALETTE.encode(image)).reshape(4, 64)
    visible = None if causal else draw_visible(keys(4), 64)
    _, classes = apply(model, {"params": params}, tokens, visible, method="logits_and_classes")
    has = label >= 0
    clf = nats_of(np.asarray(classes)[has], label[has]).mean()
    gen, _ = run("ar" if causal else "bert", headless, headless_params, {"image": image}, keys(4))
    loss, means = run("joint", model, params, {"image": image, "label": label}, keys(4))
    np.testing.assert_allclose(value(means["clf_nats"]), clf, rtol=1e-5)
    np.testing.assert_allclose(value(means["nats_per_token" if causal else "nats_per_masked_token"]), gen, rtol=1e-6)
    np.testing.assert_allclose(loss, gen + clf, rtol=1e-6)
    right = (np.asarray(classes).argmax(-1) == label)[has].mean()
    np.testing.assert_allclose(value(means["clf_accuracy"]), right, rtol=1e-6)


def test_a_class_conditional_model_is_told_the_label():
    model, params = made(cond_classes=4)
    image = images(2)
    tokens = np.asarray(PALETTE.encode(image)).reshape(2, 64)
    for label in ([0, 3], [-1, 2]):
        nats = nats_of(apply(model, {"params": params}, tokens, class_B=np.array(label)), tokens)
        loss, _ = run("ar", model, params, {"image": image, "label": np.array(label, np.int32)}, keys(2))
        np.testing.assert_allclose(loss, nats.mean(), rtol=1e-6)


def test_a_share_of_the_classes_is_dropped():
    """Image by image, from its own key."""
    model, _ = made(cond_classes=4)
    label = np.arange(2000, dtype=np.int32) % 4
    batch = {"image": np.zeros((2000, 8, 8, 1), np.uint8), "label": label}
    example = make_objective(Config(model=model.cfg), PALETTE).example(batch, keys(2000))
    given = np.asarray(drop_classes(example, keys(2000), 0.3).inputs.class_id)
    dropped = given == -1
    assert 0.26 < dropped.mean() < 0.34
    own = np.asarray(jax.vmap(lambda key: jax.random.bernoulli(key, 0.3))(keys(2000)))  # what an objective may draw
    assert 0.05 < (dropped & own).mean() < 0.13
    np.testing.assert_array_equal(given[~dropped], label[~dropped])
    alone = drop_classes(jax.tree.map(lambda x: x[5:9] if len(x) == 2000 else x, example), keys(2000)[5:9], 0.3)
    np.testing.assert_array_equal(alone.inputs.class_id, given[5:9])
    unconditional = example._replace(inputs=example.inputs._replace(class_id=None))
    assert drop_classes(unconditional, keys(2000), 0.3) is unconditional


@pytest.mark.parametrize(("share", "learned"), [(0.0, True), (0.9999, False)])
def test_a_class_that_is_not_told_is_not_learned(share, learned):
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    model = ModelConfig.preset("tiny", n_layer=1, cond_classes=4)
    init, step = make_step(Config(model=model, class_dropout=share), mesh, optax.sgd(1.0))
    state = init()
    for _ in range(2):  # in the first, the output table is zero
        state, _ = step(state, put_batch({"image": images(8), "label": np.arange(8, dtype=np.int32) % 4}, mesh))
    assert bool(np.asarray(state.params["class_table"]).any()) == learned


@pytest.mark.parametrize(
    ("name", "cfg"),
    [("ar", {}), ("bert", {"causal": False}), ("joint", {"clf_classes": 4})],
    ids=["ar", "bert", "joint"],
)
def test_padding_rows_do_not_count(name, cfg):
    model, params = made(**cfg)
    label = np.array([1, 0, 3, 2], np.int32)
    image, weight = images(4), np.array([1, 1, 0, 0], np.float32)
    expected, means = run(name, model, params, {"image": image[:2], "label": label[:2]}, keys(2))
    loss, padded = run(name, model, params, {"image": image, "label": label, "weight": weight}, keys(4))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for key in means:
        np.testing.assert_allclose(value(padded[key]), value(means[key]), rtol=1e-6)


@pytest.mark.parametrize(("name", "cfg"), [("any_order", {"any_order": True}), ("ardm", {"causal": False})])
def test_holes_are_drawn_of_pictures_only(name, cfg):
    """Not of clips, for which inpainting is not made."""
    for grid, drawn in (((8, 8), True), ((2, 8, 8), False)):
        model = ModelConfig.preset("tiny", grid=grid, **cfg)
        pictures = make_objective(Config(objective=name, model=model), PALETTE).pictures
        assert ("inpaintings" in pictures) == drawn


RESTORE = {"prefix_slots": 16, "prefix_values": 4, "aligned_values": 9}


def test_restoration_reads_the_damaged_pixels_and_is_scored_on_the_clean_ones():
    """The prefix against numpy: patches of 2 x 2 in raster order, unrounded; then the loss given that."""
    model, params = made(**RESTORE)
    clean, damaged = images(3), np.random.default_rng(2).integers(0, 256, (3, 8, 8, 1), np.uint8)
    batch = {"image": clean, "degraded": damaged, "weight": np.array([1, 1, 0], np.float32)}
    prefix = np.stack(
        [damaged[:, y : y + 2, x : x + 2].reshape(3, 4) for y in range(0, 8, 2) for x in range(0, 8, 2)], axis=1
    )
    prefix = prefix / np.float32(127.5) - 1
    example = make_objective(Config(objective="restore", model=model.cfg), PALETTE).example(batch, keys(3))
    np.testing.assert_allclose(example.inputs.prefix, prefix, atol=1e-6)  # XLA multiplies by 1 / 127.5
    tokens = np.asarray(PALETTE.encode(clean)).reshape(3, 64)
    np.testing.assert_array_equal(example.labels, tokens)
    picture = {"prefix": prefix, "aligned": surroundings(damaged, 3)}
    logits = apply(model, {"params": params}, raster_inputs(jnp.asarray(tokens))._replace(**picture))
    loss, means = run("restore", model, params, batch, keys(3))
    np.testing.assert_allclose([loss, value(means["nats_per_token"])], nats_of(logits, tokens)[:2].mean(), rtol=1e-6)


def test_windows_around_pixels_end_with_the_edge_of_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    around = np.asarray(surroundings(picture, 3)).reshape(2, 4, 5, 3, 3, 3)
    padded = np.pad(picture, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    for y in range(4):
        for x in range(5):
            np.testing.assert_allclose(around[:, y, x], padded[:, y : y + 3, x : x + 3] / 127.5 - 1, atol=1e-6)
    assert window_side(ModelConfig(grid=(4, 5), aligned_values=27), 3) == 3


def test_patches_of_colours_hold_pixel_after_pixel():
    picture = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(1, 4, 4, 3)
    second = [*range(6, 12), *range(18, 24)]  # columns 2 and 3 of the first two rows
    np.testing.assert_allclose(patches(picture, 2)[0, 1], np.array(second) / 127.5 - 1, rtol=1e-6)
    whole = ModelConfig(grid=(4, 4), prefix_slots=1, prefix_values=48)
    assert (patch_side(whole, 3), patches(picture, 4).shape) == (4, (1, 1, 48))


@pytest.mark.parametrize(
    ("objective", "prefix", "degrade", "named"),
    [
        ("restore", RESTORE, (), "data.degrade: is empty; this objective needs a degradation"),
        ("ar", {}, ("blur",), "data.degrade: objective 'ar' does not read degraded images"),
        ("restore", {}, ("blur",), "reads no degraded picture; set it to 49"),
        ("restore", {"aligned_values": 16}, ("blur",), "model.aligned_values: 16 is no square window of an odd side"),
        ("restore", {"prefix_slots": 16, "prefix_values": 12}, ("blur",), "16 slots of 12 values hold no picture"),
        ("restore", {"prefix_slots": 7, "prefix_values": 9}, ("blur",), "hold no picture of grid .8, 8."),
    ],
)
def test_damage_objective_and_prefix_go_together(objective, prefix, degrade, named):
    model = ModelConfig.preset("tiny", **prefix)
    cfg = Config(objective=objective, model=model, data=DataConfig(channels=1, degrade=degrade))
    refused(named, make_program, cfg, PALETTE, make_mesh(MeshConfig()))


def make_step(cfg, mesh, tx=None):
    model = ImageGPT(cfg.model)
    tx = tx or make_optimizer(cfg.optim, cfg.train.steps)
    init, abstract = make_init(model, tx, cfg, mesh)
    objective = make_objective(cfg, PALETTE)
    return init, make_train_step(model, objective, tx, cfg, abstract, mesh)


def test_masks_depend_neither_on_microbatches_nor_on_the_mesh():
    """One BERT step, computed in one piece on one device, in parts, and on a mesh of all three axes."""
    model = ModelConfig.preset("tiny", causal=False, n_layer=1)
    losses = []
    for sizes, parts in ((MeshConfig(1, 1, 1), 1), (MeshConfig(1, 1, 1), 2), (MeshConfig(2, 2, 2), 1)):
        mesh = make_mesh(sizes, jax.devices()[: sizes.data * sizes.fsdp * sizes.tensor])
        train = TrainConfig(steps=10, microbatches=parts)
        optim = OptimConfig(lr=1e-2, schedule="constant")
        init, step = make_step(Config(objective="bert", model=model, optim=optim, train=train), mesh)
        state = init()
        for _ in range(2):
            state, metrics = step(state, put_batch({"image": images(8)}, mesh))
        losses.append(float(metrics["nats_per_masked_token"]))
    np.testing.assert_allclose(losses, losses[0], rtol=2e-5)


def test_parts_of_a_batch_with_unequal_labels_give_the_step_of_the_whole():
    """Some parts hold no label at all; plain gradient descent, so that the parameters tell the gradient."""
    batch = {"image": images(8), "label": np.array([3, -1, -1, -1, 0, -1, 2, -1], np.int32)}
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    results = []
    for n in (1, 4):
        model = ModelConfig.preset("tiny", n_layer=1, clf_classes=4)
        cfg = Config(objective="joint", model=model, train=TrainConfig(microbatches=n))
        init, step = make_step(cfg, mesh, optax.sgd(1.0))
        results.append(step(init(), put_batch(batch, mesh)))
    (whole, metrics), (summed, metrics_of_parts) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, summed.params)
    assert metrics_of_parts == {name: pytest.approx(x, rel=1e-5) for name, x in jax.device_get(metrics).items()}


@pytest.mark.parametrize(
    ("name", "model", "reason"),
    [
        ("bert", {}, "model.causal"),
        ("ar", {"causal": False}, "model.causal"),
        ("joint", {}, "model.clf_classes"),
        ("ar", {"clf_classes": 3}, "model.clf_classes"),
        ("joint", {"clf_classes": 3, "cond_classes": 3}, "cond_classes"),
        ("bart", {}, "must be one of ar, .*; got 'bart'; did you mean 'bert'"),
    ],
)
def test_an_objective_that_does_not_fit_the_model_is_named(name, model, reason):
    refused(reason, make_objective, Config(objective=name, model=ModelConfig.preset("tiny", **model)), PALETTE)
