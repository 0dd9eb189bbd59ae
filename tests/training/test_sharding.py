"""Parameters and optimizer state are cut by name, where the sizes divide."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from jax import P

from bertvariants_jax.training import optimizer, sharding, step
from bertvariants_jax.training.paths import layer_axes

SIZES = {"data": 2, "fsdp": 2, "model": 2}


@pytest.mark.parametrize("name, shape, axes, sizes, expected", [
    ("encoder/layers/attention/query/kernel", (12, 768, 12, 64), 1, {}, P(None, "fsdp", "model", None)),
    ("encoder/layers/attention/out/kernel", (12, 12, 64, 768), 1, {}, P(None, "model", None, "fsdp")),
    ("opt/1/mu/encoder/layers/ffn/up/kernel", (12, 768, 3072), 1, {}, P(None, "fsdp", "model")),
    ("encoder/layers/ffn/down/kernel", (3072, 768), 0, {}, P("model", "fsdp")),
    ("encoder/layers/attention/key/kernel", (768, 9, 64), 0, {}, P("fsdp", None, None)),  # 9 heads: not cut
    ("encoder/embeddings/word_embeddings/embedding", (30000, 768), 0, {}, P(("model", "fsdp"), None)),
    ("encoder/embeddings/word_embeddings/embedding", (30522, 768), 0, {}, P(None, ("model", "fsdp"))),
    ("encoder/embeddings/word_embeddings/embedding", (30522, 767), 0, {}, P("model", None)),
    ("encoder/embeddings/word_embeddings/embedding", (30522, 768), 0, {"model": 1}, P("fsdp", None)),
    ("encoder/embeddings/word_embeddings/embedding", (30001, 768), 0, {"model": 1}, P(None, "fsdp")),
    ("mlm/dense/kernel", (768, 768), 0, {}, P("fsdp", None)),
    ("mlm/bias", (30522,), 0, {}, P("fsdp")),
    ("encoder/layers/attention_norm/scale", (12, 768), 1, {}, P()),
    ("encoder/layers/ffn/up/kernel", (12, 768, 3072), 1, {"fsdp": 1, "model": 1}, P()),
])
def test_rules(name, shape, axes, sizes, expected):
    assert sharding.spec(name, shape, axes, {**SIZES, **sizes}) == expected


def test_layer_axes_are_found_and_shared_layers_have_none():
    stacked = toy.objective().init(jax.random.key(0))
    axes = layer_axes({"params": stacked})
    assert {name for name, count in axes.items() if count} == {name for name in axes if "/layers/" in name}
    shared = jax.tree.map(lambda x: x[0], stacked["encoder"]["layers"])
    assert not any(layer_axes({"encoder": {"layers": shared}}).values())
    twice = {"layers": {"a": {"scale": np.zeros((4, 8))},
                        "layers": {"scale": np.zeros((4, 2, 8)), "kernel": np.zeros((4, 2, 8, 8))}}}
    assert layer_axes(twice) == {"layers/a/scale": 1, "layers/layers/scale": 2, "layers/layers/kernel": 2}


def test_mesh_sizes():
    assert dict(sharding.make_mesh(sharding.Mesh(fsdp=2)).shape) == {"data": 4, "fsdp": 2, "model": 1}
    with pytest.raises(ValueError, match="does not cover the 8 devices"):
        sharding.make_mesh(sharding.Mesh(data=3))
    with pytest.raises(ValueError, match="one of them may be -1"):
        sharding.Mesh(data=-1, fsdp=-1)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_fsdp_cuts_the_state_to_its_nth_part(devices):
    objective = toy.objective(width=256, vocab=1024)
    mesh = sharding.make_mesh(sharding.Mesh(1, devices), jax.devices()[:devices])
    program = step.under_jit(objective, optimizer.build(optimizer.Optim(), 10), mesh, batch_size=8)
    state = program.start(jax.random.key(0))
    state, _ = program.step(state, program.place(toy.rows(8)), jax.random.key(1))
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    here = sum(shard.data.nbytes for x in jax.tree.leaves(state) for shard in x.addressable_shards
               if shard.device == jax.devices()[0])
    print(devices, here / whole * devices)
    assert here <= whole / devices * 1.05


def test_rows_go_where_the_mesh_says():
    mesh = sharding.make_mesh(sharding.Mesh(2, 2, 2))
    placed = sharding.place(toy.rows(8), sharding.batch_sharding(mesh))
    assert "example_id" not in placed
    assert {shard.data.shape[0] for shard in placed["input_ids"].addressable_shards} == {2}
    assert jnp.array_equal(placed["input_ids"], toy.rows(8)["input_ids"])


TOPOLOGIES = ("v4:2x2x4", "v4:4x4x4", "v5e:4x4", "v5e:4x8", "v5p:2x2x4", "v5p:4x4x4", "v6e:4x4", "v6e:8x8")
DESCRIBED = """
import json, sys
import jax
import numpy as np
from jax.experimental import topologies
from bertvariants_jax.training.sharding import Mesh, make_mesh

