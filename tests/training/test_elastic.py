"""A run goes on in other circumstances, another mesh or layers in a scan or not, with the same state and next batch."""

import dataclasses
import hashlib

import jax
import numpy as np
import pytest

from igpt_jax.config import MeshConfig
from igpt_jax.experiment import restore, train
from igpt_jax.inputs import open_data
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import fetch_whole, make_mesh, put_batch
from igpt_jax.training.checkpoint import Checkpointer, described
from igpt_jax.training.program import make_program
from tests.training.test_resume import CFG, state_bytes

TWO_LAYERS = dataclasses.replace(CFG, model=dataclasses.replace(CFG.model, n_layer=2, vocab_size=18))


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Six steps on a mesh of 2 x 2 x 2."""
    workdir = tmp_path_factory.mktemp("begun") / "run"
    cfg = dataclasses.replace(TWO_LAYERS, mesh=MeshConfig(2, 2, 2))
    train(dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, steps=6)), workdir)
    return workdir


def go_on(workdir, cfg):
    """The state that a run begins with there, every array's bytes by path, and the sha256 of its next batch."""
    mesh, palette = make_mesh(cfg.mesh), Palette.levels(cfg.model.vocab_size)
    with Checkpointer(workdir, cfg, palette, {}) as checkpointer:
        state, meta = restore(checkpointer, make_program(cfg, palette, mesh).abstract, described(workdir))
    assert meta.step == 6
    batch = put_batch(next(open_data(cfg, mesh).train_batches(meta.step)), mesh)
    digest = hashlib.sha256(b"".join(fetch_whole(batch[key]).tobytes() for key in sorted(batch))).hexdigest()
    items = {"params": state.params, "ema": state.ema, "rest": {"step": state.step, "opt_state": state.opt_state}}
    return state, {name: np.asarray(x).tobytes() for name, x in named(items)}, digest


def named(items):
    return [(jax.tree_util.keystr(path), x) for path, x in jax.tree.leaves_with_path(items)]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (4, 1, 2), (2, 2, 2)])
@pytest.mark.parametrize("scan", [True, False])
def test_state_and_next_batch_are_the_same(begun, sizes, scan):
    cfg = dataclasses.replace(TWO_LAYERS, mesh=MeshConfig(*sizes))
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, scan_layers=scan))
    state, found, digest = go_on(begun, cfg)
    assert sorted(found.values()) == sorted(state_bytes(begun, 6).values())
    assert {name for name in found if "params" in name} == {n for n in state_bytes(begun, 6) if "params" in n}
    assert digest == go_on(begun, dataclasses.replace(TWO_LAYERS, mesh=MeshConfig(2, 2, 2)))[2]
    w = state.params["h"]["mlp"]["c_fc"]["w"]
    assert w.sharding.shard_shape(w.shape) == (2, 16 // sizes[1], 64 // sizes[2])  # it lies as the new mesh says


def test_the_batch_after_that_is_another(begun):
    mesh = make_mesh(MeshConfig())
    batches = open_data(TWO_LAYERS, mesh).train_batches(6)
    assert next(batches)["image"].tobytes() != next(batches)["image"].tobytes()


def test_the_end_does_not_depend_on_it(begun, tmp_path):
    """Two steps on, by one mesh with a scan and by another without: within rounding."""
    import shutil

    losses = []
    for i, (sizes, scan) in enumerate([((2, 2, 2), True), ((8, 1, 1), False)]):
        workdir = shutil.copytree(begun, tmp_path / str(i))
        model = dataclasses.replace(TWO_LAYERS.model, scan_layers=scan)
        cfg = dataclasses.replace(TWO_LAYERS, mesh=MeshConfig(*sizes), model=model)
        seen = []
        train(cfg, workdir, on_step=lambda step, metrics, seen=seen: seen.append(metrics.loss))
        losses.append(seen[1:])
    assert len(losses[0]) == 3
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
