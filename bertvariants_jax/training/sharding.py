"""Where each array lives: a device mesh, and one table from parameter names to mesh axes.

Modules hold no sharding. The table's patterns match optimizer state too, which repeats the parameters' names.
"""

import contextlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bertvariants_jax.training.paths import layer_axes, path_name

AXES = ("data", "fsdp", "model")
BATCH = PartitionSpec(("data", "fsdp"))
HOST_KEYS = ("example_id",)  # batch keys that are not sent to the devices
SMALLEST = 2 ** 13  # leaves with fewer elements a layer stay whole: gathering them costs more than they weigh


@dataclass(frozen=True)
class Mesh:
    """Devices along each axis; -1 is all that the others leave.

    data: copies of the parameters. fsdp: parameters and optimizer state are cut, the batch too.
    model: heads and feed-forward units are cut.
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1

    def __post_init__(self):
        sizes = [getattr(self, axis) for axis in AXES]
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(f"mesh sizes must be positive, one of them may be -1 (the rest); got {self}")


FSDP = "fsdp"  # the largest axis that divides

# (pattern of the leaf's name, what its last axes are cut by), first match wins. Several choices: the first
# that divides is taken. "fsdp" goes to the largest axis left unless the rule names it: a word table cut both
# ways makes XLA gather it whole at each look-up.
RULES = [
    (r"word_embeddings/embedding$", [(("model", "fsdp"), None), (None, ("model", "fsdp")), ("model", None)]),
    (r"(query|key|value|position|qkv)/kernel$", [(None, "model", None)]),
    (r"attention/out/kernel$", [("model", None, None)]),
    (r"ffn/up/kernel$", [(None, "model")]),
    (r"ffn/down/kernel$", [("model", None)]),
    (r"", FSDP),
]


def make_mesh(mesh: Mesh = Mesh(), devices=None) -> jax.sharding.Mesh:
    """The mesh over all devices (or those given); ValueError where the sizes do not multiply to their number.

    Axes are Auto: JAX's default of Explicit axes refuses Linen's layers.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [getattr(mesh, axis) for axis in AXES]
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(f"mesh {dict(zip(AXES, sizes, strict=True))} does not cover the {len(devices)} devices; "
                         f"the sizes must multiply to {len(devices)} (one may be -1)")
    return jax.sharding.Mesh(arrange(sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def arrange(sizes: Sequence[int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices as an array of these sizes, neighbours along its last axes near each other on a TPU's torus.

    Slices of a multislice TPU lie along the first axis, if their number divides it.
    """
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) > 1 and sizes[0] % len(slices) == 0:
        inner = (sizes[0] // len(slices), *sizes[1:])
        return np.concatenate([
            arrange(inner, [device for device in devices if device.slice_index == number])
            for number in sorted(slices)])
    # Whole axes of the torus where the sizes are products of theirs, else parts of them. JAX knows no torus for some
    # sets of devices (two cores a chip on v4, a part of a slice): their order goes chip by chip, host by host.
    for split in (False, True) if len(slices) == 1 else ():
        with contextlib.suppress(NotImplementedError, AssertionError, ValueError):
            return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=split)
    return np.array(devices).reshape(sizes)


def mesh_of(tree) -> jax.sharding.Mesh:
    """A mesh over the devices, in their order, on which the arrays of `tree` lie; over all devices for numpy arrays."""
    places = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
    mesh = next((place.mesh for place in places if isinstance(place, NamedSharding)), None)
    if mesh is None:
        return make_mesh()
    if mesh.axis_names == AXES:
        return mesh
    return jax.sharding.Mesh(mesh.devices.reshape(-1, 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def rule_of(name: str):
    """The cuts of a leaf to choose from, or FSDP."""
    return next(rule for pattern, rule in RULES if re.search(pattern, name))


def spec(name: str, shape: tuple[int, ...], axes: int, sizes: dict[str, int], smallest: int = SMALLEST) -> PartitionSpec:
    """The cut of one leaf. axes: its leading layer axes, never cut. sizes: devices along each mesh axis."""
    tail, rule = shape[axes:], rule_of(name)
    if math.prod(tail) < smallest:
        return PartitionSpec()
    choices = [] if rule == FSDP else [choice for choice in rule if len(choice) <= len(tail)]
    choices = [(None,) * (len(tail) - len(choice)) + choice for choice in choices]

    def devices(axis) -> int:
        return math.prod(sizes[part] for part in ((axis,) if isinstance(axis, str) else axis or ()))

    def divides(size: int, axis) -> bool:
        return size % devices(axis) == 0

    cut: list = [None] * len(tail)
    if choices:
        fitting = [choice for choice in choices if all(map(divides, tail, choice))]
        cut = [axis if divides(size, axis) else None
               for size, axis in zip(tail, (fitting or choices)[0 if fitting else -1], strict=True)]
    named = any("fsdp" in (axis or ()) for choice in choices for axis in choice if not isinstance(axis, str))
    if not named:
        free = [i for i, size in enumerate(tail) if not devices(cut[i]) > 1 and size % sizes["fsdp"] == 0]
        if free:
            cut[max(free, key=lambda i: tail[i])] = "fsdp"
    parts = [tuple(part for part in ((axis,) if isinstance(axis, str) else axis or ()) if sizes[part] > 1)
             for axis in cut]
    cut = [part[0] if len(part) == 1 else part or None for part in parts]
    return PartitionSpec(*(None,) * axes, *cut) if any(cut) else PartitionSpec()


def shardings(mesh: jax.sharding.Mesh, tree):
    """A tree of NamedSharding for a tree of arrays (or their shapes): parameters, optimizer state, or both.

    A top-level key `memory` is cut along its leading axis as the batch is.
    """
    axes, sizes = layer_axes(tree), dict(mesh.shape)

    def one(path, leaf):
        name = path_name(path)
        if name.split("/")[0] == "memory":
            return NamedSharding(mesh, BATCH)
        return NamedSharding(mesh, spec(name, tuple(leaf.shape), axes[name], sizes))

    return jax.tree_util.tree_map_with_path(one, tree)


def remarks(mesh: jax.sharding.Mesh, params) -> list[str]:
    """What of a mesh comes to nothing for these parameters (arrays or their shapes), a line each."""
    axes, sizes, lines = layer_axes(params), dict(mesh.shape), []
    shapes = {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def cut_by(axis: str, name: str, smallest: int) -> bool:
        cut = spec(name, shapes[name], axes[name], sizes, smallest)
        return any(axis in ((part,) if isinstance(part, str) else part or ()) for part in cut)

    if sizes["model"] > 1:
        whole = [name for name in shapes if rule_of(name) != FSDP and not cut_by("model", name, 0)]
        if whole:
            more = f" and {len(whole) - 1} more" if len(whole) > 1 else ""
            lines.append(f"mesh.model {sizes['model']} does not divide the heads or units of {whole[0]} "
                         f"{list(shapes[whole[0]])}{more}: these parameters are whole along that axis")
    lines += [f"mesh.{axis} {sizes[axis]} cuts no parameter: they are too small, or nothing of them divides"
              for axis in ("fsdp", "model") if sizes[axis] > 1 and not any(cut_by(axis, name, SMALLEST) for name in shapes)]
    return lines


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Rows over ("data", "fsdp"), all else whole."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_parts(mesh: jax.sharding.Mesh) -> int:
    """Into how many parts the mesh cuts a batch's rows."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, int64, ascending.

    A mesh need not lay devices host by host: a host's rows may have gaps, and several hosts may hold the same ones.
    ValueError where the devices do not divide the batch.
    """
    rows = np.arange(batch_size)
    if sharding.is_fully_addressable:
        return rows
    parts = row_parts(sharding)
    if batch_size % parts:
        raise ValueError(f"a batch of {batch_size} rows is not a multiple of the {parts} parts into which the mesh "
                         f"{dict(sharding.mesh.shape)} cuts it")
    places = sharding.addressable_devices_indices_map(rows.shape).values()
    return np.unique(np.concatenate([rows[place] for place in places]))


def row_parts(sharding: NamedSharding) -> int:
    """Into how many parts a sharding cuts the rows of an array."""
    devices = sharding.mesh.size
    return devices // sharding.shard_shape((devices,))[0]


def local_parts(sharding: NamedSharding) -> np.ndarray:
    """The numbers of those parts that this process's devices hold, ascending."""
    return local_rows(sharding, row_parts(sharding))


def place(batch, sharding: NamedSharding, left_out: tuple[str, ...] = HOST_KEYS):
    """This process's rows of a batch as global arrays [B, ...] on the devices.

    batch: numpy [N, ...], the rows in the order of `local_rows`. left_out: keys that stay on the host.
    """
    parts, mine = row_parts(sharding), local_parts(sharding)

    def put(key: str, value: np.ndarray) -> jax.Array:
        rows, rest = divmod(len(value), len(mine))
        if rest:
            raise ValueError(f"the batch's {key} has {len(value)} rows, which the {len(mine)} parts of it that lie on "
                             "this process's devices do not share evenly")

        def part(index: tuple[slice, ...]) -> np.ndarray:
            first = int(np.searchsorted(mine, (index[0].start or 0) // rows)) * rows if rows else 0
            return value[first:first + rows]

        return jax.make_array_from_callback((parts * rows, *value.shape[1:]), sharding, part)

    return {key: put(key, np.asarray(value)) for key, value in batch.items() if key not in left_out}
