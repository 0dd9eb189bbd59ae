"""What a variant is to the rest of the house: a record of its config, network, heads, names and sizes."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertvariants_jax.layers.dense import FLOAT32, Compute
from bertvariants_jax.models.config import Config
from bertvariants_jax.names import Row, linear, norm

# Keys of a batch that index a table -> the field of the config that says how many rows it has.
TABLES = {
    "input_ids": "vocab_size",
    "token_type_ids": "type_vocab_size",
    "position_ids": "max_position_embeddings",
    "task_type_ids": "task_type_vocab_size",
    "span_offsets": "max_span_targets",
}

# Keys of a batch that an encoder is called with.
ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


class Encoded(NamedTuple):
    """What a head reads: hidden states [B, L, D] (or at P places, [B, P, D]), the mask [B, L], the word
    table [V, E], where the variant has a pooler its output [B, D], and on request its next memory; places
    int32 [B, P], where `at` has been asked; carried: what the encoder sows into the collection "carried",
    which its heads read besides (DeBERTa's mask decoder)."""

    last_hidden_state: jax.Array
    attention_mask: jax.Array | None = None
    word_embeddings: jax.Array | None = None
    pooler_output: jax.Array | None = None
    mems: Any = None
    places: jax.Array | None = None
    carried: Mapping[str, Any] | None = None

    def at(self, positions: jax.Array) -> "Encoded":
        """The hidden states at `positions` int32 [B, P] only."""
        return self._replace(last_hidden_state=jnp.take_along_axis(
            self.last_hidden_state, positions[..., None], axis=1), places=positions)


def traced(sown: Mapping[str, Any]) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """An encoder's intermediates -> hidden states (embeddings first) and attentions, one a layer."""
    embedded, layers = sown["embedded"][0], sown["layers"]
    return (embedded, *layers["hidden_states"][0]), tuple(layers["attention"]["attentions"][0])


@dataclass(frozen=True)
class Head:
    """module(cfg, compute) -> a Linen module called as (encoded, deterministic=True); names(cfg) -> rows
    with HF's full names and paths inside the head's parameters; pooled: whether it needs the pooler; tied:
    further HF names that hold the word table; inputs: keys of a batch that the module takes too, by their
    names and each optional (SBO's span_boundaries)."""

    module: Callable[[Config, Compute], nn.Module]
    names: Callable[[Config], list[Row]]
    pooled: bool = False
    tied: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


def beam(module: Callable[[Config, Compute], nn.Module], normed: bool = True, bias: bool = False) -> Head:
    """A BeamSpan (layers/beam.py) under the names that HF gives XLNet's; normed, bias: whether it has these parts."""
    rows = [*linear("start_logits.dense", "start"), *linear("end_logits.dense_0", "end/dense_0"),
            *(norm("end_logits.LayerNorm", "end/norm") if normed else []), *linear("end_logits.dense_1", "end/dense_1"),
            *linear("answer_class.dense_0", "answer/dense_0"), *linear("answer_class.dense_1", "answer/dense_1", bias=bias)]
    return Head(module, lambda cfg: rows, inputs=("start_positions", "cls_index", "p_mask"))


@dataclass(frozen=True, eq=False)          # itself and no other: a network is then a key of jit's cache
class Variant:
    """One paper's network, as the registry holds it.

    encoder: (cfg, compute) -> Linen module, called with ENCODER_INPUTS -> [B, L, D].
    names: cfg -> rows of the base model, HF names without `prefix`.
    heads: "pooler" among them where the base model has one.
    classes: HF class name -> the heads that its files hold (pooler aside).
    sizes: published name -> config. dummy: a config of odd small sizes for tests, every part present.
    ignored: regular expressions of HF names that files hold and the network does not need.
    inputs: further keys of a batch that its encoder takes (XLNet's perm_mask).
    longest: cfg -> the longest sequence that the position table takes, None where any length goes.
    traced: the encoder's intermediates -> hidden states and attentions, where it does not sow as BERT's.
    aliases: further `model_type`s of HF's config.json that are this network, each with the stem of its HF
        class names ("xlm-roberta": "XLMRoberta"); the config has a field `model_type` that keeps the file's.
    marks: regular expressions of HF names by which a file says that it is this variant and not an earlier
        one of the same `model_type` (SpanBERT's files say "bert").
    fitted: (config, names of a file's tensors) -> the config as the tensors complete it, where config.json leaves
        something open (DeBERTa's heads).
    memory: what the encoder sows into the collection "memory" -> what its next call takes as `mems` (XLNet).
    tf_names: cfg -> rows by part ("encoder", heads) with the variable names of the original's TensorFlow
        checkpoints, None where there are none. Parts that are not in it are not read from such files.
    padding_side: where its tokenizer pads. packs: whether it takes packed rows (attention_mask numbers
        above 1), each sequence as if it stood alone.
    tokenizer: the family of vocabularies that it reads, as text.train names them.
    generator: (config, width, depth) -> the config of the masked LM that makes replacements for it to detect, so many
        times as wide and as deep; None where it is not pre-trained so.
    finetune: how the paper fine-tunes it: fields of the optimizer, the settings and the config (a dropout), and the
        max_length of a row, under "" (in general), a task, a size or "size/task", the later of these over the earlier.
    """

    name: str
    config: type[Config]
    encoder: Callable[[Config, Compute], nn.Module]
    names: Callable[[Config], list[Row]]
    prefix: str
    heads: Mapping[str, Head]
    classes: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, Config]
    dummy: Config
    word_embeddings: str = "embeddings/word_embeddings/embedding"
    ignored: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    fitted: Callable[[Config, Collection[str]], Config] = lambda config, tensors: config
    traced: Callable[[Mapping[str, Any]], tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]] = traced
    memory: Callable[[Mapping[str, Any]], Any] | None = None
    tf_names: Callable[[Config], dict[str, list[Row]]] | None = None
    longest: Callable[[Config], int | None] = lambda config: config.max_position_embeddings
    padding_side: Literal["left", "right"] = "right"
    packs: Callable[[Config], bool] = lambda config: True
    tokenizer: str = "bert"
    generator: Callable[[Config, float, float], Config] | None = None
    finetune: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: str = ""

    def __reduce__(self):
        """Pickled by name: the record holds functions, and is itself and no other when read again."""
        if registered(self.name) is not self:
            raise TypeError(f"the variant {self.name!r} cannot be pickled: it is not the registry's")
        return registered, (self.name,)

    @property
    def model_types(self) -> tuple[str, ...]:
        """What HF's config.json may call this network."""
        return (self.config.model_type, *self.aliases)

    @property
    def stem(self) -> str:
        """What the names of its HF classes begin with ("Bert")."""
        return next((cls for cls, heads in self.classes.items() if not heads), "").removesuffix("Model")

    @property
    def call_arguments(self) -> tuple[str, ...]:
        return (*ENCODER_INPUTS, *self.inputs)

    def network(self, config: Config, heads: tuple[str, ...] = (), compute: Compute = FLOAT32) -> "Network":
        """Raises ValueError for a head that the variant has not."""
        if unknown := [head for head in heads if head not in self.heads]:
            raise ValueError(f"{self.name} has no head {unknown[0]!r}; it has: {', '.join(self.heads)}")
        if "pooler" in self.heads and "pooler" not in heads and any(self.heads[h].pooled for h in heads):
            heads = ("pooler", *heads)
        return Network(self, config, tuple(heads), compute)


