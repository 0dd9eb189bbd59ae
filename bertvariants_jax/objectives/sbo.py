"""Masked LM of spans with the span boundary objective (SpanBERT, arXiv:1907.10529; criterions/spanbert_loss.py)."""

import jax.numpy as jnp

from bertvariants_jax.objectives.losses import accuracy, cross_entropy, example_weights, weighted
from bertvariants_jax.objectives.objective import Loss, Objective


def span_lm(network) -> Objective:
    """Cross-entropy of the masked tokens by their mean, plus that of the same tokens told from beside their span.

    network: has heads "mlm" and "sbo". The batch has SpanBERT's keys (data/spans.py): the slots of `masked_labels`
    [B, P] are the targets of both, of the second where `span_weights` is 1. As in the original, the second sum is
    divided by the number of its targets plus 1 (once for each device under pmap, as there for each worker).
    predict: "masked_predictions", "span_predictions" [B, P].
    """

    def counts(batch):                                                                       # B P each
        examples = example_weights(batch, "input_ids")[:, None]
        return batch["masked_weights"] * examples, batch["span_weights"] * examples

    def weights(batch):
        masked, spans = counts(batch)
        return {"mlm": jnp.sum(masked), "sbo": jnp.sum(spans) + 1}

    def scores(params, batch, rng=None):                                                     # B P V each
        encoded = network.encode(params, batch, rng)
        return (network.logits(params, "mlm", encoded.at(batch["masked_positions"]), rng),
                network.logits(params, "sbo", encoded, rng, batch))

    def loss(params, batch, rng, memory=None):
        labels, found = batch["masked_labels"], zip(("mlm", "sbo"), scores(params, batch, rng), counts(batch), strict=True)
        sums, metrics = {}, {}
        for name, logits, counted in found:
            sums[name] = weighted(cross_entropy(logits, labels), counted)
            metrics[f"{name}/accuracy"] = accuracy(logits, labels, counted)
        return Loss(sums, metrics)

    def predict(params, batch):
        masked, spans = (jnp.argmax(logits, axis=-1) for logits in scores(params, batch))
        return {"masked_predictions": masked, "span_predictions": spans}

    return Objective(network.init, weights, loss, predict, {"mlm": 1.0, "sbo": 1.0})
