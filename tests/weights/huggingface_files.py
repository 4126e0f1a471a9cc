"""Tensors of a directory in Hugging Face's layout, and transformers' own model with random ones."""

import json
import struct

import numpy as np
import pytest


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


def write_tensors(path, tensors):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(tensors, path)


def read_tensors(path):
    numpy = pytest.importorskip("safetensors.numpy")
    return numpy.load_file(path)


def header_and_data(path):
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]
