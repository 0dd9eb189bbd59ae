"""Word, position and token-type embeddings, summed and normalised (BERT, arXiv:1810.04805)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertvariants_jax.layers.dense import FLOAT32, Compute, LayerNorm, dropout, initializer


class Embed(nn.Module):
    """A table [rows, width]; ids out of range give NaN rows, so check them on the host.

    init: (rng, shape, dtype) -> the fresh table, where it is not drawn with `stddev`.
    """

    rows: int
    width: int
    stddev: float = 0.02
    compute: Compute = FLOAT32
    init: Callable[..., jax.Array] | None = None

    def setup(self):
        self.embedding = self.param("embedding", self.init or initializer(self.stddev), (self.rows, self.width),
                                    jnp.dtype(self.compute.param_dtype))

    def __call__(self, ids):
        table = jnp.asarray(self.embedding, self.compute.dtype)
        return table.at[ids].get(mode="fill", fill_value=jnp.nan)


class Embeddings(nn.Module):
    """LayerNorm(word + position + type), then dropout -> [B, L, width].

    `cfg` has HF's fields vocab_size, max_position_embeddings, type_vocab_size, layer_norm_eps,
    hidden_dropout_prob, initializer_range; a `type_vocab_size` of 0 leaves the type table out.
    normalise: False leaves the LayerNorm out, as pre-norm networks do.
    """

    cfg: object
    width: int
    compute: Compute = FLOAT32
    normalise: bool = True

    @nn.compact
    def __call__(self, input_ids, token_type_ids, position_ids, deterministic=True):
        cfg, table = self.cfg, lambda rows, name: Embed(
            rows, self.width, self.cfg.initializer_range, self.compute, name=name)
        x = table(cfg.vocab_size, "word_embeddings")(input_ids)                              # B L E
        if cfg.type_vocab_size:
            if token_type_ids is None:
                token_type_ids = jnp.zeros_like(input_ids)
            x = x + table(cfg.type_vocab_size, "token_type_embeddings")(token_type_ids)
        x = x + table(cfg.max_position_embeddings, "position_embeddings")(position_ids)
        if self.normalise:
            x = LayerNorm(cfg.layer_norm_eps, compute=self.compute, name="norm")(x)
        return dropout(cfg.hidden_dropout_prob, deterministic)(x)


def starts(attention_mask: jax.Array) -> jax.Array:
    """Where a packed sequence begins after another, bool [B, L]: where a token's number differs from that
    of the last real token before it."""
    index = jnp.arange(attention_mask.shape[1], dtype=jnp.int32)[None]                       # 1 L
    real = attention_mask > 0
    last = jax.lax.cummax(jnp.where(real, index, -1), axis=1)
    before = jnp.pad(last[:, :-1], ((0, 0), (1, 0)), constant_values=-1)       # last real token before me
    number = jnp.take_along_axis(attention_mask, jnp.maximum(before, 0), axis=1)
    return real & (before >= 0) & (number != attention_mask)


def positions(attention_mask: jax.Array) -> jax.Array:
    """Position of each token in its own sequence, int32 [B, L].

    Counts 0, 1, 2, ... over the row, whatever the padding, and again from 0 where a row is packed.
    """
    index = jnp.arange(attention_mask.shape[1], dtype=jnp.int32)[None]                       # 1 L
    return index - jax.lax.cummax(jnp.where(starts(attention_mask), index, 0), axis=1)
