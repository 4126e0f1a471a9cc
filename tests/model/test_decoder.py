"""The decoder is of the published shape, and one function however it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from igpt_jax import ComputeConfig, ImageGPT, ModelConfig
from igpt_jax.model import AXES, abstract_params, count_params, decoder, is_optional, is_projection
from igpt_jax.model.decoder import example_inputs
from igpt_jax.objectives import token_nats
from igpt_jax.parallel.mesh import axes_of, path_name
from tests.conftest import BF16_ATOL, F32_ATOL
from tests.data.made import refused
from tests.model.made import run


def tokens(model, batch=2, seed=3):
    return jax.random.randint(jax.random.key(seed), (batch, model.cfg.n_ctx), 0, model.cfg.vocab_size)


PUBLISHED = {"s": (76e6, 76_571_648), "m": (455e6, 455_157_760), "l": (1362e6, 1_362_250_752), "xl": (6801e6, None)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    rounded, exact = PUBLISHED[name]
    count = count_params(ModelConfig.preset(name))
    assert exact in (count, None)
    assert abs(count - rounded) / rounded < 0.01


KINDS = (
    {},
    {"use_bias": True, "clf_classes": 3, "cond_classes": 5},
    {"causal": False},
    {"any_order": True, "prefix_slots": 4, "prefix_values": 12, "aligned_values": 3},
    {"grid": (3, 4, 4)},
)


def test_every_parameter_has_its_row_and_every_row_its_parameter():
    seen = set()
    for kind in KINDS:
        for path, leaf in jax.tree.leaves_with_path(abstract_params(ModelConfig.preset("tiny", **kind))):
            axes_of(path_name(path), leaf.shape, AXES)
            seen.add(path_name(path))
    assert seen == AXES.keys()


def test_what_weights_may_lack_starts_at_zero_and_only_matrices_are_projections():
    """Other tables are drawn as without it, so that weights without it load unchanged."""
    plain = {}
    for kind in KINDS:
        model = ImageGPT(ModelConfig.preset("tiny", **kind))
        params = jax.jit(model.init)(jax.random.key(0), example_inputs(model.cfg))["params"]
        plain = plain or {name: params[name] for name in ("wpe", "wte", "sos", "wtet")}
        if kind == KINDS[1]:
            jax.tree.map(np.testing.assert_array_equal, {name: params[name] for name in plain}, plain)
        for path, leaf in jax.tree.leaves_with_path(params):
            name = path_name(path)
            assert not is_optional(name) or not leaf.any()
            assert is_projection(name) == name.endswith("/w")


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


@pytest.mark.parametrize(
    "how",
    [{"remat": "dots"}, {"remat": "full"}, {"scan_layers": False}, {"scan_layers": False, "remat": "full"}],
    ids=str,
)
def test_remat_and_unrolling_change_nothing(tiny, how):
    model, params = tiny
    x = tokens(model)

    def gradients(compute):
        other = ImageGPT(model.cfg, compute)
        run = jax.jit(jax.grad(lambda p: token_nats(other.apply({"params": p}, x), x).mean()))
        return run.lower(params).as_text(), run(params)

    plain, expected = gradients(ComputeConfig(scan_layers=True))
    text, computed = gradients(ComputeConfig(**{"scan_layers": True} | how))
    assert text != plain  # the switch did something
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(computed)):
        np.testing.assert_allclose(a, b, atol=F32_ATOL)


@pytest.mark.parametrize(
    ("where", "few", "loops"), [("cpu", 1, True), ("cpu", 2, False), ("tpu", 2, True), ("gpu", 2, False)]
)
def test_layers_are_unrolled_on_gpus_and_on_cpus_if_few(tiny, where, few, loops, monkeypatch):
    monkeypatch.setattr(decoder, "platform", lambda: where)
    monkeypatch.setitem(decoder.UNROLLED, "cpu", few)  # the model has two layers
    cfg, params = tiny[0].cfg, tiny[1]

    def text(**compute):
        model = ImageGPT(cfg, ComputeConfig(**compute))
        return jax.jit(model.apply).lower({"params": params}, tokens(model)).as_text()

    assert text() == text(scan_layers=loops) != text(scan_layers=not loops)


def test_bfloat16_is_near_and_logits_stay_float32(tiny):
    model, params = tiny
    x = tokens(model)
    compute = ComputeConfig(dtype="bfloat16", attention="reference")
    low = run(ImageGPT(model.cfg, compute), {"params": params}, x)
    assert low.dtype == jnp.float32
    full = run(model, {"params": params}, x)
    scale = float(jnp.abs(full).max())
    np.testing.assert_allclose(low / scale, full / scale, atol=BF16_ATOL)


def test_hidden_states_of_any_layer_in_one_call(tiny):
    """Their means are the features, and the last ones are what the output head reads."""
    model, params = tiny
    x = tokens(model)
    states = run(model, {"params": params}, x, method="hidden_states")
    assert states.shape == (model.cfg.n_layer + 1, 2, model.cfg.n_ctx, model.cfg.d_model)
    features = run(model, {"params": params}, x, method="features")
    np.testing.assert_allclose(states.mean(2), features, atol=F32_ATOL)
    last = states[-1] @ params["wtet"].T
    np.testing.assert_allclose(last, run(model, {"params": params}, x), atol=F32_ATOL)
    some = run(model, {"params": params}, x, layers=(2, 0), method="hidden_states")
    np.testing.assert_array_equal(some, states[jnp.array([2, 0])])
    refused(r"layers 0\.\.2", model.apply, {"params": params}, x, layers=(3,), method="hidden_states")


def test_works_under_vmap_and_grad(tiny):
    model, params = tiny
    x = tokens(model, batch=3)
    one_by_one = jax.jit(jax.vmap(lambda row: model.apply({"params": params}, row[None])[0]))(x)
    np.testing.assert_allclose(one_by_one, run(model, {"params": params}, x), atol=F32_ATOL)


@pytest.mark.parametrize("shape", [(2, 63), (2, 8, 8), (64,)])
def test_wrong_token_shapes_are_named(tiny, shape):
    model, params = tiny
    refused("64", model.apply, {"params": params}, jnp.zeros(shape, jnp.int32))


def test_a_token_outside_the_palette_is_an_error_under_checkify(tiny):
    """And only there: elsewhere JAX reads another row."""
    model, params = tiny
    forward = lambda tokens: model.apply({"params": params}, tokens)  # noqa: E731
    checked = jax.jit(checkify.checkify(forward, errors=checkify.index_checks))
    tokens = jnp.zeros((2, 64), jnp.int32)
    error, logits = checked(tokens)
    error.throw()
    np.testing.assert_array_equal(logits, jax.jit(forward)(tokens))
    error, _ = checked(tokens.at[1, 5].set(16))
    with pytest.raises(checkify.JaxRuntimeError, match=r"out-of-bounds indexing for array of shape \(16, 32\).*16"):
        error.throw()
    jax.jit(forward)(tokens.at[1, 5].set(16))
