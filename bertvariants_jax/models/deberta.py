"""DeBERTa: disentangled attention and an enhanced mask decoder (arXiv:2006.03654).

Original code: microsoft/DeBERTa `deberta/` and `apps/models/masked_language_model.py`; numbers follow HF's
`modeling_deberta.py`. Each score is content to content, plus content to relative position and back; where the
paper writes delta(j, i) for the last of them, the released code and HF read the same row, delta(i, j), in both.
"p2p" in `pos_att_type` counts in the scale and adds no term, as in both. HF has no mask decoder: it runs where
`enhanced_mask_decoder` says so, which is where a file holds the table of positions that only it reads.
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.layers.attention import attend, visible
from bertvariants_jax.layers.block import Block
from bertvariants_jax.layers.dense import FLOAT32, Compute, Dense, LayerNorm, dropout, einsum
from bertvariants_jax.layers.embeddings import Embed, positions
from bertvariants_jax.layers.heads import Classifier, MaskedLM, SentenceClassifier
from bertvariants_jax.layers.stack import recomputing, stack
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Head, Variant, grid
from bertvariants_jax.names import FLAT, Row, Transform, linear, norm, table, under

POSITION_TERMS = ("c2p", "p2c", "p2p")


def terms_of(said: Any) -> Any:
    """`pos_att_type` as a list, from HF's "c2p|p2c" or null too."""
    return tuple(term.strip() for term in said.lower().split("|")) if isinstance(said, str) else said or ()


@dataclass(frozen=True)
class DebertaConfig(Config):
    """HF's fields; the defaults are deberta-base. A field that a file leaves out means what HF's class makes of it.

    max_relative_positions: distances known, `max_position_embeddings` where it is below 1.
    position_biased_input: whether absolute positions are added to the input.
    pos_att_type: the position terms of the scores; HF's "c2p|p2c" or a list.
    embedding_size: of the word table where it is not hidden_size. cls_dropout: before the classifier,
    hidden_dropout_prob where it is None. legacy: HF's own names of the masked LM head (`cls.predictions`)
    instead of the released ones (`lm_predictions.lm_head`).
    enhanced_mask_decoder: whether the masked LM head runs the paper's decoder; our own field, which
    `load` sets by the file's tensors.
    """

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-7
    relative_attention: bool = True
    max_relative_positions: int = -1
    position_biased_input: bool = False
    pos_att_type: tuple[str, ...] = ("c2p", "p2c")
    embedding_size: int | None = None
    pooler_dropout: float = 0.0
    pooler_hidden_act: str = "gelu"
    cls_dropout: float | None = None
    legacy: bool = False
    enhanced_mask_decoder: bool = False

    model_type: ClassVar[str] = "deberta"
    absent: ClassVar[dict[str, Any]] = {
        "relative_attention": False, "position_biased_input": True, "pos_att_type": None, "legacy": True}

    def __post_init__(self):
        object.__setattr__(self, "pos_att_type", terms_of(self.pos_att_type))
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                             f"{self.num_attention_heads}")
        if unknown := [term for term in self.pos_att_type if term not in POSITION_TERMS]:
            raise ValueError(f"pos_att_type {unknown[0]!r} is not supported; known: {', '.join(POSITION_TERMS)}")
        if self.enhanced_mask_decoder and self.position_biased_input:
            raise ValueError("enhanced_mask_decoder adds the positions that position_biased_input has added already")
        if self.enhanced_mask_decoder and self.embedding_width != self.hidden_size:
            raise ValueError(f"enhanced_mask_decoder needs an embedding_size of hidden_size {self.hidden_size}, "
                             f"not {self.embedding_size}")

    @property
    def embedding_width(self) -> int:
        return self.embedding_size or self.hidden_size

    @property
    def span(self) -> int:
        """Distances to either side that have a row of their own."""
        return self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings

    @property
    def scored_terms(self) -> int:
        """Terms of a score, by whose number it is scaled down."""
        return 1 + len(self.pos_att_type)

    def rows_of(self, distance: np.ndarray) -> np.ndarray:
        """The row of the relative table for each distance, query's position less key's."""
        return np.clip(distance + self.span, 0, 2 * self.span - 1)

    def kept(self, changes):
        """Distances stay those of the relative table, which may be counted from max_position_embeddings."""
        return {"max_relative_positions": self.span, **changes} if "max_position_embeddings" in changes else dict(changes)

    @classmethod
    def from_json(cls, data):
        data = {**cls.absent, **data}
        config, unknown = super().from_json({**data, "pos_att_type": terms_of(data["pos_att_type"])})
        return config, [name for name in unknown if name not in ("pooler_hidden_size", "attention_head_size", "padding_idx")]

    @classmethod
    def unsupported(cls, data):
        faults = super().unsupported(data)
        if data.get("talking_head"):
            faults.append("talking_head is true: heads that are mixed are not supported")
        width, heads = data.get("hidden_size"), data.get("num_attention_heads")
        if data.get("pooler_hidden_size") not in (None, width):
            faults.append(f"pooler_hidden_size is {data['pooler_hidden_size']!r}; only hidden_size {width} is supported")
        size = data.get("attention_head_size")
        if size is not None and isinstance(width, int) and isinstance(heads, int) and size * heads != width:
            faults.append(f"attention_head_size {size} times num_attention_heads {heads} is not hidden_size {width}")
        return faults

    def to_json(self):
        data = super().to_json()
        return {k: v for k, v in data.items() if k != "embedding_size" or v is not None}   # HF takes null for a size


