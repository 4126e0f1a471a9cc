"""All implementations compute the reference's attention, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.config import InputError
from igpt_jax.model.attention import BACKENDS, Mask, attend, attend_cached
from tests.conftest import F32_ATOL


def qkv(t, heads=2, size=8, batch=2):
    keys = jax.random.split(jax.random.key(t), 3)
    return [jax.random.normal(key, (batch, t, heads, size)) for key in keys]


def by_hand(q, k, v, visible):
    """float64 numpy, one query at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    for b, t, h in np.ndindex(q.shape[:3]):
        seen = np.flatnonzero(visible[t])
        logits = k[b, seen, h] @ q[b, t, h] / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max())
        out[b, t, h] = weights @ v[b, seen, h] / weights.sum()
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mask", [Mask.causal(), Mask.full()], ids=lambda m: m.kind)
@pytest.mark.parametrize("t", [5, 64, 150])  # less than, exactly and not a whole number of chunks
def test_values(backend, mask, t):
    q, k, v = qkv(t)
    visible = np.tril(np.ones((t, t), bool)) if mask.kind == "causal" else np.ones((t, t), bool)
    found = jax.jit(attend, static_argnums=(3, 4))(q, k, v, mask, backend)
    np.testing.assert_allclose(found, by_hand(q, k, v, visible), atol=F32_ATOL)


@pytest.mark.parametrize("mask", [Mask.causal(), Mask.full()], ids=lambda m: m.kind)
def test_gradients_agree(mask):
    q, k, v = qkv(150)

    def loss(backend):
        return lambda q, k, v: jnp.sum(jnp.sin(attend(q, k, v, mask, backend)))

    expected = jax.jit(jax.grad(loss("reference"), (0, 1, 2)))(q, k, v)
    found = jax.jit(jax.grad(loss("chunked"), (0, 1, 2)))(q, k, v)
    for a, b in zip(expected, found):
        np.testing.assert_allclose(a, b, atol=F32_ATOL)


def test_cached_query_is_the_last_row_of_the_whole():
    q, k, v = qkv(20)
    whole = attend(q, k, v, Mask.causal(), "reference")
    garbage = jnp.full((2, 2, 4, 8), 1e3)  # rows that are not filled yet
    cache = [jnp.concatenate([x.swapaxes(1, 2), garbage], axis=2) for x in (k, v)]
    found = attend_cached(q[:, -1], *cache, jnp.int32(19))
    np.testing.assert_allclose(found, whole[:, -1], atol=F32_ATOL)


def test_unknown_backend_is_named():
    with pytest.raises(InputError, match="flashy"):
        attend(*qkv(4), Mask.causal(), "flashy")


@pytest.mark.parametrize("mask", [Mask.causal(), Mask.full()], ids=lambda m: m.kind)
def test_bfloat16_gradients_are_as_near_as_the_reference(mask):
    """Measured against float32: the chunked form may not lose more than the plain one does."""
    q, k, v = qkv(150)

    def gradients(backend, dtype):
        def loss(*args):
            return jnp.sum(jnp.sin(attend(*args, mask, backend).astype(jnp.float32)))

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*(x.astype(dtype) for x in (q, k, v)))

    exact = gradients("reference", jnp.float32)
    plain, chunked = (gradients(backend, jnp.bfloat16) for backend in ("reference", "chunked"))
    for e, p, c in zip(exact, plain, chunked):
        assert c.dtype == jnp.bfloat16
        lost = [float(jnp.abs(x.astype(jnp.float32) - e).max()) for x in (p, c)]
        assert lost[1] <= 1.5 * lost[0] + 1e-3
