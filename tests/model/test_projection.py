"""How a weight's gradient is made changes nothing about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from igpt_jax.model import projection
from igpt_jax.model.projection import Projection, width_first
from tests.conftest import F32_ATOL

CASES = [
    ("...d,hkd->...hk", (2, 3, 4)),
    ("...hk,hkd->...d", (2, 3, 4)),
    ("...f,fd->...d", (5, 4)),
    ("...d,df->...f", (4, 5)),
]


@pytest.mark.parametrize(("equation", "shape"), CASES)
def test_projections_are_their_einsum(equation, shape, monkeypatch):
    """Also as they are where several TPUs share the weights."""
    sizes = dict(zip(equation.split(",")[1].split("->")[0], shape, strict=True))
    x = jax.random.normal(jax.random.key(0), (2, 7, *(sizes[d] for d in equation.split(",")[0].removeprefix("..."))))
    model = Projection(equation, shape, 1.0, None)
    params = model.init(jax.random.key(1), x)

    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    params, x = jax.device_put((params, x), NamedSharding(mesh, P()))

    def found(params, x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jnp.sin(model.apply(params, x)).sum()

    def by_einsum(params, x):
        return jnp.sin(jnp.einsum(equation, x, params["params"]["w"])).sum()

    expected = jax.jit(jax.grad(by_einsum, (0, 1)))(params, x)
    for where in ("cpu", "tpu"):
        monkeypatch.setattr(projection, "platform", lambda where=where: where)
        gradients = jax.jit(jax.grad(lambda *args: found(*args), (0, 1)))
        barrier = "optimization_barrier" in gradients.lower(params, x).as_text()
        assert barrier == (where == "tpu" and not equation.endswith("f"))
        for a, b in zip(jax.tree.leaves(gradients(params, x)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=F32_ATOL)


def test_the_gradient_is_a_matrix_with_the_dim_first():
    program = str(jax.make_jaxpr(jax.grad(lambda w: width_first(w, 2).sum()))(jnp.zeros((2, 3, 4))))
    assert "f32[4,6] = optimization_barrier" in program
