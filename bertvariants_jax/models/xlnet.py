"""XLNet: permutation language modelling over a Transformer-XL with two streams (arXiv:1906.08237).

Original code: zihangdai/xlnet `modeling.py`; numbers follow HF's `modeling_xlnet.py`. The query stream is
P more queries behind the L of the content stream: they share every weight and see the same keys, so one
pass of a layer serves both.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.layers.attention import attend, visible
from bertvariants_jax.layers.beam import BeamSpan, last, take
from bertvariants_jax.layers.dense import (
    FLOAT32,
    Compute,
    Dense,
    LayerNorm,
    activation,
    dropout,
    einsum,
    product,
)
from bertvariants_jax.layers.embeddings import Embed
from bertvariants_jax.layers.ffn import FeedForward
from bertvariants_jax.layers.heads import Classifier
from bertvariants_jax.layers.stack import stack
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Head, Variant, beam, grid
from bertvariants_jax.names import FLAT, Row, Transform, linear, norm, table, tf_dense, tf_norm, under


@dataclass(frozen=True)
class XLNetConfig(Config):
    """HF's fields; the defaults are xlnet-base-cased.

    attn_type: "bi", or "uni" (causal). untie_r: whether each layer has its own r_w, r_r and r_s biases.
    clamp_len: distances beyond it count as it (none where it is not positive). same_length: under "uni",
    each place sees as many keys. bi_data: the second half of the batch reads right to left (where the
    batch does not say which rows do).
    mem_len: most places that the memory keeps, None for all; reuse_len: places of each call that go into
    it, None for all. start_n_top, end_n_top: widths of the "beam" head.
    """

    vocab_size: int = 32000
    d_model: int = 768
    n_layer: int = 12
    n_head: int = 12
    d_inner: int = 3072
    d_head: int | None = None
    ff_activation: str = "gelu"
    untie_r: bool = True
    attn_type: str = "bi"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    mem_len: int | None = None
    reuse_len: int | None = None
    bi_data: bool = False
    clamp_len: int = -1
    same_length: bool = False
    summary_type: str = "last"
    summary_use_proj: bool = True
    summary_activation: str | None = "tanh"
    summary_first_dropout: float = 0.0
    summary_last_dropout: float = 0.1
    start_n_top: int = 5
    end_n_top: int = 5
    pad_token_id: int = 5

    model_type: ClassVar[str] = "xlnet"
    required: ClassVar[tuple[str, ...]] = ("vocab_size", "d_model", "n_layer", "n_head", "d_inner")
    renamed: ClassVar[dict[str, str]] = {
        "n_token": "vocab_size", "hidden_size": "d_model", "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head"}

    def __post_init__(self):
        super().__post_init__()
        if self.d_model % self.n_head or self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is not an even multiple of n_head {self.n_head}")
        if self.d_head not in (None, self.head_size):
            raise ValueError(f"d_head {self.d_head} is not d_model / n_head = {self.head_size}")
        if self.attn_type not in ("bi", "uni"):
            raise ValueError(f"attn_type {self.attn_type!r} is unknown; it is 'bi' or 'uni'")
        if self.summary_type not in SUMMARIES:
            raise ValueError(f"summary_type {self.summary_type!r} is not supported; known: {', '.join(SUMMARIES)}")

    @property
    def head_size(self) -> int:
        return self.d_model // self.n_head

    hidden_size = property(lambda self: self.d_model)
    num_hidden_layers = property(lambda self: self.n_layer)
    num_attention_heads = property(lambda self: self.n_head)
    intermediate_size = property(lambda self: self.d_inner)
    hidden_act = property(lambda self: self.ff_activation)

    @classmethod
    def unsupported(cls, data):
        faults = super().unsupported(data)
        if data.get("summary_proj_to_labels"):
            faults.append("summary_proj_to_labels is true: a summary that is already the scores is not supported")
        return faults

    def to_json(self):
        data = super().to_json()
        return {k: v for k, v in data.items() if k != "d_head" or v is not None}    # transformers 4 compares null with a size


class Targets(NamedTuple):
    """Where the query stream stands: place int32 [B, P], and used bool [B, P], false for an empty slot."""

    place: jax.Array
    used: jax.Array


class RelativeAttention(nn.Module):
    """Transformer-XL's attention of the queries x [B, Q, D] to [memory; x[:, :L]] (arXiv:1901.02860, 3.3).

    score(i, j) = (q_i + r_w) k_j + (q_i + r_r) W_r R(i - j) + (q_i + r_s) e[segments of i and j differ]

    mask: bool [B, 1, Q, K]. r: sinusoids of the distances K, K-1, ..., 1-L, [1 or B, K+L, D].
    differs: bool [B, 1, Q, K] or None, where all is one segment. targets: of the queries from L on.
    biases: r_w, r_r and r_s [N, H] where all layers have the same, else None. memory: [B, M, D] or None.
    """

    cfg: XLNetConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, mask, r, differs, targets, biases, memory=None, deterministic=True):
        cfg, heads = self.cfg, (self.cfg.n_head, self.cfg.head_size)                         # N H
        h = x if targets is None else x[:, :x.shape[1] - targets.place.shape[1]]             # B L D
        seen = h if memory is None else jnp.concatenate([memory.astype(h.dtype), h], axis=1)  # B K D

        def project(name, x):
            return Dense(heads, use_bias=False, stddev=cfg.initializer_range, compute=self.compute, name=name)(x)

        def parameter(name, *shape):
            return self.param(name, nn.initializers.normal(cfg.initializer_range), shape,
                              jnp.dtype(self.compute.param_dtype)).astype(x.dtype)

        q, k, v, r = project("query", x), project("key", seen), project("value", seen), project("position", r)
        r_w, r_r, r_s = biases or [parameter(name, *heads) for name in BIASES]               # N H
        segment = parameter("seg_embed", 2, *heads)
        r = jnp.broadcast_to(r, (q.shape[0], *r.shape[1:])).swapaxes(1, 2)                       # B N K+L H
        position = einsum("bnqh,bnrh->bnqr", (q + r_r).swapaxes(1, 2), r)   # heads first: XLA:CPU is twice as fast so
        scores = shift(position, k.shape[1], targets)                                        # B N Q K
        if differs is not None:
            same, other = jnp.split(einsum("bqnh,snh->bnqs", q + r_s, segment), 2, axis=-1)  # B N Q 1
            scores = scores + jnp.where(differs, other, same)
        scale = cfg.head_size ** -0.5
        y = attend(self, q + r_w, k, v, mask, scores * scale, scale=scale, dropout_rate=cfg.dropout,
                   deterministic=deterministic, compute=self.compute)                        # B Q N H
        if targets is not None:                            # an empty slot attends to nothing, as in HF's einsum
            used = jnp.concatenate([jnp.ones(h.shape[:2], bool), targets.used], axis=1)
            y = jnp.where(used[..., None, None], y, 0)
        return Dense(cfg.d_model, axes=2, use_bias=False, stddev=cfg.initializer_range, compute=self.compute,
                     name="out")(y)


def shift(scores: jax.Array, keys: int, targets: Targets | None) -> jax.Array:
    """Scores by distance [B, N, Q, K+L] -> scores by key [B, N, Q, K].

    The query at place i needs the distances M + i, M + i - 1, ...: K columns from column L - i on.
    """
    batch, heads, _, width = scores.shape
    length = width - keys
    own = scores[:, :, :length].reshape(batch, heads, width, length)[:, :, 1:]   # each row one further to the left
    own = own.reshape(batch, heads, length, width - 1)[..., :keys]
    if targets is None:
        return own

    def cut(row, start):                                                                     # N K+L
        return jax.lax.dynamic_slice_in_dim(row, start, keys, axis=-1)

    asked = jax.vmap(jax.vmap(cut, (1, 0), 1))(scores[:, :, length:], length - targets.place)
    return jnp.concatenate([own, asked], axis=2)


class Layer(nn.Module):
    """LN(x + drop(attention)), then LN(x + drop(ffn)) with one more dropout behind the activation.

    x [B, Q, D]: the content stream, then the query stream's places. Sows what its memory will be.
    """

    cfg: XLNetConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, mask, r, differs, targets, biases, memory=None, deterministic=True):
        cfg = self.cfg
        norm = lambda name: LayerNorm(cfg.layer_norm_eps, compute=self.compute, name=name)
        length = x.shape[1] if targets is None else x.shape[1] - targets.place.shape[1]
        self.sow("memory", "mems", remembered(cfg, memory, x[:, :length]))
        y = RelativeAttention(cfg, self.compute, name="attention")(
            x, mask, r, differs, targets, biases, memory, deterministic)
        x = norm("attention_norm")(x + dropout(cfg.dropout, deterministic)(y))
        y = FeedForward(cfg, self.compute, inner_dropout=cfg.dropout, name="ffn")(x, deterministic)
        return norm("ffn_norm")(x + dropout(cfg.dropout, deterministic)(y))


def remembered(cfg: XLNetConfig, memory, x):
    """A layer's next memory: its inputs x [B, L, D] behind the last memory [B, M, D], without a gradient."""
    x = x[:, :cfg.reuse_len] if cfg.reuse_len else x
    x = x if memory is None else jnp.concatenate([memory.astype(x.dtype), x], axis=1)
    return jax.lax.stop_gradient(x[:, -cfg.mem_len:] if cfg.mem_len else x)


