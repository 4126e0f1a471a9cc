"""A damaged checkpoint is never taken for a good one: it is named, and the good one before it is used."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from igpt_jax.config import MeshConfig
from igpt_jax.palette import Palette
from igpt_jax.parallel.mesh import make_mesh
from igpt_jax.pretrained import load_workdir
from igpt_jax.run import train
from igpt_jax.training.checkpoint import Checkpointer, CheckpointMeta, list_checkpoints
from igpt_jax.training.checksums import checksums
from igpt_jax.training.step import make_program
from tests.data.made import refused
from tests.small_run import CFG, state_bytes

# Orbax leaves reads that it gave up to the garbage collector, which complains.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def abandoned_reads_end_here():
    """So that they are not collected, and complained of, in another test."""
    yield
    gc.collect()


@pytest.fixture
def workdir(straight, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    return tmp_path / "run"


def files(workdir, step):
    return sorted(p for p in (workdir / "checkpoints" / str(step)).rglob("*") if p.is_file())


def truncate(workdir, step):
    for path in files(workdir, step):
        if path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:20])


def test_a_truncated_checkpoint_is_named_and_the_one_before_it_used(workdir, straight, caplog):
    truncate(workdir, 10)
    assert load_workdir(workdir).step == 9
    assert "checkpoint 10 is damaged" in caplog.text
    refused("checkpoint 10 is damaged", load_workdir, workdir, step=10)
    assert train(CFG, workdir).step == 10  # continues from 9, and saves 10 again
    assert (workdir / "damaged" / "10").is_dir()
    assert state_bytes(workdir, 10) == state_bytes(straight, 10)


def test_when_all_are_damaged_nothing_is_begun_anew_and_nothing_moved(workdir):
    for step in (3, 6, 9, 10):
        truncate(workdir, step)
    refused("checkpoint 3 is damaged", train, CFG, workdir)
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["10", "3", "6", "9"]
    assert not (workdir / "damaged").exists()
    refused("checkpoint 3 is damaged", load_workdir, workdir)


def test_a_changed_description_is_noticed(workdir):
    [path] = [p for p in files(workdir, 10) if p.parent.name == "meta" and p.name == "metadata"]
    meta = json.loads(path.read_text())
    assert meta["config"]["sampler"]["temperature"] == 1.0
    meta["config"]["sampler"]["temperature"] = 0.5
    path.write_text(json.dumps(meta))
    assert list_checkpoints(workdir)[0].step == 9
    assert load_workdir(workdir).step == 9


def test_values_that_were_swapped_are_noticed(workdir):
    """Whole and readable files, but those of another step: only the checksums tell."""
    shutil.rmtree(workdir / "checkpoints" / "10" / "ema")
    shutil.copytree(workdir / "checkpoints" / "9" / "ema", workdir / "checkpoints" / "10" / "ema")
    refused(r"checkpoint 10 .*wrong checksum of ema/", load_workdir, workdir, step=10)


@pytest.fixture(scope="module")
def resume():
    """What a run does first in its workdir: finds the newest whole checkpoint. (every array's bytes, meta)."""
    palette = Palette.levels(CFG.model.vocab_size)
    abstract = make_program(CFG, palette, make_mesh(CFG.mesh)).abstract

    def resume(workdir):
        with Checkpointer(workdir, CheckpointMeta(0, CFG, palette, {}, {}, {})) as checkpointer:
            state, meta = checkpointer.restore(abstract, list_checkpoints(workdir))
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)], meta

    return resume


@pytest.fixture(scope="module")
def good(straight, resume, tmp_path_factory):
    """Step -> what `resume` finds of it where nothing is damaged."""
    found = {}
    for step in (10, 9):
        workdir = shutil.copytree(straight, tmp_path_factory.mktemp("good") / "run")
        if step == 9:
            shutil.rmtree(workdir / "checkpoints" / "10")
        found[step] = resume(workdir)
    assert found[10][0] != found[9][0]
    return found


def damage(path, rng):
    """Flips one bit of a file, cuts it short, or removes it."""
    before = path.read_bytes()
    kind = rng.choice(["flipped", "cut", "removed"], p=[0.6, 0.3, 0.1])
    if kind == "removed":
        path.unlink()
    elif kind == "cut" or not before:
        path.write_bytes(before[: rng.integers(len(before) + 1)])
    else:
        flipped = bytearray(before)
        flipped[rng.integers(len(before))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
    return kind


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("times", [pytest.param(6, id="few"), pytest.param(60, id="many", marks=pytest.mark.chaos)])
@pytest.mark.parametrize("item", ["params", "ema", "rest", "meta", "itself"])
def test_random_damage_is_never_silently_wrong(straight, good, resume, tmp_path, record_counts, item, times):
    """One change anywhere in an item of the newest checkpoint: what a run goes on from is a state that was saved."""
    rng = np.random.default_rng(times)
    counts = {"went on from the one before": 0, "no harm done": 0}
    for i in range(times):
        workdir = shutil.copytree(straight, tmp_path / str(i))
        top = workdir / "checkpoints" / "10"
        targets = [p for p in files(workdir, 10) if (p.parent == top if item == "itself" else item in p.parts)]
        sizes = np.array([p.stat().st_size + 1 for p in targets])
        path = rng.choice(targets, p=sizes / sizes.sum() if i % 2 else None)  # any byte, or any file
        kind = damage(path, rng)
        state, meta = resume(workdir)
        expected, other = good[meta.step]
        assert state == expected, (path, kind)
        assert (meta.config, meta.data, meta.loop) == (other.config, other.data, other.loop)
        assert meta.palette.same_as(other.palette)
        assert (workdir / "damaged" / "10").is_dir() == (meta.step == 9)
        assert load_workdir(workdir).step == meta.step
        counts["no harm done" if meta.step == 10 else "went on from the one before"] += 1
    record_counts("flips, cuts and removals", counts)
    assert counts["went on from the one before"] or item == "itself" or times < 10


def test_every_single_bit_counts_and_the_mesh_does_not():
    x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    tree = {"x": jnp.asarray(x), "n": jnp.int32(7)}
    [base] = [v for k, v in checksums(tree).items() if k == "x"]
    assert set(checksums(tree)) == {"x", "n"}
    words = x.view(np.uint32)
    for place in [(0, 0), (3, 5), (15, 7)]:
        for bit in range(32):
            flipped = words.copy()
            flipped[place] ^= np.uint32(1 << bit)
            assert checksums({"x": jnp.asarray(flipped.view(np.float32))})["x"] != base
    assert checksums({"x": jnp.asarray(x[::-1])})["x"] != base
    mesh = make_mesh(MeshConfig(2, 2, 2))
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "tensor")))
    assert checksums({"x": spread})["x"] == base
    expected = sum(int(w) * (2 * i + 1) for i, w in enumerate(words.ravel())) % 2**32
    assert base == expected
