"""Batches are a pure function of (seed, k): the same over any number of processes and workers, and from any start."""

import hashlib
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import igpt_jax
from igpt_jax.config import DataConfig
from igpt_jax.data.degrade import make_degrade
from igpt_jax.data.pipeline import eval_batches, permuted, train_batches
from igpt_jax.data.sources import Record, Source
from igpt_jax.data.transforms import make_preprocess
from igpt_jax.errors import InputError
from tests.data.made import refused


def slices(count, batch_size=8):
    """The rows of each of `count` processes."""
    return np.arange(batch_size).reshape(count, -1)


class Counting(Source):
    """Record i is an image of noise, its own, with label i. Reading record `failing` raises."""

    name, digest = "counting", ""

    def __init__(self, n, failing=None):
        self.n, self.failing = n, failing

    def __len__(self):
        return self.n

    def read(self, i, rng):
        assert 0 <= i < self.n
        if i == self.failing:
            raise InputError(f"record {i} is bad")
        return Record(image=np.random.default_rng(i).integers(0, 256, (6, 6, 1), np.uint8), label=i)


class Drawing(Counting):
    """In training each image is moved by a draw of its own, as a clip begins at a frame of its own."""

    def read(self, i, rng):
        record = super().read(i, rng)
        return record if rng is None else record | {"image": np.roll(record["image"], rng.integers(6), axis=0)}


AUGMENT = make_preprocess(DataConfig(channels=1, augment="shift", flip=True), (6, 6), train=True)
PLAIN = make_preprocess(DataConfig(channels=1), (6, 6), train=False)


def batches(n, source, transform=AUGMENT, **options):
    iterator = train_batches(source, transform, **({"batch_size": 8, "seed": 5} | options))
    taken = list(itertools.islice(iterator, n))
    iterator.close()
    return taken


def digest(parts):
    """sha256 of one global batch, joined from the parts of its processes."""
    keys = sorted(parts[0])
    joined = b"".join(np.concatenate([part[key] for part in parts]).tobytes() for key in keys)
    return hashlib.sha256(joined).hexdigest()


def labels(taken):
    return np.concatenate([batch["label"] for batch in taken]).tolist()


def test_global_batches_do_not_depend_on_processes_or_the_start():
    source = Drawing(21)  # epochs end within batches, in the rows of different processes
    whole = batches(40, source)
    digests = [digest([batch]) for batch in whole]
    assert len(set(digests)) == 40
    assert {key: (value.dtype.name, value.shape) for key, value in whole[0].items()} == {
        "image": ("uint8", (8, 6, 6, 1)),
        "label": ("int32", (8,)),
    }
    assert all(type(value) is np.ndarray for value in whole[0].values())
    for count in (2, 4, 8):
        parts = [batches(12, source, rows=rows) for rows in slices(count)]
        assert [digest(step) for step in zip(*parts, strict=True)] == digests[:12]
    for start in (1, 7, 39):
        assert digest(batches(1, source, start_step=start)) == digests[start]
    for batch, part in zip(whole[20:23], batches(3, source, start_step=20, rows=[6, 1, 3]), strict=True):
        np.testing.assert_array_equal(part["image"], batch["image"][[6, 1, 3]])


def test_a_late_step_starts_as_fast_as_an_early_one():
    start = time.monotonic()
    far = batches(1, Counting(10), start_step=10**12)[0]
    assert time.monotonic() - start < 2
    assert set(far["label"].tolist()) <= set(range(10))


def test_degradation_does_not_depend_on_processes_or_the_start_and_changes_no_image():
    """It comes after all that is drawn for the images."""
    degrade = make_degrade(["gaussian:0.1", "scratches"], train=True)
    whole, plain = batches(5, Counting(21), degrade=degrade), batches(5, Counting(21))
    late = batches(2, Counting(21), degrade=degrade, start_step=3, rows=[5, 2])
    for batch, same in zip(whole, plain, strict=True):
        np.testing.assert_array_equal(batch["image"], same["image"])
        assert (batch["degraded"] != batch["image"]).any(axis=(1, 2, 3)).mean() > 0.8
    for batch, part in zip(whole[3:], late, strict=True):
        for key in ("image", "degraded", "label"):
            np.testing.assert_array_equal(part[key], batch[key][[5, 2]])