class XLNet(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D], or [B, P, D] with `target_mapping`.

    attention_mask int32 [B, L]: 0 is padding, equal positive numbers see each other; the memory is of the
      sequence with number 1 (None: all are).
    token_type_ids int32 [B, L]: only equal or not matters; the memory is of segment 0.
    position_ids: taken as every variant does, and unused: attention goes by distance in the row, which
      packing keeps.
    mems: n_layer arrays [B, M, D], or one [n_layer, B, M, D]: layer inputs of earlier calls. New ones are
      sown as memory/layers/mems (`Variant.memory`).
    perm_mask [B, L, L]: 1 where the query (second axis) must not see the key (third axis). The content
      stream always sees itself. A target that may see nobody averages over all, as in the original.
    target_mapping [B, P, L]: one-hot rows, the places at which to run the query stream, all zero for an
      empty slot; or the places themselves, int32 [B, P] with -1 for an empty slot.
    backwards int32 [B]: 1 for a row that holds its text from right to left, whose distances count
      backwards; without it `bi_data` says which do.
    Sows intermediates as BERT; `traced` tells the two streams apart.
    """

    cfg: XLNetConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, mems=None,
                 perm_mask=None, target_mapping=None, backwards=None, deterministic=True):
        cfg, (batch, length) = self.cfg, input_ids.shape
        drop = dropout(cfg.dropout, deterministic)

        def parameter(name, *shape):
            return self.param(name, nn.initializers.normal(cfg.initializer_range), shape,
                              jnp.dtype(self.compute.param_dtype)).astype(self.compute.dtype)

        x = Embed(cfg.vocab_size, cfg.d_model, cfg.initializer_range, self.compute, name="word_embeddings")(
            input_ids)                                                                       # B L D
        self.sow("intermediates", "embedded", x)
        mask_emb = parameter("mask_emb", cfg.d_model)
        biases = None if cfg.untie_r else tuple(parameter(name, cfg.n_head, cfg.head_size) for name in BIASES)
        mems = stacked(cfg, mems, batch)                                                     # layers B M D
        past = 0 if mems is None else mems.shape[2]
        mask = who_sees_whom(cfg, input_ids, attention_mask, perm_mask, past)                # B 1 L K
        itself = jnp.eye(length, past + length, past, dtype=bool)
        segment, places, targets = token_type_ids, mask | itself, None
        if target_mapping is not None:
            targets = targets_of(target_mapping)
            g = jnp.broadcast_to(mask_emb, (*targets.place.shape, cfg.d_model))              # B P D
            self.sow("intermediates", "embedded", g)
            x, at = jnp.concatenate([x, g], axis=1), targets.place
            places = jnp.concatenate([places, jnp.take_along_axis(mask, at[:, None, :, None], axis=2)], axis=2)
            if segment is not None:
                segment = jnp.concatenate([segment, jnp.take_along_axis(segment, at, axis=1)], axis=1)
        differs = None if segment is None else (
            segment[:, None, :, None] != jnp.pad(token_type_ids, ((0, 0), (past, 0)))[:, None, None, :])
        r = sinusoids(cfg, length, past, batch, backwards).astype(x.dtype)                   # 1|B K+L D
        if cfg.dropout and not deterministic:              # each example draws its own, as in the original
            r = jnp.broadcast_to(r, (batch, *r.shape[1:]))
        x = stack(lambda name: Layer(cfg, self.compute, name=name), cfg.n_layer, drop(x), places, drop(r), differs,
                  targets, biases, per_layer=() if mems is None else (mems,), deterministic=deterministic,
                  compute=self.compute)
        return dropout(cfg.dropout, deterministic)(x if targets is None else x[:, length:])


BIASES = ("r_w_bias", "r_r_bias", "r_s_bias")


def stacked(cfg: XLNetConfig, mems, batch: int):
    """Memories as one array [layers, B, M, D]; ValueError where they are not that, None where they are empty."""
    if mems is None:
        return None
    mems = jnp.stack(mems) if isinstance(mems, list | tuple) else jnp.asarray(mems)
    if mems.ndim != 4 or (mems.shape[0], mems.shape[1], mems.shape[3]) != (cfg.n_layer, batch, cfg.d_model):
        raise ValueError(f"mems have shape {mems.shape}, expected [{cfg.n_layer} layers, batch {batch}, places, "
                         f"{cfg.d_model}]")
    return mems if mems.shape[2] else None


def targets_of(target_mapping) -> Targets:
    """HF's one-hot rows [B, P, L], or places int32 [B, P] with -1 for an empty slot."""
    if target_mapping.ndim == 2:
        return Targets(jnp.maximum(target_mapping, 0), target_mapping >= 0)
    return Targets(jnp.argmax(target_mapping, axis=-1).astype(jnp.int32), jnp.any(target_mapping > 0, axis=-1))


