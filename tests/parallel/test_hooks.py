"""Hooks change how a compiler does the work, and nothing about the result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from igpt_jax.model.attention import Mask
from igpt_jax.model.attention.reference import BACKEND
from igpt_jax.model.blocks import Hooks, Projection
from igpt_jax.parallel import hooks
from igpt_jax.parallel.hooks import shard_kernel, width_first, width_first_on_tpus
from tests.conftest import F32_ATOL

# (shape of w, whether its last dim is contracted, dim of the width, shape of the input after batch and slots)
PROJECTIONS = [
    ((2, 3, 4), True, 2, (4,)),  # queries, keys, values
    ((2, 3, 4), False, 2, (2, 3)),  # output of attention
    ((4, 5), False, 0, (4,)),  # into the feed-forward layer
    ((5, 4), False, 1, (5,)),  # out of it
]


@pytest.mark.parametrize(("shape", "reads_last", "width_dim", "features"), PROJECTIONS)
def test_a_projections_value_and_gradients_are_the_same_with_the_hook(shape, reads_last, width_dim, features):
    """On one device, and with the batch split over two."""
    x = jax.random.normal(jax.random.key(0), (2, 7, *features))
    plain = Projection(shape, reads_last, width_dim, 1.0)
    hooked = Projection(shape, reads_last, width_dim, 1.0, hooks=Hooks(weight=width_first))
    params = plain.init(jax.random.key(1), x)

    def gradients(module, params, x):
        loss = jax.value_and_grad(lambda params, x: jnp.sin(module.apply(params, x)).sum(), (0, 1))
        return jax.jit(loss)(params, x)

    expected = jax.tree.leaves(gradients(plain, params, x))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(params, NamedSharding(mesh, P())), jax.device_put(x, NamedSharding(mesh, P("data")))
    for arguments in ((params, x), split):
        for a, b in zip(jax.tree.leaves(gradients(hooked, *arguments)), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=F32_ATOL)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_gradient_is_the_cotangent_itself(dim):
    """For any dim that is moved to the front, it comes back to where it was."""
    w, cotangent = jax.random.normal(jax.random.key(0), (2, 2, 3, 4))
    value, pull_back = jax.vjp(lambda w: width_first(w, dim), w)
    np.testing.assert_array_equal(value, w)
    np.testing.assert_array_equal(pull_back(cotangent)[0], cotangent)


@pytest.mark.parametrize(
    ("platform", "devices", "changed"), [("tpu", 2, True), ("tpu", 1, False), ("cpu", 2, False), ("gpu", 2, False)]
)
def test_weights_are_hooked_only_where_several_tpus_share_them(monkeypatch, platform, devices, changed):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(hooks, "width_first", lambda w, dim: w + 1)
    mesh = jax.sharding.AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    w = jnp.zeros((2, 4))
    with jax.sharding.use_abstract_mesh(mesh):
        assert bool(width_first_on_tpus(w, 1).any()) == changed
        assert not width_first_on_tpus(w, 0).any()  # rows of the width already


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 8), (4, 1, 2)], ids=str)
def test_a_split_kernel_computes_what_the_whole_one_does(sizes):
    """Also where an axis divides neither images nor heads, and the work is repeated."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 4, 8, 2, 4))
    shapes = []

    def kernel(q, k, v, mask):
        shapes.append(q.shape)
        return BACKEND.attend(q, k, v, mask)

    mesh = jax.make_mesh(sizes, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    expected = BACKEND.attend(q, k, v, Mask("causal"))
    with jax.set_mesh(mesh):
        split = jax.jit(lambda *qkv: shard_kernel(kernel)(*qkv, Mask("causal")))(q, k, v)
    np.testing.assert_allclose(split, expected, atol=F32_ATOL)
    images, heads = 4 // (sizes[0] * sizes[1]), 2 // sizes[2] if 2 % sizes[2] == 0 else 2
    assert set(shapes) == {(images, 8, heads, 4)}
