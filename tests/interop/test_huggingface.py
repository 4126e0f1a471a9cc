"""Hugging Face directories against transformers itself: what it saved is read, and what is written it loads."""

import dataclasses
import json
import shutil
import struct
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

from igpt_jax import ImageGPT, InputError, Palette
from igpt_jax.config import SamplerConfig
from igpt_jax.interop.huggingface import ROWS, read_huggingface, write_huggingface
from igpt_jax.interop.load import load_pretrained
from igpt_jax.interop.table import expected
from igpt_jax.sampling.sampler import sample_tokens
from tests.interop.made import assert_same, pretrained, tokens

ATOL = 1e-4


def their_model(biases=True, head=32, n_positions=100, vocab=21, seed=0):
    """transformers' model with all tensors random and of some size, in eval mode."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.ImageGPTConfig(
        vocab_size=vocab + 1, n_positions=n_positions, n_embd=2 * head, n_layer=2, n_head=2
    )
    model = transformers.ImageGPTForCausalImageModeling(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "ln_" in name:
                p.copy_(1 + 0.3 * noise)
            elif name.endswith(".bias"):
                p.copy_(0.3 * noise if biases else 0 * p)
            else:
                p.copy_(noise * (0.3 if "wte" in name or "wpe" in name else (2 * head) ** -0.5))
    return model


def their_logits(model, x):
    """As the original feeds them: the start vector first, the last pixel not at all."""
    import torch

    start = np.full((len(x), 1), model.config.vocab_size - 1)
    with torch.no_grad():
        return model(torch.as_tensor(np.concatenate([start, x[:, :-1]], axis=1).astype(np.int64))).logits.numpy()


def save(model, path, **options):
    model.save_pretrained(path, **options)
    return path


@pytest.mark.parametrize(("head", "biases"), [(32, True), (64, False), (96, True), (128, False)])
def test_logits_of_what_transformers_saved(tmp_path, head, biases):
    theirs = their_model(biases, head)
    found = load_pretrained(save(theirs, tmp_path / "m"))
    assert (found.model.cfg.use_bias, found.model.cfg.head_dim, found.model.cfg.grid) == (biases, head, (10, 10))
    assert found.palette is None
    x = tokens(found.model.cfg)
    want = their_logits(theirs, x)
    assert np.abs(want).max() > 1
    for attention in ("reference", "chunked"):
        model = ImageGPT(dataclasses.replace(found.model.cfg, attention=attention))
        logits = jax.jit(model.apply)({"params": found.params}, x)
        np.testing.assert_allclose(logits, want, atol=ATOL, rtol=0)


def test_shards_hold_the_same_model(tmp_path):
    theirs = their_model()
    whole = load_pretrained(save(theirs, tmp_path / "one"))
    many = save(theirs, tmp_path / "many", max_shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 3
    assert not (many / "model.safetensors").exists()
    assert_same(whole, load_pretrained(many))


def test_greedy_decoding_is_theirs(tmp_path):
    theirs = their_model(n_positions=64)
    found = load_pretrained(save(theirs, tmp_path / "m"))
    import torch

    start = torch.tensor([[theirs.config.vocab_size - 1]])
    want = theirs.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=64, do_sample=False)
    none = np.zeros((1, 64), np.int32)
    keys = jax.random.split(jax.random.key(0), 1)
    drawn = sample_tokens(found.model, found.params, none, none.astype(bool), keys, SamplerConfig(temperature=0))
    assert len(set(drawn[0].tolist())) > 3
    np.testing.assert_array_equal(drawn, want[:, 1:].numpy())


@pytest.mark.parametrize("use_bias", [False, True])
def test_transformers_loads_what_is_written(tmp_path, use_bias):
    transformers = pytest.importorskip("transformers")
    found = pretrained(use_bias=use_bias)
    write_huggingface(found, tmp_path / "m", max_shard_bytes=20_000 if use_bias else 10**9)
    assert (tmp_path / "m" / "model.safetensors").exists() != use_bias
    theirs, info = transformers.ImageGPTForCausalImageModeling.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.config.bos_token_id == found.model.cfg.vocab_size
    assert {theirs.config.resid_pdrop, theirs.config.embd_pdrop, theirs.config.attn_pdrop} == {0.0}
    x = tokens(found.model.cfg)
    logits = jax.jit(found.model.apply)({"params": found.params}, x)
    np.testing.assert_allclose(logits, their_logits(theirs.eval(), x), atol=ATOL, rtol=0)


def photos():
    datasets = pytest.importorskip("sklearn.datasets")
    return datasets.load_sample_images().images


def processed(directory, images):
    """What transformers' processor makes of images, by the class that it picks itself."""
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it remarks on which of its two implementations it takes
        processor = transformers.AutoImageProcessor.from_pretrained(directory)
    return np.asarray(processor(images, return_tensors="np")["input_ids"])


