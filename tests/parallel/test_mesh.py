"""Every parameter and all that is shaped like it finds its place; a mesh changes where arrays are, not what comes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from igpt_jax import ImageGPT, InputError, ModelConfig, Palette
from igpt_jax.config import MeshConfig, OptimConfig
from igpt_jax.model import AXES
from igpt_jax.objectives import make_ar
from igpt_jax.parallel.mesh import RULES, axes_of, local_rows, make_mesh, path_name, put_batch, shardings
from igpt_jax.training.optimizer import make_optimizer
from igpt_jax.training.state import make_init, make_train_step


def test_mesh_sizes():
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshConfig(2, -1, 2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    for bad in (MeshConfig(3, 1, 1), MeshConfig(-1, 3, 1), MeshConfig(2, 2, 4)):
        with pytest.raises(InputError, match="8 devices"):
            make_mesh(bad)
    with pytest.raises(InputError, match="only one axis"):
        MeshConfig(-1, -1, 1)


def test_optimizer_state_lies_where_its_parameter_lies():
    model = ImageGPT(ModelConfig.preset("tiny"))
    tx = make_optimizer(OptimConfig(clip_norm=1.0, weight_decay=0.1), 10)
    _, abstract = make_init(model, tx, 0, True, make_mesh(MeshConfig(2, 2, 2)))
    q = P(None, "tensor", None, "fsdp")
    adam = next(s for s in jax.tree.leaves(abstract.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu"))
    for tree in (abstract.params, abstract.ema, adam.mu, adam.nu):
        assert tree["h"]["attn"]["q_proj"]["w"].sharding.spec == q
        assert tree["h"]["mlp"]["c_fc"]["w"].sharding.spec == P(None, "fsdp", "tensor")
        assert tree["h"]["ln_1"]["g"].sharding.spec == P(None, None)


def test_a_batch_arrives_row_by_row_where_it_belongs():
    for sizes in ((8, 1, 1), (2, 2, 2), (1, 1, 8)):
        mesh = make_mesh(MeshConfig(*sizes))
        assert local_rows(mesh, 16).tolist() == list(range(16))
        host = {"image": np.arange(16 * 4, dtype=np.uint8).reshape(16, 2, 2), "label": np.arange(16, dtype=np.int32)}
        batch = put_batch(host, mesh)
        for name, x in batch.items():
            np.testing.assert_array_equal(x, host[name])
            assert x.sharding.spec == P(("data", "fsdp"))
            assert x.addressable_shards[0].data.shape[0] == 16 // (sizes[0] * sizes[1])


def test_every_dim_has_a_rule():
    assert {dim for dims in AXES.values() for dim in dims} == RULES.keys()


def test_dims_that_do_not_divide_are_all_named():
    mesh = make_mesh(MeshConfig(1, 1, 8))
    model = ImageGPT(ModelConfig.preset("tiny", vocab_size=17))
    with pytest.raises(InputError) as caught:
        make_init(model, make_optimizer(OptimConfig(), 10), 0, False, mesh)
    assert "vocab = 17 over tensor = 8" in str(caught.value)
    assert "heads = 2 over tensor = 8" in str(caught.value)


@pytest.mark.parametrize("size", ["s", "xl"])
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_where_every_parameter_of_the_papers_models_lies(size, sizes):
    """A picture of the sharding. A change of it is a change of every pod's memory and traffic: make it on purpose."""
    model = ImageGPT(ModelConfig.preset(size, clf_classes=10, use_bias=True))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, model.cfg.n_ctx), jnp.int32))["params"]
    found = shardings(params, make_mesh(MeshConfig(*sizes)), AXES)
    heads_first, out = P(None, "tensor", None, "fsdp"), P(None, "fsdp")
    assert {path_name(path): s.spec for path, s in jax.tree.leaves_with_path(found)} == {
        "wpe": P(None, "fsdp"),
        "wte": P("tensor", "fsdp"),
        "sos": P("fsdp"),
        "wtet": P("tensor", "fsdp"),
        "clf": P(None, "fsdp"),
        "ln_f/g": P(None),
        "h/ln_1/g": P(None, None),
        "h/ln_2/g": P(None, None),
        **{f"h/attn/{name}_proj/w": heads_first for name in "qkvc"},
        **{f"h/attn/{name}_proj/b": P(None, "tensor", None) for name in "qkv"},
        "h/attn/c_proj/b": out,
        "h/mlp/c_fc/w": P(None, "fsdp", "tensor"),
        "h/mlp/c_fc/b": P(None, "tensor"),
        "h/mlp/c_proj/w": P(None, "tensor", "fsdp"),
        "h/mlp/c_proj/b": out,
    }
    shares = [np.prod(s.shard_shape(x.shape)) for s, x in zip(jax.tree.leaves(found), jax.tree.leaves(params))]
    assert sum(shares) < 1.02 * model.cfg.n_params / (sizes[1] * sizes[2])  # nothing of weight is replicated


