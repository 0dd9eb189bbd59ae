"""Masked LM on the real network: the P places, the loss by hand, no [B, L, V] tensor, equality over devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import sizes_in

from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.objectives.mlm import masked_lm
from bertvariants_jax.training.optimizer import Optim, build, schedule
from bertvariants_jax.training.sharding import Mesh, make_mesh
from bertvariants_jax.training.step import under_jit, under_pmap


def network_of(**compute):
    bert = VARIANTS["bert"]
    config = dataclasses.replace(bert.dummy, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return bert.network(config, ("mlm", "pair"), Compute(**compute))


def batch_of(rows=16, length=11, places=4, vocab=61, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.ones((rows, length), np.int32)
    mask[1::2, 8:] = 0
    weights = np.zeros((rows, places), np.float32)
    for row in range(rows):
        weights[row, : 1 + row % places] = 1                  # rows, and so devices, differ in what they predict
    return {"input_ids": rng.integers(5, vocab, (rows, length)).astype(np.int32), "attention_mask": mask,
            "token_type_ids": rng.integers(0, 2, (rows, length)).astype(np.int32),
            "masked_positions": (np.sort(rng.permuted(np.tile(np.arange(1, 8), (rows, 1)), axis=1)[:, :places])
                                 * (weights > 0)).astype(np.int32),
            "masked_labels": rng.integers(5, vocab, (rows, places)).astype(np.int32), "masked_weights": weights,
            "next_sentence_label": rng.integers(0, 2, rows).astype(np.int32)}


def test_gathered_scores_are_the_dense_ones_and_the_loss_is_that_by_hand():
    network, batch = network_of(), batch_of()
    objective = masked_lm(network, pair=True)
    params = network.init(jax.random.key(0))
    out = objective.loss(params, batch, None)
    encoded = network.encode(params, batch)
    dense = np.asarray(network.logits(params, "mlm", encoded), np.float64)
    pair = np.asarray(network.logits(params, "pair", encoded), np.float64)
    want = right = 0.0
    for row in range(16):
        for slot in range(4):
            if batch["masked_weights"][row, slot]:
                scores = dense[row, batch["masked_positions"][row, slot]]
                label = batch["masked_labels"][row, slot]
                want += np.log(np.exp(scores).sum()) - scores[label]
                right += scores.argmax() == label
    assert float(out.sums["mlm"]) == pytest.approx(want, rel=1e-5)
    assert float(out.metrics["mlm/accuracy"][0]) == right
    log = pair - np.log(np.exp(pair).sum(-1, keepdims=True))
    assert float(out.sums["pair"]) == pytest.approx(-log[np.arange(16), batch["next_sentence_label"]].sum(), rel=1e-5)
    weights = objective.weights(batch)
    assert float(weights["mlm"]) == batch["masked_weights"].sum() and float(weights["pair"]) == 16


def test_unused_slots_touch_nothing():
    """Whatever stands in a slot of weight 0, even an impossible label, the loss and gradients are the same numbers."""
    network, batch = network_of(), batch_of()
    objective, params = masked_lm(network, pair=True), network_of().init(jax.random.key(0))
    other = {**batch, "masked_labels": np.where(batch["masked_weights"] > 0, batch["masked_labels"], 7)}
    value = jax.jit(jax.value_and_grad(lambda p, b: objective.loss(p, b, None).sums["mlm"]))
    for a, b in zip(jax.tree.leaves(value(params, batch)), jax.tree.leaves(value(params, other)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["albert", "modernbert", "deberta", "deberta-v2"])
def test_every_variant_scores_its_places_only(name):
    """The P places score as they do among all, in padded rows and packed ones, the loss and the gradient of the
    vocabulary's bias are those of float64 by hand, and no program holds all places by the vocabulary.
    """
    variant = VARIANTS[name]
    pair = "pair" in variant.heads
    config = dataclasses.replace(variant.dummy, num_hidden_layers=2)
    network, batch = variant.network(config, ("mlm", "pair")[: 1 + pair]), batch_of(rows=4)
    batch["token_type_ids"] *= pair
    batch["position_ids"] = np.tile(np.arange(11, dtype=np.int32), (4, 1))
    batch["attention_mask"][:2] = [1] * 5 + [2] * 6                                          # two in a row
    batch["position_ids"][:2] = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]
    objective, params = masked_lm(network, pair), network.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)                                   # no bias is 0

    def everything(params, batch):
        out = objective.loss(params, batch, None)
        return out.sums["mlm"], (out, network.logits(params, "mlm", network.encode(params, batch, pool=False)))

    (_, (out, dense)), gradient = jax.jit(jax.value_and_grad(everything, has_aux=True))(params, batch)
    scores = np.take_along_axis(np.asarray(dense, np.float64), batch["masked_positions"][..., None], 1)
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    onehot, used = np.eye(61)[batch["masked_labels"]], batch["masked_weights"][..., None]
    assert float(out.sums["mlm"]) == pytest.approx(-(np.log(p) * onehot * used).sum(), rel=1e-5)
    assert float(out.metrics["mlm/accuracy"][0]) == ((scores.argmax(-1) == batch["masked_labels"]) * used[..., 0]).sum()
    bias = [leaf for leaf in jax.tree.leaves(gradient["mlm"]) if leaf.shape == (61,)]
    np.testing.assert_allclose(bias[0], ((p - onehot) * used).sum((0, 1)), atol=1e-5)
    step = lambda p: jax.grad(lambda p: objective.loss(p, batch, jax.random.key(0)).sums["mlm"])(p)
    sizes = sizes_in(step, network.shapes())
    assert 4 * 4 * 61 in sizes and 4 * 11 * 61 not in sizes


def test_no_tensor_of_all_positions_by_the_vocabulary():
    network, batch = network_of(), batch_of()
    objective = masked_lm(network, pair=True)
    sizes = sizes_in(jax.grad(lambda p: objective.loss(p, batch, jax.random.key(0)).sums["mlm"]), network.shapes())
    assert 16 * 4 * 61 in sizes and 16 * 11 * 61 not in sizes


def curve(way, accumulate=1, steps=20):
    objective, optim = masked_lm(network_of(), pair=True), Optim("adamw", rate=1e-2, warmup=0.2)
    options = {"batch_size": 16, "rate": schedule(optim, steps), "accumulate": accumulate}
    program = (under_pmap(objective, build(optim, steps), **options) if way == "pmap" else
               under_jit(objective, build(optim, steps), way, **options))
    state = program.start(jax.random.key(0), None)
    rng = jax.device_put(jax.random.key(1), program.abstract["step"].sharding)
    losses = []
    for i in range(steps):
        state, metrics = program.step(state, program.place(batch_of(seed=i % 5)), rng)
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return np.array(losses)


def test_one_device_eight_devices_pmap_and_accumulation_agree():
    """BERT's own loss over 20 steps, masked counts uneven over devices: relative difference at most 1e-5."""
    alone = curve(make_mesh(Mesh(1, 1, 1), jax.devices()[:1]))
    assert alone[-1] < 0.95 * alone[0]
    ways = {"data": (make_mesh(Mesh(8, 1, 1)), 2), "all": (make_mesh(Mesh(2, 2, 2)), 1), "pmap": ("pmap", 1)}
    for name, (way, accumulate) in ways.items():
        difference = np.abs(curve(way, accumulate) / alone - 1).max()
        assert difference <= 1e-5, f"{name}, {accumulate} micro-batches: {difference:.1e}"


def test_bfloat16_products_accumulate_in_float32():
    network, batch = network_of(dtype="bfloat16"), batch_of()
    params = network.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    jaxpr = jax.make_jaxpr(lambda p: masked_lm(network, pair=True).loss(p, batch, None).sums)(params)

    def dots(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                yield equation
            for sub in jax.extend.core.jaxprs_in_params(equation.params):
                yield from dots(sub)

    found = list(dots(jaxpr.jaxpr))
    assert found and all(e.outvars[0].aval.dtype == jnp.float32 for e in found)
    assert all(v.aval.dtype == jnp.bfloat16 for e in found for v in e.invars)
