"""ModernBERT: pre-norm encoder with RoPE, GeGLU and alternating global and local attention (arXiv:2412.13663).

Original code: AnswerDotAI/ModernBERT; numbers follow HF's `modeling_modernbert.py`. Local layers attend in
blocks of queries to their own and the neighbouring keys, so that their cost grows with the length and not with its
square; rows may be packed ("unpadded"), then positions restart with each sequence.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.layers.attention import attend, visible
from bertvariants_jax.layers.dense import FLOAT32, Compute, Dense, LayerNorm, activation, dropout, product
from bertvariants_jax.layers.embeddings import Embed, positions
from bertvariants_jax.layers.stack import mixed_stack, recomputed
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Head, Variant, grid
from bertvariants_jax.names import FLAT, Row, linear, norm, table, under

GLOBAL, LOCAL = "full_attention", "sliding_attention"      # HF's words, in `layer_types`

# Fields of published files that say how torch runs the network, or what its tokenizer is.
MEANINGLESS = ("reference_compile", "sparse_prediction", "sparse_pred_ignore_index", "repad_logits_with_grad",
               "deterministic_flash_attn", "position_embedding_type", "layer_norm_eps")


@dataclass(frozen=True)
class ModernBertConfig(Config):
    """HF's fields, old names of the rotary ones; the defaults are ModernBERT-base.

    layer_types: each layer's kind where `global_attn_every_n_layers` does not say it.
    local_attention: width of the window; a local layer's token sees local_attention // 2 on each side.
    local_rope_theta: None is global_rope_theta. initializer_cutoff_factor is carried along: fresh weights
    are cut at two sigma, as published.
    """

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    initializer_cutoff_factor: float = 2.0
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: float = 0.0
    layer_types: tuple[str, ...] | None = None
    global_attn_every_n_layers: int = 3
    global_rope_theta: float = 160000.0
    local_rope_theta: float | None = 10000.0
    local_attention: int = 128
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0
    decoder_bias: bool = True
    classifier_pooling: str = "cls"
    classifier_dropout: float = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    pad_token_id: int = 50283

    model_type: ClassVar[str] = "modernbert"

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads or self.hidden_size // self.num_attention_heads % 2:
            raise ValueError(f"hidden_size {self.hidden_size} does not cut into {self.num_attention_heads} "
                             "(num_attention_heads) heads of an even size")
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"layer_types names {len(self.layer_types)} layers, num_hidden_layers is "
                             f"{self.num_hidden_layers}")
        if unknown := set(self.kinds) - {GLOBAL, LOCAL}:
            raise ValueError(f"layer_types holds {sorted(unknown)[0]!r}; known: {GLOBAL}, {LOCAL}")
        if self.classifier_pooling not in ("cls", "mean"):
            raise ValueError(f"classifier_pooling is {self.classifier_pooling!r}; known: cls, mean")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Each layer's kind of attention, bottom first."""
        return self.layer_types or alternating(self.num_hidden_layers, self.global_attn_every_n_layers)

    @property
    def reach(self) -> int:
        """How far a local layer sees on each side."""
        return self.local_attention // 2

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def out_stddev(self) -> float:
        """Of fresh weights that write into the residual stream."""
        return self.initializer_range / (2.0 * self.num_hidden_layers) ** 0.5

    def theta(self, kind: str) -> float:
        """Base of the rotary frequencies."""
        local = self.global_rope_theta if self.local_rope_theta is None else self.local_rope_theta
        return self.global_rope_theta if kind == GLOBAL else local

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> tuple[Self, list[str]]:
        """Also reads the names of `transformers` 5: layer_types, rope_parameters, sliding_window."""
        data = {key: value for key, value in data.items() if key not in MEANINGLESS}
        rope = data.pop("rope_parameters", None) or {}
        for kind, field in ((GLOBAL, "global_rope_theta"), (LOCAL, "local_rope_theta")):
            said = rope.get(kind) or {}
            if "rope_theta" in said:
                data[field] = float(said["rope_theta"])
            if said.get("rope_type", "default") != "default":
                data.setdefault("rope_scaling", said)
        if data.get("rope_scaling", 0) is None:
            del data["rope_scaling"]
        if "sliding_window" in data:
            data["local_attention"] = 2 * data.pop("sliding_window")
        kinds = data.get("layer_types")
        if kinds and len(kinds) == data.get("num_hidden_layers"):
            every = next((n for n in range(1, len(kinds) + 1) if alternating(len(kinds), n) == tuple(kinds)), None)
            if every:
                said = data.get("global_attn_every_n_layers")
                same = isinstance(said, int) and said > 0 and alternating(len(kinds), said) == tuple(kinds)
                data |= {"layer_types": None, "global_attn_every_n_layers": said if same else every}
            else:
                data["layer_types"] = tuple(kinds)
        return super().from_json(data)

    @classmethod
    def unsupported(cls, data: dict[str, Any]) -> list[str]:
        faults = super().unsupported(data)
        if scaling := data.get("rope_scaling"):
            faults.append(f"rope_scaling {scaling!r} is not supported (only the default rotary positions)")
        every = data.get("global_attn_every_n_layers", 3)
        if isinstance(every, int) and every < 1:
            faults.append(f"global_attn_every_n_layers is {every}, expected 1 or more")
        if isinstance(data.get("local_attention"), int) and data["local_attention"] < 0:
            faults.append(f"local_attention is {data['local_attention']}, expected 0 or more")
        return faults

    def to_json(self) -> dict[str, Any]:
        """With the names of `transformers` 4 and 5, which each read the same network from it."""
        data = super().to_json()
        if self.layer_types is not None:
            del data["global_attn_every_n_layers"]
        return data | {"layer_types": list(self.kinds), "local_rope_theta": self.theta(LOCAL), "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": self.theta(kind)} for kind in (GLOBAL, LOCAL)}}


