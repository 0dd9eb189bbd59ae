"""PyTorch's files of a state dict, read without torch and without running anything that they hold.

Formats: the zip archive of torch >= 1.6 (`data.pkl` and one uncompressed entry a storage) and the
older stream of pickles with the storages behind it. A pickle is a program; `pickletools` only
parses it, and the few instructions that a state dict is made of are carried out here. No object of
a file's choice is ever looked up, made or called.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from bertvariants_jax.hf.lazy import LazyTensor, LazyTensors, map_file

DTYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2, "bool": np.bool_,
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8,
    "uint64": np.uint64, "uint32": np.uint32, "uint16": np.uint16, "uint8": np.uint8,
}  # fmt: skip
DTYPES = {name: np.dtype(kind) for name, kind in DTYPES.items()}
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C  # what the stream format begins with
MAX_EXPANDED = 1 << 30  # bytes of a tensor that repeats its storage (stride 0): not all memory


class _Damaged(Exception):
    """What is wrong with the file; `open_torch` adds which file."""


class _Global(NamedTuple):
    module: str
    name: str


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    start: int  # bytes, within the storage called `key`
    nbytes: int


class _Tensor(NamedTuple):
    storage: _Storage
    dtype: np.dtype
    offset: int  # elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # elements


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a PyTorch state dict: name -> array, each with memory of its own.

    float16/32/64, bfloat16 (`ml_dtypes`), float8, integers and bool; views, shared storages and
    Parameters.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a PyTorch file, damaged, not a dict of tensors, or a pickle that asks for
        anything else than tensors (the refused global is named; nothing was run).
    """
    return dict(open_torch(path))


def open_torch(path: str | os.PathLike) -> LazyTensors:
    """As `read_torch`, but a tensor is read, and its checksum compared, when it is asked for."""
    path = Path(path)
    data = map_file(path)
    try:
        if data[:4].tobytes() == b"PK\x03\x04":
            return _open_zip(path, data)
        if data[0] == 0x80:  # any pickle of protocol 2 or later
            return _open_stream(path, data)
    except _Damaged as error:
        raise ValueError(f"{path}: {error}") from error
    raise ValueError(
        f"{path}: not a PyTorch file, neither a zip archive nor a pickle: "
        f"it begins with {data[:8].tobytes()!r}"
    )


# The zip archive


def _open_zip(path: Path, data: np.ndarray) -> LazyTensors:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise _Damaged(
            f"damaged or truncated zip archive of {len(data):,} bytes ({error}); "
            "download or copy it again"
        ) from error
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise _Damaged("a zip archive, but not one of torch.save: it has no data.pkl")
    root = pickles[0].removesuffix("/data.pkl")

    def member(name: str) -> np.ndarray:
        info = members.get(f"{root}/{name}")
        if info is None:
            raise _Damaged(f"damaged: it has no entry {root}/{name}")
        return _member(data, info)

    byteorder = "little"  # also of the archives that are older than this entry
    if f"{root}/byteorder" in members:
        byteorder = member("byteorder").tobytes().decode("latin-1").strip()
    if byteorder not in ("little", "big"):
        raise _Damaged(f"unknown byte order {byteorder[:20]!r}")
    state = _state_dict(
        _unpickle(io.BytesIO(_checked(member("data.pkl"), members[pickles[0]]).tobytes()))
    )

    checked = {}  # storages whose checksum was right

    def storage(key: str) -> np.ndarray:
        if key not in checked:
            checked[key] = _checked(member(f"data/{key}"), members[f"{root}/data/{key}"])
        return checked[key]

    return _tensors(path, state, lambda key: len(member(f"data/{key}")), storage, byteorder)


def _member(data: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of an uncompressed entry, where they lie in the mapped archive."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise _Damaged(
            f"entry {info.filename} is compressed or encrypted, which torch.save never does; "
            "save it again"
        )
    header = data[info.header_offset : info.header_offset + 30].tobytes()
    if info.header_offset < 0 or len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise _Damaged(f"damaged: entry {info.filename} has no header in the file")
    name, extra = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name + extra
    if start + info.file_size > len(data):
        raise _Damaged(
            f"truncated: entry {info.filename} needs {start + info.file_size:,} bytes "
            f"and the file has {len(data):,}"
        )
    return data[start : start + info.file_size]


def _checked(raw: np.ndarray, info: zipfile.ZipInfo) -> np.ndarray:
    if zlib.crc32(raw) != info.CRC:
        raise _Damaged(
            f"damaged: the checksum of entry {info.filename} is wrong; download it again "
            "(or, if torch's set_crc32_options(False) wrote it, load it in torch and save it again)"
        )
    return raw


# The stream of pickles


