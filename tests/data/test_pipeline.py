"""Batches are a pure function of (seed, k): the same over any number of processes and workers, and from any start."""

import hashlib
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import igpt_jax
from igpt_jax.config import DataConfig, InputError
from igpt_jax.data.pipeline import eval_batches, permuted, train_batches
from igpt_jax.data.preprocess import make_preprocess
from igpt_jax.data.sources import Record, open_source


def slices(count, batch_size=8):
    """The rows of each of so many processes."""
    return np.arange(batch_size).reshape(count, -1)


class Counting:
    """Record i is a picture full of noise of its own, labelled i."""

    name = "counting"
    class_names = ()
    digest = ""

    def __init__(self, n, failing=None):
        self.n, self.failing = n, failing

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        assert 0 <= i < self.n
        if i == self.failing:
            raise InputError(f"record {i} is bad")
        return Record(image=np.random.default_rng(i).integers(0, 256, (6, 6, 1), np.uint8), label=i)


AUGMENT = make_preprocess(DataConfig(channels=1, augment="shift", flip=True), (6, 6), train=True)
PLAIN = make_preprocess(DataConfig(channels=1), (6, 6), train=False)


def batches(n, source, transform=AUGMENT, **options):
    iterator = train_batches(source, transform, **({"batch_size": 8, "seed": 5} | options))
    taken = list(itertools.islice(iterator, n))
    iterator.close()
    return taken


def digest(parts):
    """sha256 of one global batch from the parts of its processes."""
    keys = sorted(parts[0])
    joined = b"".join(np.concatenate([part[key] for part in parts]).tobytes() for key in keys)
    return hashlib.sha256(joined).hexdigest()


def labels(taken):
    return np.concatenate([batch["label"] for batch in taken]).tolist()


@pytest.mark.parametrize("count", [2, 4, 8])
def test_global_batches_do_not_depend_on_the_number_of_processes(count):
    source = Counting(21)  # batches straddle epochs, which end inside the parts of different processes
    whole = batches(12, source)
    parts = [batches(12, source, rows=rows) for rows in slices(count)]
    assert all(part[0]["image"].shape == (8 // count, 6, 6, 1) for part in parts)
    assert [digest(step) for step in zip(*parts, strict=True)] == [digest([batch]) for batch in whole]
    assert len({digest([batch]) for batch in whole}) == 12


def test_batches_have_the_promised_types():
    batch = batches(1, Counting(3))[0]
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "image": ("uint8", (8, 6, 6, 1)),
        "label": ("int32", (8,)),
    }
    assert all(type(value) is np.ndarray for value in batch.values())


def test_resuming_at_a_step_is_continuing():
    source = Counting(13)
    straight = [digest([batch]) for batch in batches(40, source)]
    for start in (1, 7, 39):
        assert digest(batches(1, source, start_step=start)) == straight[start]
    parts = [batches(2, source, start_step=20, rows=rows) for rows in slices(2)]
    assert [digest(step) for step in zip(*parts, strict=True)] == straight[20:22]


def test_a_far_step_is_reached_at_once():
    begin = time.monotonic()
    far = batches(1, Counting(10), start_step=10**12)[0]
    assert time.monotonic() - begin < 2
    assert set(far["label"].tolist()) <= set(range(10))


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
    assert batches(1, Counting(4), seed=2**70 + 3)[0]["image"].any()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 17, 100, 1797])
def test_permutations_are_permutations(n):
    orders = [[permuted(i, n, 3, epoch) for i in range(n)] for epoch in range(4)]
    assert all(sorted(order) == list(range(n)) for order in orders)
    if n >= 100:
        assert abs(np.corrcoef([np.arange(n), *orders])[~np.eye(5, dtype=bool)]).max() < 0.35


def test_permutations_are_even_handed():
    """Every record is equally often in every place: chi-squared with 81 degrees of freedom, bound at p = 1e-4."""
    table = np.zeros((10, 10))
    for seed in range(2000):
        for i in range(10):
            table[i, permuted(i, 10, seed, 0)] += 1
    assert ((table - 200) ** 2 / 200).sum() < 134


def test_the_order_of_a_run_is_pinned():
    """A failure means that running jobs, resumed with this code, would see other batches. Change it knowingly."""
    assert [permuted(i, 10, 0, 0) for i in range(10)] == [9, 2, 8, 0, 3, 4, 6, 7, 1, 5]
    assert [permuted(i, 60_000, 7, 3) for i in range(4)] == [25241, 58208, 50342, 1923]
    assert (
        digest(batches(1, Counting(21), start_step=3))
        == "da4994d03e7cb4aee69f470ef009cf2955885c6faba77c60a2fb3e113d1f7861"
    )


def test_workers_give_the_same_batches_and_their_errors():
    source = Counting(50)
    plain = [digest([batch]) for batch in batches(6, source, start_step=3)]
    from_workers = batches(6, source, start_step=3, workers=2)
    assert [digest([batch]) for batch in from_workers] == plain
    assert all(type(value) is np.ndarray for batch in from_workers for value in batch.values())
    order = [permuted(i, 50, 5, 0) for i in range(50)]
    iterator = train_batches(Counting(50, order[20]), AUGMENT, batch_size=8, seed=5, workers=1)
    assert [digest([next(iterator)]) for _ in range(2)] == [digest([b]) for b in batches(2, source)]
    with pytest.raises(InputError, match=f"^record {order[20]} is bad$"):
        next(iterator)


