"""Weights that are refused: of another version, damaged, not finite, or with no place in a format."""

import dataclasses
import gc
import json

import jax
import numpy as np
import pytest

from igpt_jax.config import MeshConfig, ModelConfig
from igpt_jax.model import AXES
from igpt_jax.parallel.mesh import make_mesh, shardings
from igpt_jax.pretrained import load_workdir, require_finite
from igpt_jax.weights.huggingface import write_huggingface
from igpt_jax.weights.load import convert, inspect, load_pretrained
from igpt_jax.weights.openai import write_openai
from tests.data.made import refused
from tests.weights.made import assert_same_bits, pretrained

EXPECTED = "h/ln_2/g (layers [0]), h/mlp/c_fc/w (layers [0, 1]), sos, wpe; allow_nonfinite loads it anyway"


def change_meta(workdir, change):
    """Changes the description of a checkpoint, as another version of the program would have written it."""
    from igpt_jax.training.checkpoint import _sha256

    [path] = (workdir / "checkpoints").glob("*/meta/metadata")
    fields = json.loads(path.read_text())
    del fields["sha256"]
    change(fields)
    path.write_text(json.dumps(fields | {"sha256": _sha256(fields)}))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda fields: fields["config"]["model"].update(rope=True), "unknown key 'rope'"),
        (lambda fields: fields.pop("palette"), "no 'palette'"),
        (lambda fields: fields["config"]["model"].update(n_layer="two"), "model.n_layer"),
    ],
    ids=["unknown", "missing", "type"],
)
def test_a_checkpoint_of_another_version_is_named_and_not_called_damaged(tmp_path, change, named):
    workdir = convert(pretrained(), "workdir", tmp_path / "w")
    change_meta(workdir, change)
    for use in (load_pretrained, load_workdir, inspect):
        line = refused(named, use, workdir)
        assert "checkpoint 7 is of another version of igpt_jax" in line
        assert "damaged" not in line


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_shapes_than_its_description_says_are_one_line(tmp_path):
    workdir = convert(pretrained(), "workdir", tmp_path / "w")
    change_meta(workdir, lambda fields: fields["config"]["model"].update(d_model=64))
    assert inspect(workdir).config.model == ModelConfig(**vars(pretrained().model.cfg) | {"d_model": 64})
    refused("checkpoint 7 is damaged", load_pretrained, workdir)
    gc.collect()  # reads that Orbax gave up, which complain


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


@pytest.mark.parametrize(
    ("write", "model", "named"),
    [
        (write_huggingface, {"causal": False, "clf_classes": 3}, r"BERT model \(model.causal False\), clf"),
        (write_huggingface, {"cond_classes": 3}, "class_table"),
        (write_huggingface, {"any_order": True}, "wpe_source"),
        (write_huggingface, {"prefix_slots": 4, "prefix_values": 12}, "prefix"),
        (write_huggingface, {"grid": (2, 5, 10), "any_order": True}, "wpe_frame.*wpe_source.*a grid of 2 x 5 x 10"),
        (write_openai, {"any_order": True}, "no place for wpe_source;"),
        (write_openai, {"prefix_slots": 4, "prefix_values": 12}, "no place for prefix"),
        (write_openai, {"grid": (2, 5, 9)}, "no place for wpe_frame; a grid of 2 x 5 x 9;"),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_models_that_a_format_cannot_hold(tmp_path, write, model, named):
    refused(named, write, pretrained(**model), tmp_path / "m")
    assert not (tmp_path / "m").exists()
