"""What holds for every registered variant: names, shapes, and invariances, on its dummy config."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax import names
from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS, find_size

SLOW_EXAMPLES = settings(max_examples=5, deadline=None, derandomize=True)


@functools.cache
def network_of(variant, **compute):
    record = VARIANTS[variant]
    network = record.network(record.dummy, tuple(record.heads), Compute(**compute))
    return network, randomised(network.shapes())


def randomised(shapes):
    """Every leaf random, biases and norms too; scores of a moderate size."""
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=leaf.shape) * 0.2, leaf.dtype) for leaf in leaves])


@functools.cache
def encode(variant):
    network, params = network_of(variant)
    return jax.jit(lambda batch: network.encode(params, batch).last_hidden_state)


def row(variant, length, seed=0):
    return np.random.default_rng(seed).integers(5, VARIANTS[variant].dummy.vocab_size, length).astype(np.int32)


def padded(variant, tokens, length, fill=0, left=False):
    ids, mask = np.full((1, length), fill, np.int32), np.zeros((1, length), np.int32)
    where = slice(length - len(tokens), length) if left else slice(0, len(tokens))
    ids[0, where], mask[0, where] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask}, where


@pytest.mark.parametrize("variant", VARIANTS)
def test_name_table_covers_every_leaf_once(variant):
    network, params = network_of(variant)
    for prefixed in (True, False):
        seen = []
        for part, rows in network.rows(prefixed).items():
            tensors = names.write(rows, names.flatten(params[part]))
            seen += list(tensors)
            shapes = {path: leaf.shape for path, leaf in names.flatten(params[part]).items()}
            leaves, used, faults = names.read(rows, tensors, shapes)
            assert not faults and used == set(tensors)
            for path, leaf in names.flatten(params[part]).items():
                np.testing.assert_array_equal(leaves[path], leaf, err_msg=path)
        shared = {"classify", "tag", "choice"}            # HF calls these three by one name
        assert len(set(seen)) >= len(seen) - 12 * (len(shared & set(network.heads)) - 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_have_the_promised_shapes(variant):
    network, params = network_of(variant)
    cfg, ids = network.config, np.stack([row(variant, 9, seed) for seed in range(4)])
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    expected = {"mlm": (4, 9, cfg.vocab_size), "pair": (4, 2), "rtd": (4, 9), "classify": (4, cfg.num_labels),
                "span": (4, 9, 2), "tag": (4, 9, cfg.num_labels)}
    scores = jax.jit(lambda: {head: network.scores(params, head, batch) for head in expected if head in network.heads})()
    for head, score in scores.items():
        assert score.shape == expected[head] and score.dtype == jnp.float32, head
        assert np.isfinite(score).all(), head
    if "choice" in network.heads:
        folded = {k: v.reshape(2, 2, 9) for k, v in batch.items()}
        assert network.scores(params, "choice", folded).shape == (2, 2)


@pytest.mark.parametrize("variant", VARIANTS)
@SLOW_EXAMPLES
@given(length=st.integers(1, 9), amount=st.sampled_from([11, 16]), fill=st.integers(0, 60))
def test_padding_changes_nothing(variant, length, amount, fill):
    left = VARIANTS[variant].padding_side == "left"
    tokens = row(variant, length)
    base, where = padded(variant, tokens, 11, left=left)
    want = encode(variant)(base)[0, where]
    batch, where = padded(variant, tokens, amount, fill, left)
    np.testing.assert_allclose(encode(variant)(batch)[0, where], want, atol=3e-6)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if VARIANTS[v].packs(VARIANTS[v].dummy)])
@SLOW_EXAMPLES
@given(first=st.integers(1, 6), second=st.integers(1, 6), seed=st.integers(0, 9))
def test_packed_equals_unpacked(variant, first, second, seed):
    a, b = row(variant, first, seed), row(variant, second, seed + 100)
    ids, mask = np.zeros((1, 14), np.int32), np.zeros((1, 14), np.int32)
    ids[0, : first + second] = np.concatenate([a, b])
    mask[0, :first], mask[0, first : first + second] = 1, 2
    packed = encode(variant)({"input_ids": ids, "attention_mask": mask})[0]
    for tokens, got in ((a, packed[:first]), (b, packed[first : first + second])):
        alone, where = padded(variant, tokens, 14)
        np.testing.assert_allclose(got, encode(variant)(alone)[0, where], atol=3e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_the_batch_changes_nothing(variant):
    ids = np.stack([row(variant, 9, seed) for seed in range(4)])
    order = np.array([2, 0, 3, 1])
    out = encode(variant)({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    shuffled = encode(variant)({"input_ids": ids[order], "attention_mask": np.ones_like(ids)})
    np.testing.assert_allclose(shuffled, out[order], atol=3e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_fully_padded_row_gives_no_nan(variant):
    network, params = network_of(variant)
    ids = np.stack([row(variant, 9), row(variant, 9, 1)])
    batch = {"input_ids": ids, "attention_mask": np.array([[1] * 9, [0] * 9], np.int32)}
    value, gradients = jax.jit(jax.value_and_grad(
        lambda p: jnp.sum(network.encode(p, batch).last_hidden_state ** 2)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, gradients)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_stays_near_float32(variant):
    """Relative distance of the hidden states below 5%: bf16 keeps 8 bits, and three layers add up."""
    half, params = network_of(variant, dtype="bfloat16")
    ids = np.stack([row(variant, 9, seed) for seed in range(4)])
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    out = jax.jit(lambda: half.encode(params, batch).last_hidden_state)()
    want = np.asarray(encode(variant)(batch))
    assert out.dtype == jnp.bfloat16
    assert np.linalg.norm(np.asarray(out, np.float32) - want) / np.linalg.norm(want) < 0.05


STACKS = "bert", "albert", "modernbert", "deberta-v2"      # plain, shared, of several kinds, with values for each layer
ENCODERS = {VARIANTS[v].encoder: v for v in (*VARIANTS, *STACKS)}       # one variant of each; these four of theirs


@pytest.mark.parametrize("variant", ENCODERS.values())
def test_unroll_and_remat_change_no_number(variant):
    base, params = network_of(variant)
    ids = np.stack([row(variant, 9, seed) for seed in range(2)])
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def loss(network, p):
        return jnp.sum(jnp.sin(network.encode(p, batch, jax.random.key(3)).last_hidden_state))

    want = jax.jit(jax.value_and_grad(functools.partial(loss, base)))(params)
    ways = {"remat": "dots", "unroll": 2}, {"unroll": 0, "remat": "full"}
    for compute in ways if variant in STACKS else ways[:1]:
        other, _ = network_of(variant, **compute)
        assert jax.tree.map(np.shape, other.shapes()) == jax.tree.map(np.shape, base.shapes())
        got = jax.jit(jax.value_and_grad(functools.partial(loss, other)))(params)
        for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4 * max(1e-3, np.abs(a).max()), err_msg=str(compute))


def test_fresh_parameters_follow_the_key_and_heads_do_not_change_the_encoder():
    record = VARIANTS["bert"]
    one, other, bare = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(
        record.network(record.dummy, heads).init(jax.random.key(seed))["encoder"])])
        for heads, seed in ((("mlm", "pooler"), 0), (("mlm", "pooler"), 1), ((), 0)))
    np.testing.assert_array_equal(one, bare)
    assert np.mean(one != other) > 0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_dropout_differs_per_layer_and_per_call(variant):
    network, params = network_of(variant)
    batch = {"input_ids": row(variant, 9)[None]}
    f = jax.jit(lambda rng: network.encode(params, batch, rng).last_hidden_state)
    assert not np.allclose(f(jax.random.key(0)), f(jax.random.key(1)))
    np.testing.assert_array_equal(f(jax.random.key(0)), f(jax.random.key(0)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_are_found_by_name(variant):
    assert find_size(variant)[0].name == variant
    for size, config in VARIANTS[variant].sizes.items():
        assert find_size(size) == (VARIANTS[variant], config)
    with pytest.raises(ValueError, match="did you mean"):
        find_size(variant + "-zzz")