def who_sees_whom(cfg: XLNetConfig, input_ids, attention_mask, perm_mask, past: int) -> jax.Array:
    """What the query stream may see from each place, bool [B or 1, 1, L, M+L]; the content stream sees itself too."""
    batch, length = input_ids.shape
    seen = jnp.ones((1, 1, length, length), bool) if attention_mask is None else visible(attention_mask)
    if perm_mask is not None:
        seen = seen & ~(perm_mask > 0)[:, None]
    if past:
        first = jnp.ones((1, 1, length, 1), bool) if attention_mask is None else (
            attention_mask <= 1)[:, None, :, None]
        first, seen = (jnp.broadcast_to(part, (batch, 1, length, width)) for part, width in ((first, past), (seen, length)))
        seen = jnp.concatenate([first, seen], axis=-1)
    if cfg.attn_type == "uni":
        query, key = np.arange(length)[:, None], np.arange(past + length)
        seen = seen & (key <= query + past)
        if cfg.same_length:
            seen = seen & (key >= query)
    return seen


def sinusoids(cfg: XLNetConfig, length: int, past: int, batch: int, backwards=None) -> jax.Array:
    """R of the distances K, K-1, ..., 1-L, float32 [1, K+L, D]: all sines, then all cosines.

    [B, K+L, D] where the distances of some rows count backwards: of those marked in `backwards` [B], or
    with `bi_data` of the second half of the batch (the smaller, where it is odd).
    """
    distance = np.arange(past + length, -length, -1.0)                                       # K+L
    if cfg.clamp_len > 0:
        distance = distance.clip(-cfg.clamp_len, cfg.clamp_len)
    frequency = 10000.0 ** (-np.arange(0, cfg.d_model, 2) / cfg.d_model)
    angle = jnp.asarray(distance, jnp.float32)[:, None] * jnp.asarray(frequency, jnp.float32)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    if backwards is None and not cfg.bi_data:
        return jnp.concatenate([sine, cosine], axis=-1)[None]
    turned = jnp.arange(batch) >= (batch + 1) // 2 if backwards is None else backwards > 0
    sign = jnp.where(turned, -1.0, 1.0)[:, None, None]
    return jnp.concatenate([sign * sine, jnp.broadcast_to(cosine, (batch, *cosine.shape))], axis=-1)


