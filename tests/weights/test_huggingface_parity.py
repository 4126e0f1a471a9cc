"""transformers itself against ours: logits, greedy decoding and its image processor, in both directions."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from igpt_jax import ImageGPT, Palette
from igpt_jax.config import ComputeConfig, SamplerConfig
from igpt_jax.sampling.decode import decode
from igpt_jax.sampling.prompt import Prompt
from igpt_jax.sampling.rules import rules_of
from igpt_jax.weights.huggingface import write_huggingface
from igpt_jax.weights.load import convert, load_pretrained
from tests.weights.huggingface_files import read_tensors, save, their_logits, their_model
from tests.weights.made import assert_same, pretrained, tokens

ATOL = 1e-4


@pytest.mark.parametrize(("head", "biases"), [(32, True), (64, False), (96, True), (128, False)])
def test_logits_of_what_transformers_saved(tmp_path, head, biases):
    theirs = their_model(biases, head)
    weights = load_pretrained(save(theirs, tmp_path / "m"))
    assert (weights.model.cfg.use_bias, weights.model.cfg.head_dim, weights.model.cfg.grid) == (biases, head, (10, 10))
    assert weights.palette is None
    x = tokens(weights.model.cfg)
    want = their_logits(theirs, x)
    assert np.abs(want).max() > 1
    for attention in ("reference", "chunked"):
        model = ImageGPT(weights.model.cfg, ComputeConfig(attention=attention))
        logits = jax.jit(model.apply)({"params": weights.params}, x)
        np.testing.assert_allclose(logits, want, atol=ATOL, rtol=0)


def test_shards_hold_the_same_model(tmp_path):
    theirs = their_model()
    whole = load_pretrained(save(theirs, tmp_path / "one"))
    many = save(theirs, tmp_path / "many", max_shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 3
    assert not (many / "model.safetensors").exists()
    assert_same(whole, load_pretrained(many))


@pytest.mark.parametrize("biases", [True, False])
def test_their_files_survive_a_round_through_ours(tmp_path, biases):
    theirs = save(their_model(biases), tmp_path / "m")
    workdir = convert(load_pretrained(theirs), "workdir", tmp_path / "w")
    back = convert(load_pretrained(workdir), "huggingface", tmp_path / "b")
    before, after = (read_tensors(path / "model.safetensors") for path in (theirs, back))
    assert before.keys() == after.keys()
    for name, x in before.items():
        np.testing.assert_array_equal(x.view(np.uint32), after[name].view(np.uint32), name)


def test_greedy_decoding_is_theirs(tmp_path):
    theirs = their_model(n_positions=64)
    weights = load_pretrained(save(theirs, tmp_path / "m"))
    import torch

    start = torch.tensor([[theirs.config.vocab_size - 1]])
    want = theirs.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=64, do_sample=False)
    none = jnp.zeros((1, 64), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 1)
    greedy = rules_of(SamplerConfig(temperature=0))
    drawn = decode(weights.model, weights.params, Prompt(none, none.astype(bool)), keys, greedy)
    assert len(set(drawn[0].tolist())) > 3
    np.testing.assert_array_equal(drawn, want[:, 1:].numpy())


@pytest.mark.parametrize("use_bias", [False, True])
def test_transformers_loads_what_is_written(tmp_path, use_bias):
    transformers = pytest.importorskip("transformers")
    weights = pretrained(use_bias=use_bias)
    write_huggingface(weights, tmp_path / "m", max_shard_bytes=20_000 if use_bias else 10**9)
    assert (tmp_path / "m" / "model.safetensors").exists() != use_bias
    theirs, info = transformers.ImageGPTForCausalImageModeling.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.config.bos_token_id == weights.model.cfg.vocab_size
    assert {theirs.config.resid_pdrop, theirs.config.embd_pdrop, theirs.config.attn_pdrop} == {0.0}
    x = tokens(weights.model.cfg)
    logits = jax.jit(weights.model.apply)({"params": weights.params}, x)
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
