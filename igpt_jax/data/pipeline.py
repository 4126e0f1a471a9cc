"""From records to batches: global batch k is a pure function of (seed, k), whatever the number of processes.

The record order is a fresh permutation of the source in every epoch, and every sample has its own generator, both
computed from indices alone; so a run resumes anywhere at no cost, on any number of hosts. Threads and worker processes
are grain's. Putting batches on devices is left to `igpt_jax.parallel`.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags

from igpt_jax.config import InputError
from igpt_jax.data.sources import Source

Batch = dict[str, np.ndarray]
Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_WORD = 2**64 - 1


def train_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
) -> Iterator[Batch]:
    """Endless training batches from global batch `start_step` on: this process's part of each.

    Sample g = k * batch_size + j of the run is example j of global batch k; it belongs to epoch g // len(source).
    Batches run on across the end of an epoch. A process prepares only the rows that it needs.

    Args:
      source: the records.
      transform: from `make_preprocess`; must give one shape, and be picklable where `workers` > 0.
      batch_size: images over all processes.
      seed: of order and augmentation.
      start_step: first global batch.
      rows: which rows of each global batch to prepare, in 0..batch_size - 1; by default all.
      workers: worker processes; 0 prepares batches on threads of this one. The batches are the same.

    Returns:
      An iterator of image uint8 [R, y, x, c], label int32 [R], for R rows.

    Raises:
      InputError: `source` is empty; later, from next(), what the source raises.
    """
    batch = _TrainBatch(source, transform, seed, batch_size, _checked_rows(rows, batch_size, source))
    return _Prefetched(grain.MapDataset.range(start_step, sys.maxsize).map(batch), workers)


def eval_batches(
    source: Source, transform: Transform, *, batch_size: int, rows: Sequence[int] | np.ndarray | None = None
) -> Iterator[Batch]:
    """Every record of the source once, in order, in as many global batches as it takes: equally many for any rows.

    Args as for `train_batches`.

    Returns:
      An iterator of image uint8 [R, y, x, c], label int32 and weight float32 [R]. Weight is 1 for a record, and 0 for
      the all-zero entries that fill the last batch.

    Raises:
      InputError: `source` is empty; later, from next(), what the source raises.
    """
    batch = _EvalBatch(source, transform, batch_size, _checked_rows(rows, batch_size, source))
    return _Prefetched(grain.MapDataset.range(-(-len(source) // batch_size)).map(batch), workers=0)


def _checked_rows(rows: Sequence[int] | np.ndarray | None, batch_size: int, source: Source) -> tuple[int, ...]:
    if len(source) == 0:
        raise InputError(f"data.source: {source.name} holds no record")
    found = tuple(range(batch_size) if rows is None else map(int, rows))
    if not found or min(found) < 0 or max(found) >= batch_size:
        raise ValueError(f"rows {found} are not rows of a batch of {batch_size}")
    return found


@dataclass(frozen=True)
class _TrainBatch:
    """Global batch index -> some rows of that batch."""

    source: Source
    transform: Transform
    seed: int
    batch_size: int
    rows: tuple[int, ...]

    def __call__(self, step: int) -> Batch:
        samples = [self._sample(step * self.batch_size + row) for row in self.rows]
        return {
            "image": np.stack([image for image, _ in samples]),
            "label": np.array([label for _, label in samples], np.int32),
        }

    def _sample(self, g: int) -> tuple[np.ndarray, int]:
        n = len(self.source)
        epoch, position = divmod(g, n)
        record = self.source[permuted(position, n, self.seed, epoch)]
        return self.transform(record["image"], _generator(self.seed, g)), record["label"]


@dataclass(frozen=True)
class _EvalBatch:
    """Global batch index -> some rows of that batch; those past the last record are zeros of weight 0."""

    source: Source
    transform: Transform
    batch_size: int
    rows: tuple[int, ...]

    def __call__(self, step: int) -> Batch:
        index = [step * self.batch_size + row for row in self.rows]
        real = [j for j, i in enumerate(index) if i < len(self.source)]
        # a process whose rows all lie past the end still reads one record, for the shape
        images, labels = zip(*map(self._record, [index[j] for j in real] or [0]), strict=True)
        batch: Batch = {
            "image": np.zeros((len(index), *images[0].shape), np.uint8),
            "label": np.zeros(len(index), np.int32),
            "weight": np.zeros(len(index), np.float32),
        }
        if real:
            batch["image"][real], batch["label"][real], batch["weight"][real] = images, labels, 1
        return batch

    def _record(self, i: int) -> tuple[np.ndarray, int]:
        record = self.source[i]
        return self.transform(record["image"], _generator(0, i)), record["label"]


def _end_with_parent(index: int, count: int) -> None:
    """Leaves the end of a worker process to the training process, be it close() or the end of that process itself.

    Ctrl-C reaches all processes of a terminal, and a scheduler's SIGTERM all of a job; but training still takes batches
    until it has saved. And grain's own worker would wait for ever for a training process that SIGKILL ended.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@atexit.register  # hence after every close(), which asks first, and before multiprocessing's SIGTERM and endless join()
def _kill_workers() -> None:
    """Ends workers that nothing holds any more, such as one still starting when the first batch failed."""
    for process in multiprocessing.active_children():
        if process.name.startswith("grain-process-prefetch"):
            process.kill()


def _close(box: list[grain.DatasetIterator[Batch]]) -> None:
    box.pop().close()


class _Prefetched(Iterator[Batch]):
    """Prepares elements ahead of time. An element is a whole batch, so threads and processes only take turns.

    (Batching after the split among processes would let their number decide which records share a batch.) Dropping the
    iterator, `close()` or the end of the program stops the threads and processes.
    """

    def __init__(self, batches: grain.MapDataset[Batch], workers: int) -> None:
        threads = max(1, min(16, os.cpu_count() or 1) // max(1, workers))
        dataset = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
        if workers:
            if not flags.FLAGS.is_parsed():  # grain reads an absl flag here, which raises unless absl's main() runs
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
            dataset = dataset.mp_prefetch(options, worker_init_fn=_end_with_parent)
        self._shared = workers > 0
        # boxed, for close() to drop it too: grain's destructor fails when the interpreter is half gone
        self._box = [iter(dataset)]
        self.close = weakref.finalize(self, _close, self._box)

    def __next__(self) -> Batch:
        if not self.close.alive:
            raise StopIteration
        try:
            batch = next(self._box[0])
        except InputError as error:
            self.close()
            raise InputError(str(error)) from None  # without grain's frames and its note on them
        except BaseException:
            self.close()
            raise
        # what comes from a worker lies in shared memory, which is freed behind the reader's back
        return {key: np.array(value) for key, value in batch.items()} if self._shared else batch


def _generator(seed: int, g: int) -> np.random.Generator:
    """The random numbers of sample g of a run."""
    return np.random.Generator(np.random.Philox(key=(seed & _WORD) << 64 | g))


def permuted(position: int, n: int, seed: int, epoch: int) -> int:
    """Where `position` goes in the permutation of range(n) that belongs to (seed, epoch), in constant time and memory.

    A Feistel network on the smallest even number of bits that holds n, walked until it lands inside. (grain's
    index_shuffle works on at least 16 bits: 7 ms a call for n = 3. This one is also pinned by a test, since a change of
    it would silently change what a resumed run sees.)
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
    x &= _WORD
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _WORD
    return x ^ x >> 31