def traced(sown):
    """Hidden states and attentions; with a query stream, as HF gives them: the states h0, g0, h1, g1, ... and
    the attentions as pairs (h's [B, N, L, K], g's [B, N, P, K])."""
    embedded, layers = sown["embedded"], sown["layers"]
    states, attentions = layers["hidden_states"][0], layers["attention"]["attentions"][0]
    if len(embedded) == 1:
        return (embedded[0], *states), tuple(attentions)
    length = embedded[0].shape[1]
    streams = (*embedded, *(part for x in states for part in (x[:, :length], x[:, length:])))
    return streams, tuple((a[:, :, :length], a[:, :, length:]) for a in attentions)


class LanguageModel(nn.Module):
    """Hidden states times the word table plus a bias -> [B, L or P, V] float32."""

    cfg: XLNetConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        bias = self.param("bias", nn.initializers.zeros, (self.cfg.vocab_size,), jnp.dtype(self.compute.param_dtype))
        x = encoded.last_hidden_state
        return product(x, encoded.word_embeddings.astype(x.dtype).T) + bias.astype(jnp.float32)


# HF's summaries. `mean` and `first` count padding, as HF's do; HF gives "cls_index" no index, so that it is "last".
SUMMARIES = {
    "last": lambda encoded: take(encoded.last_hidden_state, last(encoded)),
    "first": lambda encoded: encoded.last_hidden_state[:, 0],
    "mean": lambda encoded: encoded.last_hidden_state.mean(axis=1),
    "cls_index": lambda encoded: take(encoded.last_hidden_state, last(encoded)),
}


