"""Hugging Face directories: what is accepted, one clear line for what is wrong, and the files that are written."""

import json
import resource
import shutil
import struct

import numpy as np
import pytest

from igpt_jax.weights.huggingface import ROWS, write_huggingface
from igpt_jax.weights.load import load_pretrained
from igpt_jax.weights.table import expected
from tests.data.made import refused
from tests.weights.huggingface_files import header_and_data, read_tensors, write_tensors
from tests.weights.made import assert_same, pretrained


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_hub_s_own_processor_file(written):
    """An int for the size, as in openai/imagegpt-small."""
    directory, _ = written
    clusters = np.random.default_rng(0).uniform(-1, 1, (21, 3)).astype(np.float32)
    values = {"feature_extractor_type": "ImageGPTFeatureExtractor", "size": 10, "clusters": clusters.tolist()}
    (directory / "preprocessor_config.json").write_text(json.dumps(values))
    weights = load_pretrained(directory)
    np.testing.assert_array_equal(weights.palette.centers, clusters)
    assert weights.model.cfg.grid == (10, 10)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_are_widened_exactly(written, dtype):
    import ml_dtypes  # noqa: F401

    directory, tensors = written
    narrow = {name: x.astype(dtype) for name, x in tensors.items()}
    write_tensors(directory / "model.safetensors", narrow)
    weights = load_pretrained(directory)
    for ours, theirs in (("wtet", "lm_head.weight"), ("wpe", "transformer.wpe.weight")):
        assert weights.params[ours].dtype == np.float32
        np.testing.assert_array_equal(weights.params[ours], narrow[theirs].astype(np.float32))


def test_what_changes_no_maths_is_accepted(written):
    """Settings of training, and copies of the causal mask in older files."""
    directory, tensors = written
    change(directory / "config.json", n_inner=128, reorder_and_upcast_attn=True, resid_pdrop=0.1, something="new")
    for i in range(2):
        tensors[f"transformer.h.{i}.attn.bias"] = np.ones((1, 1, 100, 100), np.uint8)
        tensors[f"transformer.h.{i}.attn.masked_bias"] = np.full((), -1e4, np.float32)
    write_tensors(directory / "model.safetensors", tensors)
    assert_same(pretrained(), load_pretrained(directory))


def test_everything_wrong_is_said_at_once(written):
    directory, tensors = written
    for i in range(2):
        del tensors[f"transformer.h.{i}.mlp.c_fc.bias"]
        tensors[f"transformer.h.{i}.ln_1.bias"] = np.zeros(32, np.float32)
    tensors["lm_head.weight"] = np.zeros((22, 32), np.float32)
    tensors |= {name: x.astype(np.float64) for name, x in tensors.items() if "ln_1.w" in name}
    write_tensors(directory / "model.safetensors", tensors)
    c_fc, ln_1 = ([f"transformer.h.{i}.{name}.bias" for i in range(2)] for name in ("mlp.c_fc", "ln_1"))
    wrong = "lm_head.weight has shape [22, 32], not [21, 32]; not float32, float16 or bfloat16: "
    wrong += "transformer.h.0.ln_1.weight is F64, transformer.h.1.ln_1.weight is F64"
    says = f"missing {', '.join(c_fc)}; not part of the model {', '.join(ln_1)}; {wrong}"
    refused(says, load_pretrained, directory)


def test_a_classifier_is_refused(written):
    directory, tensors = written
    del tensors["lm_head.weight"]
    write_tensors(directory / "model.safetensors", tensors | {"score.weight": np.zeros((3, 32), np.float32)})
    assert "missing" not in refused("classifier", load_pretrained, directory)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"activation_function": "gelu"}, "activation_function 'gelu'"),
        ({"n_inner": 64}, "n_inner 64"),
        ({"scale_attn_weights": False}, "scale_attn_weights False"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-06"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings True"),
        ({"add_cross_attention": True, "n_inner": "4"}, "add_cross_attention True, n_inner '4'"),
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"n_embd": "32"}, "n_embd is '32'"),
        ({"n_head": 3}, "n_head"),
        ({"n_positions": 0}, "n_positions is 0"),
        ({"n_positions": 99}, "99 positions are not 10 x 10"),
        ({"vocab_size": 1}, "vocab_size"),
        ({"n_layer": 3}, "missing transformer.h.2.ln_1.weight, transformer.h.2.attn.c_attn.weight"),
        ({"n_layer": 2**30}, "is 1073741824; there are"),
    ],
    ids=str,
)
def test_configurations_that_compute_something_else(written, changes, named):
    directory, _ = written
    change(directory / "config.json", **changes)
    refused(named, load_pretrained, directory)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": {"shortest_edge": 10}}, "100 positions are not"),
        ({"size": {"height": 5, "width": 10}}, "100 positions are not 5 x 10"),
        ({"size": [10, 10]}, "100 positions are not"),
        ({"clusters": [[0.5, 2.0, 0.0]]}, "clusters"),
        ({"clusters": "red"}, "clusters"),
        ({"clusters": [[0.5, 0.5, 0.5]] * 20}, "21 colours, and the palette has 20"),
        ({"channels": 1}, "not grey"),
    ],
    ids=str,
)
def test_processor_files_that_do_not_fit(written, changes, named):
    directory, _ = written
    change(directory / "preprocessor_config.json", **changes)
    refused(named, load_pretrained, directory)


def packed(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def lie(name, **changes):
    return lambda header, data: packed(header | {name: header[name] | changes}, data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda header, data: packed(header, data[:-100]),
        lambda header, data: packed(header, data + b"more"),
        lambda header, data: struct.pack("<Q", 2**62) + packed(header, data)[8:],
        lambda header, data: packed(header, data)[:4],
        lambda header, data: b"",
        lambda header, data: packed(b"\x80 not json", data),
        lambda header, data: packed(b'{"a": 1}', data),
        lie("transformer.wpe.weight", data_offsets=[0, 100 * 32 * 4]),
        lie("lm_head.weight", data_offsets=[10**12, 10**12 + 21 * 32 * 4]),
        lie("lm_head.weight", data_offsets=[-8, 8]),
        lie("lm_head.weight", dtype="F16"),
        lie("lm_head.weight", dtype="X99"),
        lie("lm_head.weight", shape=[2**62, 2**62]),
    ],
    ids=[
        *("truncated", "longer", "huge_header", "tiny", "empty", "no_json", "no_entry", "overlapping", "out_of_range"),
        *("negative", "narrower", "unknown_type", "overflow"),
    ],
)
def test_lying_files_are_refused(written, damage):
    directory, _ = written
    path = directory / "model.safetensors"
    path.write_bytes(damage(*header_and_data(path)))
    refused("model.safetensors: cannot be read", load_pretrained, directory)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "index.json: cannot be read"),
        ("[]", "holds list"),
        ('{"weight_map": []}', "weight_map"),
        ('{"weight_map": {"a": "../elsewhere.safetensors"}}', "weight_map"),
        ('{"weight_map": {"a": "nowhere.safetensors"}}', "nowhere.safetensors"),
        ('{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}', "and so does"),
    ],
)
def test_indices_that_lie(written, text, named):
    directory, _ = written
    for name in "ab":
        shutil.copy(directory / "model.safetensors", directory / f"{name}.safetensors")
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text(text)
    refused(named, load_pretrained, directory)


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
