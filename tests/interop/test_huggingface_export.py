"""Hugging Face directories that are written: what comes back of them, their bytes, and models that do not fit."""

import dataclasses

import pytest

from igpt_jax import InputError
from igpt_jax.interop.huggingface import ROWS, read_huggingface, write_huggingface
from igpt_jax.interop.table import expected
from tests.interop.huggingface_files import header_and_data
from tests.interop.made import assert_same, pretrained


def test_a_grey_palette_comes_back_grey(tmp_path):
    found = pretrained(channels=1, grid=(6, 9))
    again = read_huggingface(write_huggingface(found, tmp_path / "m"))
    assert again.config.data.channels == 1
    assert_same(found, again)


def test_without_a_palette_the_grid_still_comes_back(tmp_path):
    found = dataclasses.replace(pretrained(grid=(6, 9)), palette=None)
    assert_same(found, read_huggingface(write_huggingface(found, tmp_path / "m")))


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
