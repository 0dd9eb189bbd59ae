"""Losses as sums over what counts, with their weights; all float32."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label]; logits [..., V], labels int32 [...] -> [...]."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log of sigmoid(logits), or of 1 - that where the label is 0; both [...] -> float32 [...]."""
    logits = logits.astype(jnp.float32)
    return jax.nn.softplus(logits) - logits * labels.astype(jnp.float32)


def weighted(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum of values where the weight is not 0; an unused slot may hold NaN and adds exactly nothing."""
    used = weights != 0
    return jnp.sum(jnp.where(used, values, 0.0) * weights)


def accuracy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(weighted number of right answers, sum of weights)."""
    right = jnp.argmax(logits, axis=-1) == labels
    return weighted(right.astype(jnp.float32), weights), jnp.sum(weights)


def example_weights(batch, like: str) -> jax.Array:
    """float32 [B]: the batch's example_weight, or ones where it has none."""
    if "example_weight" in batch:
        return batch["example_weight"].astype(jnp.float32)
    return jnp.ones(batch[like].shape[0], jnp.float32)


def sequence_weights(batch, like: str) -> jax.Array:
    """float32 [B], or [B, S] where rows are packed: the weight of each text that is labelled as a whole."""
    examples = example_weights(batch, like)
    return batch["sequence_weights"] * examples[:, None] if "sequence_weights" in batch else examples
