"""Named tensors whose shapes are known before their bytes are read, as the readers give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np


class LazyTensor(NamedTuple):
    """One tensor of a file: its shape and dtype, the file that holds it, and how to read it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: Path
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class LazyTensors(Mapping[str, np.ndarray]):
    """Mapping name -> array that reads a tensor each time it is asked for, and keeps none.

    `tensors[name]` is a fresh array, writable, C-contiguous, in this machine's byte order. `shape`,
    `dtype`, `nbytes` and `file` of a name cost no reading. The files stay mapped for as long as the
    mapping lives.
    """

    def __init__(self, entries: Mapping[str, LazyTensor]):
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.entries[name].read()

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the tensor
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        total = sum(entry.nbytes for entry in self.entries.values())
        return f"LazyTensors({len(self)} tensors, {total:,} bytes)"

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entries[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self.entries[name].dtype

    def nbytes(self, name: str) -> int:
        return self.entries[name].nbytes

    def file(self, name: str) -> Path:
        return self.entries[name].file


def map_file(path: Path) -> np.ndarray:
    """The bytes of a file, mapped read-only: uint8 [size].

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is empty, or the text that git-lfs leaves in the place of a file that it did
        not download.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; download or copy it again")
    data = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    if len(data) < 1024 and b"git-lfs" in data[:64].tobytes():
        raise ValueError(
            f"{path}: this is a git-lfs pointer of {len(data)} bytes, not the weights; "
            "run `git lfs pull` in its repository"
        )
    return data
