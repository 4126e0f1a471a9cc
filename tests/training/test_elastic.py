"""A run continues on another mesh, or with its layers in a scan or not: with the same state and the same next batch."""

import dataclasses
import hashlib
import shutil

import jax
import numpy as np
import pytest

from igpt_jax.config import ComputeConfig, MeshConfig
from igpt_jax.datasets import open_data
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import make_mesh, put_batch, to_host
from igpt_jax.run import train
from igpt_jax.training.checkpoint import Checkpointer, CheckpointMeta, list_checkpoints
from igpt_jax.training.step import make_program
from tests.small_run import CFG, state_bytes

TWO_LAYERS = dataclasses.replace(CFG, model=dataclasses.replace(CFG.model, n_layer=2, vocab_size=18))


@pytest.fixture(scope="module")
def six_steps(tmp_path_factory):
    """Six steps on a mesh of 2 x 2 x 2."""
    workdir = tmp_path_factory.mktemp("six") / "run"
    cfg = dataclasses.replace(TWO_LAYERS, mesh=MeshConfig(2, 2, 2))
    train(dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, steps=6)), workdir)
    return workdir


def next_batch(cfg, step):
    """The sha256 of the batch after a step."""
    mesh = make_mesh(cfg.mesh)
    batch = put_batch(next(open_data(cfg, mesh).train_batches(step)), mesh)
    return hashlib.sha256(b"".join(to_host(batch[key]).tobytes() for key in sorted(batch))).hexdigest()


def resume(workdir, cfg):
    """The state that a run continues with, and every array's bytes by path."""
    mesh, palette = make_mesh(cfg.mesh), Palette.levels(cfg.model.vocab_size)
    with Checkpointer(workdir, CheckpointMeta(0, cfg, palette, {}, {}, {})) as checkpointer:
        state, meta = checkpointer.restore(make_program(cfg, palette, mesh).abstract, list_checkpoints(workdir))
    assert meta.step == 6
    items = {"params": state.params, "ema": state.ema, "rest": {"step": state.step, "opt_state": state.opt_state}}
    named = [(jax.tree_util.keystr(path), x) for path, x in jax.tree.leaves_with_path(items)]
    return state, {name: np.asarray(x).tobytes() for name, x in named}


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2)])
def test_state_and_next_batch_are_the_same_on_any_mesh(six_steps, sizes):
    cfg = dataclasses.replace(TWO_LAYERS, mesh=MeshConfig(*sizes))
    (state, arrays), stored = resume(six_steps, cfg), state_bytes(six_steps, 6)
    assert sorted(arrays.values()) == sorted(stored.values())
    assert {name for name in arrays if "params" in name} == {name for name in stored if "params" in name}
    assert next_batch(cfg, 6) == next_batch(dataclasses.replace(TWO_LAYERS, mesh=MeshConfig(2, 2, 2)), 6)
    w = state.params["h"]["mlp"]["c_fc"]["w"]
    assert w.sharding.shard_shape(w.shape) == (2, 16 // sizes[1], 64 // sizes[2])  # as the new mesh says
    assert next_batch(cfg, 6) != next_batch(cfg, 7)


def test_the_end_depends_neither_on_the_mesh_nor_on_the_scan(six_steps, tmp_path):
    """Steps 7 and 8 on one mesh with a scan, and on another without: within rounding."""
    two_more = dataclasses.replace(TWO_LAYERS.train, steps=9)
    losses = []
    for i, (sizes, scan) in enumerate([((2, 2, 2), True), ((8, 1, 1), False)]):
        workdir = shutil.copytree(six_steps, tmp_path / str(i))
        compute = ComputeConfig(scan_layers=scan)
        cfg = dataclasses.replace(TWO_LAYERS, mesh=MeshConfig(*sizes), compute=compute, train=two_more)
        seen = []
        train(cfg, workdir, on_step=lambda step, log, seen=seen: seen.append(log.loss))
        losses.append(seen[1:])
    assert len(losses[0]) == 2
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
