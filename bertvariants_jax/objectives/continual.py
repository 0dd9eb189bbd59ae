"""ERNIE 2.0's multi-task objective: masked LM, questions about each token and questions about the row (arXiv:1907.12412)."""

import jax.numpy as jnp

from bertvariants_jax.objectives.losses import accuracy, cross_entropy, example_weights, weighted
from bertvariants_jax.objectives.objective import Loss, Objective

TOKENS = ("capital", "relation")
ROWS = ("reorder", "distance")


def continual(network, tasks: tuple[str, ...]) -> Objective:
    """The sum of the tasks' mean cross-entropies, each over the rows that are its own.

    network: has `init`, `encode` and `logits` and a head for each task, "mlm" for "masking". Masked tokens are predicted
    in every row that has some; "capital" and "relation" for each token with a label in <task>_labels int32 [B, L],
    "reorder" and "distance" for each row with one in <task>_label int32 [B]; -100 is none. Metrics: <task>/accuracy.
    Fresh masked-LM heads begin with ones in their norm's bias, as ERNIE 2.0's code has it.
    """
    others = tuple(task for task in (*TOKENS, *ROWS) if task in tasks)

    def init(rng):
        params = network.init(rng)
        if "masking" in tasks:
            norm = params["mlm"]["norm"]
            params["mlm"] = {**params["mlm"], "norm": {**norm, "bias": jnp.ones_like(norm["bias"])}}
        return params

    def answers(batch, task):
        """Labels, and the weight of each."""
        labels = batch[f"{task}_labels" if task in TOKENS else f"{task}_label"]
        examples = example_weights(batch, "input_ids")
        counted = (labels >= 0) * (examples[:, None] if task in TOKENS else examples)
        return jnp.maximum(labels, 0), counted

    def masked(batch):
        return batch["masked_weights"] * example_weights(batch, "input_ids")[:, None]

    def weights(batch):
        found = {task: jnp.sum(answers(batch, task)[1]) for task in others}
        return ({"mlm": jnp.sum(masked(batch))} if "masking" in tasks else {}) | found

    def loss(params, batch, rng, memory=None):
        encoded = network.encode(params, batch, rng)
        sums, metrics = {}, {}
        if "masking" in tasks:
            logits = network.logits(params, "mlm", encoded.at(batch["masked_positions"]), rng)   # B P V
            sums["mlm"] = weighted(cross_entropy(logits, batch["masked_labels"]), masked(batch))
            metrics["mlm/accuracy"] = accuracy(logits, batch["masked_labels"], masked(batch))
        for task in others:
            logits, (labels, counted) = network.logits(params, task, encoded, rng), answers(batch, task)
            sums[task] = weighted(cross_entropy(logits, labels), counted)
            metrics[f"{task}/accuracy"] = accuracy(logits, labels, counted)
        return Loss(sums, metrics)

    def predict(params, batch):
        encoded, found = network.encode(params, batch), {}
        if "masking" in tasks:
            logits = network.logits(params, "mlm", encoded.at(batch["masked_positions"]))
            found["masked_predictions"] = jnp.argmax(logits, axis=-1)                        # B P
        return found | {f"{task}_predictions": jnp.argmax(network.logits(params, task, encoded), axis=-1) for task in others}

    return Objective(init, weights, loss, predict, dict.fromkeys(("mlm",) * ("masking" in tasks) + others, 1.0))
