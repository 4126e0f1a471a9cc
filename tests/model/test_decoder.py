"""The decoder is iGPT's: causal, ln V when fresh, of the published shape, and one function however it is computed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig, init_cache
from igpt_jax.config import PRESETS
from igpt_jax.model import AXES
from igpt_jax.objectives import token_nats
from igpt_jax.parallel.mesh import axes_of, path_name
from tests.conftest import BF16_ATOL, F32_ATOL


def tokens(model, batch=2, seed=3):
    return jax.random.randint(jax.random.key(seed), (batch, model.cfg.n_ctx), 0, model.cfg.vocab_size)


def with_cfg(model, **changes):
    return ImageGPT(dataclasses.replace(model.cfg, **changes))


def test_logits_depend_on_no_later_position(tiny):
    """By the gradient with respect to the position table: position t's row reaches all logits from t on."""
    model, params = tiny
    x = tokens(model, batch=1)

    def logit_norms(wpe):
        logits = model.apply({"params": params | {"wpe": wpe}}, x)
        return jnp.sum(jnp.square(logits), axis=(0, 2))  # one number a position

    influence = jnp.abs(jax.jit(jax.jacrev(logit_norms))(params["wpe"])).sum(-1)  # [logit position, table row]
    t = model.cfg.n_ctx
    assert np.all(np.asarray(influence)[np.triu_indices(t, 1)] == 0)
    assert np.all(np.asarray(influence)[np.tril_indices(t)] > 0)


def test_logits_see_only_earlier_tokens(tiny):
    """The shift is inside: changing token t changes the logits after t and none up to t."""
    model, params = tiny
    x, t = tokens(model), 20
    changed = x.at[:, t].set((x[:, t] + 1) % model.cfg.vocab_size)
    difference = jnp.abs(model.apply({"params": params}, x) - model.apply({"params": params}, changed)).max((0, 2))
    assert np.all(np.asarray(difference)[: t + 1] == 0)
    assert np.all(np.asarray(difference)[t + 1 :] > 0)


