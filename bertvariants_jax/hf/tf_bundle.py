"""TensorFlow's V2 checkpoints (`X.index` and `X.data-00000-of-0000N`), read without TensorFlow.

Format: `tensorflow/core/util/tensor_bundle` and `protobuf/tensor_bundle.proto`. The index is a
LevelDB table (blocks of prefix-compressed keys, a masked crc32c behind each) from variable names to
where their raw bytes lie in the data files. Both `tf.train.Saver` (TF1: google-research's BERT,
ALBERT, ELECTRA, XLNet) and TF2 write it.
"""

from __future__ import annotations

import functools
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from bertvariants_jax.hf.lazy import LazyTensor, LazyTensors, map_file

DTYPES = {
    1: np.dtype(np.float32), 2: np.dtype(np.float64), 3: np.dtype(np.int32), 4: np.dtype(np.uint8),
    5: np.dtype(np.int16), 6: np.dtype(np.int8), 9: np.dtype(np.int64), 10: np.dtype(np.bool_),
    14: np.dtype(ml_dtypes.bfloat16), 17: np.dtype(np.uint16), 19: np.dtype(np.float16),
    22: np.dtype(np.uint32), 23: np.dtype(np.uint64),
}  # fmt: skip
STRING = 7
FOOTER = 48  # bytes: two block handles, padding, the magic number
MAGIC = bytes.fromhex("57fb808b247547db")
CASTAGNOLI = 0x82F63B78  # the polynomial of crc32c, its bits reversed


class _Damaged(Exception):
    """What is wrong with the checkpoint; `read_tf_checkpoint` adds which file."""


class _Entry(NamedTuple):
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


def read_tf_checkpoint(source: str | os.PathLike) -> LazyTensors:
    """Opens a TF1 or TF2 checkpoint, without reading any tensor: variable name -> array.

    Names are those of the checkpoint. String variables (TF2's object graph) are left out: they hold
    no numbers. A tensor's checksum is compared when it is read. bfloat16 is `ml_dtypes.bfloat16`.

    Args:
      source: the prefix `X`, one of its files, or a folder with exactly one `*.index`.

    Raises:
      FileNotFoundError: no checkpoint there, or a data file is missing.
      ValueError: several checkpoints in the folder; a damaged or truncated file; what this reader
        does not do: a compressed index, big-endian files, variables stored in slices.
    """
    index = _find_index(Path(source))
    try:
        count, rows = _read_index(map_file(index).tobytes())
    except _Damaged as error:
        raise ValueError(f"{index}: {error}") from error

    prefix = index.name.removesuffix(".index")
    shards, entries = {}, {}
    for name, row in rows.items():
        if row.dtype == STRING:
            continue
        try:
            dtype = _check(name, row)
        except _Damaged as error:
            raise ValueError(f"{index}: {error}") from error
        path = index.with_name(f"{prefix}.data-{row.shard:05d}-of-{count:05d}")
        if row.size and path not in shards:
            shards[path] = map_file(path)
        data = shards.get(path, np.empty(0, np.uint8))
        if row.size and row.offset + row.size > len(data):
            raise ValueError(
                f"{path}: truncated: variable {name!r} needs {row.offset + row.size:,} bytes, "
                f"{len(data):,} found"
            )
        raw = data[row.offset : row.offset + row.size]
        entries[name] = _lazy(name, raw, dtype, row.shape, row.checksum, path)
    return LazyTensors(entries)


def _find_index(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) > 1:
            raise ValueError(
                f"{path}: {len(found)} checkpoints: {', '.join(f.stem for f in found[:8])}; "
                f"name one, for example {path / found[-1].stem}"
            )
        if not found:
            raise FileNotFoundError(
                f"{path}: no TensorFlow checkpoint: the folder has no *.index file"
            )
        return found[0]
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path.name)
    index = path.with_name(f"{prefix}.index")
    if not index.is_file():
        raise FileNotFoundError(
            f"{path}: no TensorFlow checkpoint: {index} does not exist "
            "(a single .ckpt file is of the format V1, which TensorFlow has to convert)"
        )
    return index