def processed_twice(tmp_path, palette, grid):
    """(transformers' tokens, ours, the squashed photographs) of an exported palette; greys of a grey one."""
    pytest.importorskip("transformers")
    rows, columns = grid
    model = pretrained(grid=grid, vocab_size=palette.size, channels=palette.channels, n_layer=1, d_model=2)
    write_huggingface(dataclasses.replace(model, palette=palette), tmp_path / "m")
    images = photos()
    if palette.channels == 1:
        images = [image.mean(-1, keepdims=True).astype(np.uint8).repeat(3, axis=-1) for image in images]
    squashed = [Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR) for image in images]
    pixels = np.stack([np.asarray(image) for image in squashed])[..., : palette.channels]
    ours = np.asarray(palette.encode(pixels)).reshape(len(images), -1)
    assert len(np.unique(ours)) > 30
    return processed(tmp_path / "m", images), ours, pixels.reshape(len(images), -1, palette.channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_their_processor_gives_our_tokens(tmp_path, channels):
    """Of whole photographs, squashed by PIL as the processor does."""
    centers = np.random.default_rng(0).uniform(-1, 1, (512, 3)) if channels == 3 else np.linspace(-1, 1, 99)[:, None]
    theirs, ours, _ = processed_twice(tmp_path, Palette(centers), (64, 48))
    np.testing.assert_array_equal(theirs, ours)


def test_their_processor_rounds_where_two_colours_are_equally_near(tmp_path):
    """Fitted palettes are byte colours, so that exact ties occur: one pixel in a hundred here. Ours takes the first."""
    palette = Palette.fit(np.stack(photos())[:, ::4, ::4], 512, 0)
    theirs, ours, pixels = processed_twice(tmp_path, palette, (64, 48))
    colors = palette.decode(np.arange(512)).astype(int)
    apart = theirs != ours
    assert apart.mean() < 0.02
    a, b = (((pixels.astype(int) - colors[tokens]) ** 2).sum(-1)[apart] for tokens in (theirs, ours))
    np.testing.assert_array_equal(a, b)
    assert (ours[apart] < theirs[apart]).all()


def test_a_grey_palette_comes_back_grey(tmp_path):
    found = pretrained(channels=1, grid=(6, 9))
    again = read_huggingface(write_huggingface(found, tmp_path / "m"))
    assert again.config.data.channels == 1
    assert_same(found, again)


def test_without_a_palette_the_grid_still_comes_back(tmp_path):
    found = dataclasses.replace(pretrained(grid=(6, 9)), palette=None)
    assert_same(found, read_huggingface(write_huggingface(found, tmp_path / "m")))


def test_the_hub_s_own_processor_file(tmp_path):
    """An int for the size, as in openai/imagegpt-small."""
    theirs = save(their_model(), tmp_path / "m")
    clusters = np.random.default_rng(0).uniform(-1, 1, (21, 3)).astype(np.float32)
    values = {"feature_extractor_type": "ImageGPTFeatureExtractor", "size": 10, "clusters": clusters.tolist()}
    (theirs / "preprocessor_config.json").write_text(json.dumps(values))
    found = load_pretrained(theirs)
    np.testing.assert_array_equal(found.palette.centers, clusters)
    assert found.model.cfg.grid == (10, 10)


def write_tensors(path, tensors):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(tensors, path)


def read_tensors(path):
    numpy = pytest.importorskip("safetensors.numpy")
    return numpy.load_file(path)


@pytest.fixture
def written(tmp_path):
    """A directory in their layout, and its tensors."""
    directory = write_huggingface(pretrained(), tmp_path / "m")
    return directory, read_tensors(directory / "model.safetensors")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_are_widened_exactly(written, dtype):
    import ml_dtypes  # noqa: F401

    directory, tensors = written
    narrow = {name: x.astype(dtype) for name, x in tensors.items()}
    write_tensors(directory / "model.safetensors", narrow)
    found = load_pretrained(directory)
    for ours, theirs in (("wtet", "lm_head.weight"), ("wpe", "transformer.wpe.weight")):
        assert found.params[ours].dtype == np.float32
        np.testing.assert_array_equal(found.params[ours], narrow[theirs].astype(np.float32))


def test_other_types_are_refused(written):
    directory, tensors = written
    tensors |= {name: x.astype(np.float64) for name, x in tensors.items() if "ln_1" in name}
    write_tensors(directory / "model.safetensors", tensors)
    with pytest.raises(InputError, match=r"transformer\.h\.\{0\.\.1\}\.ln_1\.weight is F64"):
        load_pretrained(directory)


def test_old_mask_buffers_are_tolerated(written):
    directory, tensors = written
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
    write_tensors(directory / "model.safetensors", tensors)
    with pytest.raises(InputError) as caught:
        load_pretrained(directory)
    said = str(caught.value)
    assert "missing transformer.h.{0..1}.mlp.c_fc.bias;" in said
    assert "not part of the model transformer.h.{0..1}.ln_1.bias;" in said
    assert "lm_head.weight has shape [22, 32], not [21, 32]" in said
    assert "\n" not in said


def test_a_classifier_is_refused(written):
    directory, tensors = written
    del tensors["lm_head.weight"]
    write_tensors(directory / "model.safetensors", tensors | {"score.weight": np.zeros((3, 32), np.float32)})
    with pytest.raises(InputError, match="classifier") as caught:
        load_pretrained(directory)
    assert "missing" not in str(caught.value)


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
        ({"n_positions": 99}, "no grid of the model's 99 positions"),
        ({"vocab_size": 1}, "vocab_size"),
        ({"n_layer": 3}, "missing transformer.h.2.ln_1.weight, transformer.h.2.attn.c_attn.weight"),
        ({"n_layer": 2**30}, "n_layer is 1073741824"),
    ],
    ids=str,
)
def test_configurations_that_compute_something_else(written, changes, named):
    directory, _ = written
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError) as caught:
        load_pretrained(directory)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_changes_no_maths_is_accepted(written):
    directory, _ = written
    path = directory / "config.json"
    harmless = {"n_inner": 128, "reorder_and_upcast_attn": True, "resid_pdrop": 0.1, "something": "new"}
    path.write_text(json.dumps(json.loads(path.read_text()) | harmless))
    assert_same(pretrained(), load_pretrained(directory))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": {"shortest_edge": 10}}, "no grid"),
        ({"size": {"height": 5, "width": 10}}, "no grid"),
        ({"size": [10, 10]}, "no grid"),
        ({"clusters": [[0.5, 2.0, 0.0]]}, "clusters"),
        ({"clusters": "red"}, "clusters"),
        ({"clusters": [[0.5, 0.5, 0.5]] * 20}, "21 colours, and the palette has 20"),
        ({"channels": 1}, "not grey"),
    ],
    ids=str,
)
def test_processor_files_that_do_not_fit(written, changes, named):
    directory, _ = written
    path = directory / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=named):
        load_pretrained(directory)