def alternating(layers: int, every: int) -> tuple[str, ...]:
    """Global attention in each `every`-th layer from the first on, local in the others."""
    return tuple(LOCAL if i % every else GLOBAL for i in range(layers))


class View(NamedTuple):
    """What one kind of layer looks through: a mask, [B, 1, L, L] or in blocks [B * n, 1, C, C + 2 W], and
    cosine and sine of the rotary angles, float32 [B, L, 1, H/2]."""

    mask: jax.Array
    cos: jax.Array
    sin: jax.Array


def rotary(position_ids, size: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of position * theta^(-2i/size), float32 [B, L, 1, size/2]; frequencies rounded as torch has them."""
    frequencies = np.float32(1) / np.float32(theta) ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
    angles = position_ids[..., None, None].astype(jnp.float32) * frequencies                 # B L 1 H/2
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x, view: View):
    """The two halves of each head turned as coordinates of a plane; x [B, L, N, H], in float32."""
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * view.cos - b * view.sin, b * view.cos + a * view.sin], axis=-1)
    return turned.astype(x.dtype)


def fold(x, block: int):
    """[B, L, ...] -> [B * n, block, ...], the length padded with zeros to n blocks."""
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % block)] + [(0, 0)] * (x.ndim - 2))
    return x.reshape(-1, block, *x.shape[2:])


def surrounded(x, block: int, reach: int):
    """[B, L, ...] -> [B * n, block + 2 reach, ...]: each block with `reach` <= block places before and after it."""
    rows = x.shape[0]
    x = fold(x, block).reshape(rows, -1, block, *x.shape[2:])                                # B n C ...
    edge = [(0, 0)] * (x.ndim - 2)
    before = jnp.pad(x[:, :-1, block - reach:], [(0, 0), (1, 0), *edge])
    after = jnp.pad(x[:, 1:, :reach], [(0, 0), (0, 1), *edge])
    x = jnp.concatenate([before, x, after], axis=2)
    return x.reshape(-1, *x.shape[2:])


def local_mask(attention_mask, reach: int, block: int | None):
    """`visible` within `reach` places: [B, 1, L, L], or in blocks of queries [B * n, 1, C, C + 2 reach]."""
    if block is None:
        place = np.arange(attention_mask.shape[1])
        return visible(attention_mask) & (np.abs(place[:, None] - place) <= reach)
    away = np.arange(block + 2 * reach) - reach - np.arange(block)[:, None]                  # C by C + 2 W
    return visible(fold(attention_mask, block), surrounded(attention_mask, block, reach)) & (np.abs(away) <= reach)


def block_size(length: int, reach: int) -> int | None:
    """Queries a block, None where the whole row at once is no more work.

    Twice the reach: 256 keys for 128 queries of the published window, which measured faster than blocks of
    64 (three times the keys and values to copy) and of 256, and fills the lanes of a TPU.
    """
    block = max(1, 2 * reach)
    return block if length > block + 2 * reach else None


def unfold_probabilities(probs, length: int):
    """Probabilities in blocks [B * n, N, C, C + 2 W] -> [B, N, L, L], zeros outside the window."""
    _, heads, block, keys = probs.shape
    reach, blocks = (keys - block) // 2, -(-length // block)
    probs = probs.reshape(-1, blocks, heads, block, keys)
    key = np.arange(blocks)[:, None, None] * block - reach + np.arange(keys)                 # n 1 K
    whole = jnp.zeros((probs.shape[0], heads, blocks, block, length), probs.dtype)
    place = np.broadcast_to(np.where((key >= 0) & (key < length), key, length), (blocks, block, keys))
    n, c = np.arange(blocks)[:, None, None], np.arange(block)[:, None]
    whole = whole.at[:, :, n, c, place].set(jnp.moveaxis(probs, 2, 1), mode="drop")
    return whole.reshape(-1, heads, blocks * block, length)[:, :, :length]


class RotaryAttention(nn.Module):
    """Attention with rotated queries and keys, whole or in blocks as the view's mask is cut; x [B, L, D]."""

    cfg: ModernBertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, view: View, deterministic=True):
        cfg, length = self.cfg, x.shape[1]
        qkv = Dense((3, cfg.num_attention_heads, cfg.head_size), use_bias=cfg.attention_bias,
                    stddev=cfg.initializer_range, compute=self.compute, name="qkv")(x)       # B L 3 N H
        q, k, v = rotate(qkv[:, :, 0], view), rotate(qkv[:, :, 1], view), qkv[:, :, 2]       # B L N H
        block, keys = view.mask.shape[-2:]
        blocked = block != length
        if blocked:
            reach = (keys - block) // 2
            q, k, v = fold(q, block), surrounded(k, block, reach), surrounded(v, block, reach)
        x = attend(self, q, k, v, view.mask, dropout_rate=cfg.attention_dropout, deterministic=deterministic,
                   compute=self.compute)
        if blocked:
            x = x.reshape(-1, -(-length // block) * block, *x.shape[2:])[:, :length]         # B L N H
            if self.is_mutable_collection("intermediates"):      # a trace shows all layers alike
                probs, = self.get_variable("intermediates", "attentions")
                self.put_variable("intermediates", "attentions", (unfold_probabilities(probs, length),))
        x = Dense(cfg.hidden_size, axes=2, use_bias=cfg.attention_bias, stddev=cfg.out_stddev, compute=self.compute,
                  name="out")(x)
        return dropout(cfg.attention_dropout, deterministic)(x)


class GatedFeedForward(nn.Module):
    """down(drop(act(a) * g)) where [a; g] = up(x), a GLU (arXiv:2002.05202); x [B, L, D]."""

    cfg: ModernBertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, deterministic=True):
        cfg = self.cfg
        x = Dense((2, cfg.intermediate_size), use_bias=cfg.mlp_bias, stddev=cfg.initializer_range,
                  compute=self.compute, name="up")(x)                                        # B L 2 F
        x = activation(cfg.hidden_activation)(x[:, :, 0]) * x[:, :, 1]                       # B L F
        x = dropout(cfg.mlp_dropout, deterministic)(x)
        return Dense(cfg.hidden_size, use_bias=cfg.mlp_bias, stddev=cfg.out_stddev, compute=self.compute,
                     name="down")(x)


class Layer(nn.Module):
    """x + attention(LN(x)), then x + ffn(LN(x)); the first layer's attention reads x as it is."""

    cfg: ModernBertConfig
    kind: str
    compute: Compute = FLOAT32
    first: bool = False

    @nn.compact
    def __call__(self, x, views, deterministic=True):
        norm = lambda name: LayerNorm(self.cfg.norm_eps, self.cfg.norm_bias, self.compute, name=name)
        y = x if self.first else norm("attention_norm")(x)
        x = x + RotaryAttention(self.cfg, self.compute, name="attention")(y, views[self.kind], deterministic)
        return x + GatedFeedForward(self.cfg, self.compute, name="ffn")(norm("ffn_norm")(x), deterministic)


class Words(nn.Module):
    """LN(word), then dropout -> [B, L, D]; no positions, no types."""

    cfg: ModernBertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, deterministic=True):
        cfg = self.cfg
        x = Embed(cfg.vocab_size, cfg.hidden_size, cfg.initializer_range, self.compute, name="word_embeddings")(input_ids)
        x = LayerNorm(cfg.norm_eps, cfg.norm_bias, self.compute, name="norm")(x)
        return dropout(cfg.embedding_dropout, deterministic)(x)