def _lazy(
    name: str, raw: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], checksum: int, path: Path
) -> LazyTensor:
    def read() -> np.ndarray:
        if _masked(_crc32c(raw)) != checksum:
            raise ValueError(
                f"{path}: damaged: the checksum of variable {name!r} is wrong; "
                "download or copy it again"
            )
        array = np.array(raw).view(dtype).reshape(shape)
        return array if sys.byteorder == "little" else array.byteswap()

    return LazyTensor(shape, dtype, path, read)


def _check(name: str, row: _Entry) -> np.dtype:
    if row.sliced:
        raise _Damaged(
            f"variable {name!r} is stored in slices (a partitioned variable), "
            "which this reader does not do"
        )
    if row.dtype not in DTYPES:
        raise _Damaged(
            f"variable {name!r} has dtype number {row.dtype}, which this reader does not know"
        )
    dtype = DTYPES[row.dtype]
    if row.size != math.prod(row.shape) * dtype.itemsize:
        raise _Damaged(
            f"damaged: variable {name!r}, {dtype} {list(row.shape)}, "
            f"is said to have {row.size} bytes"
        )
    return dtype


# The index: a LevelDB table


def _read_index(data: bytes) -> tuple[int, dict[str, _Entry]]:
    """The number of data files, and where each variable lies."""
    if len(data) < FOOTER or data[-8:] != MAGIC:
        raise _Damaged(
            f"not a checkpoint index, or truncated: its {len(data)} bytes end unlike a table"
        )
    footer = data[-FOOTER:]
    _, cursor = _handle(footer, 0)  # of the metaindex, which is empty
    index, _ = _handle(footer, cursor)
    header, rows = None, {}
    for _, value in _block(data, *index):
        handle, _ = _handle(value, 0)
        for key, record in _block(data, *handle):
            if key:
                if key[:1] == b"\0":
                    continue  # a slice of a partitioned variable; the variable's own row says so
                rows[_text(key)] = _entry(record)
            else:
                header = _header(record)
    if header is None:
        raise _Damaged("damaged: it has no header entry")
    return header, rows


def _handle(data: bytes, cursor: int) -> tuple[tuple[int, int], int]:
    offset, cursor = _varint(data, cursor)
    size, cursor = _varint(data, cursor)
    return (offset, size), cursor


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block: `size` bytes, one of compression, four of checksum."""
    end = offset + size
    if end + 5 > len(data) - FOOTER or size < 4:
        raise _Damaged(f"damaged: a block at bytes {offset} to {end + 5} of {len(data)}")
    if _masked(_crc32c(np.frombuffer(data, np.uint8, size + 1, offset))) != _fixed32(data, end + 1):
        raise _Damaged(
            f"damaged: the checksum of the block at byte {offset} is wrong; "
            "download or copy it again"
        )
    if data[end] != 0:
        raise _Damaged(
            "its table is compressed with snappy, which this reader does not do; "
            "save it with TensorFlow"
        )
    block = data[offset:end]
    # behind the entries: where prefix compression restarts, and the count of those places
    limit = size - 4 * (_fixed32(block, size - 4) + 1)
    if limit < 0:
        raise _Damaged(f"damaged: the block at byte {offset} has no room for its restart points")
    cursor, key = 0, b""
    while cursor < limit:
        shared, cursor = _varint(block, cursor)
        fresh, cursor = _varint(block, cursor)
        length, cursor = _varint(block, cursor)
        if shared > len(key) or cursor + fresh + length > limit:
            raise _Damaged(f"damaged: an entry of the block at byte {offset} reaches outside it")
        key = key[:shared] + block[cursor : cursor + fresh]
        cursor += fresh + length
        yield key, block[cursor - length : cursor]


# Its values: protocol buffers


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of one message: ints of the numeric wire types, bytes of others."""
    cursor = 0
    while cursor < len(data):
        tag, cursor = _varint(data, cursor)
        kind = tag & 7
        if kind == 0:
            value, cursor = _varint(data, cursor)
        else:
            if kind == 2:
                length, cursor = _varint(data, cursor)
            elif kind in (1, 5):
                length = 8 if kind == 1 else 4
            else:
                raise _Damaged(f"damaged: a message has wire type {kind}")
            value = data[cursor : cursor + length]
            cursor += length
            if cursor > len(data):
                raise _Damaged("damaged: a message is cut off")
            if kind != 2:
                value = int.from_bytes(value, "little")
        yield tag >> 3, value