def _open_stream(path: Path, data: np.ndarray) -> LazyTensors:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        if _unpickle(stream) != MAGIC:
            raise _Damaged(
                "a pickle, but not one of torch.save: it does not begin with torch's magic number"
            )
        _unpickle(stream)  # protocol version, 1001 ever since
        system = _unpickle(stream)
        state = _state_dict(_unpickle(stream))
        keys = _unpickle(stream)
        cursor = stream.tell()
    little = system.get("little_endian", True) if isinstance(system, dict) else True
    byteorder = "little" if little else "big"
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _Damaged("damaged: the list of its storages is not a list of names")

    sizes = {tensor.storage.key: tensor.storage.dtype.itemsize for tensor in state.values()}
    places = {}
    for key in keys:
        head = data[cursor : cursor + 8].tobytes()
        count = int.from_bytes(head, byteorder, signed=True)
        cursor += 8
        nbytes = count * sizes.get(key, 0)
        if key not in sizes:
            raise _Damaged(f"damaged: no tensor tells the dtype of storage {key[:40]!r}")
        if len(head) < 8 or count < 0 or cursor + nbytes > len(data):
            raise _Damaged(
                f"truncated: storage {key[:40]!r} needs {cursor + max(nbytes, 0):,} bytes "
                f"and the file has {len(data):,}; download or copy it again"
            )
        places[key] = data[cursor : cursor + nbytes]
        cursor += nbytes

    def storage(key: str) -> np.ndarray:
        if key not in places:
            raise _Damaged(f"damaged: storage {key[:40]!r} is not in the file")
        return places[key]

    return _tensors(path, state, lambda key: len(storage(key)), storage, byteorder)


# From a state dict to arrays


