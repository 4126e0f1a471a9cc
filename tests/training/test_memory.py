"""A run that cannot fit is refused before anything is written."""

import dataclasses

import pytest

from igpt_jax import InputError, train
from igpt_jax.training import memory
from tests.small_run import CFG


def test_a_model_larger_than_memory_is_one_line(monkeypatch, tmp_path):
    """One layer's weights, their average, two moments and a gradient would fit; those of two layers do not."""
    monkeypatch.setattr(memory, "memory_of_a_device", lambda: 4.0 * 5 * 7_000)
    cfg = dataclasses.replace(CFG, model=dataclasses.replace(CFG.model, n_layer=2))
    with pytest.raises(InputError, match=r"take 0\.0 GB on every device.*--mesh\.fsdp"):
        train(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_memory_of_this_machine_is_shared_by_its_fake_devices():
    assert 1e8 < memory.memory_of_a_device() < 1e12
