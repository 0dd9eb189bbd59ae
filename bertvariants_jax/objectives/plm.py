"""Permutation language modelling with two streams and a memory (XLNet, arXiv:1906.08237; zihangdai/xlnet
`two_stream_loss`)."""

import dataclasses

import jax
import jax.numpy as jnp

from bertvariants_jax.objectives.losses import accuracy, cross_entropy, example_weights, weighted
from bertvariants_jax.objectives.objective import Loss, Objective


def permutation_lm(network, mem_len: int = 0, reuse_len: int = 0) -> Objective:
    """Mean cross-entropy of the targets, each given what comes before it in the row's order of factorisation.

    network: an XLNet (models/variant.py) with head "mlm". The query stream runs at the P places of
    `masked_positions` alone; `perm_order` [B, L] becomes the mask [B, L, L] on the device.
    mem_len: places of the memory, 0 for none. It begins as zeros and is never reset, at no document and no epoch,
    as in the original; each step adds the layers' inputs at the first reuse_len places (0: all) of its rows, so
    row b of a batch must go on where row b of the last one was after reuse_len tokens. Evaluation has no memory.
    Metrics: plm/accuracy.
    """
    if mem_len < 0 or reuse_len < 0:
        raise ValueError(f"mem_len and reuse_len must be 0 or more, not {mem_len} and {reuse_len}")
    config = dataclasses.replace(network.config, mem_len=mem_len or None, reuse_len=reuse_len or None)
    running = network.variant.network(config, network.heads, network.compute)

    def empty(batch_size):
        return jnp.zeros((batch_size, config.n_layer, mem_len, config.d_model), jnp.dtype(network.compute.dtype))

    def counted(batch):                                                                      # B P
        return batch["masked_weights"] * example_weights(batch, "input_ids")[:, None]

    def weights(batch):
        return {"plm": jnp.sum(counted(batch))}

    def logits(params, batch, rng=None, memory=None):                                        # B P V
        used = batch["masked_weights"] > 0
        inputs = {**batch, "perm_mask": hidden(batch["perm_order"], batch["masked_positions"], used),
                  "target_mapping": jnp.where(used, batch["masked_positions"], -1)}
        if memory is not None:
            inputs["mems"] = jnp.swapaxes(memory, 0, 1)
        encoded = running.encode(params, inputs, rng, remember=memory is not None)
        memory = None if memory is None else jnp.swapaxes(encoded.mems, 0, 1)                # B layers M D
        return running.logits(params, "mlm", encoded, rng), memory

    def loss(params, batch, rng, memory=None):
        scores, memory = logits(params, batch, rng, memory)
        labels, counts = batch["masked_labels"], counted(batch)
        return Loss({"plm": weighted(cross_entropy(scores, labels), counts)},
                    {"plm/accuracy": accuracy(scores, labels, counts)}, memory)

    def predict(params, batch):
        return {"masked_predictions": jnp.argmax(logits(params, batch)[0], axis=-1)}         # B P

    return Objective(network.init, weights, loss, predict, {"plm": 1.0}, memory=empty if mem_len else None)


def hidden(order: jax.Array, positions: jax.Array, used: jax.Array) -> jax.Array:
    """What each token must not see, bool [B, L, L] (query, key): all that is later in the order int32 [B, L], and
    for a target, at the used `positions` [B, P], what is not earlier."""
    length = order.shape[1]
    target = jnp.any((positions[:, :, None] == jnp.arange(length)) & used[:, :, None], axis=1)
    return order[:, None, :] > (order - target)[:, :, None]