def _state_dict(value: object) -> dict[str, _Tensor]:
    if not isinstance(value, dict):
        raise _Damaged(
            f"it holds a {_kind(value)}, not a state dict; save model.state_dict() alone"
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise _Damaged(
                f"entry {str(name)[:80]!r} is a {_kind(tensor)}, not a tensor: this is a training "
                "checkpoint or the like; save model.state_dict() alone"
            )
    return value


def _tensors(
    path: Path,
    state: dict[str, _Tensor],
    length: Callable[[str], int],
    storage: Callable[[str], np.ndarray],
    byteorder: str,
) -> LazyTensors:
    for name, tensor in state.items():
        _check_bounds(name, tensor, length(tensor.storage.key))

    def lazy(name: str, tensor: _Tensor) -> LazyTensor:
        def read() -> np.ndarray:
            try:
                return _array(tensor, storage(tensor.storage.key), byteorder)
            except _Damaged as error:
                raise ValueError(f"{path}: tensor {name!r}: {error}") from error

        return LazyTensor(tensor.shape, tensor.dtype, path, read)

    return LazyTensors({name: lazy(name, tensor) for name, tensor in state.items()})


def _check_bounds(name: str, tensor: _Tensor, held: int) -> None:
    storage, size = tensor.storage, tensor.dtype.itemsize
    if storage.start + storage.nbytes > held:
        raise _Damaged(
            f"damaged: tensor {name!r} needs {storage.start + storage.nbytes:,} bytes of storage "
            f"{storage.key[:40]!r}, which has {held:,}"
        )
    last = tensor.offset + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    count = math.prod(tensor.shape)
    if count and (last + 1) * size > storage.nbytes:
        raise _Damaged(
            f"damaged: tensor {name!r} of shape {tensor.shape} reaches outside its storage"
        )
    if count * size > max(storage.nbytes, MAX_EXPANDED):
        raise _Damaged(
            f"refused: tensor {name!r} of shape {tensor.shape} is far larger than its storage"
        )


def _array(tensor: _Tensor, raw: np.ndarray, byteorder: str) -> np.ndarray:
    if not math.prod(tensor.shape):
        return np.empty(tensor.shape, tensor.dtype)
    flat = raw[tensor.storage.start : tensor.storage.start + tensor.storage.nbytes]
    size = tensor.dtype.itemsize
    if byteorder != sys.byteorder:
        flat = flat[: len(flat) // size * size].view(f"u{size}").byteswap().view(np.uint8)
    start = tensor.offset * size
    strides = [stride * size for stride in tensor.strides]
    first = flat[start : start + size].view(tensor.dtype)
    # In bounds by _check_bounds. The view is copied at once, so that nothing outside ever holds it.
    return np.array(np.lib.stride_tricks.as_strided(first, tensor.shape, strides), order="C")


# The pickle


def _unpickle(stream) -> object:
    """Carries out one pickle of plain values and tensors; leaves the stream just behind it."""
    try:
        return _carry_out(stream)
    except _Damaged:
        raise
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        struct.error,
    ) as error:
        raise _Damaged(
            f"damaged or not a pickle of torch.save ({str(error)[:200]}); download it again"
        ) from error


def _carry_out(stream) -> object:
    stack, below, memo = [], [], {}
    for code, arg, _ in pickletools.genops(stream):
        match code.name:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(arg)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(arg)
            case "NONE":
                stack.append(None)
            case "NEWTRUE":
                stack.append(True)
            case "NEWFALSE":
                stack.append(False)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE" | "LIST":
                items = tuple(stack) if code.name == "TUPLE" else stack
                stack = below.pop()
                stack.append(items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(code.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                _container(stack, list).append(item)
            case "APPENDS":
                items, stack = stack, below.pop()
                _container(stack, list).extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _fill(_container(stack, dict), [(key, value)])
            case "SETITEMS":
                items, stack = stack, below.pop()
                _fill(_container(stack, dict), zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL":
                stack.append(_global(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_global(module, name))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(_build(function, args))
            case "BUILD":
                stack.pop()  # an OrderedDict's attributes: `_metadata`, versions of torch's modules
                _container(stack, dict)
            case "STOP":
                return stack.pop()
            case name:
                raise _Damaged(
                    f"refused: the pickle uses the instruction {name}, which no state dict needs"
                )
    raise ValueError("the pickle has no end")


def _container(stack: list, kind: type):
    if type(stack[-1]) is not kind:
        raise _Damaged(
            f"refused: the pickle changes a {_kind(stack[-1])} as if it were a {kind.__name__}"
        )
    return stack[-1]


def _fill(target: dict, items) -> None:
    for key, value in items:
        if not isinstance(key, (str, int)):  # hashing nested tuples can take for ever
            raise _Damaged(f"a dict has a {_kind(key)} as a key; a state dict has names")
        target[key] = value


def _global(module: object, name: object) -> _Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise _Damaged(f"damaged: the pickle names a global by a {_kind(name)}")
    known = (
        (module in ("torch", "torch.storage") and name in STORAGES)
        or (module == "torch" and name in DTYPES)
        or (module, name) in _BUILDERS
    )
    if not known:
        raise _Damaged(
            f"refused: the pickle asks for {module[:80]}.{name[:80]}, which no state dict needs; "
            "nothing was run. If you trust the file, load it in torch and save model.state_dict() "
            "as safetensors"
        )
    return _Global(module, name)


def _storage(identity: object) -> _Storage:
    kind, storage, key, _, count, *view = identity
    if kind != "storage" or not isinstance(key, str) or not isinstance(storage, _Global):
        raise _Damaged(
            "refused: the pickle refers to something outside that is not a tensor's storage"
        )
    dtype = DTYPES[STORAGES[storage.name]]
    start = 0
    if view and view[0] is not None:  # in the stream format a storage may be a part of another
        _, start, count = view[0]
    if not all(type(n) is int and n >= 0 for n in (start, count)):
        raise _Damaged(f"damaged: storage {key[:40]!r} has no valid size")
    return _Storage(key, dtype, start * dtype.itemsize, count * dtype.itemsize)


def _build(function: object, args: object) -> object:
    if not isinstance(function, _Global) or (function.module, function.name) not in _BUILDERS:
        raise _Damaged(f"refused: the pickle calls a {_kind(function)}")
    if type(args) is not tuple:
        raise _Damaged(f"damaged: the pickle calls {function.name} with a {_kind(args)}")
    return _BUILDERS[function.module, function.name](*args)


def _tensor(
    storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None
) -> _Tensor:
    return _typed_tensor(storage, offset, size, stride, requires_grad, hooks, None, metadata)


def _typed_tensor(
    storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None
) -> _Tensor:
    if not isinstance(storage, _Storage) or metadata:
        raise _Damaged(
            "a tensor is not a plain one (a lazy conjugate or negative, or of a special kind)"
        )
    size, stride = tuple(size), tuple(stride)
    whole = all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    if not whole or len(size) != len(stride) or len(size) > 32:
        raise _Damaged("damaged: a tensor has no valid shape")
    return _Tensor(
        storage, storage.dtype if dtype is None else DTYPES[dtype.name], offset, size, stride
    )


def _parameter(tensor, requires_grad=True, hooks=None, state=None) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise _Damaged(f"a parameter holds a {_kind(tensor)}, not a tensor")
    return tensor


def _ordered(items=()) -> dict:
    ordered = {}
    _fill(ordered, items)
    return ordered


_BUILDERS = {
    ("collections", "OrderedDict"): _ordered,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}


def _kind(value: object) -> str:
    """What a value is, in a word; never its text, which in a hostile file may have no end."""
    if isinstance(value, _Global):
        return f"reference to {value.module}.{value.name}"
    kind = type(value).__name__
    return {"_Tensor": "tensor", "_Storage": "storage", "NoneType": "None"}.get(kind, kind)
