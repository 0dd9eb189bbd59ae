"""Reading and writing a folder's weights: safetensors and PyTorch's `.bin`, whole or in shards.

Format: the safetensors specification (8 bytes of header length, a JSON header, raw little-endian
tensors) and the `*.index.json` of Hugging Face's sharded checkpoints.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bertvariants_jax.hf.flax_file import open_flax
from bertvariants_jax.hf.lazy import LazyTensor, LazyTensors, map_file
from bertvariants_jax.hf.torch_file import open_torch

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
TORCH = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
FLAX = "flax_model.msgpack"

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip
DTYPES = {name: np.dtype(kind) for name, kind in DTYPES.items()}
MAX_HEADER = 100_000_000  # bytes; the specification's own limit


def read_tensors(source: str | os.PathLike) -> LazyTensors:
    """Opens the weights of a folder, or one weight file, without reading any tensor.

    A folder is searched for `model.safetensors`, `model.safetensors.index.json`,
    `pytorch_model.bin`, `pytorch_model.bin.index.json` and `flax_model.msgpack`, and the first one
    found is taken. A file is told by its name: `.safetensors`, `.index.json`, `.msgpack`, and
    anything else is a PyTorch file. Tensors keep the names, shapes and dtypes of the file (bfloat16
    is `ml_dtypes.bfloat16`); those of a Flax file get PyTorch's.

    Raises:
      FileNotFoundError: no weights there, or a shard of the index is missing.
      ValueError: a damaged or truncated file, an index that leaves its folder or names tensors that
        its shards lack, a pickle that asks for more than a state dict needs.
    """
    path = Path(source)
    if path.is_dir():
        names = (SAFETENSORS, SAFETENSORS_INDEX, TORCH, TORCH_INDEX, FLAX)
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            held = sorted(entry.name for entry in path.iterdir())
            raise FileNotFoundError(
                f"{path}: no weights: none of {', '.join(names)} "
                f"(the folder holds: {_few(held) or 'nothing'})"
            )
        path = found[0]
    if path.name.endswith(".index.json"):
        return _read_sharded(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".msgpack":
        return open_flax(path)
    return open_torch(path)


def _read_safetensors(path: Path) -> LazyTensors:
    data = map_file(path)
    if len(data) < 8:
        raise ValueError(f"{path}: not a safetensors file: {len(data)} bytes, at least 8 expected")
    header_end = 8 + int.from_bytes(data[:8].tobytes(), "little")
    if header_end - 8 > MAX_HEADER:
        raise ValueError(
            f"{path}: not a safetensors file: it claims a header of {header_end - 8:,} bytes"
        )
    if header_end > len(data):
        raise ValueError(
            f"{path}: truncated: {header_end:,} bytes expected for its header alone, "
            f"{len(data):,} found; download or copy it again"
        )
    try:
        header = json.loads(data[8:header_end].tobytes().decode("utf-8"))
        header.pop("__metadata__", None)
        rows = sorted((*_row(row), name) for name, row in header.items())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: damaged safetensors header ({error}); download or copy it again"
        ) from error

    size = header_end + max((end for _, end, *_ in rows), default=0)
    if size != len(data):
        what = "truncated" if size > len(data) else "damaged, it has bytes that belong to no tensor"
        raise ValueError(
            f"{path}: {what}: {size:,} bytes expected, {len(data):,} found; "
            "download or copy it again"
        )
    entries, cursor = {}, 0
    for begin, end, dtype, shape, name in rows:
        if begin != cursor or end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
            raise ValueError(
                f"{path}: damaged safetensors header: tensor {name!r}, {dtype} {list(shape)}, "
                f"is said to be at bytes {begin} to {end}; download or copy it again"
            )
        cursor = end
        entries[name] = _stored(
            path, data[header_end + begin : header_end + end], DTYPES[dtype], shape
        )
    return LazyTensors({name: entries[name] for name in header})


def _row(row: dict) -> tuple[int, int, str, tuple[int, ...]]:
    """One row of the header as (begin, end, dtype, shape)."""
    begin, end = row["data_offsets"]
    dtype, shape = row["dtype"], tuple(row["shape"])
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {str(dtype)[:40]!r}; known are {', '.join(DTYPES)}")
    if len(shape) > 32 or not all(type(n) is int and n >= 0 for n in (begin, end, *shape)):
        raise ValueError("a shape or an offset is not of whole numbers")
    return begin, end, dtype, shape


def _stored(path: Path, raw: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> LazyTensor:
    def read() -> np.ndarray:
        array = np.array(raw).view(dtype).reshape(shape)
        return array if sys.byteorder == "little" else array.byteswap()

    return LazyTensor(shape, dtype, path, read)


def _read_sharded(path: Path) -> LazyTensors:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        if not all(isinstance(shard, str) for shard in weight_map.values()):
            raise TypeError("a shard name is not a string")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f'{path}: not an index of shards, {{"weight_map": {{tensor: file}}}} expected ({error})'
        ) from error

    shards = {name: _inside(path, name) for name in sorted(set(weight_map.values()))}
    missing = [name for name, shard in shards.items() if not shard.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path}: missing {len(missing)} of {len(shards)} shards: {_few(missing)}"
        )
    opened = {name: read_tensors(shard).entries for name, shard in shards.items()}

    lacking = [f"{name} ({file})" for name, file in weight_map.items() if name not in opened[file]]
    if lacking:
        raise ValueError(
            f"{path}: {len(lacking)} tensors are not in the shard that should hold them: "
            f"{_few(lacking)}"
        )
    entries = {name: opened[shard][name] for name, shard in weight_map.items()}
    for held in opened.values():  # what the index forgot is not lost: whoever loads decides
        for name, entry in held.items():
            entries.setdefault(name, entry)
    return LazyTensors(entries)


def _inside(index: Path, shard: str) -> Path:
    """The path of a shard, which must lie in its index's folder: an index is downloaded data."""
    folder = index.parent
    pure = PurePosixPath(shard)
    homes = [folder.resolve()]
    # The one way out: a snapshot in huggingface_hub's cache is made of links to its blobs.
    homes += [place.parent / "blobs" for place in homes[0].parents if place.name == "snapshots"][:1]
    inside = shard and not pure.is_absolute() and ".." not in pure.parts and "\\" not in shard
    if inside:
        try:
            real = (folder / shard).resolve()
            inside = any(real.is_relative_to(home) for home in homes)
        except (OSError, RuntimeError, ValueError):  # links in a circle, a name of no possible file
            inside = False
    if not inside:
        raise ValueError(
            f"{index}: refused: shard {shard!r} is not inside the folder; "
            "put the files themselves next to the index"
        )
    if pure.name.endswith(".index.json"):
        raise ValueError(f"{index}: shard {shard!r} is another index, not a weight file")
    return folder / shard