def _header(data: bytes) -> int:
    fields = dict(_fields(data))
    if fields.get(2, 0) != 0:
        raise _Damaged("a checkpoint of a big-endian machine, which this reader does not do")
    count = fields.get(1, 0)
    if not isinstance(count, int) or not 0 < count < 100_000:
        raise _Damaged("damaged: its header has no number of data files")
    return count


def _entry(data: bytes) -> _Entry:
    fields = list(_fields(data))
    last = dict(fields)
    numbers = [last.get(field, 0) for field in (1, 3, 4, 5, 6)]
    shape = last.get(2, b"")
    if not all(isinstance(number, int) for number in numbers) or not isinstance(shape, bytes):
        raise _Damaged("damaged: an entry has a field of the wrong type")
    dims = [
        dict(_fields(dim)).get(1, 0)
        for field, dim in _fields(shape)
        if field == 2 and isinstance(dim, bytes)
    ]
    if len(dims) > 32 or not all(isinstance(dim, int) and dim < 1 << 62 for dim in dims):
        raise _Damaged("damaged: a variable has no valid shape")
    dtype, shard, offset, size, checksum = numbers
    sliced = any(field == 7 for field, _ in fields)
    return _Entry(dtype, tuple(dims), shard, offset, size, checksum, sliced)


def _varint(data: bytes, cursor: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[cursor : cursor + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, cursor + i + 1
    raise _Damaged("damaged: a number is cut off")


def _fixed32(data: bytes, cursor: int) -> int:
    return int.from_bytes(data[cursor : cursor + 4], "little")


def _text(key: bytes) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Damaged(f"damaged: a variable's name is not text: {key[:40]!r}") from error


# Checksums


@functools.cache
def _crc_table() -> np.ndarray:
    """What two zero bytes make of a register whose upper half is empty: uint32 [65536]."""
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = table >> 1 ^ (table & 1) * np.uint32(CASTAGNOLI)
    return table


def _crc32c(data: np.ndarray) -> int:
    """CRC-32C (Castagnoli) of bytes uint8 [n], in numpy at some 300 MB/s.

    The register is linear in the data, so the data is cut into lanes that run side by side and are
    then joined in pairs. Starting from all ones is the same as inverting the first four bytes, and
    leading zeros change nothing.
    """
    if len(data) < 4:
        register = 0xFFFFFFFF
        for byte in data.tolist():
            register ^= byte
            for _ in range(8):
                register = register >> 1 ^ (register & 1) * CASTAGNOLI
        return register ^ 0xFFFFFFFF

    table = _crc_table()
    width = 64  # bytes of a lane: a power of two, near the square root of what is there
    while width < 4096 and width * width < len(data):
        width *= 2
    lanes = -(-len(data) // width)
    padded = np.zeros(lanes * width, np.uint8)
    start = len(padded) - len(data)
    padded[start:] = data
    padded[start : start + 4] ^= 0xFF
    words = np.ascontiguousarray(padded.reshape(lanes, width).view("<u2").T)
    register = np.zeros(lanes, np.uint32)
    for word in words:
        register = table[(register ^ word) & 0xFFFF] ^ (register >> 16)

    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    # the linear map that is two more zero bytes, as the images of the 32 bits
    shift = table[bits & 0xFFFF] ^ (bits >> 16)
    for _ in range(width.bit_length() - 2):
        shift = _apply(shift, shift)
    while len(register) > 1:
        if len(register) % 2:
            register = np.concatenate([np.zeros(1, np.uint32), register])
        register = _apply(shift, register[0::2]) ^ register[1::2]
        shift = _apply(shift, shift)
    return int(register[0]) ^ 0xFFFFFFFF


def _apply(images: np.ndarray, register: np.ndarray) -> np.ndarray:
    out = np.zeros_like(register)
    for bit, image in enumerate(images):
        out ^= (register >> np.uint32(bit) & 1) * image
    return out


def _masked(crc: int) -> int:
    """The crc as LevelDB stores it: altered, lest it be taken of data that holds crcs itself."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
