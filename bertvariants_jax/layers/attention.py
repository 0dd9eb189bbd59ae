"""Multi-head self-attention, and `attend`, the one door to softmax(q k / sqrt(H) + bias) v."""

import functools
import math
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertvariants_jax.layers.dense import FLOAT32, Compute, Dense, dropout, einsum


def visible(attention_mask: jax.Array, keys: jax.Array | None = None) -> jax.Array:
    """Who may see whom, bool [B, 1, Q, K], query by key.

    attention_mask: the queries' numbers [B, Q], and the keys' unless `keys` [B, K] gives them. 0 is
    padding; equal positive numbers see each other. Padding queries, whose outputs nobody should read,
    see all real keys, so that HF's 0/1 mask gives HF's numbers at those places too.
    """
    keys = attention_mask if keys is None else keys
    query, key = attention_mask[:, None, :, None], keys[:, None, None, :]
    return (key > 0) & ((query == key) | (query == 0))


def unfused(q: jax.Array, k: jax.Array, dropout_rate: float) -> str:
    """Why cuDNN's kernel cannot take these queries and keys [B, L, N, H]; "" where it can."""
    size, lengths = q.shape[-1], (q.shape[1], k.shape[1])
    if jax.default_backend() != "gpu":
        return f"it needs a GPU, and JAX runs on {jax.default_backend().upper()}"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 and float16, and compute.dtype is {q.dtype.name}"
    if size % 8 or size > 128:
        return f"it takes heads of a multiple of 8 up to 128, and these have {size}"
    if any(length % 2 for length in lengths):
        return f"it takes even lengths, and these are {lengths[0]} and {lengths[1]}"
    return f"it has no dropout, and attention drops {dropout_rate:g} of its probabilities" if dropout_rate else ""


@functools.cache
def say(line: str) -> None:
    """A line on stderr, on the first process, each text once until `say.cache_clear()`."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr)


def attend(module: nn.Module, q, k, v, mask, bias=None, *, scale=None, dropout_rate=0.0,
           deterministic=True, compute: Compute = FLOAT32):
    """softmax(q k^T * scale + bias) v over heads, masked, with dropout on the probabilities.

    q [B, Q, N, H]; k, v [B, K, N, H]; mask: bool broadcastable to [B, N, Q, K]; bias likewise, added
    after the scale (1/sqrt(H) unless given) -> [B, Q, N, H]. The softmax is float32; a query that sees
    nothing gets a uniform row, not NaN. `module` is the caller, inside its compact method: it draws the
    dropout and sows the probabilities [B, N, Q, K] as intermediates/attentions.
    """
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if compute.attention == "cudnn" and not module.is_mutable_collection("intermediates"):
        obstacle = unfused(q, k, 0.0 if deterministic else dropout_rate)
        if not obstacle:
            bias = None if bias is None else bias.astype(q.dtype)
            return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=scale, implementation="cudnn")
        say(f"compute.attention is cudnn, but XLA's runs: {obstacle}")
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))   # heads first: XLA:CPU is six times slower without
    scores = einsum("bnqh,bnkh->bnqk", q, k) * scale                                         # B N Q K
    if bias is not None:
        scores = scores + bias
    probs = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)
    module.sow("intermediates", "attentions", probs)
    probs = dropout(dropout_rate, deterministic)(probs).astype(v.dtype)
    return jnp.swapaxes(einsum("bnqk,bnkh->bnqh", probs, v), 1, 2).astype(v.dtype)           # B Q N H


class SelfAttention(nn.Module):
    """Query, key and value projections, `attend`, and the output projection (arXiv:1706.03762)."""

    cfg: object
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, mask, deterministic=True):
        cfg = self.cfg
        heads = (cfg.num_attention_heads, cfg.hidden_size // cfg.num_attention_heads)        # N H
        q, k, v = (Dense(heads, stddev=cfg.initializer_range, compute=self.compute, name=name)(x)
                   for name in ("query", "key", "value"))                                    # B L N H
        x = attend(self, q, k, v, mask, dropout_rate=cfg.attention_probs_dropout_prob,
                   deterministic=deterministic, compute=self.compute)                        # B L N H
        return Dense(cfg.hidden_size, axes=2, stddev=cfg.initializer_range, compute=self.compute, name="out")(x)
