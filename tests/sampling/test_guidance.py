"""Guidance: the rule against two separate passes, its two ends, and what refuses it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import Palette, SamplerConfig, complete, sample
from igpt_jax.rules import guided
from igpt_jax.sampling.tasks import draw_classes
from tests.evaluation.made import made

PALETTE = Palette.levels(16)


@pytest.fixture(scope="module")
def model():
    return made(scale=0.5, cond_classes=3)


def drawn(model, classes, n=6, **settings):
    return sample(*model, PALETTE, n, sampler=SamplerConfig(**settings), classes=classes)


def test_the_rule_by_hand():
    logits = jnp.array([[1.0, 2.0], [0.0, 4.0], [5.0, 1.0], [5.0, 2.0]])
    np.testing.assert_allclose(guided(logits, 2.0), [[2, 0], [2, 0], [5, 0], [5, 0]])


def test_one_is_the_model_and_zero_is_without_a_class(model):
    classes = np.array([0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(drawn(model, classes), drawn(model, classes, guidance=1.0))
    np.testing.assert_array_equal(drawn(model, classes, guidance=0.0), drawn(model, -1))
    assert (drawn(model, classes, guidance=0.0) != drawn(model, classes)).any()


def test_every_pixel_follows_the_guided_logits(model):
    """At temperature 0 each is the largest of the rule's logits, of two passes over the whole picture."""
    classes = np.array([2, 0, 1])
    images = drawn(model, classes, 3, guidance=2.5, temperature=0.0, batch_size=2)
    tokens = np.asarray(PALETTE.encode(images)).reshape(3, 64)
    run = jax.jit(lambda c: model[0].apply({"params": model[1]}, tokens, class_B=c))
    own, without = run(classes), run(np.full(3, -1))
    np.testing.assert_array_equal(np.argmax(without + 2.5 * (own - without), axis=-1), tokens)
    assert (np.argmax(own, axis=-1) != tokens).any()


def test_completions_are_guided_too(model):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)
    options = [SamplerConfig(guidance=g, temperature=0.0) for g in (0.0, 1.0, 4.0)]
    plain = complete(*model, PALETTE, images, classes=-1, sampler=options[1])
    parts = [complete(*model, PALETTE, images, classes=1, sampler=s) for s in options]
    np.testing.assert_array_equal(parts[0], plain)
    assert (parts[1] != parts[2]).any()
    for part in parts:
        np.testing.assert_array_equal(part[:, :, :4], parts[0][:, :, :4])


def test_classes_are_drawn_as_often_as_they_were_trained_on(model):
    cfg = model[0].cfg
    classes = draw_classes(cfg, 3000, 5, (10, 0, 30))
    assert set(classes) == {0, 2}
    assert 0.22 < (classes == 0).mean() < 0.28
    np.testing.assert_array_equal(draw_classes(cfg, 10, 5, (10, 0, 30)), classes[:10])
    alike = np.bincount(draw_classes(cfg, 3000, 5), minlength=3) / 3000
    assert np.abs(alike - 1 / 3).max() < 0.04
    np.testing.assert_array_equal(drawn(model, None), drawn(model, draw_classes(cfg, 6, 0)))