class SummaryClassifier(nn.Module):
    """dense(drop(act(dense(summary)))) -> float32 [B, labels]."""

    cfg: XLNetConfig
    labels: int
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        cfg = self.cfg
        dense = lambda width, name: Dense(width, stddev=cfg.initializer_range, compute=self.compute, name=name)
        x = dropout(cfg.summary_first_dropout, deterministic)(SUMMARIES[cfg.summary_type](encoded))    # B D
        if cfg.summary_use_proj:
            x = dense(cfg.d_model, "summary")(x)
        if cfg.summary_activation:
            x = activation(cfg.summary_activation)(x)
        x = dropout(cfg.summary_last_dropout, deterministic)(x)
        return dense(self.labels, "dense")(x).astype(jnp.float32)


def rounded(*axes: int) -> Transform:
    """HF's o [D, N, H] <-> our [N, H, D]."""
    back = tuple(np.argsort(axes))
    return Transform(lambda w, shape: w.transpose(axes), lambda x: x.transpose(back))


def layer_rows(cfg: XLNetConfig) -> list[Row]:
    own = [Row(name, name) for name in (*(BIASES if cfg.untie_r else ()), "seg_embed")]
    return [*under("rel_attn", "attention", [
                Row("q", "query/kernel"), Row("k", "key/kernel"), Row("v", "value/kernel"),
                Row("r", "position/kernel"), Row("o", "out/kernel", rounded(1, 2, 0)), *own]),
            *norm("rel_attn.layer_norm", "attention_norm"),
            *linear("ff.layer_1", "ffn/up"), *linear("ff.layer_2", "ffn/down"), *norm("ff.layer_norm", "ffn_norm")]


MASK_EMB = Transform(lambda w, shape: w.reshape(shape), lambda x: x.reshape(1, 1, -1))


def names(cfg: XLNetConfig) -> list[Row]:
    layers = range(cfg.n_layer)
    shared = [] if cfg.untie_r else [
        Row(tuple(f"layer.{i}.rel_attn.{name}" for i in layers), name, shared=True) for name in BIASES]
    return [Row("mask_emb", "mask_emb", MASK_EMB), *table("word_embedding", "word_embeddings"),
            *under("layer.{}", "layers", layer_rows(cfg), layers), *shared]


def tf_layer_rows() -> list[Row]:
    return [*(Row(f"rel_attn/{hf}/kernel", f"attention/{name}/kernel") for hf, name in
              (("q", "query"), ("k", "key"), ("v", "value"), ("r", "position"))),
            Row("rel_attn/o/kernel", "attention/out/kernel", rounded(1, 2, 0)),
            *tf_dense("ff/layer_1", "ffn/up"), *tf_dense("ff/layer_2", "ffn/down"),
            *tf_norm("rel_attn/LayerNorm", "attention_norm"), *tf_norm("ff/LayerNorm", "ffn_norm")]


