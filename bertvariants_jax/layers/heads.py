"""Heads as HF defines them; each reads one `Encoded` record (models/variant.py) and returns float32 scores."""

import flax.linen as nn
import jax.numpy as jnp

from bertvariants_jax.layers.dense import FLOAT32, Compute, Dense, LayerNorm, activation, dropout, product


class Pooler(nn.Module):
    """tanh(dense(h[0])) -> [B, D]."""

    cfg: object
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        first = encoded.last_hidden_state[:, 0]                                              # B D
        return jnp.tanh(Dense(self.cfg.hidden_size, stddev=self.cfg.initializer_range, compute=self.compute,
                              name="dense")(first))


class MaskedLM(nn.Module):
    """LN(act(dense(h))) times the word table plus a bias -> [B, L or P, V] float32; width is the table's."""

    cfg: object
    width: int
    eps: float
    act: str
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        x = Dense(self.width, stddev=self.cfg.initializer_range, compute=self.compute,
                  name="dense")(encoded.last_hidden_state)                                   # B P E
        x = LayerNorm(self.eps, compute=self.compute, name="norm")(activation(self.act)(x))
        bias = self.param("bias", nn.initializers.zeros, (self.cfg.vocab_size,), jnp.dtype(self.compute.param_dtype))
        return product(x, encoded.word_embeddings.astype(x.dtype).T) + bias.astype(jnp.float32)


class Classifier(nn.Module):
    """dense(drop(x)) -> float32 scores of `labels` classes, from the pooled vector or from every token."""

    cfg: object
    labels: int
    dropout_rate: float = 0.0
    pooled: bool = True
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        x = encoded.pooler_output if self.pooled else encoded.last_hidden_state
        x = dropout(self.dropout_rate, deterministic)(x)
        return Dense(self.labels, stddev=self.cfg.initializer_range, compute=self.compute,
                     name="dense")(x).astype(jnp.float32)


class SentenceClassifier(nn.Module):
    """dense(drop(act(dense(drop(h[0]))))) -> float32 [B, labels]; the rates are of the outer and the inner dropout."""

    cfg: object
    labels: int
    act: str
    outer_rate: float = 0.0
    inner_rate: float = 0.0
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        dense = lambda width, name: Dense(width, stddev=self.cfg.initializer_range, compute=self.compute, name=name)
        x = dropout(self.inner_rate, deterministic)(encoded.last_hidden_state[:, 0])         # B D
        x = activation(self.act)(dense(self.cfg.hidden_size, "dense")(x))
        return dense(self.labels, "out")(dropout(self.outer_rate, deterministic)(x)).astype(jnp.float32)
