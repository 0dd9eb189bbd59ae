"""Fingerprints of the data that a run reads, by which other data is known when the run goes on.

Readers `note` what they open. Inside `noted()` these notes are collected, and at its end each file
stands for its content: neither its time of writing nor the machine that it lies on matters.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from bertvariants_jax.files import write_file

LARGE = 1 << 26  # bytes from which a file's fingerprint is kept in the cache
CHUNK = 1 << 22
MANY = 16  # files from which a folder is one entry
SAMPLE = 8192  # rows that stand for all rows of examples

_notes: ContextVar[dict[str, Callable[[Path | None], str]] | None] = ContextVar(
    "notes", default=None
)


@contextlib.contextmanager
def noted(cache: Path | None = None) -> Iterator[dict[str, str]]:
    """Collect what is read inside: {file or address: fingerprint}, filled when the block ends.

    Args:
      cache: folder that keeps the fingerprints of large files, by path, size and time of writing.
    """
    notes: dict[str, Callable[[Path | None], str]] = {}
    fingerprints: dict[str, str] = {}
    token = _notes.set(notes)
    try:
        yield fingerprints
    finally:
        _notes.reset(token)
    fingerprints |= by_folder({name: stamp(cache) for name, stamp in notes.items()})


def note(name: str, stamp: Callable[[], str]) -> None:
    """Note a source that is no file, and what tells its content."""
    if (notes := _notes.get()) is not None:
        notes.setdefault(name, lambda cache: short(stamp()))


def note_file(path: str | os.PathLike) -> None:
    """Note a file, on this machine or where fsspec reaches."""
    if (notes := _notes.get()) is not None:
        path = os.fspath(path)
        notes.setdefault(path, lambda cache: file_fingerprint(path, cache))


def by_folder(fingerprints: dict[str, str]) -> dict[str, str]:
    """The same with one entry for each folder of more than MANY files."""
    folders: dict[str, list[str]] = {}
    for name in fingerprints:
        folders.setdefault(os.path.dirname(name), []).append(name)
    merged = {}
    for folder, names in folders.items():
        if len(names) <= MANY:
            merged |= {name: fingerprints[name] for name in names}
        else:
            merged[os.path.join(folder, "*")] = short(
                repr(sorted((os.path.basename(name), fingerprints[name]) for name in names))
            )
    return merged


def short(text: str) -> str:
    """Hex digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def file_fingerprint(path: str, cache: Path | None = None) -> str:
    """Hex digest of a file's bytes; of a remote file what its store says of its content."""
    if "://" in path:
        return remote_fingerprint(path)
    stat = os.stat(path)
    if cache is None or stat.st_size < LARGE:
        with open(path, "rb") as file:
            return digest(file)
    key = short(repr((os.path.abspath(path), stat.st_size, stat.st_mtime_ns)))
    kept = Path(cache) / key
    if not kept.is_file():
        with open(path, "rb") as file:
            text = digest(file)
        write_file(kept, text)
    return kept.read_text()


def remote_fingerprint(path: str) -> str:
    """The checksum that a store keeps of an object, else the digest of its bytes."""
    import fsspec

    opened = fsspec.open(path, "rb")
    if stored := checksum(opened.fs.info(path)):
        return short(stored)
    with opened as file:
        return digest(file)


def checksum(info: Mapping[str, Any]) -> str:
    """What a store tells of an object's content, "" if nothing."""
    return next((str(info[key]) for key in ("md5Hash", "crc32c", "ETag", "etag") if key in info), "")


def digest(file: Any) -> str:
    """Hex digest of an open file's bytes."""
    found = hashlib.blake2b(digest_size=8)
    while chunk := file.read(CHUNK):
        found.update(chunk)
    return found.hexdigest()


def rows_fingerprint(examples: Any) -> str:
    """Hex digest of examples as the network gets them: of all rows, or of SAMPLE evenly spread."""
    count = len(examples)
    numbers = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))
    found = hashlib.blake2b(f"{count}".encode(), digest_size=8)
    for first in range(0, len(numbers), 1024):
        indices = numbers[first : first + 1024]
        rows = examples.rows(indices, np.zeros_like(indices))
        for name in sorted(rows):
            array = np.ascontiguousarray(rows[name])
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(array.tobytes())
    return found.hexdigest()
