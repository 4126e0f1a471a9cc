"""All implementations compute the reference's attention, values and gradients; one that cannot says why."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from igpt_jax.errors import InputError
from igpt_jax.model import LayerCache
from igpt_jax.model.attention import BACKENDS, Backend, Case, Mask, attend, attend_cached, pick_backend
from igpt_jax.model.attention.cudnn import refusal as cudnn_refusal
from igpt_jax.model.attention.splash import refusal as splash_refusal
from igpt_jax.model.attention.splash import splash
from igpt_jax.parallel.hooks import shard_kernel
from tests.conftest import BF16_ATOL, F32_ATOL
from tests.data.made import refused

MASKS = pytest.mark.parametrize(
    "mask",
    [Mask("causal"), Mask("full"), Mask("prefix", 9), Mask("prefix", 70)],
    ids=lambda m: f"{m.kind}{m.prefix or ''}",
)
KERNEL_MASKS = pytest.mark.parametrize("mask", [Mask("causal"), Mask("full")], ids=lambda m: m.kind)


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


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@MASKS
@pytest.mark.parametrize("t", [5, 64, 150])  # less than, exactly and not a whole number of chunks
def test_values(backend, mask, t):
    q, k, v = qkv(t)
    visible = np.tril(np.ones((t, t), bool)) if mask.kind != "full" else np.ones((t, t), bool)
    visible[:, : mask.prefix] = True
    computed = jax.jit(attend, static_argnums=(3, 4))(q, k, v, mask, backend)
    np.testing.assert_allclose(computed, by_hand(q, k, v, visible), atol=F32_ATOL)


def values_and_gradients(fn, q, k, v):
    def loss(q, k, v):
        out = fn(q, k, v)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *grads


def agree(fn, q, k, v, mask, atol=F32_ATOL, rtol=0.0):
    """With the reference, in values and gradients."""
    expected = values_and_gradients(lambda *x: attend(*x, mask, "reference"), q, k, v)
    for f, e in zip(values_and_gradients(fn, q, k, v), expected, strict=True):
        assert f.dtype == e.dtype
        np.testing.assert_allclose(np.asarray(f, np.float32), np.asarray(e, np.float32), atol=atol, rtol=rtol)


@MASKS
@pytest.mark.parametrize("t", [150, 900])  # chunks of 64 and of 112
def test_gradients_agree(mask, t):
    agree(lambda *x: attend(*x, mask, "chunked"), *qkv(t), mask)


@pytest.mark.parametrize("mask", [Mask("causal"), Mask("prefix", 9)], ids=lambda m: m.kind)
def test_cached_queries_are_rows_of_the_whole(mask):
    q, k, v = qkv(20)
    whole = attend(q, k, v, mask, "reference")
    garbage = jnp.full((2, 2, 4, 8), 1e3)  # rows that are not filled yet
    cache = [jnp.concatenate([x.swapaxes(1, 2), garbage], axis=2) for x in (k, v)]
    for first in (19, 12):
        rows = attend_cached(q[:, first:], LayerCache(*cache), jnp.int32(first), mask)
        np.testing.assert_allclose(rows, whole[:, first:], atol=F32_ATOL)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_refuses_a_mask_that_it_does_not_know(name, monkeypatch):
    """Also where the backend's own platform is."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = type("Device", (), {"compute_capability": "9.0"})
    device.client = type("Client", (), {"platform_version": "cuda 12090"})
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    platform = {"cudnn": "gpu", "splash": "tpu"}.get(name, "cpu")
    case = Case(platform, "bfloat16", 1024, 1024, 64, Mask("diagonal"))
    refused("no 'diagonal' mask", pick_backend, name, case)
    assert pick_backend(name, case._replace(mask=Mask("causal"))) == name


def test_a_backend_of_ones_own_is_one_row(monkeypatch):
    def mine(q, k, v, mask):
        return v + 1

    monkeypatch.setitem(BACKENDS, "mine", Backend(mine, lambda case: "too long" if case.t > 9 else None))
    q, k, v = qkv(9)
    np.testing.assert_array_equal(attend(q, k, v, Mask("causal"), "mine"), v + 1)
    refused("mine cannot serve: too long", attend, *qkv(10), Mask("causal"), "mine")


@MASKS
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


SPLASH = [(64, Mask("causal")), (96, Mask("causal")), (128, Mask("full")), (192, Mask("causal"))]


@pytest.mark.parametrize(("size", "mask"), SPLASH, ids=lambda x: getattr(x, "kind", x))
def test_splash_by_its_definition(mask, size):
    """The kernel's own interpreter, at the head sizes of the paper's models."""
    agree(lambda *x: splash(*x, mask, interpret=True), *qkv(128, heads=2, size=size, batch=1), mask)


