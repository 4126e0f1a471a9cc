"""The decoder against a second one written in numpy: AR and BERT, and the heads that are read off it."""

import functools

import numpy as np
import pytest

from igpt_jax.model import init_cache
from igpt_jax.sequence import raster_inputs
from tests.data.made import refused
from tests.model.made import made as made_with_noise
from tests.model.made import run
from tests.model.numpy_forward import forward

ATOL = 1e-5


def tokens_of(model, batch=2):
    return np.random.default_rng(3).integers(0, model.cfg.vocab_size, (batch, model.cfg.n_ctx))


made = functools.partial(made_with_noise, 0.1)


@pytest.mark.parametrize("attention", ["reference", "chunked"])
def test_ar(attention):
    model, params = made(attention=attention)
    x = tokens_of(model)
    logits = run(model, {"params": params}, x)
    expected, _ = forward(params, model.cfg, x)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits, expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("attention", ["reference", "chunked"])
def test_bert(attention):
    model, params = made(causal=False, attention=attention)
    assert "sos" not in params
    x, keep = tokens_of(model), np.random.default_rng(5).random((2, 64)) > 0.15
    expected, _ = forward(params, model.cfg, x, keep)
    np.testing.assert_allclose(run(model, {"params": params}, x, keep), expected, atol=ATOL, rtol=0)
    everything, _ = forward(params, model.cfg, x)
    np.testing.assert_allclose(run(model, {"params": params}, x), everything, atol=ATOL, rtol=0)
    assert np.abs(everything - expected).max() > 0.1  # the mask was not ignored


def test_a_blanked_token_is_not_seen():
    model, params = made(causal=False)
    x, keep = tokens_of(model, 1), np.ones((1, 64), bool)
    keep[0, 20] = False
    other = x.copy()
    other[0, 20] = (other[0, 20] + 1) % model.cfg.vocab_size
    np.testing.assert_array_equal(run(model, {"params": params}, x, keep), run(model, {"params": params}, other, keep))
    seen = run(model, {"params": params}, x) - run(model, {"params": params}, other)
    assert (np.abs(seen).max(-1) > 0).all()  # and a token that is kept is seen from everywhere, before it too


@pytest.mark.parametrize("causal", [True, False])
def test_class_head_reads_the_mean_of_the_final_normed_states(causal):
    model, params = made(causal=causal, clf_classes=5)
    x, keep = tokens_of(model), None if causal else np.random.default_rng(5).random((2, 64)) > 0.15
    logits, classes = run(model, {"params": params}, x, keep, method="logits_and_classes")
    expected, states = forward(params, model.cfg, x, keep)
    np.testing.assert_allclose(logits, expected, atol=ATOL, rtol=0)
    np.testing.assert_allclose(classes, states.mean(1) @ np.asarray(params["clf"]).T, atol=ATOL, rtol=0)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_class_head_may_read_what_a_block_reads(layer):
    """The same features as a probe's, from the same pass; the tokens are predicted as before."""
    model, params = made(clf_classes=5, clf_layer=layer)
    x = tokens_of(model)
    logits, classes = run(model, {"params": params}, x, method="logits_and_classes")
    features = run(model, {"params": params}, x, method="features")
    np.testing.assert_allclose(classes, features[layer] @ np.asarray(params["clf"]).T, atol=ATOL, rtol=0)
    np.testing.assert_allclose(logits, run(model, {"params": params}, x), atol=ATOL, rtol=0)


def test_a_class_is_a_vector_added_to_the_start():
    model, params = made(cond_classes=3)
    x = tokens_of(model, 3)
    logits = run(model, {"params": params}, x, class_B=np.array([2, -1, 0]))
    for row, shift in enumerate([params["class_table"][2], 0, params["class_table"][0]]):
        expected, _ = forward(params | {"sos": params["sos"] + shift}, model.cfg, x[row : row + 1])
        np.testing.assert_allclose(logits[row : row + 1], expected, atol=ATOL, rtol=0)
    without = run(model, {"params": params}, x)  # no class at all: the start vector alone
    np.testing.assert_allclose(without[1], logits[1], atol=ATOL)


def test_arguments_for_another_kind_of_model_are_refused():
    model, params = made()
    bert, bert_params = made(causal=False)
    x, keep, classes = tokens_of(model), np.ones((2, 64), bool), np.array([0, 0])
    refused("visible_BT", model.apply, {"params": params}, x, keep)
    refused("not made for classes", model.apply, {"params": params}, x, class_B=classes)
    refused("no classification head", model.apply, {"params": params}, x, method="logits_and_classes")
    refused("start vector", bert.apply, {"params": bert_params}, x, class_B=classes)
    slots, cache = raster_inputs(x[:, :8]), init_cache(bert.cfg, bert.compute, 2, 8)
    refused("cannot decode", bert.apply, {"params": bert_params}, slots, cache, 0, method="extend")
