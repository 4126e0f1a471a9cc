"""Writing Hugging Face directories: the files themselves, and a full disk."""

import json
import resource

import pytest

from igpt_jax.weights.huggingface import ROWS, write_huggingface
from igpt_jax.weights.table import expected
from tests.weights.huggingface_files import header_and_data, read_tensors
from tests.weights.made import pretrained


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