def registered(name: str) -> Variant | None:
    """The registry's variant of a name."""
    from bertvariants_jax.models import VARIANTS

    return VARIANTS.get(name)


@dataclass(frozen=True)
class Network:
    """A variant at one size with its heads: pure functions of {"encoder": ..., "<head>": ...}."""

    variant: Variant
    config: Config
    heads: tuple[str, ...] = ()
    compute: Compute = field(default=FLOAT32)

    def __getstate__(self):
        return {name: getattr(self, name) for name in self.__dataclass_fields__}       # without compiled programs

    @cached_property
    def encoder(self) -> nn.Module:
        return self.variant.encoder(self.config, self.compute)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        return {name: self.variant.heads[name].module(self.config, self.compute) for name in self.heads}

    @property
    def tables(self) -> dict[str, int]:
        """Rows of the table that each key of a batch indexes; keys without a table are left out."""
        rows = {key: getattr(self.config, name, None) for key, name in TABLES.items()}
        if not getattr(self.config, "use_task_id", True):
            rows["task_type_ids"] = None
        return {key: size for key, size in rows.items() if size}

    def init(self, rng: jax.Array) -> dict[str, Any]:
        """Fresh parameters; each part draws from its own stream, so that heads do not change the encoder."""
        return self._fresh(rng)

    @cached_property
    def _fresh(self):
        return jax.jit(self._drawn)               # one program, from which XLA drops Flax's pass over the dummy tokens

    def _drawn(self, rng):
        ids = jnp.ones((1, 8), jnp.int32)
        params = {"encoder": self.encoder.init(jax.random.fold_in(rng, 0), ids)["params"]}
        encoded = self.encode(params, {"input_ids": ids}, pool=False)
        if "pooler" in self.heads:
            params["pooler"] = self._init_head("pooler", rng, encoded)
            encoded = self.encode(params, {"input_ids": ids})
        for name in self.heads:
            if name != "pooler":
                params[name] = self._init_head(name, rng, encoded)
        return params

    def _init_head(self, name, rng, encoded):
        stream = 1 + list(self.variant.heads).index(name)
        return self.modules[name].init(jax.random.fold_in(rng, stream), encoded).get("params", {})

    def encode(self, params, batch: Mapping[str, jax.Array], rng=None, pool: bool = True,
               remember: bool = False) -> Encoded:
        """Encoder and, where the network has one, pooler. rng: of dropout; None is deterministic. With
        `remember`, the record's `mems` are what the next call may be given.

        Raises ValueError for `remember` where the variant has no memory.
        """
        inputs = {k: batch[k] for k in self.variant.call_arguments if k in batch}
        hidden, sown = self.encoder.apply({"params": params["encoder"]}, **inputs, deterministic=rng is None,
                                          rngs=None if rng is None else {"dropout": rng},
                                          mutable=["carried", *(["memory"] if self._remembers(remember) else [])])
        encoded = self.encoded(params, hidden, batch.get("attention_mask"), rng, pool)._replace(carried=_carried(sown))
        return encoded._replace(mems=self.variant.memory(sown["memory"])) if remember else encoded

    def encoded(self, params, hidden, attention_mask=None, rng=None, pool: bool = True) -> Encoded:
        """The record that heads read, from hidden states [B, L, D]."""
        table = params["encoder"]
        for key in self.variant.word_embeddings.split("/"):
            table = table[key]
        encoded = Encoded(hidden, attention_mask, table)
        if pool and "pooler" in self.heads:
            encoded = encoded._replace(pooler_output=self.logits(params, "pooler", encoded, rng))
        return encoded

    def logits(self, params, head: str, encoded: Encoded, rng=None, batch: Mapping[str, jax.Array] | None = None):
        """The head's output, float32 where it is a score; `batch` holds the head's own inputs, where it has some."""
        if head not in self.heads:
            raise ValueError(f"this network has no head {head!r}; it has: {', '.join(self.heads) or 'none'}")
        rngs = None if rng is None else {"dropout": jax.random.fold_in(
            rng, 1 + list(self.variant.heads).index(head))}
        inputs = {key: batch[key] for key in self.variant.heads[head].inputs if batch and key in batch}
        return self.modules[head].apply({"params": params[head]}, encoded, **inputs, deterministic=rng is None, rngs=rngs)

    def scores(self, params, head: str, batch: Mapping[str, jax.Array], rng=None) -> jax.Array:
        """Batch -> the head's output; for "choice" the batch is [B, C, L] and the scores [B, C]. With
        `sequence_positions` [B, S] rows are packed, and the output is that of each sequence, [B, S, ...]."""
        if "sequence_positions" in batch:
            rows, sequences = batch["sequence_positions"].shape
            encoded = self.encode(params, batch, rng, pool=False)
            hidden, mask = unpacked(encoded.last_hidden_state, batch["attention_mask"], batch["sequence_positions"])
            out = self.logits(params, head, self.encoded(params, hidden, mask, rng), rng)
            return out.reshape(rows, sequences, *out.shape[1:])
        if head != "choice":
            return self.logits(params, head, self.encode(params, batch, rng), rng, batch)
        rows, choices, _ = batch["input_ids"].shape
        flat = {k: v.reshape(rows * choices, *v.shape[2:]) for k, v in batch.items()
                if k in self.variant.call_arguments}
        return self.logits(params, head, self.encode(params, flat, rng), rng).reshape(rows, choices)

    def trace(self, params, batch: Mapping[str, jax.Array], remember: bool = False):
        """Deterministic encode that also gives all L+1 hidden states [B, L, D] and the attentions [B, N, L, L]."""
        inputs = {k: batch[k] for k in self.variant.call_arguments if k in batch}
        hidden, sown = self.encoder.apply({"params": params["encoder"]}, **inputs,
                                          mutable=["intermediates", "carried", *(["memory"] if self._remembers(remember) else [])])
        hidden_states, attentions = self.variant.traced(sown["intermediates"])
        encoded = self.encoded(params, hidden, batch.get("attention_mask"))._replace(carried=_carried(sown))
        if remember:
            encoded = encoded._replace(mems=self.variant.memory(sown["memory"]))
        return encoded, hidden_states, attentions

    def _remembers(self, remember: bool) -> bool:
        if remember and self.variant.memory is None:
            raise ValueError(f"{self.variant.name} has no memory to return")
        return remember

    def shapes(self) -> dict[str, Any]:
        """The parameter tree as jax.ShapeDtypeStruct, without memory."""
        return self._shapes

    @cached_property
    def _shapes(self):
        return jax.eval_shape(self.init, jax.random.key(0))

    def rows(self, prefixed: bool) -> dict[str, list[Row]]:
        """Name tables by part, HF names in full; `prefixed` as files of headed models are."""
        from bertvariants_jax.names import under

        variant, prefix = self.variant, self.variant.prefix if prefixed else ""
        tables = {"encoder": under(prefix, "", variant.names(self.config))}
        for name in self.heads:
            rows = variant.heads[name].names(self.config)
            tables[name] = under(prefix, "", rows) if name == "pooler" else rows
        return tables


