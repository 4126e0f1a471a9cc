"""Checkpoints of another version, and what is known of weights without reading them."""

import gc
import json

import pytest

from igpt_jax.config import ModelConfig
from igpt_jax.pretrained import load_workdir
from igpt_jax.weights.load import convert, inspect, load_pretrained
from tests.data.made import refused
from tests.weights.made import pretrained


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
