"""From records to batches. Global batch k is a pure function of (seed, k), for any number of processes and workers.

The order of the records in each epoch and the random numbers of each sample are computed from indices alone. So a run
resumes at any step without replaying the earlier ones, on any number of hosts. grain provides the threads and worker
processes; `igpt_jax.parallel` puts batches on devices.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from absl import flags

from igpt_jax.data.degrade import Degrade
from igpt_jax.data.sources import Source
from igpt_jax.data.transforms import Transform
from igpt_jax.errors import InputError, require

Batch = dict[str, np.ndarray]
Sample = dict[str, np.ndarray]
"""One row of a batch."""
Read = Callable[[int, np.random.Generator], Sample]
"""(index of a record, generator) -> the sample."""

_UINT64 = 2**64 - 1


def train_batches(
    source: Source,
    transform: Transform,
    *,
    degrade: Degrade | None = None,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """Training batches without end, from global batch `start_step` on: this process's rows of each.

    Example j of global batch k is sample g = k * batch_size + j of the run, and belongs to epoch g // len(source). A
    batch may hold the end of one epoch and the start of the next. Only the rows asked for are read.

    Args:
      source, transform, degrade: can be pickled if `workers` > 0. The transform's results have one shape.
      batch_size: images over all processes.
      rows: which rows of each global batch to prepare, each in 0..batch_size - 1. None prepares all.
      workers: worker processes; 0 uses threads of this process. The batches are the same.

    Returns:
      An iterator of image uint8 [R, y, x, c] (of clips [R, l, y, x, c], each cut at a random frame), label int32 [R]
      and with `degrade` also degraded, an array like image, for R rows. `close()` stops its workers.
    """
    read = functools.partial(_read, source, transform, degrade, True)
    batch = functools.partial(_train_batch, read, _size(source), seed, batch_size, _rows(rows, batch_size))
    return _Prefetched(grain.MapDataset.range(start_step, sys.maxsize).map(batch), workers)


def eval_batches(
    source: Source,
    transform: Transform,
    *,
    degrade: Degrade | None = None,
    batch_size: int,
    rows: Sequence[int] | np.ndarray | None = None,
) -> Iterator[Batch]:
    """Every record of the source once, in order: what `train_batches` yields and weight float32 [R].

    The weight is 1 for a record, and 0 for the all-zero entries that fill the last batch. The number of batches does
    not depend on `rows`.
    """
    n, read = _size(source), functools.partial(_read, source, transform, degrade, False)
    batch = functools.partial(_eval_batch, read, n, batch_size, _rows(rows, batch_size))
    return _Prefetched(grain.MapDataset.range(-(-n // batch_size)).map(batch), workers=0)


def _size(source: Source) -> int:
    require(len(source) > 0, "data.source", f"{source.name} holds no record")
    return len(source)


def _rows(rows: Sequence[int] | np.ndarray | None, batch_size: int) -> np.ndarray:
    return np.arange(batch_size) if rows is None else np.array(rows)


def _train_batch(read: Read, n: int, seed: int, batch_size: int, rows: np.ndarray, step: int) -> Batch:
    samples = []
    for g in (step * batch_size + rows).tolist():
        epoch, position = divmod(g, n)
        samples.append(read(permuted(position, n, seed, epoch), _generator(seed, g)))
    return _stack(samples)


def _eval_batch(read: Read, n: int, batch_size: int, rows: np.ndarray, step: int) -> Batch:
    """Rows after the last record are zeros."""
    indices = step * batch_size + rows
    real = indices < n
    # a process without any record in this batch still reads one, to know the shapes
    samples = _stack([read(i, _generator(0, i)) for i in indices[real].tolist() or [0]])
    batch = {key: np.zeros((len(rows), *x.shape[1:]), x.dtype) for key, x in samples.items()}
    for key, x in samples.items():
        batch[key][real] = x[: real.sum()]
    return batch | {"weight": real.astype(np.float32)}


def _stack(samples: list[Sample]) -> Batch:
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def _read(
    source: Source, transform: Transform, degrade: Degrade | None, train: bool, i: int, rng: np.random.Generator
) -> Sample:
    record = source.read(i, rng if train else None)
    sample = {"image": transform(record["image"], rng), "label": np.int32(record["label"])}
    return sample if degrade is None else sample | {"degraded": degrade(sample["image"], rng)}


def _start_worker(index: int, count: int) -> None:
    """Makes a worker process ignore signals, and exit with its parent.

    Ctrl-C reaches all processes of a terminal, and a scheduler's SIGTERM all processes of a job, but training still
    takes batches until it has saved. And grain's own worker waits forever if SIGKILL ends the training process.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)

    def exit_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def _check_children() -> None:
    """Raises InputError where Python cannot start processes of this program: grain would wait for them forever."""
    child = multiprocessing.get_context("spawn").Process(target=_nothing)
    child.start()
    child.join()
    if child.exitcode:
        raise InputError(
            "compute.workers: worker processes cannot start, since each runs the main script again; put what it "
            'does under if __name__ == "__main__", in a file, or set compute.workers to 0'
        )


def _nothing() -> None: ...


class _Prefetched(Iterator[Batch]):
    """Prepares elements ahead of time on threads or in worker processes.

    An element is a whole batch, so the number of workers changes nothing in it: workers take turns. `close()`, dropping
    the iterator, or the end of the program stops the threads and processes.
    """

    def __init__(self, batches: grain.MapDataset[Batch], workers: int) -> None:
        threads = max(1, min(16, os.cpu_count() or 1) // max(1, workers))
        dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
        if workers:
            _check_children()
            flags.FLAGS.mark_as_parsed()  # grain reads an absl flag, which raises unless absl's main() runs
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_start_worker)
        self._copy = workers > 0
        # a list, so that close() can empty it: grain's iterator must not be deleted while the interpreter shuts down
        self._iterator = [iter(dataset)]
        self.close = weakref.finalize(self, lambda iterator: iterator.pop().close(), self._iterator)

    def __next__(self) -> Batch:
        if not self.close.alive:
            raise StopIteration
        try:
            batch = next(self._iterator[0])
        except InputError as error:
            self.close()
            raise InputError(str(error)) from None  # without grain's traceback and notes
        except BaseException:
            self.close()
            raise
        # a worker's arrays are in shared memory, which grain may free while they are in use
        return {key: np.array(value) for key, value in batch.items()} if self._copy else batch


def _generator(seed: int, g: int) -> np.random.Generator:
    """The random numbers of sample g of a run."""
    return np.random.Generator(np.random.Philox(key=(seed & _UINT64) << 64 | g))


def permuted(position: int, n: int, seed: int, epoch: int) -> int:
    """Where `position` goes in the permutation of range(n) that belongs to (seed, epoch), in constant time and memory.

    A Feistel network on the smallest even number of bits that holds n, applied until the result is below n. (grain's
    index_shuffle works on at least 16 bits: 7 ms a call for n = 3.) A test pins the results, because a change would
    silently change what a resumed run reads.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = _round_keys(seed, epoch)
    while True:
        left, right = position >> half, position & mask
        for key in keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        position = left << half | right
        if position < n:
            return position


@functools.lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(6, np.uint64).tolist())


def _mix(x: int) -> int:
    """The finalizer of splitmix64: every bit of the result depends on every bit of x."""
    x &= _UINT64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _UINT64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _UINT64
    return x ^ x >> 31
