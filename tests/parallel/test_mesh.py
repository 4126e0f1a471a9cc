"""Every parameter and all that is shaped like it has a sharding; a mesh changes where arrays are, not results."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from igpt_jax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimConfig, TrainConfig
from igpt_jax.errors import InputError
from igpt_jax.model import AXES, ImageGPT, abstract_params, count_params
from igpt_jax.model.blocks import Hooks
from igpt_jax.palette import Palette
from igpt_jax.parallel.hooks import shard_kernel, split_over_images
from igpt_jax.parallel.mesh import RULES, axes_of, local_rows, make_mesh, put_batch, shardings, usable_mesh
from igpt_jax.sampling.tasks import sample
from igpt_jax.training.step import make_program
from tests.data.made import refused

PALETTE = Palette.levels(16)


def test_mesh_sizes():
    assert dict(make_mesh(MeshConfig()).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshConfig(2, -1, 2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    for bad in (MeshConfig(3, 1, 1), MeshConfig(-1, 3, 1), MeshConfig(2, 2, 4)):
        refused("8 devices", make_mesh, bad)
    refused("only one axis", MeshConfig, -1, -1, 1)
    assert make_mesh() == make_mesh(MeshConfig())


@pytest.mark.parametrize("axes", [("data", "fsdp"), ("fsdp",), ("tensor", "data"), ("fsdp", "tensor", "data")], ids=str)
def test_a_mesh_of_ones_own_keeps_its_devices(axes):
    sizes = (2, 4)[-len(axes) :] if len(axes) < 3 else (2, 2, 2)
    own = jax.make_mesh(sizes, axes, devices=jax.devices()[: np.prod(sizes)])
    assert set(own.axis_types) == {AxisType.Explicit}
    mesh = usable_mesh(own)
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1} | dict(zip(axes, sizes))
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert mesh.devices.ravel().tolist() == own.devices.ravel().tolist()
    assert usable_mesh(mesh) is mesh


def test_axes_of_other_names_are_refused():
    own = jax.make_mesh((2, 2, 2), ("data", "model", "x"))
    with pytest.raises(InputError) as caught:
        usable_mesh(own)
    assert str(caught.value) == (
        "mesh: no use for the axis model, x; axes are called data, fsdp, tensor, and igpt_jax.make_mesh makes such a "
        "mesh"
    )


def test_under_a_mesh_of_explicit_axes_it_works_or_is_refused_in_one_line(tiny):
    """As `jax.make_mesh` makes them. Functions with programs of their own leave the mesh that is set."""
    model, params = tiny
    model = ImageGPT(model.cfg, hooks=Hooks(None, shard_kernel, split_over_images))
    tokens = np.zeros((4, 64), np.int32)
    expected = sample(model, params, PALETTE, 2)
    for names in (("data", "fsdp", "tensor"), ("x",)):
        mesh = jax.make_mesh((2, 2, 1)[: len(names)], names, devices=jax.devices()[: 2 if len(names) == 1 else 4])
        with jax.set_mesh(mesh):
            for run in (model.apply, jax.jit(model.apply)):
                refused("axes of type Explicit, and the model needs Auto", run, {"params": params}, tokens)
            np.testing.assert_array_equal(sample(model, params, PALETTE, 2), expected)
            placed = jax.device_put(params, NamedSharding(mesh, P()))
            refused("mesh: ", sample, model, placed, PALETTE, 2)
    with jax.set_mesh(jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), devices=jax.devices()[:1])):
        assert model.apply({"params": params}, tokens).shape == (4, 64, 16)


def test_a_step_is_float32_and_int32_under_x64(plain):
    """Losses as without it, but for the rounding of schedule and Adam's counts."""
    with jax.enable_x64(True):
        state, losses = train(MeshConfig(1, 1, 1), microbatches=2, devices=1)
    assert {x.dtype.name for x in jax.tree.leaves(state)} == {"float32", "int32"}
    np.testing.assert_allclose(losses, plain[1], rtol=1e-6)


