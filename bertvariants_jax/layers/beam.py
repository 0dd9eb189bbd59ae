"""The span head with a beam: a start, an end given the start, and whether there is an answer (XLNet, arXiv:1906.08237;
ALBERT v2 and ELECTRA have it in their own code too)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertvariants_jax.layers.dense import (
    FLOAT32,
    Compute,
    Dense,
    LayerNorm,
    activation,
    dropout,
    einsum,
    initializer,
    product,
)


class Beam(NamedTuple):
    """Scores of an answer's start and end, and of there being none.

    start_logits [B, L]. Of the S best starts and E best ends of each, probabilities and places:
    start_top_probs, start_top_index [B, S]; end_top_probs, end_top_index [B, S, E]. (HF calls them log
    probabilities, and lays the ends out as [B, E * S].) cls_logits [B]: above 0 says unanswerable.
    end_logits [B, L], given `start_positions`, else None.
    """

    start_logits: jax.Array
    start_top_probs: jax.Array
    start_top_index: jax.Array
    end_top_probs: jax.Array
    end_top_index: jax.Array
    cls_logits: jax.Array
    end_logits: jax.Array | None = None


class EndLogits(nn.Module):
    """Scores of each place of x [B, L, D] as the end of an answer, given the states of its start [B, S, D] -> [B, S, L]."""

    width: int
    act: str
    eps: float | None
    stddev: float
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, start):
        y = activation(self.act)(PairDense(self.width, self.stddev, self.compute, name="dense_0")(x, start))   # B S L W
        if self.eps is not None:
            y = LayerNorm(self.eps, compute=self.compute, name="norm")(y)
        return Dense(1, stddev=self.stddev, compute=self.compute, name="dense_1")(y)[..., 0].astype(jnp.float32)


class PairDense(nn.Module):
    """An affine map of the pairs (x, start), without writing them down: [B, L, D], [B, S, D] -> [B, S, L, W]."""

    width: int
    stddev: float
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, start):
        dtype, param_dtype = self.compute.dtype, jnp.dtype(self.compute.param_dtype)
        kernel = self.param("kernel", initializer(self.stddev), (2 * x.shape[-1], self.width), param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), param_dtype).astype(jnp.float32)
        first, second = jnp.split(kernel.astype(dtype), 2)
        y = product(x, first)[:, None] + product(start, second)[:, :, None] + bias
        return y.astype(dtype)


class AnswerClass(nn.Module):
    """Whether there is no answer, from a start's state and that of `[CLS]`, both [B, D] -> [B]."""

    width: int
    act: str
    use_bias: bool
    dropout_rate: float
    stddev: float
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, start, cls, deterministic=True):
        pair = jnp.concatenate([start, cls], axis=-1)
        y = activation(self.act)(Dense(self.width, stddev=self.stddev, compute=self.compute, name="dense_0")(pair))
        y = dropout(self.dropout_rate, deterministic)(y)
        return Dense(1, use_bias=self.use_bias, stddev=self.stddev, compute=self.compute,
                     name="dense_1")(y)[..., 0].astype(jnp.float32)


class BeamSpan(nn.Module):
    """SQuAD 2.0 head -> Beam.

    width, act: of its hidden layers. eps: of the LayerNorm over the ends' one, None for none. use_bias: of the answer
    class's output. starts, ends: S and E. last: whether `[CLS]` ends the row, or begins it.
    start_positions int32 [B]: the true starts, for the loss. cls_index int32 [B]: of `[CLS]`, where it is elsewhere.
    p_mask [B, L]: 1 where an answer cannot stand; padding never can. The answer class reads the expected start also in
    training, and has dropout, as in the original code (HF feeds it the true start, without dropout).
    """

    cfg: object
    width: int
    act: str = "tanh"
    eps: float | None = None
    use_bias: bool = False
    dropout_rate: float = 0.0
    starts: int = 5
    ends: int = 5
    last: bool = False
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True, start_positions=None, cls_index=None, p_mask=None):
        x, stddev = encoded.last_hidden_state, self.cfg.initializer_range                    # B L D
        barred = jnp.zeros(x.shape[:2], bool)
        if encoded.attention_mask is not None:
            barred |= encoded.attention_mask == 0
        if p_mask is not None:
            barred |= p_mask > 0
        starts = Dense(1, stddev=stddev, compute=self.compute, name="start")(x)[..., 0]
        starts = jnp.where(barred, -1e30, starts.astype(jnp.float32))                        # B L
        ends = EndLogits(self.width, self.act, self.eps, stddev, self.compute, name="end")

        def end_logits(start):                                                               # B S -> B S L
            return jnp.where(barred[:, None], -1e30, ends(x, take(x, start)))

        probs = jax.nn.softmax(starts)
        start_probs, start_index = jax.lax.top_k(probs, min(self.starts, x.shape[1]))        # B S
        end_probs, end_index = jax.lax.top_k(
            jax.nn.softmax(end_logits(start_index)), min(self.ends, x.shape[1]))             # B S E
        expected = einsum("bl,bld->bd", probs, x).astype(x.dtype)
        if cls_index is None:
            cls_index = last(encoded) if self.last else jnp.zeros(x.shape[0], jnp.int32)
        answer = AnswerClass(self.width, self.act, self.use_bias, self.dropout_rate, stddev, self.compute,
                             name="answer")(expected, take(x, cls_index), deterministic)
        given = None if start_positions is None else end_logits(start_positions[:, None])[:, 0]
        return Beam(starts, start_probs, start_index, end_probs, end_index, answer, given)


def last(encoded) -> jax.Array:
    """Index of each row's last real token, where XLNet's `<cls>` stands, int32 [B]; the last place of an empty row."""
    x, mask = encoded.last_hidden_state, encoded.attention_mask
    if mask is None:
        return jnp.full(x.shape[0], x.shape[1] - 1, jnp.int32)
    index = jnp.max(jnp.where(mask > 0, jnp.arange(mask.shape[1]), -1), axis=1)
    return jnp.where(index < 0, x.shape[1] - 1, index).astype(jnp.int32)


def take(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [B, L, D] at index int32 [B, ...] -> [B, ..., D]."""
    taken = jnp.take_along_axis(x, index.reshape(x.shape[0], -1, 1), axis=1)
    return taken.reshape(*index.shape, x.shape[2])