def test_held_out_degradation_is_that_of_the_picture():
    """In batches of any size, and among other records."""
    degrade = make_degrade(["gaussian:0.1"], train=False)
    small, large = ([*eval_batches(Counting(5), PLAIN, degrade=degrade, batch_size=n)] for n in (2, 8))
    whole = np.concatenate([batch["degraded"] for batch in small])
    np.testing.assert_array_equal(whole[:5], large[0]["degraded"][:5])
    assert not large[0]["degraded"][5:].any()
    image = Counting(5).read(3, None)["image"]
    np.testing.assert_array_equal(degrade(image, np.random.default_rng(9)), whole[3])


def test_every_epoch_is_a_fresh_permutation_of_all_records():
    order = labels(batches(4 * 21 // 4, Counting(21), batch_size=4))
    epochs = [order[i : i + 21] for i in range(0, 84, 21)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_seeds_and_samples_have_their_own_order_and_augmentation():
    assert labels(batches(3, Counting(21))) != labels(batches(3, Counting(21), seed=6))
    # consecutive seeds must not share epochs one step apart
    second_epoch = labels(batches(6, Counting(24), seed=5))[24:]
    assert second_epoch != labels(batches(3, Counting(24), seed=6))
    first, second = batches(2, Counting(1), batch_size=512, seed=5)
    assert len({image.tobytes() for image in first["image"]}) == 18  # 9 moves, mirrored or not
    assert not np.array_equal(first["image"], second["image"])
    assert not np.array_equal(first["image"], batches(1, Counting(1), batch_size=512, seed=6)[0]["image"])
    assert len({image.tobytes() for image in batches(1, Drawing(1), PLAIN, batch_size=64)[0]["image"]}) == 6
    assert batches(1, Counting(4), seed=2**70 + 3)[0]["image"].any()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 100, 1797])
def test_permutations_are_permutations(n):
    orders = [[permuted(i, n, 3, epoch) for i in range(n)] for epoch in range(4)]
    assert all(sorted(order) == list(range(n)) for order in orders)
    if n >= 100:
        assert abs(np.corrcoef([np.arange(n), *orders])[~np.eye(5, dtype=bool)]).max() < 0.35


def test_permutations_are_uniform():
    """Every record is equally often at every position: chi-squared with 81 degrees of freedom, bound at p = 1e-4."""
    table = np.zeros((10, 10))
    for seed in range(2000):
        for i in range(10):
            table[i, permuted(i, 10, seed, 0)] += 1
    assert ((table - 200) ** 2 / 200).sum() < 134


def test_the_order_of_a_run_is_pinned():
    """A failure means that a run resumed with this code would read other batches than before."""
    assert [permuted(i, 10, 0, 0) for i in range(10)] == [9, 2, 8, 0, 3, 4, 6, 7, 1, 5]
    assert [permuted(i, 60_000, 7, 3) for i in range(4)] == [25241, 58208, 50342, 1923]
    assert (
        digest(batches(1, Counting(21), start_step=3))
        == "da4994d03e7cb4aee69f470ef009cf2955885c6faba77c60a2fb3e113d1f7861"
    )


def test_workers_give_the_same_batches_and_their_errors():
    """With what the source, the transform and the degradation draw; and close() ends them."""
    order = labels(batches(8, Drawing(50), start_step=3))
    failing = max(set(order), key=order.index)  # the record that is read last
    good = order.index(failing) // 8
    assert good > 3
    options = dict(start_step=3, degrade=make_degrade(["gaussian:0.1"], train=True), rows=[5, 0, 2, 6])
    plain = [digest([batch]) for batch in batches(good, Drawing(50), **options)]
    iterator = train_batches(Drawing(50, failing), AUGMENT, batch_size=8, seed=5, workers=2, **options)
    from_workers = list(itertools.islice(iterator, good))
    assert [digest([batch]) for batch in from_workers] == plain
    assert all(type(value) is np.ndarray for batch in from_workers for value in batch.values())
    refused(f"^record {failing} is bad$", lambda: list(itertools.islice(iterator, 8)))
    assert not multiprocessing.active_children()


def test_a_source_that_raises_ends_its_own_batch_not_an_earlier_one():
    order = [permuted(i, 50, 5, 0) for i in range(50)]
    iterator = train_batches(Counting(50, order[20]), AUGMENT, batch_size=8, seed=5)
    next(iterator), next(iterator)
    refused(f"^record {order[20]} is bad$", next, iterator)
    refused(r"^record 3 is bad$", list, eval_batches(Counting(5, 3), PLAIN, batch_size=4))


def test_an_empty_source_is_refused_at_once():
    refused("holds no record", train_batches, Counting(0), AUGMENT, batch_size=8, seed=0)
    refused("holds no record", eval_batches, Counting(0), PLAIN, batch_size=8)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 8, 13])