class ModernBert(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D].

    attention_mask int32 [B, L]: 0 is padding, equal positive numbers see each other (None: all do).
    position_ids int32 [B, L]: 0, 1, 2, ..., again from 0 in each packed sequence, unless given.
    token_type_ids: not used, taken so that all variants are called alike.
    banded: False runs local layers with masks over the whole row, for comparison.
    Sows intermediates: embedded [B, L, D], first_hidden_states and layers/hidden_states [layers - 1, B, L, D]
    before the final norm, first and layers attention/attentions [layers - 1, B, N, L, L].
    """

    cfg: ModernBertConfig
    compute: Compute = FLOAT32
    banded: bool = True

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, deterministic=True):
        cfg = self.cfg
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        if position_ids is None:
            position_ids = positions(attention_mask)
        block = block_size(input_ids.shape[1], cfg.reach) if self.banded else None
        masks = {GLOBAL: lambda: visible(attention_mask), LOCAL: lambda: local_mask(attention_mask, cfg.reach, block)}
        views = {kind: View(masks[kind](), *rotary(position_ids, cfg.head_size, cfg.theta(kind)))
                 for kind in sorted(set(cfg.kinds))}
        x = Words(cfg, self.compute, name="embeddings")(input_ids, deterministic)            # B L D
        self.sow("intermediates", "embedded", x)
        first = recomputed(Layer, self.compute, static=(3,))                # deterministic
        x = first(cfg, cfg.kinds[0], self.compute, first=True, name="first")(x, views, deterministic)
        self.sow("intermediates", "first_hidden_states", x)
        if len(cfg.kinds) > 1:
            x = mixed_stack(lambda kind: Layer(cfg, kind, self.compute, parent=None), cfg.kinds[1:], x, views,
                            deterministic=deterministic, compute=self.compute)
        x = LayerNorm(cfg.norm_eps, cfg.norm_bias, self.compute, name="final_norm")(x)
        self.sow("intermediates", "last", x)
        return x


def traced(sown):
    """As HF shows them: the last hidden state is the final norm's."""
    hidden = (sown["embedded"][0], sown["first_hidden_states"][0])
    attentions = (sown["first"]["attention"]["attentions"][0],)
    if "layers" in sown:
        hidden += tuple(sown["layers"]["hidden_states"][0])
        attentions += tuple(sown["layers"]["attention"]["attentions"][0])
    return (*hidden[:-1], sown["last"][0]), attentions


