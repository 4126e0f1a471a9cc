"""Weights that hold NaN or Inf are refused, whatever their kind and wherever they lie; all tensors are named."""

import dataclasses

import jax
import numpy as np
import pytest

from igpt_jax.config import MeshConfig
from igpt_jax.model import AXES
from igpt_jax.parallel.mesh import make_mesh, shardings
from igpt_jax.pretrained import require_finite
from igpt_jax.weights.load import convert, load_pretrained
from tests.data.made import refused
from tests.weights.made import assert_same_bits, pretrained

EXPECTED = "h/ln_2/g (layers [0]), h/mlp/c_fc/w (layers [0, 1]), sos, wpe; allow_nonfinite loads it anyway"


def damaged():
    """Weights with NaN and Inf of both signs in four tensors."""
    weights = pretrained(vocab_size=22)
    params = jax.tree.map(np.array, weights.params)
    params["h"]["mlp"]["c_fc"]["w"][1, 3, 4:7] = np.nan, -np.nan, np.inf
    params["h"]["mlp"]["c_fc"]["w"][0, -1, -1] = np.nan
    params["h"]["ln_2"]["g"][0, 5] = -np.inf
    params["wpe"][-1, -1] = np.inf
    params["sos"][:] = np.nan
    return dataclasses.replace(weights, params=jax.tree.map(jax.numpy.asarray, params))


@pytest.mark.parametrize("kind", ["workdir", "openai", "huggingface"])
def test_every_kind_of_weights_is_refused_unless_it_is_asked_for(tmp_path, kind):
    """A run's own checkpoint, too, and no older one is taken."""
    if kind == "openai":
        pytest.importorskip("tensorflow")
    weights = damaged()
    path = convert(weights, kind, tmp_path / "a")
    for mesh in (None, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        line = refused("holds NaN or Inf", load_pretrained, path, mesh=mesh)
        origin = f"{path} at step 7" if kind == "workdir" else str(path)
        assert line == f"{origin}: holds NaN or Inf: {EXPECTED}"
        again = load_pretrained(path, mesh=mesh, allow_nonfinite=True)
        assert_same_bits(weights.params, again.params)


def test_a_single_bad_number_anywhere_counts_on_every_mesh():
    weights = pretrained(vocab_size=22, n_layer=1)
    require_finite(weights.params, "x")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    places = shardings(weights.params, mesh, AXES)
    for value, name, layer in (
        (np.nan, "wte", ""),
        (-np.inf, "ln_f/g", ""),
        (np.nan, "h/attn/c_proj/w", " (layers [0])"),
    ):
        params = jax.tree.map(np.array, weights.params)
        leaf = params
        for key in name.split("/"):
            leaf = leaf[key]
        leaf.flat[-1] = value
        for tree in (jax.tree.map(jax.numpy.asarray, params), jax.device_put(params, places)):
            assert f"Inf: {name}{layer}; allow" in refused("", require_finite, tree, "x")


def test_a_long_list_is_cut():
    params = jax.tree.map(lambda x: jax.numpy.full(x.shape, np.nan), pretrained(vocab_size=22).params)
    line = refused("", require_finite, params, "x")
    assert f" and {len(jax.tree.leaves(params)) - 8} more; allow_nonfinite" in line
