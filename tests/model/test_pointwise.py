"""The norm's and the activation's own gradients against autodiff of the formulas, and what they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.model.blocks import gelu2, rms_norm

RNG = np.random.default_rng(0)
X, G, WEIGHTS = RNG.normal(0, 2, (3, 5, 16)), RNG.normal(1, 0.5, 16), RNG.normal(size=(3, 5, 16))


def plain_norm(x, g):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5) * g[None, None]


def plain_gelu2(x, g):
    return x / (1 + jnp.exp(-1.702 * x))


@pytest.mark.parametrize(("ours", "plain"), [(rms_norm, plain_norm), (lambda x, g: gelu2(x), plain_gelu2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_values_and_gradients(ours, plain, dtype, tolerance):
    x, g = jnp.asarray(X, dtype), jnp.asarray(G, jnp.float32)

    def total(function):
        return lambda x, g: jnp.sum(function(x, g).astype(jnp.float32) * WEIGHTS.astype(np.float32))

    expected = plain(x.astype(jnp.float32), g), *jax.grad(total(plain), argnums=(0, 1))(x.astype(jnp.float32), g)
    measured = ours(x, g), *jax.jit(jax.grad(total(ours), argnums=(0, 1)))(x, g)
    assert [y.dtype for y in measured] == [dtype, dtype, "float32"]
    for one, other in zip(measured, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), other, rtol=0, atol=tolerance * np.abs(other).max())


def test_rows_of_zeros_and_large_values_have_finite_gradients():
    g = jnp.ones(16)
    for value in (0.0, 1e4, -1e4):
        x = jnp.full((2, 16), value)
        assert np.isfinite(jax.grad(lambda x: rms_norm(x, g).sum())(x)).all()
        assert np.isfinite(jax.grad(lambda x: gelu2(x).sum())(x)).all()


def test_they_keep_their_input_and_one_number_a_row():
    x = jnp.asarray(X, jnp.bfloat16)

    def kept(function, *arguments):
        return sorted(str(leaf.dtype) + str(leaf.shape) for leaf in jax.tree.leaves(jax.vjp(function, *arguments)[1]))

    assert kept(gelu2, x) == ["bfloat16(3, 5, 16)"]
    assert kept(rms_norm, x, jnp.ones(16)) == ["bfloat16(3, 5, 16)", "float32(16,)", "float32(3, 5, 1)"]
