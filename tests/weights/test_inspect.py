"""What weights are is known without reading them, and is what loading them says."""

import gc
import json

import jax
import pytest

from igpt_jax.config import ModelConfig
from igpt_jax.pretrained import load_workdir
from igpt_jax.weights.load import convert, inspect, load_pretrained
from tests.data.made import refused
from tests.weights.made import pretrained


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("workdir", {"cond_classes": 3, "use_bias": True}),
        ("openai", {"causal": False, "clf_classes": 3}),
        ("openai", {"channels": 1}),
        ("huggingface", {"grid": (5, 18)}),
        ("huggingface", {"use_bias": True, "channels": 1}),
    ],
    ids=str,
)
def test_it_is_the_configuration_of_the_loaded_weights(tmp_path, monkeypatch, kind, model):
    if kind == "openai":
        pytest.importorskip("tensorflow")
    path = convert(pretrained(**model), kind, tmp_path / "a")
    expected = load_pretrained(path)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), expected.params)
    monkeypatch.setattr("igpt_jax.weights.load.read_params", None)
    monkeypatch.setattr("igpt_jax.pretrained.read_weights", None)
    for where in (path, str(path)):
        seen = inspect(where)
        assert (seen.config, seen.step, seen.class_names) == (expected.config, expected.step, expected.class_names)
        assert seen.palette.same_as(expected.palette)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), seen.params) == shapes


def test_step_and_grid_as_for_loading(tmp_path):
    ours = convert(pretrained(), "workdir", tmp_path / "w")
    assert inspect(ours, step=7).config.model == pretrained().model.cfg
    theirs = convert(pretrained(grid=(5, 18)), "huggingface", tmp_path / "h")
    (theirs / "preprocessor_config.json").unlink()
    assert inspect(theirs, grid=(5, 18)).config.model.grid == (5, 18)
    refused("--grid", inspect, theirs)
    refused("--step", inspect, theirs, step=7)
    refused("--grid", inspect, ours, grid=(10, 10))
    refused("no checkpoint at step 8", inspect, ours, step=8)
    refused("name a workdir", inspect, tmp_path / "none")


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
