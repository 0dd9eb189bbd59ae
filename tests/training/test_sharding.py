"""Parameters and optimizer state are cut by name, where the sizes divide."""

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