class WordEmbeddings(nn.Module):
    """LayerNorm of words (+ positions and types where the config has them), zero at padding -> [B, L, D]."""

    cfg: DebertaConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask, token_type_ids, position_ids, deterministic=True):
        cfg, table = self.cfg, lambda rows, name: Embed(
            rows, self.cfg.embedding_width, self.cfg.initializer_range, self.compute, name=name)
        x = table(cfg.vocab_size, "word_embeddings")(input_ids)                              # B L E
        if cfg.position_biased_input:
            x = x + table(cfg.max_position_embeddings, "position_embeddings")(position_ids)
        if cfg.type_vocab_size:
            types = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = x + table(cfg.type_vocab_size, "token_type_embeddings")(types)
        if cfg.embedding_width != cfg.hidden_size:
            x = Dense(cfg.hidden_size, use_bias=False, stddev=cfg.initializer_range, compute=self.compute,
                      name="project")(x)                                                     # B L D
        x = LayerNorm(cfg.layer_norm_eps, compute=self.compute, name="norm")(x)
        x = jnp.where(attention_mask[..., None] > 0, x, 0)
        return dropout(cfg.hidden_dropout_prob, deterministic)(x)


def reachable(cfg: DebertaConfig, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the relative table that `length` tokens reach, and which of these belongs to each distance.

    The distances are 1-length, ..., length (one more than there are, for an even width) -> rows int [U], int [2 length].
    """
    return np.unique(cfg.rows_of(np.arange(1 - length, length + 1)), return_inverse=True)


def pick(x: jax.Array, rows: np.ndarray) -> jax.Array:
    """x[rows] for rows known ahead; a run of neighbours is a slice, whose gradient scatters nothing."""
    first = int(rows[0])
    if np.array_equal(rows, np.arange(first, first + len(rows))):
        return x[first : first + len(rows)]
    return x[rows]


def skew(scores: jax.Array, start: int) -> jax.Array:
    """[..., L, W] -> [..., L, L] whose (i, j) is scores[i, start - i + j]: no gather, only a reshape and slices."""
    *lead, length, width = scores.shape
    flat = scores.reshape(*lead, length * width)[..., start : start + length * (width - 1)]
    return flat.reshape(*lead, length, width - 1)[..., :length]


def position_scores(q, k, position_keys, position_queries, places=None):
    """q_i Kr[i - j] + k_j Qr[i - j] -> float32 [B, N, Q, L], unscaled; None where there is neither.

    q [B, Q, N, H]; k [B, L, N, H]; position_keys, position_queries: Kr and Qr of the distances 1-L, ..., L,
    [2L, N, H], or None. places int32 [B, Q]: where the queries stand, if not at 0, ..., L-1.
    """
    length, terms = k.shape[1], []
    if position_keys is not None:                                    # column t is the distance L - t
        scores = einsum("bqnh,rnh->bnqr", q, position_keys[::-1])
        if places is None:
            terms.append(skew(scores, length))
        else:
            column = length - places[:, None, :, None] + jnp.arange(length)
            terms.append(jnp.take_along_axis(scores, column, axis=3))
    if position_queries is not None:                                 # row j, column t is the distance t - (L-1)
        scores = skew(einsum("bknh,rnh->bnkr", k, position_queries), length - 1).swapaxes(2, 3)
        terms.append(scores if places is None else jnp.take_along_axis(scores, places[:, None, :, None], axis=2))
    return sum(terms) if terms else None


def disentangled(module: nn.Module, q, k, v, mask, position_keys, position_queries, places, deterministic):
    """The rest of an attention module from its projections: scores, softmax, values and the output projection."""
    cfg = module.cfg
    scale = 1.0 / math.sqrt(q.shape[-1] * cfg.scored_terms)
    bias = position_scores(q, k, position_keys, position_queries, places)                    # B N Q L
    x = attend(module, q, k, v, mask, None if bias is None else bias * scale, scale=scale,
               dropout_rate=cfg.attention_probs_dropout_prob, deterministic=deterministic, compute=module.compute)
    return Dense(cfg.hidden_size, axes=2, stddev=cfg.initializer_range, compute=module.compute, name="out")(x)


class DisentangledAttention(nn.Module):
    """Queries x [B, Q, D] to keys and values of `states` [B, L, D], or of x itself.

    relative: the reachable rows of the relative table, [U, D], None without relative attention.
    places int32 [B, Q]: where the queries stand among the states, if not at 0, ..., L-1.
    """

    cfg: DebertaConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, mask, relative=None, states=None, places=None, deterministic=True):
        cfg = self.cfg
        heads = (cfg.num_attention_heads, cfg.hidden_size // cfg.num_attention_heads)        # N H
        dense = lambda features, bias, name: Dense(features, use_bias=bias, stddev=cfg.initializer_range,
                                                   compute=self.compute, name=name)

        def bias(name):
            zeros = nn.initializers.zeros
            return self.param(name, lambda rng: {"bias": zeros(rng, heads, jnp.dtype(self.compute.param_dtype))})["bias"]

        project = dense((3, *heads), False, "qkv")
        own = project(x)                                                                     # B Q 3 N H
        seen = own if states is None else project(states)                                    # B L 3 N H
        q, k, v = own[:, :, 0], seen[:, :, 1], seen[:, :, 2]
        q, v = q + bias("query").astype(q.dtype), v + bias("value").astype(v.dtype)
        keys = queries = None
        if relative is not None:
            relative = dropout(cfg.hidden_dropout_prob, deterministic)(relative)
            _, of_distance = reachable(cfg, k.shape[1])
            if "c2p" in cfg.pos_att_type:
                keys = pick(dense(heads, False, "pos_key")(relative), of_distance)           # 2L N H
            if "p2c" in cfg.pos_att_type:
                queries = pick(dense(heads, True, "pos_query")(relative), of_distance)
        return disentangled(self, q, k, v, mask, keys, queries, places, deterministic)


class Layer(nn.Module):
    """A block; where x is a pair (its input, anything), the pair (its output, its input) for the mask decoder."""

    cfg: DebertaConfig
    compute: Compute = FLOAT32
    attention: type[nn.Module] = DisentangledAttention

    @nn.compact
    def __call__(self, x, *context, deterministic=True):
        block = Block(self.cfg, self.compute, self.attention, name="block")
        nn.share_scope(self, block)
        if not isinstance(x, tuple):
            return block(x, *context, deterministic=deterministic)
        return block(x[0], *context, deterministic=deterministic), x[0]


def prepare(cfg: DebertaConfig, attention_mask, position_ids, input_ids):
    """The defaults of an encoder's inputs: attention_mask, and position_ids where anything reads them."""
    if attention_mask is None:
        attention_mask = jnp.ones_like(input_ids)
    if position_ids is None and (cfg.position_biased_input or cfg.enhanced_mask_decoder):
        position_ids = positions(attention_mask)
    return attention_mask, position_ids


def carry_to_decoder(module: nn.Module, previous, position_ids, relative):
    """Sow what the mask decoder reads of the encoder: the input of its last layer [B, L, D], position_ids [B, L],
    the relative table's reachable rows [U, D] and the last layer's parameters."""
    carried = {"previous": previous, "position_ids": position_ids, "relative": relative,
               "layer": jax.tree.map(lambda leaf: leaf[-1], dict(module.variables["params"]["layers"]))}
    for name, value in carried.items():
        module.sow("carried", name, value)


class Deberta(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D].

    attention_mask int32 [B, L]: 0 is padding, equal positive numbers see each other (None: all do).
    token_type_ids int32 [B, L]: read where the config has types. position_ids int32 [B, L]: 0, 1, 2, ... (again
    from 0 in each packed sequence) unless given; read where the input is position-biased and by the mask decoder
    (relative positions are those in the row). Sows intermediates as BERT does, and for the mask decoder "carried".
    """

    cfg: DebertaConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, deterministic=True):
        cfg = self.cfg
        attention_mask, position_ids = prepare(cfg, attention_mask, position_ids, input_ids)
        x = WordEmbeddings(cfg, self.compute, name="embeddings")(
            input_ids, attention_mask, token_type_ids, position_ids, deterministic)          # B L D
        self.sow("intermediates", "embedded", x)
        relative = None
        if cfg.relative_attention:
            rows, _ = reachable(cfg, input_ids.shape[1])
            table = Embed(2 * cfg.span, cfg.hidden_size, cfg.initializer_range, self.compute, name="rel_embeddings")
            relative = pick(table.embedding, rows).astype(self.compute.dtype)                # U D
        x = stack(lambda name: Layer(cfg, self.compute, name=name), cfg.num_hidden_layers,
                  (x, x) if cfg.enhanced_mask_decoder else x, visible(attention_mask), relative,
                  deterministic=deterministic, compute=self.compute)
        if not cfg.enhanced_mask_decoder:
            return x
        x, previous = x
        carry_to_decoder(self, previous, position_ids, relative)
        return x


class MaskDecoder(nn.Module):
    """The masked LM head -> float32 [B, L or P, V]; with `enhanced_mask_decoder`, of decoded states (section 3.2).

    Absolute positions join at the end: q = H + P, with H the input of the last layer, and then twice
    q = that layer, of queries q and keys and values H. Where `Encoded.at` asks for P places only those are decoded.
    """

    cfg: DebertaConfig
    compute: Compute = FLOAT32
    attention: type[nn.Module] = DisentangledAttention
    turns: ClassVar[int] = 2

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        cfg = self.cfg
        if cfg.enhanced_mask_decoder:
            encoded = encoded._replace(last_hidden_state=self.decode(encoded, deterministic))
        head = MaskedLM(cfg, cfg.embedding_width, cfg.layer_norm_eps, cfg.hidden_act, self.compute, name="head")
        nn.share_scope(self, head)
        return head(encoded, deterministic)

    @nn.nowrap
    def decode(self, encoded, deterministic):
        cfg, carried, places = self.cfg, encoded.carried, encoded.places
        if not carried:
            raise ValueError("the mask decoder reads the encoder's last layer; call the head with what `encode` returns")
        states, position_ids = carried["previous"], carried["position_ids"]                  # B L D, B L
        numbers = jnp.ones_like(position_ids) if encoded.attention_mask is None else encoded.attention_mask
        x, mask = states, visible(numbers)
        if places is not None:
            at = lambda y: jnp.take_along_axis(y, places, axis=1)
            x = jnp.take_along_axis(states, places[..., None], axis=1)                       # B P D
            position_ids, mask = at(position_ids), visible(at(numbers), numbers)
        x = x + Embed(cfg.max_position_embeddings, cfg.hidden_size, cfg.initializer_range, self.compute,
                      name="position_embeddings")(position_ids)
        layer = Block(cfg, self.compute, self.attention, parent=None)

        def turn(params, rngs, *inputs):
            return layer.apply({"params": params}, *inputs, deterministic=deterministic, rngs=rngs)

        turn = recomputing(turn, self.compute)
        for _ in range(self.turns):
            rngs = None if deterministic else {"dropout": self.make_rng("dropout")}
            x = turn(carried["layer"], rngs, x, mask, carried["relative"], states, places)
        return x


def interleaved(heads: int) -> Transform:
    """`in_proj.weight` [N x 3 x H, D], head by head, <-> kernel [D, 3, N, H]."""
    def read(w, shape):
        return w.T.reshape(shape[0], heads, 3, -1).transpose(0, 2, 1, 3)

    return Transform(read, lambda x: x.transpose(0, 2, 1, 3).reshape(len(x), -1).T)


def embedding_rows(cfg: DebertaConfig) -> list[Row]:
    return [*table("word_embeddings", "word_embeddings"),
            *(table("position_embeddings", "position_embeddings") if cfg.position_biased_input else []),
            *(table("token_type_embeddings", "token_type_embeddings") if cfg.type_vocab_size else []),
            *(linear("embed_proj", "project", bias=False) if cfg.embedding_width != cfg.hidden_size else []),
            *norm("LayerNorm", "norm")]


def block_rows() -> list[Row]:
    """A layer but for its projections of queries, keys and values."""
    return [*linear("attention.output.dense", "attention/out", axes=2),
            *norm("attention.output.LayerNorm", "attention_norm"),
            *linear("intermediate.dense", "ffn/up"), *linear("output.dense", "ffn/down"),
            *norm("output.LayerNorm", "ffn_norm")]


def attention_rows(cfg: DebertaConfig) -> list[Row]:
    rows = [Row("in_proj.weight", "qkv/kernel", interleaved(cfg.num_attention_heads)),
            Row("q_bias", "query/bias", FLAT), Row("v_bias", "value/bias", FLAT)]
    if cfg.relative_attention and "c2p" in cfg.pos_att_type:
        rows += linear("pos_proj", "pos_key", bias=False)
    if cfg.relative_attention and "p2c" in cfg.pos_att_type:
        rows += linear("pos_q_proj", "pos_query")
    return rows


def names(cfg: DebertaConfig) -> list[Row]:
    layer = [*under("attention.self", "attention", attention_rows(cfg)), *block_rows()]
    return [*under("embeddings", "embeddings", embedding_rows(cfg)),
            *under("encoder.layer.{}", "layers", layer, range(cfg.num_hidden_layers)),
            *(table("encoder.rel_embeddings", "rel_embeddings") if cfg.relative_attention else [])]


POSITIONS = "deberta.embeddings.position_embeddings"     # which the encoder of an unbiased input does not read


def head_names(cfg: DebertaConfig) -> list[Row]:
    if cfg.legacy:
        rows = under("cls.predictions", "", [
            Row("bias", "bias", FLAT, aliases=("decoder.bias",)), *linear("transform.dense", "dense"),
            *norm("transform.LayerNorm", "norm")])
    else:
        rows = under("lm_predictions.lm_head", "", [
            Row("bias", "bias"), *linear("dense", "dense"), *norm("LayerNorm", "norm")])
    return [*rows, *(table(POSITIONS, "position_embeddings") if cfg.enhanced_mask_decoder else [])]


def classifier_dropout(cfg: DebertaConfig) -> float:
    """What is dropped before a classifier, of tokens too as in the original (HF's does not look at cls_dropout there)."""
    return cfg.hidden_dropout_prob if cfg.cls_dropout is None else cfg.cls_dropout


def pooled(labels: Callable[[DebertaConfig], int]) -> Head:
    """The context pooler, of the first token, and a classifier."""
    def module(cfg, compute):
        return SentenceClassifier(cfg, labels(cfg), cfg.pooler_hidden_act, classifier_dropout(cfg), cfg.pooler_dropout,
                                  compute)
    return Head(module, lambda cfg: [*linear("pooler.dense", "dense"), *linear("classifier", "out")])


def heads(attention: type[nn.Module]) -> dict[str, Head]:
    """HF's heads, with the mask decoder's queries going through `attention`."""
    return {
        "mlm": Head(lambda cfg, compute: MaskDecoder(cfg, compute, attention), head_names,
                    tied=("cls.predictions.decoder.weight",)),
        "classify": pooled(lambda cfg: cfg.num_labels),
        "span": Head(lambda cfg, compute: Classifier(cfg, 2, 0.0, False, compute), lambda cfg: linear("qa_outputs", "dense")),
        "tag": Head(lambda cfg, compute: Classifier(cfg, cfg.num_labels, classifier_dropout(cfg), False, compute),
                    lambda cfg: linear("classifier", "dense")),
        "choice": pooled(lambda cfg: 1),
    }


def classes(stem: str) -> dict[str, tuple[str, ...]]:
    return {f"{stem}Model": (), f"{stem}ForMaskedLM": ("mlm",), f"{stem}ForSequenceClassification": ("classify",),
            f"{stem}ForQuestionAnswering": ("span",), f"{stem}ForTokenClassification": ("tag",),
            f"{stem}ForMultipleChoice": ("choice",)}


def fitted(cfg: DebertaConfig, tensors: Collection[str]) -> DebertaConfig:
    """The config that a file's tensors ask for: which names its masked LM head has (Microsoft's files do not say),
    and the mask decoder where its table of positions is there (HF's files have lost it)."""
    legacy, released = (any(name.startswith(part) for name in tensors)
                        for part in ("cls.predictions.", "lm_predictions.lm_head."))
    if legacy != released:
        cfg = replace(cfg, legacy=legacy)
    decodes = (legacy or released) and f"{POSITIONS}.weight" in tensors and not cfg.position_biased_input
    return replace(cfg, enhanced_mask_decoder=decodes and cfg.embedding_width == cfg.hidden_size)


def traced(sown):
    """Hidden states and attentions as BERT's; a turn of the stack has a pair where the mask decoder is fed."""
    states = sown["layers"]["hidden_states"][0]
    states = states[0] if isinstance(states, tuple) else states
    return (sown["embedded"][0], *states), tuple(sown["layers"]["attention"]["attentions"][0])


def longest(cfg: DebertaConfig) -> int | None:
    """Relative positions know no end: far ones share a row."""
    return cfg.max_position_embeddings if cfg.position_biased_input or cfg.enhanced_mask_decoder else None


IGNORED = (r"embeddings\.position_ids$", re.escape(POSITIONS.removeprefix("deberta.")))

BASE = DebertaConfig()
LARGE = DebertaConfig(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096)

SIZES = {"deberta-base": BASE, "deberta-large": LARGE, "deberta-xlarge": replace(LARGE, num_hidden_layers=48)}

DUMMY = DebertaConfig(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
                      max_position_embeddings=40, max_relative_positions=7, enhanced_mask_decoder=True)

COLUMNS = "rate batch_size epochs warmup cls_dropout"

# Tokens of a row, of all sizes of versions 1 to 3: GLUE, SuperGLUE and NER.
LENGTHS = {task: {"max_length": length} for task, length in {
    "mnli": 256, "cola": 64, "sst2": 128, "qnli": 512, "qqp": 320, "rte": 320, "mrpc": 128, "stsb": 128,
    "copa": 136, "record": 512, "ner": 512}.items()}

# microsoft/DeBERTa experiments/glue, superglue and ner, *.sh
FINETUNE = {
    "": {"rate": 2e-5, "batch_size": 32, "epochs": 6}, **LENGTHS,
    **grid(COLUMNS, {
        "deberta-base/mnli": (3e-5, 64, 3, 1000, 0.1), "deberta-base/cola": (2e-5, 32, 6, 100, 0.15),
        "deberta-base/sst2": (2e-5, 32, 6, 500, 0.15), "deberta-base/qnli": (2e-5, 32, 4, 500, 0.15),
        "deberta-base/qqp": (2e-5, 64, 8, 500, 0.15), "deberta-base/rte": (2e-5, 32, 6, 100, 0.2),
        "deberta-base/mrpc": (2e-5, 32, 6, 50, 0.15), "deberta-base/stsb": (2e-5, 32, 6, 100, 0.15),
        "deberta-base/copa": (1e-5, 32, 3, 50, 0.1), "deberta-base/record": (2e-5, 64, 3, 1000, 0.3),
        "deberta-base/ner": (2e-5, 16, 15, 0.1, 0.0)}),
    "deberta-large": {"rate": 1e-5},
    **grid(COLUMNS, {
        "deberta-large/mnli": (1e-5, 64, 3, 1000, 0.2), "deberta-large/cola": (7e-6, 32, 6, 100, 0.15),
        "deberta-large/sst2": (1e-5, 32, 6, 500, 0.15), "deberta-large/qnli": (1e-5, 32, 4, 500, 0.15),
        "deberta-large/qqp": (1e-5, 64, 8, 500, 0.15), "deberta-large/rte": (1e-5, 32, 6, 50, 0.2),
        "deberta-large/mrpc": (1e-5, 32, 6, 50, 0.15), "deberta-large/stsb": (7e-6, 32, 4, 100, 0.15),
        "deberta-large/copa": (5e-6, 16, 4, 30, 0.1), "deberta-large/record": (1e-5, 64, 3, 1000, 0.3),
        "deberta-large/ner": (1e-5, 16, 15, 0.1, 0.0)}),
    "deberta-xlarge": {"rate": 7e-6},
    **grid(COLUMNS, {
        "deberta-xlarge/mnli": (5e-6, 64, 3, 1000, 0.3), "deberta-xlarge/cola": (5e-6, 32, 8, 100, 0.2),
        "deberta-xlarge/sst2": (3e-6, 32, 6, 500, 0.2), "deberta-xlarge/qnli": (7e-6, 32, 4, 500, 0.2),
        "deberta-xlarge/qqp": (7e-6, 64, 8, 500, 0.2), "deberta-xlarge/rte": (5e-6, 48, 6, 50, 0.2),
        "deberta-xlarge/mrpc": (7e-6, 32, 8, 50, 0.3), "deberta-xlarge/stsb": (7e-6, 32, 4, 100, 0.2),
        "deberta-xlarge/copa": (3e-6, 24, 4, 30, 0.1), "deberta-xlarge/record": (7e-6, 64, 3, 1000, 0.3),
        "deberta-xlarge/ner": (7e-6, 16, 15, 0.1, 0.0)}),
}

DEBERTA = Variant(
    name="deberta", config=DebertaConfig, encoder=Deberta, names=names, prefix="deberta",
    heads=heads(DisentangledAttention), classes=classes("Deberta"), sizes=SIZES, dummy=DUMMY, ignored=IGNORED,
    traced=traced, longest=longest, fitted=fitted, tokenizer="deberta",
    finetune=FINETUNE, summary="masked LM by a decoder that learns positions last",
)
