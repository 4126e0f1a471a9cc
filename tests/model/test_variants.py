"""Other positions and other feed-forward layers are rows of tables; what the release cannot hold is not exported."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from igpt_jax import ImageGPT, InputError, ModelConfig
from igpt_jax.config import ComputeConfig
from igpt_jax.model import AXES, MLPS, POSITIONS, abstract_params, init_cache, is_projection
from igpt_jax.model.blocks import Mlp, Positions, Projection
from igpt_jax.model.inputs import example_inputs
from igpt_jax.objectives import token_nats
from igpt_jax.parallel.mesh import make_mesh, shardings
from igpt_jax.sequence import ordered_inputs
from igpt_jax.training.flops import block_weights
from igpt_jax.weights.load import convert
from tests.conftest import F32_ATOL, randomized
from tests.data.made import refused
from tests.model.made import made, part, run
from tests.weights.made import pretrained


def turn(cfg, x_BTHK, at_BT):
    """Pairs of numbers, turned by an angle for the position; not at all where there is none."""
    angles = 0.3 * jnp.where(at_BT < 0, 0, at_BT)[..., None, None] * jnp.ones((1, 1, 1, cfg.head_dim // 2))
    a, b = jnp.split(x_BTHK, 2, axis=-1)
    return jnp.concatenate([a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles)], -1)


class Gated(nn.Module):
    cfg: ModelConfig
    compute: ComputeConfig
    hooks: tuple

    def setup(self):
        d, f = self.cfg.d_model, MLPS["gated"].width(self.cfg)
        self.c_fc = Projection((d, f), reads_last=False, width_dim=0, stddev=0.02)
        self.c_gate = Projection((d, f), reads_last=False, width_dim=0, stddev=0.02)
        self.c_proj = Projection((f, d), reads_last=False, width_dim=1, stddev=0.02)

    def __call__(self, x):
        return self.c_proj(nn.silu(self.c_gate(x)) * self.c_fc(x))


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    monkeypatch.setitem(POSITIONS, "turned", Positions(turn=turn))
    monkeypatch.setitem(MLPS, "gated", Mlp(Gated, width=lambda cfg: 3 * cfg.d_model))
    monkeypatch.setitem(AXES, "h/mlp/c_gate/w", ("layer", "embed", "mlp"))


def test_queries_turn_with_their_target_and_keys_with_their_source():
    """Cached or not, by any backend: and where all positions are one further, all products are the same."""
    model, params = made(positions="turned", n_layer=1, any_order=True, prefix_slots=2, prefix_values=3)
    assert not [name for name in params if name.startswith("wpe")]
    tokens = jax.random.randint(jax.random.key(3), (2, 64), 0, 16)
    order = jnp.stack([jax.random.permutation(jax.random.key(i), 64) for i in range(2)])
    inputs = ordered_inputs(tokens, order)._replace(prefix=jax.random.normal(jax.random.key(9), (2, 2, 3)))
    whole = run(model, {"params": params}, inputs)
    chunked = model.clone(compute=ComputeConfig(attention="chunked"))
    np.testing.assert_allclose(run(chunked, {"params": params}, inputs), whole, atol=F32_ATOL)

    extend = jax.jit(lambda *args: model.apply({"params": params}, *args, method="extend"), static_argnums=2)
    empty, beginning = init_cache(model.cfg, model.compute, 2, 66), part(inputs, 0, 40)._replace(prefix=inputs.prefix)
    first, cache = extend(beginning, empty, 0)
    second, _ = extend(part(inputs, 40, 64), cache, 42)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=F32_ATOL)

    plain, row = ImageGPT(dataclasses.replace(model.cfg, prefix_slots=0, prefix_values=0)), part(inputs, 1, 64)
    params = {name: x for name, x in params.items() if not name.startswith("prefix")}
    moved = [row._replace(target=row.target + by, source=row.source + of) for by, of in ((0, 0), (1, 1), (1, 0))]
    here, further, apart = (run(plain, {"params": params}, x) for x in moved)
    np.testing.assert_allclose(further, here, atol=F32_ATOL)
    assert np.abs(apart - here).max() > 1e-3


def test_a_feed_forward_layer_has_parameters_and_a_width_of_its_own():
    cfg = ModelConfig.preset("tiny", mlp="gated")
    params = abstract_params(cfg)
    assert {name: x["w"].shape for name, x in params["h"]["mlp"].items()} == {
        "c_fc": (2, 32, 96),
        "c_gate": (2, 32, 96),
        "c_proj": (2, 96, 32),
    }
    assert block_weights(cfg) == 2 * (4 * 32**2 + 3 * 3 * 32**2)
    assert is_projection("h/mlp/c_gate/w")
    assert shardings(params, make_mesh(), AXES)["h"]["mlp"]["c_gate"]["w"].spec[2] == "tensor"


def test_unknown_variants_are_named():
    refused("model.mlp: must be one of gelu2, gated; got 'relu'", abstract_params, ModelConfig(mlp="relu"))
    refused("model.positions: must be one of learned, turned; got ''", abstract_params, ModelConfig(positions=""))


@pytest.mark.parametrize("kind", ["openai", "huggingface"])
def test_the_formats_of_the_release_refuse_variants(tmp_path, monkeypatch, kind):
    """Also one without parameters of its own, whose weights would be read back as another model."""
    monkeypatch.setitem(MLPS, "relu", Mlp(MLPS["gelu2"].layer))
    refused("model.mlp 'relu'", convert, pretrained(mlp="relu"), kind, tmp_path / "a")
    refused("model.positions 'turned'", convert, pretrained(positions="turned"), kind, tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_forward_mode():
    """compute.forward_mode: jvp agrees with finite differences, and the hessian with products along a direction."""
    cfg = ModelConfig.preset("tiny", grid=(2, 3), n_layer=1, d_model=8)
    model = ImageGPT(cfg, ComputeConfig(forward_mode=True))
    params = randomized(model.init(jax.random.key(0), example_inputs(cfg))["params"], 0.2)
    tokens = jnp.array([[3, 1, 4, 1, 5, 9]])
    rest = {name: x for name, x in params.items() if name not in ("sos", "h")}

    def loss(point, model=model):
        logits = model.apply({"params": rest | point}, tokens)
        return token_nats(logits, tokens).mean()

    point = {name: params[name] for name in ("sos", "h")}
    way = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape), point)
    _, slope = jax.jit(lambda p, w: jax.jvp(loss, (p,), (w,)))(point, way)
    run, step = jax.jit(loss), 3e-3
    ends = [run(jax.tree.map(lambda x, w, by=by: x + by * w, point, way)) for by in (step, -step)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=1e-2)

    def of_start(sos):
        return loss(point | {"sos": sos})

    hessian = jax.jit(jax.hessian(of_start))(point["sos"])
    along = jax.jit(lambda x, w: jax.jvp(jax.grad(of_start), (x,), (w,))[1])(point["sos"], way["sos"])
    assert np.abs(hessian).max() > 1e-4
    np.testing.assert_allclose(hessian @ way["sos"], along, atol=F32_ATOL)
    chunked = model.clone(compute=ComputeConfig(attention="chunked", forward_mode=True))
    with pytest.raises(InputError, match="chunked cannot serve: it has no forward-mode derivative"):
        loss(point, chunked)
    expected = jax.jit(jax.grad(functools.partial(loss, model=ImageGPT(cfg))))(point)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=F32_ATOL), jax.jit(jax.grad(loss))(point), expected)