def test_an_array_without_a_row_is_an_error():
    with pytest.raises(ValueError, match="h/extra/w"):
        axes_of("params/h/extra/w", (3,), AXES)
    with pytest.raises(ValueError, match="names the dims"):
        axes_of("params/wte", (3,), AXES)
    tree = {"wte": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
    with pytest.raises(ValueError, match="twice"):
        shardings(tree, make_mesh(MeshConfig(2, 2, 2)), AXES, RULES | {"embed": "tensor"})


def train(mesh_cfg, microbatches=1, steps=3):
    mesh, palette = make_mesh(mesh_cfg), Palette.levels(16)
    model = ImageGPT(ModelConfig.preset("tiny", n_layer=2, n_head=4))
    # A large eps: Adam would otherwise turn the rounding of a vanishing gradient into a whole step.
    tx = make_optimizer(OptimConfig(lr=1e-2, eps=1e-3, clip_norm=1.0), 10)
    init, abstract = make_init(model, tx, 0, True, mesh)
    step = make_train_step(
        make_ar(model, palette), tx, seed=0, microbatches=microbatches, ema_decay=0.9, abstract=abstract, mesh=mesh
    )
    state, losses = init(), []
    for k in range(steps):
        image = np.random.default_rng(k).integers(0, 256, (16, 8, 8, 1), np.uint8)
        state, metrics = step(state, put_batch({"image": image}, mesh))
        losses.append(float(metrics["loss"]))
    return state, losses, step._cache_size()


@pytest.fixture(scope="module")
def plain():
    return train(MeshConfig(8, 1, 1))


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2), (1, 2, 4)], ids=str)
def test_meshes_agree(plain, mesh):
    state, losses, compiled = train(MeshConfig(*mesh))
    assert compiled == 1
    np.testing.assert_allclose(losses, plain[1], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(plain[0].params)):
        np.testing.assert_allclose(a, b, atol=5e-6)
    w = state.params["h"]["mlp"]["c_fc"]["w"]
    assert w.addressable_shards[0].data.size * mesh[1] * mesh[2] == w.size  # it really is split


def test_microbatches_change_nothing(plain):
    state, losses, _ = train(MeshConfig(8, 1, 1), microbatches=2)
    np.testing.assert_allclose(losses, plain[1], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(plain[0].params)):
        np.testing.assert_allclose(a, b, atol=5e-6)


def test_loss_falls_and_the_average_follows(plain):
    state, losses, _ = plain
    assert losses[0] == pytest.approx(np.log(16), rel=1e-6)
    assert losses[-1] < losses[0]
    fresh = train(MeshConfig(8, 1, 1), steps=0)[0].params["wte"]
    moved = np.abs(np.asarray(state.params["wte"] - fresh)).max()
    lag = np.abs(np.asarray(state.ema["wte"] - fresh)).max()
    assert 0 < lag < moved
