"""The tables: they cover every parameter once, complaints name layers together, reading keeps one tensor at a time."""

import gc
import weakref

import jax
import numpy as np
import pytest

from igpt_jax import ImageGPT, InputError, ModelConfig
from igpt_jax.interop import huggingface, openai, table
from tests.interop.made import assert_same_bits, pretrained


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
    assert sorted(ours) == sorted(table.flat(table.abstract_params(ImageGPT(cfg))))
    sizes = sum(int(np.prod(shape)) for shape in table.expected(rows, cfg).values())
    assert sizes == cfg.n_params


def test_the_release_has_197_tensors_for_s():
    assert len(table.expected(openai.ROWS, ModelConfig.preset("s"))) == 8 * 24 + 5


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([f"model/h{i}/ln_1/g" for i in (0, 1, 2, 10)], "model/h{0..2,10}/ln_1/g"),
        (["model/h3/ln_1/g", "model/h3/ln_2/g"], "model/h3/ln_1/g, model/h3/ln_2/g"),
        ([f"transformer.h.{i}.ln_1.weight" for i in (1, 0)], "transformer.h.{0..1}.ln_1.weight"),
        (["h1", "ln_1", "a\nb"], "h1, ln_1, a?b"),
        ([str(i) for i in range(50)], ", ".join(map(str, range(40))) + " and 10 more"),
    ],
)
def test_names_are_listed_briefly(names, text):
    assert table.listed(names) == text


def test_check_says_everything():
    wanted = {"a": (1,), "b": (2,), "c": (3,)}
    table.check(wanted, dict(wanted), "x")
    with pytest.raises(InputError, match=r"x: .*missing a; not part of the model d; b has shape \[3\], not \[2\]"):
        table.check(wanted, {"b": (3,), "c": (3,), "d": (1,)}, "x")


def tensors_of(found):
    return dict(table.write_tensors(huggingface.ROWS, found.model.cfg, table.flat(found.params)))


def test_parameters_are_the_very_buffers_that_were_filled(monkeypatch):
    """Else memory would hold the largest parameter twice while loading."""
    found = pretrained(use_bias=True)
    tensors, buffers = tensors_of(found), []
    aligned = table._aligned

    def remembered(shape):
        buffer = aligned(shape)
        buffers.append((buffer.ctypes.data, shape))
        return buffer

    monkeypatch.setattr(table, "_aligned", remembered)
    again = table.read_params(huggingface.ROWS, found.model, tensors.__getitem__)
    gc.collect()
    assert len(buffers) == len(jax.tree.leaves(again))
    assert {(x.unsafe_buffer_pointer(), x.shape) for x in jax.tree.leaves(again)} == set(buffers)
    assert_same_bits(found.params, again)


def test_one_tensor_of_theirs_is_held_at_a_time():
    found = pretrained(use_bias=True)
    tensors, held = tensors_of(found), []

    def read(name):
        assert sum(ref() is not None for ref in held) <= 1  # the last one, until its name is bound anew
        copy = tensors[name].copy()
        held.append(weakref.ref(copy))
        return copy

    table.read_params(huggingface.ROWS, found.model, read)
    assert len(held) == len(tensors)


def test_a_donated_parameter_is_not_overwritten_behind_anyone():
    """A loaded array may be given to a step that donates it; the result is right all the same."""
    found = pretrained()
    tensors = dict(table.write_tensors(openai.ROWS, found.model.cfg, table.flat(found.params)))
    again = table.read_params(openai.ROWS, found.model, tensors.__getitem__)
    twice = jax.jit(lambda p: jax.tree.map(lambda x: x * 2, p), donate_argnums=0)(again)
    assert_same_bits(jax.tree.map(lambda x: x * 2, found.params), twice)
