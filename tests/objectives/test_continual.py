"""ERNIE 2.0's losses by hand in float64, which rows and tokens count, what they move, and the shapes of the step."""

import jax
import numpy as np
import pytest
from shapes import sizes_in

from bertvariants_jax.models import VARIANTS
from bertvariants_jax.models.ernie import DUMMY
from bertvariants_jax.objectives.continual import continual

TASKS = ("masking", "capital", "relation", "reorder", "distance")
NETWORK = VARIANTS["ernie"].network(DUMMY, ("mlm", *TASKS[1:]))
OBJECTIVE = continual(NETWORK, TASKS)
B, L, P, V = 10, 11, 4, 61
KEYS = {"capital": "capital_labels", "relation": "relation_labels", "reorder": "reorder_label", "distance": "distance_label"}
TERMS = ("mlm", *TASKS[1:])


def batch_of(seed=0):
    """Two rows of each task; the last row is filling."""
    rng = np.random.default_rng(seed)
    task = np.arange(B) % 5
    batch = {"input_ids": rng.integers(5, V, (B, L)), "attention_mask": np.tile(np.arange(L) < 9, (B, 1)),
             "token_type_ids": rng.integers(0, 2, (B, L)), "task_type_ids": np.tile(np.minimum(task, 2)[:, None], (1, L)),
             "masked_positions": np.tile([1, 3, 4, 7], (B, 1)), "masked_labels": rng.integers(5, V, (B, P))}
    for number, name in enumerate(TASKS[1:], 1):
        size = (B, L) if number < 3 else (B,)
        labels = rng.integers(0, {3: 9, 4: 3}.get(number, 2), size)
        labels[task != number] = -100
        if number < 3:
            labels[:, [0, 5, 9, 10]] = -100
        batch[KEYS[name]] = labels
    batch = {key: value.astype(np.int32) for key, value in batch.items()}
    batch["masked_weights"] = (rng.random((B, P)) < 0.7).astype(np.float32)
    batch["example_weight"] = (np.arange(B) < B - 1).astype(np.float32)
    return batch


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) * 0.2).astype(np.float32), NETWORK.shapes())


RUN = jax.jit(lambda p, b: (OBJECTIVE.loss(p, b, None), OBJECTIVE.weights(b), OBJECTIVE.predict(p, b),
                            jax.jacrev(lambda q: OBJECTIVE.loss(q, b, None).sums)(p)))


@pytest.fixture(scope="module")
def found(params):
    return RUN(params, batch_of())


@pytest.fixture(scope="module")
def by_hand(params):
    """term -> (float64 scores, labels, which count), from the network's own scores at every place."""
    batch = batch_of()
    encoded = NETWORK.encode(params, batch)
    scores = {task: np.asarray(NETWORK.logits(params, task, encoded), np.float64) for task in TERMS}
    real = np.arange(B) < B - 1
    out = {"mlm": (scores["mlm"][np.arange(B)[:, None], batch["masked_positions"]], batch["masked_labels"],
                   (batch["masked_weights"] > 0) & real[:, None])}
    for task, key in KEYS.items():
        labels = batch[key]
        out[task] = (scores[task], labels, (labels >= 0) & (real[:, None] if labels.ndim == 2 else real))
    return out


@pytest.mark.parametrize("task", TERMS)
def test_loss_gradient_accuracy_and_prediction(found, by_hand, task):
    loss, weights, predictions, gradients = found
    scores, labels, counted = by_hand[task]
    chance = np.exp(scores - scores.max(-1, keepdims=True))
    chance /= chance.sum(-1, keepdims=True)
    labels = np.where(counted, labels, 0)
    picked = np.take_along_axis(chance, labels[..., None], -1)[..., 0]
    assert counted.sum() == float(weights[task]) > 0
    assert float(loss.sums[task]) == pytest.approx(-np.log(picked)[counted].sum(), rel=1e-5)
    best = scores.argmax(-1)
    right, total = loss.metrics[f"{task}/accuracy"]
    assert float(right) == (best == labels)[counted].sum() and float(total) == counted.sum()
    assert (predictions["masked_predictions" if task == "mlm" else f"{task}_predictions"] == best).all()
    want = ((chance - np.eye(chance.shape[-1])[labels]) * counted[..., None]).reshape(-1, chance.shape[-1]).sum(0)
    bias = gradients[task]["mlm"]["bias"] if task == "mlm" else gradients[task][task]["dense"]["bias"]
    np.testing.assert_allclose(bias, want, atol=2e-5)


def test_a_task_moves_its_own_head_and_the_encoder(found):
    gradients = found[3]
    for task in TERMS:
        for head in TERMS:
            largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradients[task][head]))
            assert (largest > 0) == (head == task), (task, head)
        assert (np.abs(gradients[task]["pooler"]["dense"]["kernel"]).max() > 0) == (task in ("reorder", "distance"))
        types = np.abs(gradients[task]["encoder"]["embeddings"]["task_type_embeddings"]["embedding"]).max(1)
        own = {"mlm": {0, 1, 2}, "capital": {1}, "relation": {2}}.get(task, {2})
        assert set(np.flatnonzero(types).tolist()) == own


def test_what_does_not_count_changes_nothing(found, params):
    """Labels of filling and words of unused slots: the same sums and gradients, to the bit."""
    batch = batch_of()
    other = {key: value.copy() for key, value in batch.items()}
    for key in KEYS.values():
        other[key][-1] = np.where(other[key][-1] >= 0, 1 - np.minimum(other[key][-1], 1), -100)
    other["masked_labels"] = np.where(batch["masked_weights"] > 0, batch["masked_labels"], 7)
    for a, b in zip(jax.tree.leaves((found[0].sums, found[3])),
                    jax.tree.leaves((lambda out: (out[0].sums, out[3]))(RUN(params, other))), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_tensor_of_all_positions_by_the_vocabulary():
    batch = batch_of()
    sizes = sizes_in(jax.grad(lambda p: sum(OBJECTIVE.loss(p, batch, jax.random.key(0)).sums.values())), NETWORK.shapes())
    assert B * P * V in sizes and B * L * V not in sizes


def test_a_stage_has_its_own_terms():
    network = VARIANTS["ernie"].network(DUMMY, ("mlm", "relation"))
    objective = continual(network, ("masking", "relation"))
    assert objective.scales == {"mlm": 1.0, "relation": 1.0} and set(objective.weights(batch_of())) == {"mlm", "relation"}
    assert OBJECTIVE.scales == dict.fromkeys(TERMS, 1.0)
    fresh = jax.jit(objective.init)(jax.random.key(0))
    assert (fresh["mlm"]["norm"]["bias"] == 1).all() and (fresh["mlm"]["norm"]["scale"] == 1).all()
    assert (fresh["relation"]["dense"]["kernel"].std() < 0.03) and fresh.keys() == {"encoder", "mlm", "relation"}
