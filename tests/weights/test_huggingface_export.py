"""Writing Hugging Face directories: what comes back, the files themselves, and models that do not fit."""

import json
import resource

import pytest

from igpt_jax.weights.huggingface import ROWS, write_huggingface
from igpt_jax.weights.table import expected
from tests.data.made import refused
from tests.weights.huggingface_files import header_and_data, read_tensors
from tests.weights.made import pretrained


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"causal": False}, "BERT"),
        ({"clf_classes": 3}, "clf"),
        ({"cond_classes": 3}, "class_table"),
        ({"grid": (2, 5, 10)}, "a grid of 2 x 5 x 10"),
        ({"causal": False, "clf_classes": 3}, r"BERT model \(model.causal False\), clf"),
        ({"any_order": True}, "wpe_source"),
        ({"prefix_slots": 4, "prefix_values": 12}, "prefix"),
        ({"grid": (2, 5, 10), "any_order": True}, "wpe_frame.*wpe_source.*a grid"),
    ],
    ids=str,
)
def test_models_they_cannot_hold(tmp_path, model, named):
    refused(named, write_huggingface, pretrained(**model), tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
def test_the_files_hold_all_tensors(tmp_path, max_shard_bytes):
    """In files of about that size, which transformers takes for PyTorch's."""
    weights = pretrained(use_bias=True)
    directory = write_huggingface(weights, tmp_path / "m", max_shard_bytes)
    files = sorted(directory.glob("*.safetensors"))
    shapes = expected(ROWS, weights.model.cfg)
    assert {name: x.shape for file in files for name, x in read_tensors(file).items()} == shapes
    for file in files:
        header, data = header_and_data(file)
        assert header["__metadata__"] == {"format": "pt"}
        assert len(data) <= max_shard_bytes or len(header) == 2
    index = directory / "model.safetensors.index.json"
    assert index.exists() == (max_shard_bytes < 10**9)
    if index.exists():
        where = {name: file.name for file in files for name in read_tensors(file)}
        assert json.loads(index.read_text())["weight_map"] == where
        assert len(files) > 3


def test_a_full_disk_is_an_oserror(tmp_path):
    """From which `convert` makes one line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match=r"model\.safetensors: .*File too large"):
            write_huggingface(pretrained(), tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