def tf_names(cfg: XLNetConfig) -> dict[str, list[Row]]:
    """The original's variables. Biases and segment embeddings are stacked there; a network that was never
    pre-trained has no mask_emb."""
    per_layer = "layers/attention/"
    encoder = [Row("mask_emb/mask_emb", "mask_emb", MASK_EMB, optional=True),
               Row("word_embedding/lookup_table", "word_embeddings/embedding"),
               *(Row(name, f"{per_layer if cfg.untie_r else ''}{name}") for name in BIASES),
               Row("seg_embed", f"{per_layer}seg_embed"),
               *under("layer_{}", "layers", tf_layer_rows(), range(cfg.n_layer), joint="/")]
    return {"encoder": under("model/transformer", "", encoder, joint="/"),
            "mlm": [Row("model/lm_loss/bias", "bias", FLAT)]}


def summary(labels) -> Head:
    def rows(cfg):
        return [*(linear("sequence_summary.summary", "summary") if cfg.summary_use_proj else []),
                *linear("logits_proj", "dense")]
    return Head(lambda cfg, compute: SummaryClassifier(cfg, labels(cfg), compute), rows)


HEADS = {
    "mlm": Head(LanguageModel, lambda cfg: [Row("lm_loss.bias", "bias", FLAT)], tied=("lm_loss.weight",)),
    "classify": summary(lambda cfg: cfg.num_labels),
    "tag": Head(lambda cfg, compute: Classifier(cfg, cfg.num_labels, pooled=False, compute=compute),
                lambda cfg: linear("classifier", "dense")),
    "choice": summary(lambda cfg: 1),
    "span": Head(lambda cfg, compute: Classifier(cfg, 2, pooled=False, compute=compute),
                 lambda cfg: linear("qa_outputs", "dense")),
    "beam": beam(lambda cfg, compute: BeamSpan(
        cfg, cfg.d_model, eps=cfg.layer_norm_eps, dropout_rate=cfg.dropout, starts=cfg.start_n_top, ends=cfg.end_n_top,
        last=True, compute=compute)),
}

CLASSES = {
    "XLNetModel": (),
    "XLNetLMHeadModel": ("mlm",),
    "XLNetForSequenceClassification": ("classify",),
    "XLNetForTokenClassification": ("tag",),
    "XLNetForMultipleChoice": ("choice",),
    "XLNetForQuestionAnsweringSimple": ("span",),
    "XLNetForQuestionAnswering": ("beam",),
}

BASE = XLNetConfig()

SIZES = {
    "xlnet-base-cased": BASE,
    "xlnet-large-cased": replace(BASE, d_model=1024, n_layer=24, n_head=16, d_inner=4096),
}

DUMMY = XLNetConfig(vocab_size=61, d_model=24, n_layer=3, n_head=3, d_inner=40, start_n_top=3, end_n_top=4)

# The paper's A.4 and zihangdai/xlnet's scripts and README. Their layer decay (model_utils.py) multiplies the clipped
# gradients of the layers before Adam, which divides nearly all of it out again, and leaves all else as it is.
FINETUNE = {
    "": {"rate": 2e-5, "batch_size": 32, "epochs": 3, "schedule": "xlnet", "weight_decay": 0.0},
    **grid("rate batch_size steps warmup", {
        "mnli": (2e-5, 128, 10000, 1000), "stsb": (5e-5, 32, 1200, 120), "race": (2e-5, 32, 12000, 1000)}),
    **grid("rate batch_size steps warmup layer_decay layer_decay_top layer_decay_by", {
        "squad": (3e-5, 48, 8000, 1000, 0.75, 0, "gradient"), "squad2": (3e-5, 48, 8000, 1000, 0.75, 0, "gradient"),
        "xlnet-base-cased/squad": (2e-5, 24, 12000, 1000, 0.75, 0, "gradient"),
        "xlnet-base-cased/squad2": (2e-5, 24, 12000, 1000, 0.75, 0, "gradient")}),
}

XLNET = Variant(
    name="xlnet", config=XLNetConfig, encoder=XLNet, names=names, prefix="transformer", heads=HEADS,
    classes=CLASSES, sizes=SIZES, dummy=DUMMY, word_embeddings="word_embeddings/embedding",
    inputs=("mems", "perm_mask", "target_mapping", "backwards"), traced=traced, tf_names=tf_names,
    memory=lambda sown: sown["layers"]["mems"][0], longest=lambda cfg: None, padding_side="left",
    packs=lambda cfg: cfg.summary_type not in ("mean", "first"),
    tokenizer="xlnet", finetune=FINETUNE, summary="permutation LM, two streams, memory",
)