def test_evaluation_counts_every_record_once(count, n):
    parts = [list(eval_batches(Drawing(n), PLAIN, batch_size=8, rows=rows)) for rows in slices(count)]
    assert {len(part) for part in parts} == {-(-n // 8)}
    seen = []
    for batch in (batch for step in zip(*parts, strict=True) for batch in step):
        assert {key: (value.dtype.name, value.shape[0]) for key, value in batch.items()} == {
            key: (kind, 8 // count) for key, kind in (("image", "uint8"), ("label", "int32"), ("weight", "float32"))
        }
        real = batch["weight"] == 1
        assert not batch["weight"][~real].any()
        assert not batch["image"][~real].any()
        assert not batch["label"][~real].any()
        for image, label in zip(batch["image"][real], batch["label"][real], strict=True):
            np.testing.assert_array_equal(image, Counting(n).read(label, None)["image"])
            seen.append(int(label))
    assert seen == list(range(n))
    last = next(eval_batches(Counting(5), PLAIN, batch_size=8, rows=[6, 1, 4]))  # any rows in any order
    assert (last["weight"].tolist(), last["label"].tolist()) == ([0, 1, 1], [0, 1, 4])


HEAD = """
import itertools, multiprocessing, os, signal, sys, time
import numpy as np
from igpt_jax.data import pipeline
from igpt_jax.data.sources import Source
class Noise(Source):
    def __len__(self):
        return 100
    def read(self, i, rng):
        return {"image": np.random.default_rng(i).integers(0, 256, (32, 32, 1), np.uint8), "label": i}
def same(image, rng):
    return image
def start(workers):
    return pipeline.train_batches(Noise(), same, batch_size=64, seed=0, workers=workers)
"""


def run_program(tmp_path, body, guard='if __name__ == "__main__":'):
    """Runs HEAD and `body` in a process group of its own: (exit code, stdout, stderr) when all its pipes are closed."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    (tmp_path / "program.py").write_text(f"{HEAD}{guard}\n{lines}")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", tmp_path / "program.py"],
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(igpt_jax.__file__).parents[1])},
    )
    return done.returncode, done.stdout, done.stderr


def test_threads_and_workers_ignore_signals_and_end_with_the_program(tmp_path):
    """Ctrl-C and a scheduler's SIGTERM reach the workers too, but training takes more batches until it has saved. A
    worker that lives on after the program would keep its pipes open, and this test would time out."""
    result = run_program(
        tmp_path,
        """
pipeline._check_children = lambda: None  # another process to start; a test of its own has it
received = []
for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, lambda signum, frame: received.append(int(signum)))
with_threads, with_workers = start(0), start(1)
next(with_threads), next(with_workers)  # the worker runs
for signum in (signal.SIGINT, signal.SIGTERM):
    os.killpg(0, signum)
    time.sleep(0.2)
pairs = itertools.islice(zip(with_threads, with_workers), 20)
print(received, sum(np.array_equal(a["image"], b["image"]) for a, b in pairs), len(multiprocessing.active_children()))
""",
    )
    assert result == (0, "[2, 15] 20 1\n", "")


def test_workers_end_when_the_program_is_killed(tmp_path):
    body = """
pipeline._check_children = lambda: None
with_threads, with_workers = start(0), start(1)
print(next(with_threads)["image"].shape, next(with_workers)["image"].shape, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    code, out, _ = run_program(tmp_path, body)
    assert (code, out) == (-signal.SIGKILL, "(64, 32, 32, 1) (64, 32, 32, 1)\n")


def test_a_program_whose_children_cannot_start_is_told_so(tmp_path):
    """Without a guard each worker would run the program again, and the first would wait for it forever."""
    body = """
try:
    start(1)
except ValueError as error:
    print(error)
"""
    assert 'if __name__ == "__main__"' in run_program(tmp_path, body, guard="if True:")[1]
