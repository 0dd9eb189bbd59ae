"""Fine-tuning objectives: one for each kind of head."""

import jax
import jax.numpy as jnp

from bertvariants_jax.objectives.losses import (
    accuracy,
    binary_cross_entropy,
    cross_entropy,
    example_weights,
    sequence_weights,
    weighted,
)
from bertvariants_jax.objectives.objective import Loss, Objective


def classification(network, head: str = "classify") -> Objective:
    """Cross-entropy of `labels` int32 [B] over the classes; squared error of float32 [B] where there is one; mean over the
    classes of the binary cross-entropies of float32 [B, classes] where the config says "multi_label_classification".

    head: "classify", or "choice" (batch arrays [B, C, L]). predict gives "logits" [B, classes]. In packed rows labels
    are [B, S] (or [B, S, classes]) and logits [B, S, classes].
    """
    multi_label = head == "classify" and network.config.problem_type == "multi_label_classification"
    regression = head == "classify" and network.config.num_labels == 1 and not multi_label

    def weights(batch):
        return {head: jnp.sum(sequence_weights(batch, "input_ids"))}

    def loss(params, batch, rng, memory=None):
        scores, counted = network.scores(params, head, batch, rng), sequence_weights(batch, "input_ids")
        if regression:
            errors = jnp.square(scores[..., 0] - batch["labels"].astype(jnp.float32))
            return Loss({head: weighted(errors, counted)}, {})
        if multi_label:
            losses = binary_cross_entropy(scores, batch["labels"]).mean(axis=-1)
            right = jnp.all((scores > 0) == (batch["labels"] > 0.5), axis=-1).astype(jnp.float32)
            return Loss({head: weighted(losses, counted)}, {f"{head}/accuracy": (weighted(right, counted), jnp.sum(counted))})
        labels = jnp.maximum(batch["labels"], 0)               # -100 in the unused slots of packed rows
        return Loss({head: weighted(cross_entropy(scores, labels), counted)},
                    {f"{head}/accuracy": accuracy(scores, labels, counted)})

    def predict(params, batch):
        return {"logits": network.scores(params, head, batch)}

    return Objective(network.init, weights, loss, predict, {head: 1.0})


def tagging(network) -> Objective:
    """Cross-entropy of `labels` int32 [B, L] over the tags; -100 is ignored. predict: "logits" [B, L, tags]."""

    def counted(batch):
        return (batch["labels"] >= 0) * example_weights(batch, "input_ids")[:, None]

    def weights(batch):
        return {"tag": jnp.sum(counted(batch))}

    def loss(params, batch, rng, memory=None):
        scores, labels = network.scores(params, "tag", batch, rng), jnp.maximum(batch["labels"], 0)
        return Loss({"tag": weighted(cross_entropy(scores, labels), counted(batch))},
                    {"tag/accuracy": accuracy(scores, labels, counted(batch))})

    def predict(params, batch):
        return {"logits": network.scores(params, "tag", batch)}

    return Objective(network.init, weights, loss, predict, {"tag": 1.0})


def extraction(network) -> Objective:
    """Mean of the cross-entropies of `start_positions` and `end_positions` int32 [B] over the row's places.

    Padding is no candidate. predict: "start_logits", "end_logits" [B, L].
    """

    def weights(batch):
        return {"span": jnp.sum(example_weights(batch, "input_ids"))}

    def loss(params, batch, rng, memory=None):
        logits, counted = span_scores(network, params, batch, rng), example_weights(batch, "input_ids")
        gold = jnp.stack([batch["start_positions"], batch["end_positions"]], axis=1)         # B 2
        losses = cross_entropy(jnp.swapaxes(logits, 1, 2), gold).mean(axis=1)
        right = jnp.all(jnp.argmax(logits, axis=1) == gold, axis=1)
        return Loss({"span": weighted(losses, counted)},
                    {"span/accuracy": (weighted(right.astype(jnp.float32), counted), jnp.sum(counted))})

    def predict(params, batch):
        start, end = jnp.split(span_scores(network, params, batch), 2, axis=-1)
        return {"start_logits": start[..., 0], "end_logits": end[..., 0]}

    return Objective(network.init, weights, loss, predict, {"span": 1.0})


def span_scores(network, params, batch, rng=None) -> jax.Array:
    """The head "span" as [B, L, 2], starts and ends; -1e30 at padding."""
    logits, real = network.scores(params, "span", batch, rng), batch["attention_mask"][..., None] > 0
    return jnp.where(real, logits, -1e30)


def beam_extraction(network, unanswerable: bool = True) -> Objective:
    """XLNet's SQuAD loss: mean of the cross-entropies of the start and of the end given the true start, plus with
    `unanswerable` half the binary cross-entropy of `is_impossible` int32 [B].

    network has a head "beam"; `p_mask` int32 [B, L], where the batch has it, is 1 where no answer can stand. A
    question without answer has both positions at `<cls>`. predict: the best starts and the best ends of each, with
    their probabilities, and "cls_logits" [B], above 0 where there seems to be no answer.
    """

    def weights(batch):
        count = jnp.sum(example_weights(batch, "input_ids"))
        return {"span": count} | ({"impossible": count} if unanswerable else {})

    def loss(params, batch, rng, memory=None):
        out, counted = network.scores(params, "beam", batch, rng), example_weights(batch, "input_ids")
        starts, ends = batch["start_positions"], batch["end_positions"]
        losses = (cross_entropy(out.start_logits, starts) + cross_entropy(out.end_logits, ends)) / 2
        right = (jnp.argmax(out.start_logits, axis=1) == starts) & (jnp.argmax(out.end_logits, axis=1) == ends)
        sums = {"span": weighted(losses, counted)}
        metrics = {"span/accuracy": (weighted(right.astype(jnp.float32), counted), jnp.sum(counted))}
        if unanswerable:
            truth, logits = batch["is_impossible"] > 0, out.cls_logits
            sums["impossible"] = weighted(jnp.where(truth, jax.nn.softplus(-logits), jax.nn.softplus(logits)), counted)
            metrics["impossible/accuracy"] = (
                weighted(((logits > 0) == truth).astype(jnp.float32), counted), jnp.sum(counted))
        return Loss(sums, metrics)

    def predict(params, batch):
        asked = {key: value for key, value in batch.items() if key != "start_positions"}
        return {key: value for key, value in network.scores(params, "beam", asked)._asdict().items() if value is not None}

    return Objective(network.init, weights, loss, predict, {"span": 1.0} | ({"impossible": 0.5} if unanswerable else {}))
