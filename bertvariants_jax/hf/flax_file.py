"""Reading `flax_model.msgpack`, as the Flax models of `transformers` 4 saved it, under PyTorch's names.

Format: flax.serialization. A map of maps whose leaves are of the extension type 1, itself a message of shape, dtype
and bytes; arrays above a gigabyte are a map of chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import msgpack
import numpy as np

from bertvariants_jax.hf.lazy import LazyTensor, LazyTensors, map_file

NDARRAY = 1
CHUNKED = "__msgpack_chunked_array__"
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def open_flax(path: Path) -> LazyTensors:
    """Opens the file: PyTorch's name -> array in PyTorch's layout.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or no map of arrays.
    """
    data = map_file(path)
    try:
        tree = msgpack.unpackb(data.tobytes(), ext_hook=_array, raw=False, strict_map_key=False)
        if not isinstance(tree, dict):
            raise ValueError(f"it holds a {type(tree).__name__}")
        leaves = dict(_leaves(tree))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException, RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ValueError(f"{path}: damaged, or no map of arrays ({reason}); download it again") from error
    return LazyTensors(
        {name: LazyTensor(leaf.shape, leaf.dtype, path, leaf.copy) for name, leaf in leaves.items()}
    )


def _leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for key, value in tree.items():
        if isinstance(value, dict) and CHUNKED not in value:
            yield from _leaves(value, f"{prefix}{key}.")
            continue
        array = _joined(value) if isinstance(value, dict) else value
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{prefix}{key} is a {type(value).__name__}, not an array")
        yield prefix + LEAVES.get(key, key), array.T if key == "kernel" else array


def _array(code: int, data: bytes) -> np.ndarray:
    if code != NDARRAY:
        raise ValueError(f"extension type {code} is no array")
    shape, dtype, raw = msgpack.unpackb(data, raw=True)
    name = dtype.decode("ascii")
    kind = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    if kind.hasobject:
        raise ValueError(f"dtype {name!r} is no number's")
    return np.frombuffer(raw, kind).reshape(shape)


def _joined(value: dict) -> np.ndarray:
    shape, chunks = (
        [value[part][str(i)] for i in range(len(value[part]))] for part in ("shape", "chunks")
    )
    if sum(chunk.size for chunk in chunks) != math.prod(shape):
        raise ValueError("an array's chunks are not all there")
    return np.concatenate([chunk.ravel() for chunk in chunks]).reshape(shape)