def test_errors_of_a_source_come_from_next_at_their_batch():
    order = [permuted(i, 50, 5, 0) for i in range(50)]
    iterator = train_batches(Counting(50, order[20]), AUGMENT, batch_size=8, seed=5)
    next(iterator), next(iterator)
    with pytest.raises(InputError, match=f"^record {order[20]} is bad$"):
        next(iterator)
    with pytest.raises(InputError, match=r"^record 3 is bad$"):
        list(eval_batches(Counting(5, 3), PLAIN, batch_size=4))


def test_an_empty_source_and_rows_that_are_none_are_refused_before_anything_is_read():
    with pytest.raises(InputError, match="holds no record"):
        train_batches(Counting(0), AUGMENT, batch_size=8, seed=0)
    with pytest.raises(InputError, match="holds no record"):
        eval_batches(Counting(0), PLAIN, batch_size=8)
    for rows in ([8], [-1], []):
        with pytest.raises(ValueError, match="not rows of a batch of 8"):
            train_batches(Counting(9), AUGMENT, batch_size=8, seed=0, rows=rows)


def test_rows_need_not_be_neighbours():
    source = Counting(21)
    for whole, part in zip(batches(5, source), batches(5, source, rows=[6, 1, 3]), strict=True):
        np.testing.assert_array_equal(part["image"], whole["image"][[6, 1, 3]])
    last = next(eval_batches(Counting(5), PLAIN, batch_size=8, rows=[6, 1, 4]))
    assert (last["weight"].tolist(), last["label"].tolist()) == ([0, 1, 1], [0, 1, 4])


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 13, 16])
def test_evaluation_counts_every_record_once(count, n):
    parts = [list(eval_batches(Counting(n), PLAIN, batch_size=8, rows=rows)) for rows in slices(count)]
    assert {len(part) for part in parts} == {-(-n // 8)}
    seen = []
    for step in zip(*parts, strict=True):
        for batch in step:
            assert {key: (value.dtype.name, value.shape[0]) for key, value in batch.items()} == {
                key: (kind, 8 // count) for key, kind in (("image", "uint8"), ("label", "int32"), ("weight", "float32"))
            }
            assert batch["image"].shape[1:] == (6, 6, 1)
            assert set(batch["weight"].tolist()) <= {0.0, 1.0}
            for image, label, weight in zip(batch["image"], batch["label"], batch["weight"], strict=True):
                if weight:
                    np.testing.assert_array_equal(image, Counting(n)[label]["image"])
                    seen.append(int(label))
                else:
                    assert not image.any()
                    assert label == 0
    assert seen == list(range(n))


def test_digits_pass_through_unchanged():
    cfg = DataConfig(source="digits", channels=1)
    source = open_source(cfg, "train")
    taken = batches(15, source, make_preprocess(cfg, (8, 8), train=True), batch_size=100)
    got = sorted(image.tobytes() for batch in taken for image in batch["image"])
    assert got == sorted(source[i]["image"].tobytes() for i in range(1500))


PROGRAM = """
import os, signal, sys
from igpt_jax.data.pipeline import train_batches
from igpt_jax.data.preprocess import make_preprocess
from igpt_jax.data.sources import open_source
from igpt_jax.config import DataConfig
if __name__ == "__main__":
    source = open_source(DataConfig(), "train")
    kept = train_batches(source, make_preprocess(DataConfig(), (32, 32), train=True), batch_size=64, seed=0,
                         workers=int(sys.argv[1]))
    print(next(kept)["image"].shape, flush=True)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[2] == "lost":
        from grain._src.python.dataset.transformations.process_prefetch import ProcessPrefetchDatasetIterator
        ProcessPrefetchDatasetIterator._stop_prefetch = lambda self: None
"""


@pytest.mark.parametrize(("workers", "end"), [(0, "abandoned"), (1, "abandoned"), (1, "killed"), (2, "lost")])
def test_nothing_outlives_the_program(tmp_path, workers, end):
    """Dropping an iterator ends quietly; a killed program takes its workers, which hold its pipes, along.

    So do workers end that no close() reaches, although they ignore SIGTERM.
    """
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, "-W", "error::ResourceWarning", tmp_path / "program.py", str(workers), end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(igpt_jax.__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        begin = time.monotonic()
        rest, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < 15
    assert (line, rest) == ("(64, 32, 32, 3)\n", "")
    if end != "killed":
        assert process.returncode == 0
    if end == "abandoned":
        assert (process.returncode, errors) == (0, "")


SIGNALLED = """
import itertools, multiprocessing, os, signal, time
import numpy as np
from igpt_jax.data.pipeline import train_batches
from igpt_jax.data.preprocess import make_preprocess
from igpt_jax.data.sources import open_source
from igpt_jax.config import DataConfig
if __name__ == "__main__":
    noted = []
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, frame: noted.append(signum))
    cfg = DataConfig()
    args = open_source(cfg, "train"), make_preprocess(cfg, (32, 32), train=True)
    plain = train_batches(*args, batch_size=64, seed=0)
    batches = train_batches(*args, batch_size=64, seed=0, workers=1)
    worker_has_started = next(batches), next(plain)
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.killpg(0, signum)
        time.sleep(0.5)
    same = [np.array_equal(a["image"], b["image"]) for a, b in itertools.islice(zip(plain, batches), 20)]
    alive = len(multiprocessing.active_children())
    batches.close()
    print([int(signum) for signum in noted], sum(same), alive, len(multiprocessing.active_children()), flush=True)
"""


def test_workers_outlast_the_signals_of_their_group(tmp_path):
    """Ctrl-C and a scheduler's SIGTERM reach the workers too, but training wants more batches until it has saved."""
    (tmp_path / "program.py").write_text(SIGNALLED)
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(igpt_jax.__file__).parents[1])},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[2, 15] 20 1 0\n", "")