def unpacked(hidden: jax.Array, attention_mask: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Packed rows [B, L, D] with a mask of 1, 2, ... -> hidden states [B S, L, D] and mask [B S, L] of their sequences,
    which begin at `positions` int32 [B, S], each moved to the beginning of a row of its own."""
    rows, length, width = hidden.shape
    places = positions[..., None] + jnp.arange(length)                                       # B S L
    inside = jnp.minimum(places, length - 1).reshape(rows, -1)
    numbers = jnp.take_along_axis(attention_mask, inside, axis=1).reshape(places.shape)
    mask = (numbers == jnp.arange(1, positions.shape[1] + 1)[:, None]) & (places < length)
    moved = jnp.take_along_axis(hidden, inside[..., None], axis=1)
    return moved.reshape(-1, length, width), mask.reshape(-1, length).astype(attention_mask.dtype)


def grid(columns: str, rows: Mapping[str, tuple]) -> dict[str, dict[str, Any]]:
    """Rows of one table of a paper -> {row: {column: value}}; columns are separated by spaces."""
    return {name: dict(zip(columns.split(), row, strict=True)) for name, row in rows.items()}


def _carried(sown: Mapping[str, Any]) -> dict[str, Any] | None:
    return {name: value[0] for name, value in sown.get("carried", {}).items()} or None


def count(params) -> int:
    """Number of parameters of a tree of arrays or abstract shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