def test_fresh_model_predicts_all_colours_alike():
    model = ImageGPT(ModelConfig.preset("tiny", vocab_size=512, n_layer=1))
    x = tokens(model)
    params = model.init(jax.random.key(0), x)["params"]
    nats = token_nats(model.apply({"params": params}, x), x)
    np.testing.assert_allclose(nats, np.log(512), rtol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_as_many_as_published(name):
    model = ImageGPT(ModelConfig.preset(name))
    x = jax.ShapeDtypeStruct((1, model.cfg.n_ctx), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == model.cfg.n_params


def test_every_parameter_has_its_row_and_every_row_its_parameter():
    seen = set()
    for extra in ({}, {"use_bias": True, "clf_classes": 3, "cond_classes": 5}, {"causal": False}):
        model = ImageGPT(ModelConfig.preset("tiny", **extra))
        params = jax.eval_shape(model.init, jax.random.key(0), tokens(model))["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == model.cfg.n_params
        for path, leaf in jax.tree.leaves_with_path(params):
            axes_of(path_name(path), leaf.shape, AXES)
            seen.add(path_name(path))
    assert seen == AXES.keys()


def test_initial_spread_of_each_parameter():
    """Release, `src/model.py`: only the attention's output projection shrinks with depth."""
    d, n = 128, 6
    model = ImageGPT(ModelConfig(grid=(16, 16), vocab_size=512, n_layer=n, n_head=4, d_model=d))
    params = jax.jit(model.init)(jax.random.key(0), tokens(model))["params"]
    expected = {
        "wpe": 0.01,
        "wte": 0.02,
        "sos": 0.02,
        "wtet": 0.0,
        "h/attn/q_proj/w": d**-0.5,
        "h/attn/k_proj/w": d**-0.5,
        "h/attn/v_proj/w": d**-0.5,
        "h/attn/c_proj/w": (d * n) ** -0.5,
        "h/mlp/c_fc/w": 0.02,
        "h/mlp/c_proj/w": 0.02,
    }
    for path, leaf in jax.tree.leaves_with_path(params):
        name = path_name(path)
        if name.endswith("/g"):
            assert (leaf == 1).all()
        else:
            slack = 0.25 if leaf.size < 1000 else 0.03
            np.testing.assert_allclose(leaf.std(), expected[name], rtol=slack, err_msg=name)
    first, second = params["h"]["mlp"]["c_fc"]["w"][:2]
    assert jnp.abs(first - second).max() > 0.01  # layers are drawn apart


def test_cached_decode_equals_the_full_pass_at_every_position(tiny):
    model, params = tiny
    x = tokens(model)
    full = model.apply({"params": params}, x)
    step = jax.jit(lambda *args: model.apply({"params": params}, *args, method="step"))
    cache = init_cache(model.cfg, len(x), model.cfg.n_ctx)
    for t in range(model.cfg.n_ctx):
        logits, cache = step(x[:, t - 1], jnp.int32(t), cache)
        np.testing.assert_allclose(logits, full[:, t], atol=F32_ATOL, err_msg=f"position {t}")
    head_start = model.apply({"params": params}, x[:, :20], method="prefill")
    np.testing.assert_allclose(head_start.k, cache.k[:, :, :, :20], atol=F32_ATOL)
    np.testing.assert_allclose(head_start.v, cache.v[:, :, :, :20], atol=F32_ATOL)


@pytest.mark.parametrize(
    "how",
    [{"remat": "dots"}, {"remat": "full"}, {"scan_layers": False}, {"scan_layers": False, "remat": "full"}],
    ids=str,
)
def test_remat_and_unrolling_change_nothing(tiny, how):
    model, params = tiny
    x = tokens(model)

    def gradients(m):
        run = jax.jit(jax.grad(lambda p: token_nats(m.apply({"params": p}, x), x).mean()))
        return run.lower(params).as_text(), run(params)

    plain, expected = gradients(model)
    text, found = gradients(with_cfg(model, **how))
    assert text != plain  # the switch did something
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found)):
        np.testing.assert_allclose(a, b, atol=F32_ATOL)


def test_bfloat16_is_near_and_logits_stay_float32(tiny):
    model, params = tiny
    x = tokens(model)
    low = with_cfg(model, dtype="bfloat16", attention="reference").apply({"params": params}, x)
    assert low.dtype == jnp.float32
    full = model.apply({"params": params}, x)
    scale = float(jnp.abs(full).max())
    np.testing.assert_allclose(low / scale, full / scale, atol=BF16_ATOL)


def test_features_are_the_pooled_normed_block_inputs(tiny):
    model, params = tiny
    x = tokens(model)
    feats = model.apply({"params": params}, x, method="features")
    assert feats.shape == (model.cfg.n_layer + 1, 2, model.cfg.d_model)
    h = jnp.concatenate([jnp.tile(params["sos"], (2, 1, 1)), params["wte"][x[:, :-1]]], axis=1) + params["wpe"][None]
    normed = h * jax.lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-5) * params["h"]["ln_1"]["g"][0][None, None]
    np.testing.assert_allclose(feats[0], normed.mean(1), atol=F32_ATOL)


def test_works_under_vmap_and_grad(tiny):
    model, params = tiny
    x = tokens(model, batch=3)
    one_by_one = jax.vmap(lambda row: model.apply({"params": params}, row[None])[0])(x)
    np.testing.assert_allclose(one_by_one, model.apply({"params": params}, x), atol=F32_ATOL)


@pytest.mark.parametrize("shape", [(2, 63), (2, 8, 8), (64,)])
def test_wrong_token_shapes_are_named(tiny, shape):
    model, params = tiny
    with pytest.raises(InputError, match="64"):
        model.apply({"params": params}, jnp.zeros(shape, jnp.int32))
