"""SpanBERT's loss by hand in float64: both parts, their divisors, what unused slots do, and the shapes of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import sizes_in

from bertvariants_jax.models import VARIANTS
from bertvariants_jax.models.spanbert import DUMMY
from bertvariants_jax.objectives.sbo import span_lm

NETWORK = VARIANTS["spanbert"].network(DUMMY, ("mlm", "sbo"))
OBJECTIVE = span_lm(NETWORK)
B, L, P, V = 6, 11, 5, 61


def batch_of(seed=0):
    """Spans 2..4 and 7..8 of rows of ten tokens; the last row has a span at its block's edge, which is no target."""
    rng = np.random.default_rng(seed)
    row = {"masked_positions": [2, 3, 4, 7, 8], "span_boundaries": [[1, 5]] * 3 + [[6, 9]] * 2, "span_offsets": [0, 1, 2, 0, 1]}
    batch = {key: np.array([value] * B, np.int32) for key, value in row.items()}
    batch |= {"input_ids": rng.integers(5, V, (B, L)).astype(np.int32),
              "attention_mask": np.tile((np.arange(L) < 10).astype(np.int32), (B, 1)),
              "masked_labels": rng.integers(5, V, (B, P)).astype(np.int32),
              "masked_weights": np.ones((B, P), np.float32), "span_weights": np.ones((B, P), np.float32)}
    batch["masked_weights"][1, 3:] = batch["span_weights"][1, 3:] = 0
    batch["span_weights"][5, 3:] = 0
    return batch


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) * 0.2).astype(np.float32), NETWORK.shapes())


@pytest.fixture(scope="module")
def found(params):
    """(sums and weights, gradients of each sum)."""
    run = jax.jit(lambda p, b: (OBJECTIVE.loss(p, b, None), OBJECTIVE.weights(b),
                                *(jax.grad(lambda q: OBJECTIVE.loss(q, b, None).sums[name])(p) for name in ("mlm", "sbo"))))
    return run(params, batch_of())


@pytest.fixture(scope="module")
def scores(params):
    """float64 scores [B, P, V] of both heads, from the network's own functions at every place."""
    batch = batch_of()
    encoded = NETWORK.encode(params, batch)
    dense = np.asarray(NETWORK.logits(params, "mlm", encoded), np.float64)
    return {"mlm": dense[np.arange(B)[:, None], batch["masked_positions"]],
            "sbo": np.asarray(NETWORK.logits(params, "sbo", encoded, batch=batch), np.float64)}


@pytest.mark.parametrize("name, key", [("mlm", "masked_weights"), ("sbo", "span_weights")])
def test_loss_and_gradient_by_hand(found, scores, name, key):
    loss, weights, *gradients = found
    batch, logits = batch_of(), scores[name]
    chance = np.exp(logits - logits.max(-1, keepdims=True))
    chance /= chance.sum(-1, keepdims=True)
    right = np.eye(V)[batch["masked_labels"]]
    used = batch[key][..., None].astype(np.float64)
    assert float(loss.sums[name]) == pytest.approx(-(np.log(chance) * right * used).sum(), rel=1e-5)
    assert float(weights[name]) == batch[key].sum() + (name == "sbo")           # n, and n + 1
    hits = ((logits.argmax(-1) == batch["masked_labels"]) * batch[key]).sum()
    assert [float(x) for x in loss.metrics[f"{name}/accuracy"]] == [hits, batch[key].sum()]
    mine = gradients[0 if name == "mlm" else 1]
    np.testing.assert_allclose(mine[name]["bias"], ((chance - right) * used).sum((0, 1)), atol=2e-5)
    other = mine["sbo" if name == "mlm" else "mlm"]
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(other))   # each head learns from its own part
    assert OBJECTIVE.scales == {"mlm": 1.0, "sbo": 1.0}


def test_the_boundary_part_reads_boundaries_alone(params):
    """No gradient reaches the hidden states inside a span, or of padding; some reaches both neighbours."""
    batch = batch_of()
    hidden = NETWORK.encode(params, batch).last_hidden_state

    def loss(hidden):
        scores = NETWORK.logits(params, "sbo", NETWORK.encoded(params, hidden, pool=False), batch=batch)
        return jnp.sum(jax.nn.logsumexp(scores, -1) * batch["span_weights"])

    size = np.abs(np.asarray(jax.grad(loss)(hidden))).sum(-1)
    assert (size[0] > 0).tolist() == [False, True, False, False, False, True, True, False, False, True, False]
    assert (size[5] > 0).tolist() == [False, True, False, False, False, True] + [False] * 5


def test_unused_slots_and_rows_touch_nothing(params):
    run = jax.jit(lambda p, b: OBJECTIVE.loss(p, b, None).sums)
    batch = {**batch_of(), "example_weight": np.array([1, 1, 1, 1, 0, 1], np.float32)}
    other = {key: value.copy() for key, value in batch.items()}
    other["masked_labels"][1, 3:], other["span_boundaries"][1, 3:], other["span_offsets"][1, 3:] = 7, 3, 4
    other["input_ids"][4] = 9                                                  # a row that fills the last batch
    first, second = run(params, batch), run(params, other)
    assert first == second
    weights = OBJECTIVE.weights(batch)
    assert float(weights["mlm"]) == 23 and float(weights["sbo"]) == 22


def test_no_tensor_of_all_positions_by_the_vocabulary():
    batch = batch_of()
    sizes = sizes_in(jax.grad(lambda p: sum(OBJECTIVE.loss(p, batch, jax.random.key(0)).sums.values())), NETWORK.shapes())
    assert B * P * V in sizes and B * L * V not in sizes


def test_predictions(params, scores):
    out = OBJECTIVE.predict(params, batch_of())
    assert (out["masked_predictions"] == scores["mlm"].argmax(-1)).all()
    assert (out["span_predictions"] == scores["sbo"].argmax(-1)).all()