def test_a_grid_that_is_no_square_must_be_given(written):
    directory, _ = written
    found = pretrained(grid=(5, 18))
    shutil.rmtree(directory)
    write_huggingface(found, directory)
    (directory / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="--grid"):
        load_pretrained(directory)
    with pytest.raises(InputError, match="90 positions, and the grid 9 x 9 has 81"):
        load_pretrained(directory, grid=(9, 9))
    assert load_pretrained(directory, grid=(5, 18)).model.cfg == found.model.cfg


def header_and_data(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


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
        lie("lm_head.weight", data_offsets=[0, 21 * 32 * 4]),
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
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read as safetensors") as caught:
        load_pretrained(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not JSON"),
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
    with pytest.raises(InputError, match=named):
        load_pretrained(directory)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"causal": False}, "BERT"),
        ({"clf_classes": 3}, "clf"),
        ({"cond_classes": 3}, "class_table"),
        ({"grid": (2, 5, 10)}, "a grid of 2 x 5 x 10"),
        ({"causal": False, "clf_classes": 3}, r"BERT model \(model.causal False\), clf"),
    ],
    ids=str,
)
def test_models_they_cannot_hold(tmp_path, model, named):
    with pytest.raises(InputError, match=named):
        write_huggingface(pretrained(**model), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_written_files_are_those_that_their_library_writes(written, tmp_path):
    """Header and data agree with the library's reading, and the order is that of the table."""
    directory, tensors = written
    cfg = dataclasses.replace(pretrained().model.cfg, use_bias=True)
    header, data = header_and_data(directory / "model.safetensors")
    assert header.pop("__metadata__") == {"format": "pt"}
    assert list(header) == list(expected(ROWS, cfg))
    assert {name: x.shape for name, x in tensors.items()} == expected(ROWS, cfg)
    assert len(data) == sum(x.nbytes for x in tensors.values())