def write_tensors(
    folder: str | os.PathLike,
    tensors: Mapping[str, np.ndarray],
    max_shard_bytes: int = 5_000_000_000,
    metadata: Mapping[str, str] | None = None,
) -> list[Path]:
    """Writes `model.safetensors`, or numbered shards and their index where the tensors are larger.

    Everything is first written under temporary names and only then renamed: a write that fails (a
    full disk) leaves the folder's earlier weights as they were. Earlier safetensors weights that
    the new ones replace are removed.

    Args:
      folder: made where it does not exist.
      tensors: name -> array of a float (bfloat16 included), integer or bool dtype, of any memory
        layout; may be a `LazyTensors`, of which one shard at a time is read.
      max_shard_bytes: the most bytes of tensors in one file, save that a larger tensor has a file
        of its own.
      metadata: the header's text entries; {"format": "pt"} by default, which `transformers` asks
        for.

    Returns:
      The weight files, in order (without the index).

    Raises:
      ValueError: a dtype that safetensors cannot hold, or a name that is not a string.
      OSError: the files could not be written.
    """
    folder = Path(folder)
    plan = _plan(tensors, max_shard_bytes)
    if len(plan) == 1:
        names = [SAFETENSORS]
    else:
        names = [f"model-{i + 1:05d}-of-{len(plan):05d}.safetensors" for i in range(len(plan))]
    folder.mkdir(parents=True, exist_ok=True)
    stem = f".tmp-{secrets.token_hex(4)}-"
    temporary = [folder / f"{stem}{name}" for name in (*names, SAFETENSORS_INDEX)]
    try:
        parameters = size = 0
        for group, path in zip(plan, temporary, strict=False):
            arrays = {name: _array(tensors[name], name) for name in group}
            parameters += sum(array.size for array in arrays.values())
            size += sum(array.nbytes for array in arrays.values())
            _write_file(arrays, path, {"format": "pt"} if metadata is None else dict(metadata))
        if len(plan) > 1:
            index = {
                "metadata": {"total_parameters": parameters, "total_size": size},
                "weight_map": {n: names[i] for i, group in enumerate(plan) for n in group},
            }
            temporary[-1].write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
            _sync(temporary[-1])
        _replace(folder, names, temporary, index=len(plan) > 1)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    return [folder / name for name in names]


def _replace(folder: Path, names: list[str], temporary: list[Path], index: bool) -> None:
    """Puts finished files in the place of the earlier ones; at no moment does it read as a mix."""
    old_index = folder / SAFETENSORS_INDEX
    if index:  # a stop half-way would else leave an old index over new shards
        old_index.unlink(missing_ok=True)
    for path, name in zip(temporary, names, strict=False):
        os.replace(path, folder / name)
    if index:
        os.replace(temporary[-1], old_index)
        (folder / SAFETENSORS).unlink(missing_ok=True)
    else:
        old_index.unlink(missing_ok=True)
    for path in folder.glob("model-*-of-*.safetensors"):
        if path.name not in names and re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", path.name):
            path.unlink()


def _plan(tensors: Mapping[str, np.ndarray], max_shard_bytes: int) -> list[list[str]]:
    """Names of the tensors of each file, filled in the order given."""
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be positive, not {max_shard_bytes}")
    groups, used = [[]], 0
    for name in tensors:
        if not isinstance(name, str):
            raise ValueError(f"tensor names are strings, not {type(name).__name__}: {name!r}")
        if isinstance(tensors, LazyTensors):
            nbytes = tensors.nbytes(name)
        else:
            nbytes = _array(tensors[name], name).nbytes
        if groups[-1] and used + nbytes > max_shard_bytes:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += nbytes
    return groups


def _array(value: np.ndarray, name: str) -> np.ndarray:
    """The array in C order and this machine's byte order: safetensors takes memory as it lies."""
    array = np.asarray(value, order="C")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype not in DTYPES.values():
        raise ValueError(f"tensor {name!r}: safetensors has no {array.dtype}; cast it first")
    return array


def _write_file(arrays: dict[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    try:
        save_file(arrays, path, metadata=metadata)
        _sync(path)
    except SafetensorError as error:
        raise OSError(f"{path.parent}: cannot write the weights: {error}") from error


def _sync(path: Path) -> None:
    """Waits until the file is on the disk: its new name must not survive a crash without it."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _few(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
