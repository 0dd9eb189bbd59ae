"""Masked LM over the P hidden places, alone or with a pair task (NSP, SOP) (BERT, arXiv:1810.04805)."""

import jax.numpy as jnp

from bertvariants_jax.objectives.losses import accuracy, cross_entropy, example_weights, weighted
from bertvariants_jax.objectives.objective import Loss, Objective


def masked_lm(network, pair: bool = False) -> Objective:
    """Mean cross-entropy of the masked tokens, plus with `pair` that of `next_sentence_label`.

    network: has `init`, `encode` and `logits` (models/variant.py) and heads "mlm" and, with `pair`, "pair".
    The vocabulary is scored at `masked_positions` [B, P] only. Metrics: mlm/accuracy, pair/accuracy.
    """

    def counts(batch):                                                                       # B P and B
        examples = example_weights(batch, "input_ids")
        return batch["masked_weights"] * examples[:, None], examples

    def weights(batch):
        masked, examples = counts(batch)
        return {"mlm": jnp.sum(masked)} | ({"pair": jnp.sum(examples)} if pair else {})

    def loss(params, batch, rng, memory=None):
        encoded = network.encode(params, batch, rng)
        logits = network.logits(params, "mlm", encoded.at(batch["masked_positions"]), rng)   # B P V
        labels, (masked, examples) = batch["masked_labels"], counts(batch)
        sums = {"mlm": weighted(cross_entropy(logits, labels), masked)}
        metrics = {"mlm/accuracy": accuracy(logits, labels, masked)}
        if pair:
            scores, label = network.logits(params, "pair", encoded, rng), batch["next_sentence_label"]
            sums["pair"] = weighted(cross_entropy(scores, label), examples)
            metrics["pair/accuracy"] = accuracy(scores, label, examples)
        return Loss(sums, metrics)

    def predict(params, batch):
        encoded = network.encode(params, batch)
        logits = network.logits(params, "mlm", encoded.at(batch["masked_positions"]))
        return {"masked_predictions": jnp.argmax(logits, axis=-1)}                           # B P

    return Objective(network.init, weights, loss, predict, {"mlm": 1.0} | ({"pair": 1.0} if pair else {}))
