"""FLOPs by hand, and that the programs execute what the formulas say."""

import importlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from igpt_jax.analysis.planning.topology import CUDNN_VERSION
from igpt_jax.config import ComputeConfig, ModelConfig
from igpt_jax.model.attention import Mask
from igpt_jax.model.attention.cudnn import cudnn
from igpt_jax.model.attention.splash import splash, splash_products
from igpt_jax.model.decoder import remat_policy
from igpt_jax.training.flops import block_weights, published_peak, training_flops

TINY_WEIGHTS = 12 * 2 * 32**2  # 12 L D^2


def test_block_weights_are_the_matrices_alone():
    """Neither biases, heads, tables nor a prefix's projection change their number."""
    assert block_weights(ModelConfig.preset("tiny")) == TINY_WEIGHTS
    more = dict(
        use_bias=True,
        clf_classes=10,
        cond_classes=10,
        any_order=True,
        prefix_slots=4,
        prefix_values=12,
        aligned_values=3,
    )
    assert block_weights(ModelConfig.preset("tiny", **more)) == TINY_WEIGHTS
    assert block_weights(ModelConfig.preset("xl")) == 12 * 60 * 3072**2


def test_flops_by_hand():
    tiny, reference = ModelConfig.preset("tiny"), ComputeConfig(attention="reference")
    product = 2 * 32 * 64  # of a token's query with the keys it sees, in two layers
    flops = training_flops(tiny, reference, 16)
    assert flops.headline == 16 * 64 * (6 * TINY_WEIGHTS + 6 * product) == 176_160_768
    assert flops.noncausal == 16 * 64 * (6 * TINY_WEIGHTS + 12 * product)
    assert flops.executed == flops.headline + 16 * 64 * product  # the logits once more
    bert = ModelConfig.preset("tiny", causal=False)
    assert training_flops(bert, reference, 16).headline == flops.noncausal
    full = training_flops(tiny, ComputeConfig(attention="reference", remat="full"), 16)
    assert full.executed - flops.executed == 16 * 64 * (2 * TINY_WEIGHTS + 2 * product)  # the forward pass again
    dots = training_flops(tiny, ComputeConfig(attention="reference", remat="dots"), 16)
    assert dots.executed - flops.executed == 16 * 64 * 2 * product  # attention's part of it


def test_flops_of_a_prefix():
    """Its slots pass through the blocks, and every query sees all of them."""
    model = ModelConfig.preset("tiny", prefix_slots=64, prefix_values=3)
    flops = training_flops(model, ComputeConfig(attention="reference"), 1)
    every = 12 * 2 * 32 * 128
    assert flops.noncausal == 128 * (6 * TINY_WEIGHTS + every)
    assert flops.headline == 128 * (6 * TINY_WEIGHTS + every * 5 // 8)  # a quarter whole, half of the rest


@pytest.mark.parametrize(("grid", "again"), [((32, 32), 1), ((64, 64), 3)])
@pytest.mark.parametrize(("remat", "forward"), [("none", 0), ("dots", 0), ("full", 2)])
def test_flops_of_splash_by_hand(grid, again, remat, forward):
    """Its backward pass needs five products instead of four, over many keys seven; remat dots saves its output."""
    model, compute = ModelConfig.preset("tiny", grid=grid), ComputeConfig(attention="splash", remat=remat)
    tokens, product = grid[0] * grid[1], 2 * 32 * grid[0] * grid[1]
    flops = training_flops(model, compute, 1)
    weights = 2 * TINY_WEIGHTS if remat == "full" else 0
    assert flops.executed - flops.headline == tokens * ((again + forward) * product + weights)


def count_kernels(jaxpr, kernel="pallas_call"):
    """Kernels that a program runs, including those in what it calls."""
    own = [eqn.primitive.name.startswith(kernel) for eqn in jaxpr.eqns]
    calls = [eqn for eqn, is_kernel in zip(jaxpr.eqns, own, strict=True) if not is_kernel]
    inner = [getattr(x, "jaxpr", x) for eqn in calls for x in eqn.params.values()]
    return sum(own) + sum(count_kernels(x, kernel) for x in inner if hasattr(x, "eqns"))


@pytest.mark.parametrize(("remat", "forward"), [("dots", 1), ("full", 2)])
def test_cudnn_runs_as_often_as_is_counted(remat, forward, monkeypatch):
    """Traced only: what asks for a GPU answers as if there were one."""
    checks = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(checks, "check_cudnn_version", lambda: CUDNN_VERSION)
    monkeypatch.setattr(checks, "check_compute_capability", lambda least: True)
    monkeypatch.setattr(checks, "is_cuda_compute_capability_equal", lambda other: other == "9.0")
    x = jnp.zeros((1, 128, 1, 64), jnp.bfloat16)

    def loss(q, k, v):
        return jnp.sin(cudnn(q, k, v, Mask("causal")).astype(jnp.float32)).sum()

    program = jax.make_jaxpr(jax.value_and_grad(jax.checkpoint(loss, policy=remat_policy(remat)), (0, 1, 2)))(x, x, x)
    used, _ = dce_jaxpr(program.jaxpr, [True] * 4)
    assert count_kernels(used, "dot_product_attention_fwd") == forward
    assert count_kernels(used, "dot_product_attention_bwd") == 1


@pytest.mark.parametrize(("t", "backward"), [(128, 1), (640, 2)])
@pytest.mark.parametrize(("remat", "forward"), [("dots", 1), ("full", 2)])
def test_splash_runs_as_often_as_is_counted(t, backward, remat, forward):
    """Kernels of a rematerialised gradient: the fused backward pass is one, the other two."""
    x = jnp.zeros((1, t, 1, 8))

    def loss(q, k, v):
        return jnp.sin(splash(q, k, v, Mask("causal"), interpret=True)).sum()

    program = jax.make_jaxpr(jax.value_and_grad(jax.checkpoint(loss, policy=remat_policy(remat)), (0, 1, 2)))(x, x, x)
    used, _ = dce_jaxpr(program.jaxpr, [True] * 4)
    assert count_kernels(used) == forward + backward
    assert splash_products(t) == {1: 5, 2: 7}[backward]


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100", 312e12),
        ("cpu", None),
    ],
)
def test_peaks_are_those_of_the_device(kind, peak, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)] * 4)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert published_peak() == (peak and 4 * peak)