def steps(devices):
    "The longest way between neighbours on the axis `model`, over the links of a torus."
    at = np.array([[device.coords for device in row] for row in devices.reshape(-1, devices.shape[-1])])
    apart = np.abs(at[:, 1:] - at[:, :-1])
    return int(np.minimum(apart, at.max((0, 1)) + 1 - apart).sum(-1).max(initial=0))

for name, slices in json.loads(sys.argv[1]):
    described = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices).devices
    for devices in (described, [device for device in described if device.core_on_chip == 0]):
        size, faults, longest = len(devices), [], {}
        ways = [(data, fsdp) for data in range(1, size + 1) if size % data == 0
                for fsdp in range(1, size // data + 1) if size // data % fsdp == 0]
        for data, fsdp in ways:
            shape = (data, fsdp, size // data // fsdp)
            try:
                mesh = make_mesh(Mesh(*shape), devices)
            except Exception as error:
                faults.append((shape, repr(error)))
                continue
            if mesh.devices.shape != shape or {*mesh.devices.flat} != {*devices}:
                faults.append((shape, "other devices"))
            longest[shape[-1]] = max(longest.get(shape[-1], 0), steps(mesh.devices))
            slice_counts = [len({getattr(device, 'slice_index', 0) for device in row}) for row in mesh.devices.reshape(data, -1)]
            if data % slices == 0 and max(slice_counts) > 1:
                faults.append((shape, "an axis beside data goes across slices"))
        print(json.dumps([name, size, len(ways), faults, longest]))
"""


def test_every_product_of_axes_builds_on_tpu_slices():
    """In a process of its own: the TPU's compiler beside fake devices would disturb the tests after it."""
    pytest.importorskip("libtpu", reason="descriptions of TPU slices need pip install libtpu")
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    wanted = [(name, 1) for name in TOPOLOGIES] + [("v5e:2x2", 2), ("v6e:2x4", 3)]
    done = subprocess.run([sys.executable, "-c", DESCRIBED, json.dumps(wanted)], env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2 * len(wanted)
    for name, size, ways, faults, longest in lines:
        assert ways >= 6 and not faults, (name, size, faults)
        assert longest["2"] <= 1 and longest["4"] <= 2, (name, size, longest)


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)])
def test_rows_of_a_host_are_those_of_its_devices(mesh, monkeypatch):
    """Whatever the order of the devices: each device gets the rows that the mesh gives it."""
    order = [0, 4, 1, 2, 5, 6, 3, 7]
    monkeypatch.setattr(sharding, "arrange", lambda sizes, devices: np.array(devices)[order].reshape(sizes))
    rows = sharding.batch_sharding(sharding.make_mesh(sharding.Mesh(*mesh)))
    assert sharding.local_rows(rows, 16).tolist() == list(range(16))
    placed = sharding.place({"input_ids": np.arange(32).reshape(16, 2)}, rows)["input_ids"]
    for shard in placed.addressable_shards:
        assert np.array_equal(shard.data, np.arange(32).reshape(16, 2)[shard.index])
    if sharding.batch_parts(rows.mesh) > 1:
        with pytest.raises(ValueError, match="input_ids has 3 rows"):
            sharding.place({"input_ids": np.zeros((3, 2))}, rows)


@pytest.mark.parametrize("sizes, heads, units, width, said", [
    ((1, 1, 8), 12, 3072, 768, ["mesh.model 8 does not divide the heads or units of layers/attention/out/kernel "
                                "[2, 12, 64, 768] and 1 more"]),
    ((1, 1, 8), 2, 13, 26, ["layers/attention/out/kernel [2, 2, 13, 26] and 3 more", "mesh.model 8 cuts no parameter"]),
    ((1, 1, 4), 12, 3072, 768, []), ((1, 8, 1), 2, 16, 26, ["mesh.fsdp 8 cuts no parameter"]), ((8, 1, 1), 2, 13, 26, [])])
def test_an_axis_that_divides_nothing_is_named(sizes, heads, units, width, said):
    shape = jax.ShapeDtypeStruct
    layers = {"attention": {"query": {"kernel": shape((2, width, heads, width // heads), jnp.float32)},
                            "out": {"kernel": shape((2, heads, width // heads, width), jnp.float32)}},
              "ffn": {"up": {"kernel": shape((2, width, units), jnp.float32)},
                      "down": {"kernel": shape((2, units, width), jnp.float32)}}}
    devices = int(np.prod(sizes))
    found = sharding.remarks(sharding.make_mesh(sharding.Mesh(*sizes), jax.devices()[:devices]), {"layers": layers})
    assert len(found) == len(said) and all(part in line for part, line in zip(said, found, strict=True))
