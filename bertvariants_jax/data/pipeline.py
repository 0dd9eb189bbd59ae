"""The pipeline: examples to batches, or to this host's rows of them, over grain, in an order that nothing but the seed
decides.

The stream of examples is endless and fixed: position p is example permute(p % n) of epoch p // n,
and global batch b is the positions b * B .. (b + 1) * B. A row is a function of its batch's number and
its place there, so the global batch does not depend on hosts, workers or restarts, and the state of
an iterator is the number of its next batch.
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.batch import IGNORED
from bertvariants_jax.data.fingerprint import rows_fingerprint

Batch = dict[str, np.ndarray]
Corrupt = Callable[[Batch, np.ndarray, np.ndarray], Batch]  # (batch, index [B], epoch [B]) -> batch
Check = Callable[[Batch], None]  # raises ValueError for a batch that the network cannot take


class Examples(Protocol):
    """A data set with random access. `rows` must be a pure function: it is called from several
    threads.
    """

    def __len__(self) -> int: ...

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> Batch:
        """indices, epoch: int64 [B] -> a padded batch of them (data/batch.py), the same shapes for
        every call.
        """
        ...


def pipeline(
    examples: Examples,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    epochs: int | None = None,
    corrupt: Corrupt | None = None,
    check: Check | None = None,
    rows: np.ndarray | None = None,
    together: int = 1,
    workers: int = 0,
    prefetch: int = 4,
) -> "Pipeline":
    """Batches, or the rows of them that one host's devices hold.

    batch_size: the global B. rows: which rows of each global batch are made, int [N] in 0 .. B - 1;
      None makes all. Hosts that name the same rows get the same rows.
    together: neighbouring rows that `corrupt` masks as one (0: the whole batch). All of them are
      made where one of them is wanted, so that hosts change no mask.
    shuffle, epochs: True draws a new order in every epoch, for `epochs` passes (None: without end;
    batches reach over the
      seam of two epochs, and a last one that is not full is left out). False with a number of
      epochs is evaluation: every example comes, in order; the last batch is filled up; the keys
      example_weight (0 for the filling) and example_id (-1 for it) are added; filling has no
      masked_weights and no labels per token either.
    corrupt: masking, called as corrupt(batch, index, epoch), for instance
    functools.partial(mask_tokens, seed=0, ...).
    check: called with every batch; a ValueError that it raises is given the batch's number.
    workers: 0 makes batches in a thread of this process; w starts w processes (the caller's main
    module must then be
      importable without side effects, as ever with Python's spawned processes).
    prefetch: batches made ahead (for each worker).
    Raises ValueError for rows that are not of the batch, and for a batch size that leaves no batch.
    """
    n = len(examples)
    if n == 0:
        raise ValueError("there are no examples")
    if batch_size < 1:
        raise ValueError(f"the global batch size {batch_size} is not 1 or more")
    rows = np.arange(batch_size) if rows is None else np.asarray(rows)
    if not len(rows) or rows.min() < 0 or rows.max() >= batch_size:
        raise ValueError(f"rows {rows} are not rows of a batch of {batch_size}")
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be 1 or more or None, not {epochs}")
    if together < 0:
        raise ValueError(f"together must be 0 or more, not {together}")
    if workers < 0 or prefetch < 1:
        raise ValueError(
            f"workers must be 0 or more and prefetch 1 or more, not {workers} and {prefetch}"
        )
    if epochs is not None and shuffle and n * epochs < batch_size:
        raise ValueError(
            f"{n} examples in {epochs} epochs do not fill one batch of {batch_size}: "
            f"use a smaller batch"
        )
    maker = _Maker(examples, seed, shuffle, epochs, corrupt, batch_size, rows, check, together)
    return Pipeline(maker, workers, prefetch)


@dataclass(frozen=True)
class Pipeline:
    """Batches, from the first at each `iter()`. `len()` counts them where the epochs do."""

    maker: "_Maker"
    workers: int
    prefetch: int

    def __iter__(self) -> "Batches":
        return Batches(self)

    def __len__(self) -> int:
        if self.maker.batches is None:
            raise TypeError("the pipeline has no end: epochs is None")
        return self.maker.batches

    def batch(self, number: int) -> Batch:
        """Batch `number`, made here and now."""
        return self.maker(number)


class Batches(Iterator[Batch]):
    """An iterator over a pipeline's batches that can say where it is and go there.

    Close it (or use it in a `with`) when it is not read to its end, so that threads and processes
    stop at once.
    """

    def __init__(self, pipeline: Pipeline):
        self._pipeline = pipeline
        self._next = 0
        self._source: list[Iterator[Batch]] = []  # grain's iterator, while there is one
        self._closed = False

    def __next__(self) -> Batch:
        if self._closed:
            raise ValueError("the iterator is closed")
        total = self._pipeline.maker.batches
        if total is not None and self._next >= total:
            self._stop()
            raise StopIteration
        if not self._source:
            self._source.append(_grain_iterator(self._pipeline, self._next))
            # Closed also when this object is forgotten, and at the interpreter's end, while
            # grain's modules are still there.
            self._finish = weakref.finalize(self, _close, self._source)
        batch = next(self._source[0])
        if self._pipeline.workers:  # out of the shared memory, which goes away with the workers
            batch = {name: np.array(array) for name, array in batch.items()}
        self._next += 1
        return batch

    def get_state(self) -> dict[str, int | bool | str]:
        """The number of the next batch and what the order depends on; goes through JSON."""
        return {"next": self._next, **self._pipeline.maker.order()}

    def set_state(
        self, state: dict[str, int | bool | str], data_changed: bool = False
    ) -> None:
        """Go on where `get_state` was called, with any number of workers and hosts.

        data_changed: with the batch of the same number, whatever the data is now.
        Raises ValueError where the data or the batches are others than they were.
        """
        order = self._pipeline.maker.order()
        for name, value in order.items():
            if data_changed and name in ("examples", "batch_size", "rows"):
                continue
            if name == "rows" and name not in state:  # of a run from before rows were compared
                continue
            if state.get(name) != value:
                what = (
                    "the rows are not what they were (other texts, labels, order or packing)"
                    if name == "rows"
                    else f"{name} was {state.get(name)} and is {value} now"
                )
                raise ValueError(
                    f"cannot resume the data: {what}. Give it back as it was, or go on with it by --data-changed"
                )
        self._stop()
        self._next = int(state["next"])

    def close(self) -> None:
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        if self._source:
            self._finish()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_) -> None:
        self.close()


@dataclass(frozen=True)
class _Maker:
    """Batch number -> its rows that are wanted: the whole pipeline as one picklable function."""

    examples: Examples
    seed: int
    shuffle: bool
    epochs: int | None
    corrupt: Corrupt | None
    batch_size: int
    rows: np.ndarray  # which of the global batch's
    check: Check | None = None
    together: int = 1

    @property
    def batches(self) -> int | None:
        if self.epochs is None:
            return None
        positions = len(self.examples) * self.epochs
        return positions // self.batch_size if self.shuffle else -(-positions // self.batch_size)

    @cached_property
    def fingerprint(self) -> str:
        return rows_fingerprint(self.examples)

    def order(self) -> dict[str, int | bool | str]:
        return {
            "examples": len(self.examples),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "rows": self.fingerprint,
        }

    def __call__(self, number: int) -> Batch:
        size = self.together or self.batch_size
        if size == 1:
            return self.made(number, self.rows)
        groups = np.unique(self.rows // size)
        rows = (groups[:, None] * size + np.arange(size)).ravel()
        batch = self.made(number, rows[rows < self.batch_size])
        wanted = np.searchsorted(rows, self.rows)
        return {key: value[wanted] for key, value in batch.items()}

    def made(self, number: int, rows: np.ndarray) -> Batch:
        """These rows of a batch."""
        n = len(self.examples)
        position = number * self.batch_size + rows
        real = np.ones(len(rows), bool)
        if self.epochs is not None and not self.shuffle:
            real = position < n * self.epochs
            position = np.minimum(position, n * self.epochs - 1)
        epoch, index = np.divmod(position, n)
        if self.shuffle:
            index = noise.permute(index, n, seed=self.seed, epoch=epoch)
        batch = self.examples.rows(index, epoch)
        if self.corrupt is not None:
            batch = self.corrupt(batch, index, epoch)
        if self.epochs is not None and not self.shuffle:
            batch = {**batch, "example_id": np.where(real, index, -1).astype(np.int32)}
            batch["example_weight"] = real.astype(np.float32)
            if not real.all():
                for name, nothing in (
                    ("masked_weights", 0),
                    ("sequence_weights", 0),
                    ("labels", IGNORED),
                ):
                    if name in batch and (
                        name != "labels"
                        or (
                            batch[name].dtype == np.int32
                            and batch[name].shape[1:] == batch["input_ids"].shape[1:]
                        )
                    ):
                        batch[name] = batch[name].copy()
                        batch[name][~real] = nothing
        if self.check is not None:
            try:
                self.check(batch)
            except ValueError as error:
                raise ValueError(f"batch {number}: {error}") from error
        return batch


def _close(source: list) -> None:
    source.pop().close()


def _grain_iterator(pipeline: Pipeline, start: int) -> Iterator[Batch]:
    import grain

    stop = pipeline.maker.batches
    source = grain.MapDataset.range(start, 2**40 if stop is None else stop).map(pipeline.maker)
    if not pipeline.workers:
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=pipeline.prefetch)
        return iter(source.to_iter_dataset(options))
    from absl import flags

    if (
        not flags.FLAGS.is_parsed()
    ):  # grain's worker pool reads absl flags, and dies where nobody has parsed them
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(
        num_workers=pipeline.workers, per_worker_buffer_size=pipeline.prefetch
    )
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return iter(source.to_iter_dataset(reading).mp_prefetch(options))
