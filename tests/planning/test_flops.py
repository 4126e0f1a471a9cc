"""FLOPs by hand, and that the programs execute what the formulas say."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from igpt_jax.config import ModelConfig
from igpt_jax.model.attention_kernels import splash, splash_products
from igpt_jax.model.decoder import REMAT
from igpt_jax.planning.plan import training_flops


def test_flops_by_hand():
    tiny = ModelConfig.preset("tiny")  # L 2, D 32, T 64: N = 12 * 2 * 32^2 = 24576
    product = 2 * 32 * 64  # of a token's query with the keys it sees, in two layers
    found = training_flops(tiny, 16)
    assert found.headline == 16 * 64 * (6 * 24576 + 6 * product) == 176_160_768
    assert found.noncausal == 16 * 64 * (6 * 24576 + 12 * product)
    assert found.executed == found.headline + 16 * 64 * product  # the logits once more
    assert training_flops(dataclasses.replace(tiny, causal=False), 16).headline == found.noncausal
    full = training_flops(dataclasses.replace(tiny, remat="full"), 16)
    assert full.executed - found.executed == 16 * 64 * (2 * 24576 + 2 * product)  # the forward pass again
    dots = training_flops(dataclasses.replace(tiny, remat="dots"), 16)
    assert dots.executed - found.executed == 16 * 64 * 2 * product  # attention's part of it


@pytest.mark.parametrize(("grid", "again"), [((32, 32), 1), ((64, 64), 3)])
@pytest.mark.parametrize(("remat", "forward"), [("none", 0), ("dots", 0), ("full", 2)])
def test_flops_of_splash_by_hand(grid, again, remat, forward):
    """Its backward pass makes five products of six's four, over many keys seven; remat dots keeps what it yields."""
    model = ModelConfig.preset("tiny", grid=grid, attention="splash", remat=remat)
    tokens, product = grid[0] * grid[1], 2 * 32 * grid[0] * grid[1]
    found = training_flops(model, 1)
    weights = 2 * 24576 if remat == "full" else 0
    assert found.executed - found.headline == tokens * ((again + forward) * product + weights)


def kernels(jaxpr):
    """Pallas kernels that a program runs, those in what it calls included."""
    own = [eqn.primitive.name == KERNEL for eqn in jaxpr.eqns]
    inner = [getattr(x, "jaxpr", x) for eqn in jaxpr.eqns for x in eqn.params.values() if eqn.primitive.name != KERNEL]
    return sum(own) + sum(kernels(x) for x in inner if hasattr(x, "eqns"))


KERNEL = "pallas_call"


@pytest.mark.parametrize(("t", "backward"), [(128, 1), (640, 2)])
@pytest.mark.parametrize(("remat", "forward"), [("dots", 1), ("full", 2)])
def test_splash_runs_as_often_as_is_counted(t, backward, remat, forward):
    """Kernels of a rematerialised gradient: the fused backward pass is one, the other two."""
    x = jnp.zeros((1, t, 1, 8))

    def loss(q, k, v):
        return jnp.sin(splash(q, k, v, True, interpret=True)).sum()

    program = jax.make_jaxpr(jax.value_and_grad(jax.checkpoint(loss, policy=REMAT[remat]), (0, 1, 2)))(x, x, x)
    used, _ = dce_jaxpr(program.jaxpr, [True] * 4)
    assert kernels(used) == forward + backward
    assert splash_products(t) == {1: 5, 2: 7}[backward]
