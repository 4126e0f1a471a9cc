"""The tables: they cover every parameter once, messages name every fault, reading holds one tensor at a time."""

import gc
import weakref

import jax
import numpy as np
import pytest

from igpt_jax import ModelConfig
from igpt_jax.model import abstract_params
from igpt_jax.weights import huggingface, openai, table
from tests.weights.made import assert_same_bits, pretrained


@pytest.mark.parametrize(
    ("rows", "model"),
    [
        (openai.ROWS, {}),
        (openai.ROWS, {"causal": False}),
        (openai.ROWS, {"clf_classes": 3}),
        (huggingface.WEIGHT_ROWS, {}),
        (huggingface.ROWS, {"use_bias": True}),
    ],
)
def test_a_table_names_every_parameter_once(rows, model):
    cfg = ModelConfig.preset("tiny", **model)
    ours = [path for row in rows if row.when(cfg) for path in row.ours]
    assert sorted(ours) == sorted(table.flat(abstract_params(cfg)))
    sizes = sum(int(np.prod(shape)) for shape in table.expected(rows, cfg).values())
    assert sizes == sum(x.size for x in jax.tree.leaves(abstract_params(cfg)))


def test_the_release_has_197_tensors_for_s():
    assert len(table.expected(openai.ROWS, ModelConfig.preset("s"))) == 8 * 24 + 5


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["h1", "ln_1", "a\nb"], r"h1, ln_1, a\nb"),
        ([str(i) for i in range(20)], ", ".join(map(str, range(20)))),
        ([str(i) for i in range(50)], ", ".join(map(str, range(20))) + " and 30 more"),
    ],
)
def test_names_are_listed_in_one_line(names, text):
    assert table.listed(names) == text


def tensors_of(weights):
    return dict(table.write_tensors(huggingface.ROWS, weights.model.cfg, table.flat(weights.params)))


def test_parameters_are_the_very_buffers_that_were_filled(monkeypatch):
    """Else memory would hold the largest parameter twice while loading."""
    weights = pretrained(use_bias=True)
    tensors, buffers = tensors_of(weights), []
    aligned = table._aligned

    def remembered(shape):
        buffer = aligned(shape)
        buffers.append((buffer.ctypes.data, shape))
        return buffer

    monkeypatch.setattr(table, "_aligned", remembered)
    again = table.read_params(table.Opened(weights, huggingface.ROWS, tensors.__getitem__))
    gc.collect()
    assert len(buffers) == len(jax.tree.leaves(again))
    assert {(x.unsafe_buffer_pointer(), x.shape) for x in jax.tree.leaves(again)} == set(buffers)
    assert_same_bits(weights.params, again)


def test_one_tensor_of_theirs_is_held_at_a_time():
    weights = pretrained(use_bias=True)
    tensors, held = tensors_of(weights), []

    def read(name):
        assert sum(ref() is not None for ref in held) <= 1  # the last one, until its name is bound anew
        copy = tensors[name].copy()
        held.append(weakref.ref(copy))
        return copy

    table.read_params(table.Opened(weights, huggingface.ROWS, read))
    assert len(held) == len(tensors)


def test_a_donated_parameter_is_not_overwritten_behind_anyone():
    """A loaded array may be passed to a step that donates it; the result is right all the same."""
    weights = pretrained()
    tensors = dict(table.write_tensors(openai.ROWS, weights.model.cfg, table.flat(weights.params)))
    again = table.read_params(table.Opened(weights, openai.ROWS, tensors.__getitem__))
    twice = jax.jit(lambda p: jax.tree.map(lambda x: x * 2, p), donate_argnums=0)(again)
    assert_same_bits(jax.tree.map(lambda x: x * 2, weights.params), twice)
