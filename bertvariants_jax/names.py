"""Checkpoint names as one table read both ways: HF tensor name <-> path in our parameter tree.

A table is a list of rows; a row is one leaf of ours and the HF tensor, or the HF tensors stacked along
a leading layer axis, that hold it, with a pair of inverse array functions. Nothing else is a converter.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np


class Transform(NamedTuple):
    """read(HF array, our shape) -> our array; write(our array) -> HF array; inverse to each other."""

    read: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    write: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda w, shape: w, lambda x: x)
FLAT = Transform(lambda w, shape: w.reshape(shape), lambda x: x.reshape(-1))


def fold(axes: int = 1) -> Transform:
    """TensorFlow's kernel [in, out] <-> kernel [*in, *out] whose first `axes` axes are the input's."""
    return Transform(lambda w, shape: w.reshape(shape), lambda x: x.reshape(int(np.prod(x.shape[:axes])), -1))


def flip(axes: int = 1) -> Transform:
    """torch's Linear.weight [out, in] <-> kernel [*in, *out] whose first `axes` axes are the input's."""
    return Transform(lambda w, shape: w.T.reshape(shape),
                     lambda x: x.reshape(int(np.prod(x.shape[:axes])), -1).T)


@dataclass(frozen=True)
class Row:
    """hf: the tensor's name, or one name a layer; aliases: other names of the same (tied) tensor.

    shared: every one of the tensors holds the whole leaf, and is written; they must be equal.
    optional: the file need not have it; the leaf is then freshly initialised.
    """

    hf: str | tuple[str, ...]
    path: str
    transform: Transform = SAME
    aliases: tuple[str, ...] = ()
    shared: bool = False
    optional: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        return (self.hf,) if isinstance(self.hf, str) else self.hf

    @property
    def whole(self) -> bool:
        """Whether each tensor is the whole leaf, not one slice of its leading axis."""
        return self.shared or isinstance(self.hf, str)


def linear(hf: str, path: str, axes: int = 1, bias: bool = True) -> list[Row]:
    """torch Linear <-> our Dense; `axes` is the number of input axes of our kernel."""
    return [Row(f"{hf}.weight", f"{path}/kernel", flip(axes)),
            *([Row(f"{hf}.bias", f"{path}/bias", FLAT)] if bias else [])]


def tf_dense(tf: str, path: str, axes: int = 1) -> list[Row]:
    """A dense layer's variables in TensorFlow <-> our Dense; `axes` as in `linear`."""
    return [Row(f"{tf}/kernel", f"{path}/kernel", fold(axes)), Row(f"{tf}/bias", f"{path}/bias", FLAT)]


def tf_norm(tf: str, path: str) -> list[Row]:
    """A LayerNorm's variables in TensorFlow <-> our LayerNorm."""
    return [Row(f"{tf}/gamma", f"{path}/scale"), Row(f"{tf}/beta", f"{path}/bias")]


def norm(hf: str, path: str, bias: bool = True) -> list[Row]:
    """torch LayerNorm <-> our LayerNorm."""
    return [Row(f"{hf}.weight", f"{path}/scale"), *([Row(f"{hf}.bias", f"{path}/bias")] if bias else [])]


def table(hf: str, path: str) -> list[Row]:
    """torch Embedding <-> our Embed."""
    return [Row(f"{hf}.weight", f"{path}/embedding")]


def under(hf: str, path: str, rows: Iterable[Row], layers: Iterable[int] | None = None,
          joint: str = ".") -> list[Row]:
    """The rows with both names prefixed ("" adds nothing); with `layers`, `hf` is formatted with each
    layer's number and the layers' tensors are stacked along a leading axis of our leaf. `joint` stands
    behind the prefix: "/" in TensorFlow's names."""
    def place(row: Row) -> Row:
        join = lambda name, prefix: f"{prefix}{joint}{name}" if prefix else name
        if layers is None:
            names = tuple(join(name, hf) for name in row.tensors)
            names = names[0] if isinstance(row.hf, str) else names
        else:
            names = tuple(join(row.hf, hf.format(i)) for i in layers)
        return replace(row, hf=names, path=f"{path}/{row.path}" if path else row.path,
                       aliases=tuple(join(a, hf) for a in row.aliases))

    layers = None if layers is None else tuple(layers)
    return [place(row) for row in rows]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"a/b/c": leaf}."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b/c": leaf} -> nested dict."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def hf_shape(row: Row, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of each HF tensor of a row whose leaf of ours has `shape`."""
    own = shape if row.whole else shape[1:]
    return row.transform.write(np.zeros(own, np.int8)).shape


def read(rows: Iterable[Row], tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]],
         dtype: Any = np.float32) -> tuple[dict[str, np.ndarray], set[str], list[str]]:
    """HF tensors -> our flat leaves.

    Args:
      rows: the table. tensors: HF name -> array (may be lazy). shapes: our path -> expected shape.
      dtype: of the returned leaves.
    Returns: leaves {path: array}, the HF names used (aliases too), and all faults as sentences:
      a missing tensor, a wrong shape, tied names that hold different values.
    """
    leaves, used, faults = {}, set(), []
    for row in rows:
        arrays = []
        for name in row.tensors:
            present = [n for n in (name, *row.aliases) if n in tensors]
            used.update(present)
            if not present:
                if not row.optional:
                    faults.append(f"{name} is missing")
                continue
            array, expected = np.asarray(tensors[present[0]]), hf_shape(row, shapes[row.path])
            if array.shape != expected:
                faults.append(f"{present[0]} has shape {array.shape}, the config asks for {expected}")
                continue
            if not all(np.array_equal(array, tensors[other]) for other in present[1:]):
                faults.append(f"{' and '.join(present)} should be one tied tensor but hold different values")
                continue
            own = shapes[row.path] if row.whole else shapes[row.path][1:]
            arrays.append(row.transform.read(array, own).astype(dtype))
        if row.shared and not all(np.array_equal(arrays[0], array) for array in arrays[1:]):
            faults.append(f"{row.tensors[0]} and its copies to {row.tensors[-1]} should be one tensor but differ")
        if len(arrays) == len(row.tensors):
            leaves[row.path] = arrays[0] if row.whole else np.stack(arrays)
    return leaves, used, faults


def write(rows: Iterable[Row], leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our flat leaves -> HF tensors, each contiguous; tied tensors once, under their first name.

    Raises: KeyError where the table and the leaves do not cover each other.
    """
    tensors, rows = {}, list(rows)
    if faults := {row.path for row in rows} ^ set(leaves):
        raise KeyError(f"name table and parameters differ at: {', '.join(sorted(faults))}")
    for row in rows:
        leaf = np.asarray(leaves[row.path])
        for name, array in zip(row.tensors, [leaf] * len(row.tensors) if row.whole else leaf, strict=True):
            tensors[name] = np.ascontiguousarray(row.transform.write(array))
    return tensors
