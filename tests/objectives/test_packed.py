"""Packed fine-tuning rows: the logits, the loss and the gradients of every variant are those of one text a row."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertvariants_jax.data.pack import fit, pack
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.objectives.finetune import classification

PACKING = [name for name, variant in VARIANTS.items() if variant.packs(variant.dummy) and "classify" in variant.heads]
LENGTHS = (5, 3, 7, 4, 6)


def batches(vocab_size, labels, left=False):
    rng = np.random.default_rng(0)
    ids, mask = np.zeros((5, 8), np.int32), np.zeros((5, 8), np.int32)
    for i, length in enumerate(LENGTHS):
        place = slice(8 - length, 8) if left else slice(0, length)
        ids[i, place], mask[i, place] = rng.integers(5, vocab_size - 2, length), 1
    alone = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    groups = fit(LENGTHS, 12)
    return alone, pack(alone, groups, 12, sequences=4), groups


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("name", PACKING)
def test_packed_equals_one_text_a_row(name, regression):
    if regression and name not in ("bert", "modernbert"):
        pytest.skip("one network with and one without a pooler are enough")
    variant = VARIANTS[name]
    config = replace(variant.dummy, id2label=("score",) if regression else ("a", "b", "c"))
    network = variant.network(config, ("classify",))
    objective, params = classification(network), network.init(jax.random.key(1))
    labels = np.array([1.5, -2, 0, 3, 1], np.float32) if regression else np.array([2, 0, 1, 1, 0], np.int32)
    alone, dense, groups = batches(config.vocab_size, labels, variant.padding_side == "left")
    assert dense["labels"].shape == (len(groups), 4) and len(groups) < 5

    @jax.jit
    def everything(params, batch):
        def total(p):
            return sum(objective.loss(p, batch, None).sums.values()) / sum(objective.weights(batch).values())

        return objective.predict(params, batch)["logits"], *jax.value_and_grad(total)(params)

    (want, loss, slopes), (got, packed_loss, packed_slopes) = everything(params, alone), everything(params, dense)
    for row, group in enumerate(groups):
        np.testing.assert_allclose(got[row, : len(group)], want[np.array(group)], atol=3e-6)
    np.testing.assert_allclose(packed_loss, loss, rtol=1e-5)
    worst = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))) if a.size else 0.0, slopes, packed_slopes)
    assert max(jax.tree.leaves(worst)) < 3e-5, worst
