"""Objectives of sentence embeddings: vectors of texts whose cosine says how alike they are (arXiv:1908.10084)."""

import jax
import jax.numpy as jnp

from bertvariants_jax.objectives.losses import accuracy, cross_entropy, example_weights, weighted
from bertvariants_jax.objectives.objective import Loss, Objective


def pooled(hidden: jax.Array, attention_mask: jax.Array, mode: str = "mean", last: bool = False) -> jax.Array:
    """Hidden states [B, L, D] -> float32 [B, D]: "mean" or "max" over the real tokens, or "cls", the first real one (the
    `last`, for XLNet)."""
    hidden, real = hidden.astype(jnp.float32), attention_mask > 0
    if mode == "cls":
        at = jnp.where(real, jnp.arange(real.shape[1]), -1).max(1) if last else jnp.argmax(real, axis=1)
        return jnp.take_along_axis(hidden, at[:, None, None], axis=1)[:, 0]
    if mode == "max":
        return jnp.max(jnp.where(real[..., None], hidden, -jnp.inf), axis=1)
    return jnp.sum(jnp.where(real[..., None], hidden, 0.0), axis=1) / jnp.maximum(real.sum(1, keepdims=True), 1)


def pairs(network, pooling: str = "mean"):
    """(params, batch, rng) -> unit vectors of both texts, [B, D] each; batch arrays are [B, 2, L]."""

    def vectors(params, batch, rng=None):
        rows, _, length = batch["input_ids"].shape
        flat = {key: batch[key].reshape(2 * rows, length) for key in network.variant.call_arguments if key in batch}
        hidden = network.encode(params, flat, rng, pool=False).last_hidden_state
        vector = pooled(hidden, flat["attention_mask"], pooling, network.variant.padding_side == "left")
        # the square's floor keeps the gradient finite where a vector is 0
        vector = vector * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(vector), -1, keepdims=True), 1e-24))
        vector = vector.reshape(rows, 2, -1)
        return vector[:, 0], vector[:, 1]

    return vectors


def similarity(network, pooling: str = "mean") -> Objective:
    """Squared error of the cosine of two texts (batch arrays [B, 2, L]) against `labels` float32 [B].

    predict gives "similarity" float32 [B].
    """
    vectors = pairs(network, pooling)

    def weights(batch):
        return {"similarity": jnp.sum(example_weights(batch, "input_ids"))}

    def loss(params, batch, rng, memory=None):
        one, two = vectors(params, batch, rng)
        errors = jnp.square(jnp.sum(one * two, -1) - batch["labels"].astype(jnp.float32))
        return Loss({"similarity": weighted(errors, example_weights(batch, "input_ids"))}, {})

    return Objective(network.init, weights, loss, predictor(vectors), {"similarity": 1.0})


def contrastive(network, pooling: str = "mean", temperature: float = 0.05) -> Objective:
    """Cross-entropy of each pair's second text among the second texts of the batch, by cosine / temperature
    (arXiv:1705.00652, 1908.10084). predict gives "similarity" float32 [B].

    The other texts are those of the whole batch, whatever devices and micro-batches share it. A pair that repeats one
    of a row's texts (see `repeated`) is no wrong answer for it and takes no part.
    """
    vectors = pairs(network, pooling)

    def weights(batch):
        return {"contrastive": jnp.sum(example_weights(batch, "input_ids"))}

    def compare(embedded, batch):
        (one, two), counted, gold = embedded, example_weights(batch, "input_ids"), jnp.arange(len(embedded[0]))
        wrong = (counted[None] > 0) & ~repeated(batch)
        scores = jnp.where(wrong | (gold[:, None] == gold), one @ two.T / temperature, jnp.finfo(jnp.float32).min)     # B B
        return Loss({"contrastive": weighted(cross_entropy(scores, gold), counted)},
                    {"contrastive/accuracy": accuracy(scores, gold, counted)})

    def loss(params, batch, rng, memory=None):
        return compare(vectors(params, batch, rng), batch)

    return Objective(network.init, weights, loss, predictor(vectors), {"contrastive": 1.0},
                     embed=vectors, compare=compare)


def repeated(batch) -> jax.Array:
    """bool [B, B]: whether pair j, of input_ids [B, 2, L], has the first text of pair i, or as its second text one of
    the two of pair i. Texts are equal by their ids, as the network reads them."""
    ids = jnp.where(batch["attention_mask"] > 0, batch["input_ids"], -1)

    def equal(a, b):
        return jnp.all(a[:, None] == b[None], axis=-1)                                       # B B

    first, second = ids[:, 0], ids[:, 1]
    return equal(first, first) | equal(second, second) | equal(first, second)


def predictor(vectors):
    def predict(params, batch):
        one, two = vectors(params, batch)
        return {"similarity": jnp.sum(one * two, -1)}

    return predict