@pytest.mark.slow
@pytest.mark.parametrize("t", [640, 1024])
def test_splash_visits_many_blocks(t):
    """Five blocks of keys: after the forward pass two kernels compute the gradients. Two blocks: one does."""
    mask = Mask("causal")
    agree(lambda *x: splash(*x, mask, interpret=True), *qkv(t, heads=1, size=8, batch=1), mask)


@pytest.mark.parametrize(("batch", "heads"), [(4, 2), (2, 3)])
def test_splash_under_a_mesh_works_on_its_own_images_and_heads(batch, heads):
    """What the mesh does not divide is repeated instead."""
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    q, k, v = jax.device_put(qkv(128, heads=heads, size=8, batch=batch), NamedSharding(mesh, P()))

    def under_mesh(q, k, v):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return shard_kernel(lambda *x: splash(*x, interpret=True))(q, k, v, Mask("causal"))

    agree(under_mesh, q, k, v, Mask("causal"))


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ("cudnn", "needs an NVIDIA GPU, and this is cpu"),
        ("splash", "needs a TPU, and this is cpu"),
        ("flashy", "must be one of auto, reference, .*; got 'flashy'"),
    ],
)
def test_a_kernel_asked_for_by_name_refuses_elsewhere(backend, why):
    refused(why, attend, *qkv(128), Mask("causal"), backend)


def test_splash_says_what_it_cannot_serve():
    serves = Case("tpu", "bfloat16", 1024, 1024, 96, Mask("causal"))
    assert splash_refusal(serves) is None
    assert "64 positions" in splash_refusal(serves._replace(t=64))
    assert "200 positions" in splash_refusal(serves._replace(s=200))
    assert "float16" in splash_refusal(serves._replace(dtype="float16"))


def test_cudnn_says_what_it_cannot_serve(monkeypatch):
    class Device:
        compute_capability = "9.0"
        client = type("Client", (), {"platform_version": "PJRT C API\ncuda 12090"})

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Device])
    serves = Case("gpu", "bfloat16", 1024, 1024, 192, Mask("causal"))
    assert cudnn_refusal(serves) is None
    assert "float32" in cudnn_refusal(serves._replace(dtype="float32"))
    assert "head size 100" in cudnn_refusal(serves._replace(head_dim=100))
    assert "head size 264" in cudnn_refusal(serves._replace(head_dim=264))
    Device.compute_capability = "8.6"
    assert "up to 128" in cudnn_refusal(serves)
    Device.compute_capability = "7.5"
    assert "7.5" in cudnn_refusal(serves)
    Device.client = type("Client", (), {"platform_version": "rocm 60000"})
    assert "another maker" in cudnn_refusal(serves)


def test_auto_takes_the_platforms_kernel_or_says_why_not(caplog):
    caplog.set_level(logging.INFO, "igpt_jax")

    def picked(platform, dtype, t, mask=Mask("causal")):  # noqa: B008 (frozen)
        return pick_backend("auto", Case(platform, dtype, t, t, 64, mask))

    assert picked("tpu", "bfloat16", 1024) == "splash"
    assert picked("tpu", "bfloat16", 100) == "reference"
    assert picked("tpu", "bfloat16", 1024, Mask("prefix", 256)) == "reference"  # a mask that the kernel does not know
    small_and_large = [picked("cpu", "float32", t) for t in (64, 100, 121, 1024)]  # small products where they pay
    assert small_and_large == ["reference", "reference", "chunked", "chunked"]
    lines = [record.getMessage() for record in caplog.records]
    assert "picked splash for 1024 positions, head size 64, bfloat16 on tpu" in lines[0]
    assert "picked reference" in lines[1]
    assert "not splash: 100 positions" in lines[1]


def test_the_mesh_around_a_program_says_where_it_will_run():
    device = jax.sharding.AbstractDevice("TPU v5 lite", 1, "tpu")
    mesh = jax.sharding.AbstractMesh((1,), ("data",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(InputError, match="64 positions"):
        attend(*qkv(64), Mask("causal"), "splash")


def on(platform, backend, t):
    """A backend on the hardware that it is for; the suite itself runs on CPUs."""
    name = {"gpu": "cuda"}.get(platform, platform)
    skip = pytest.mark.skipif(
        jax.default_backend() != platform, reason=f"there: JAX_PLATFORMS={name} pytest -m {platform}"
    )
    return pytest.param(backend, t, marks=[getattr(pytest.mark, platform), skip], id=backend)


@KERNEL_MASKS
@pytest.mark.parametrize("size", [64, 96, 128, 192])
@pytest.mark.parametrize(("backend", "t"), [on("gpu", "cudnn", 256), on("tpu", "splash", 1024)])
def test_kernels_where_they_run(backend, t, size, mask):
    q, k, v = (x.astype(jnp.bfloat16) for x in qkv(t, size=size))
    # one rounding step alone exceeds atol at 4 and above
    agree(lambda *x: attend(*x, mask, backend), q, k, v, mask, BF16_ATOL, rtol=2**-7)