def layer_rows(cfg: ModernBertConfig, first: bool) -> list[Row]:
    return [*([] if first else norm("attn_norm", "attention_norm", cfg.norm_bias)),
            *linear("attn.Wqkv", "attention/qkv", bias=cfg.attention_bias),
            *linear("attn.Wo", "attention/out", axes=2, bias=cfg.attention_bias),
            *norm("mlp_norm", "ffn_norm", cfg.norm_bias),
            *linear("mlp.Wi", "ffn/up", bias=cfg.mlp_bias), *linear("mlp.Wo", "ffn/down", bias=cfg.mlp_bias)]


def names(cfg: ModernBertConfig) -> list[Row]:
    rest = range(1, cfg.num_hidden_layers)
    return [*under("embeddings", "embeddings", [*table("tok_embeddings", "word_embeddings"),
                                                *norm("norm", "norm", cfg.norm_bias)]),
            *under("layers.0", "first", layer_rows(cfg, first=True)),
            *(under("layers.{}", "layers", layer_rows(cfg, first=False), rest) if rest else []),
            *norm("final_norm", "final_norm", cfg.norm_bias)]


class Transform(nn.Module):
    """LN(act(dense(x))), which all heads begin with."""

    cfg: ModernBertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x):
        cfg = self.cfg
        x = Dense(cfg.hidden_size, use_bias=cfg.classifier_bias, stddev=cfg.out_stddev, compute=self.compute,
                  name="dense")(x)
        return LayerNorm(cfg.norm_eps, cfg.norm_bias, self.compute, name="norm")(activation(cfg.classifier_activation)(x))


class MaskedLM(nn.Module):
    """The transform times the word table plus a bias -> [B, L or P, V] float32."""

    cfg: ModernBertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        x = Transform(self.cfg, self.compute, name="transform")(encoded.last_hidden_state)
        scores = product(x, encoded.word_embeddings.astype(x.dtype).T)
        if not self.cfg.decoder_bias:
            return scores
        bias = self.param("bias", nn.initializers.zeros, (self.cfg.vocab_size,), jnp.dtype(self.compute.param_dtype))
        return scores + bias.astype(jnp.float32)