def test_optimizer_state_lies_where_its_parameter_lies():
    optim = OptimConfig(clip_norm=1.0, weight_decay=0.1, ema_decay=0.9)
    cfg = Config(model=ModelConfig.preset("tiny"), optim=optim)
    abstract = make_program(cfg, PALETTE, make_mesh(MeshConfig(2, 2, 2))).abstract
    q = P(None, "tensor", None, "fsdp")
    adam = next(s for s in jax.tree.leaves(abstract.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu"))
    for tree in (abstract.params, abstract.ema, adam.mu, adam.nu):
        assert tree["h"]["attn"]["q_proj"]["w"].sharding.spec == q
        assert tree["h"]["mlp"]["c_fc"]["w"].sharding.spec == P(None, "fsdp", "tensor")
        assert tree["h"]["ln_1"]["g"].sharding.spec == P(None, None)


def test_the_rows_of_a_batch_are_split_over_data_and_fsdp_in_order():
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
    cfg = Config(model=ModelConfig.preset("tiny", vocab_size=17))
    with pytest.raises(InputError) as caught:
        make_program(cfg, Palette.levels(17), mesh)
    assert "vocab = 17 over tensor = 8" in str(caught.value)
    assert "heads = 2 over tensor = 8" in str(caught.value)


@pytest.mark.parametrize("size", ["s", "xl"])
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)], ids=str)
def test_nearly_all_of_the_papers_models_is_split(size, sizes):
    """What every device holds whole is less than 2 % of its part."""
    cfg = ModelConfig.preset(size, clf_classes=10, use_bias=True)
    params = abstract_params(cfg)
    places = shardings(params, make_mesh(MeshConfig(*sizes)), AXES)
    shares = [np.prod(s.shard_shape(x.shape)) for s, x in zip(jax.tree.leaves(places), jax.tree.leaves(params))]
    assert sum(shares) < 1.02 * count_params(cfg) / (sizes[1] * sizes[2])


def test_an_array_without_a_row_is_an_error():
    with pytest.raises(ValueError, match="h/extra/w"):
        axes_of("params/h/extra/w", (3,), AXES)
    with pytest.raises(ValueError, match="names the dims"):
        axes_of("params/wte", (3,), AXES)


def train(mesh_cfg, microbatches=1, steps=3, devices=8):
    """(state, losses) after some steps on the same random images."""
    cfg = Config(
        model=ModelConfig.preset("tiny", n_layer=2, n_head=4),
        data=DataConfig(batch_size=16, channels=1),
        # A large eps: Adam would otherwise turn the rounding of a tiny gradient into a whole step.
        optim=OptimConfig(lr=1e-2, eps=1e-3, clip_norm=1.0, ema_decay=0.9),
        train=TrainConfig(steps=10, microbatches=microbatches),
    )
    mesh = make_mesh(mesh_cfg, jax.devices()[:devices])
    program = make_program(cfg, PALETTE, mesh)
    state, losses = program.init(), []
    image = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
    for _ in range(steps):
        state, metrics = program.train_step(state, put_batch({"image": image}, mesh))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.fixture(scope="module")
def plain():
    return train(MeshConfig(8, 1, 1))


@pytest.mark.parametrize(
    ("mesh", "microbatches"), [((1, 8, 1), 1), ((2, 2, 2), 1), ((1, 2, 4), 1), ((8, 1, 1), 2)], ids=str
)
def test_meshes_and_microbatches_give_the_same_losses_and_weights(plain, mesh, microbatches):
    state, losses = train(MeshConfig(*mesh), microbatches)
    np.testing.assert_allclose(losses, plain[1], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(plain[0].params)):
        np.testing.assert_allclose(a, b, atol=5e-6)
    w = state.params["h"]["mlp"]["c_fc"]["w"]
    assert w.addressable_shards[0].data.size * mesh[1] * mesh[2] == w.size  # every device has only its part


def test_loss_falls_and_the_average_follows(plain):
    state, losses = plain
    assert losses[0] == pytest.approx(np.log(16), rel=1e-6)
    assert losses[-1] < losses[0]
    fresh = train(MeshConfig(8, 1, 1), steps=0)[0].params["wte"]
    moved = np.abs(np.asarray(state.params["wte"] - fresh)).max()
    lag = np.abs(np.asarray(state.ema["wte"] - fresh)).max()
    assert 0 < lag < moved