def pool(hidden, attention_mask, how: Literal["cls", "mean"]):
    """[B, L, D] -> [B, D]: the first real token, or the mean of the real ones (0 where a row has none)."""
    if attention_mask is None:
        attention_mask = jnp.ones(hidden.shape[:2], jnp.int32)
    real = attention_mask > 0                                                                # B L
    if how == "cls":
        return jnp.take_along_axis(hidden, jnp.argmax(real, axis=1)[:, None, None], axis=1)[:, 0]
    total = jnp.sum(jnp.where(real[..., None], hidden.astype(jnp.float32), 0.0), axis=1)
    return (total / jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)).astype(hidden.dtype)


class Classifier(nn.Module):
    """dense(drop(transform(x))) -> float32 scores, of the row as `classifier_pooling` says or of every token."""

    cfg: ModernBertConfig
    labels: int
    pooled: bool
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        cfg, x = self.cfg, encoded.last_hidden_state
        if self.pooled:
            x = pool(x, encoded.attention_mask, cfg.classifier_pooling)
        x = Transform(cfg, self.compute, name="transform")(x)
        x = dropout(cfg.classifier_dropout, deterministic)(x)
        return Dense(self.labels, stddev=cfg.hidden_size ** -0.5, compute=self.compute, name="dense")(x).astype(jnp.float32)


def transform_rows(cfg: ModernBertConfig) -> list[Row]:
    return [*linear("head.dense", "transform/dense", bias=cfg.classifier_bias),
            *norm("head.norm", "transform/norm", cfg.norm_bias)]


def classifier(labels, pooled: bool) -> Head:
    """HF calls the last layer of all of them `classifier`, question answering's too."""
    return Head(lambda cfg, compute: Classifier(cfg, labels(cfg), pooled, compute),
                lambda cfg: [*transform_rows(cfg), *linear("classifier", "dense")])


HEADS = {
    "classify": classifier(lambda cfg: cfg.num_labels, pooled=True),
    "span": classifier(lambda cfg: 2, pooled=False),
    "tag": classifier(lambda cfg: cfg.num_labels, pooled=False),
    "choice": classifier(lambda cfg: 1, pooled=True),
    "mlm": Head(MaskedLM, lambda cfg: [*transform_rows(cfg), *([Row("decoder.bias", "bias", FLAT)] if cfg.decoder_bias else [])],
                tied=("decoder.weight",)),
}

CLASSES = {
    "ModernBertModel": (),
    "ModernBertForMaskedLM": ("mlm",),
    "ModernBertForSequenceClassification": ("classify",),
    "ModernBertForQuestionAnswering": ("span",),
    "ModernBertForTokenClassification": ("tag",),
    "ModernBertForMultipleChoice": ("choice",),
}

SIZES = {
    "ModernBERT-base": ModernBertConfig(classifier_pooling="mean"),
    "ModernBERT-large": ModernBertConfig(hidden_size=1024, num_hidden_layers=28, num_attention_heads=16,
                                         intermediate_size=2624, classifier_pooling="mean"),
}

DUMMY = ModernBertConfig(vocab_size=61, hidden_size=24, num_hidden_layers=6, num_attention_heads=3, intermediate_size=20,
                         max_position_embeddings=40, global_attn_every_n_layers=2, local_attention=6, embedding_dropout=0.1,
                         attention_dropout=0.1, mlp_dropout=0.1, classifier_dropout=0.1, pad_token_id=0)

# AnswerDotAI/ModernBERT src/evals/glue_jobs.py: Composer's DecoupledAdamW over all parameters, rows of 256 tokens.
FINETUNE = {
    "": {"name": "decoupled_adamw", "rate": 5e-5, "batch_size": 32, "epochs": 3, "schedule": "shifted", "warmup": 0.06,
         "b2": 0.98, "weight_decay": 5e-6, "decay": "all", "clip": 0.0},
    **grid("rate weight_decay batch_size epochs max_length", {
        "mnli": (5e-5, 1e-6, 64, 2, 256), "rte": (1e-5, 1e-5, 16, 3, 256), "qqp": (3e-5, 3e-6, 16, 5, 256),
        "cola": (5e-5, 5e-6, 32, 10, 256), "mrpc": (8e-5, 8e-6, 32, 10, 256), "qnli": (1e-5, 1e-6, 16, 10, 256),
        "sst2": (3e-5, 3e-6, 16, 3, 256), "stsb": (3e-5, 3e-6, 32, 10, 256)}),
}

MODERNBERT = Variant(
    name="modernbert", config=ModernBertConfig, encoder=ModernBert, names=names, prefix="model", heads=HEADS,
    classes=CLASSES, sizes=SIZES, dummy=DUMMY, traced=traced, ignored=(r"rotary_emb\.\w*inv_freq$",),
    tokenizer="modernbert", finetune=FINETUNE, summary="masked LM at 30%, packed rows",
)
