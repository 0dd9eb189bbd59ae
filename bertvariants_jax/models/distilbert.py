"""DistilBERT: half of BERT's layers, no segments, no pooler, distilled from a teacher (arXiv:1910.01108).

Original code: HF's distillation research project; numbers follow HF's `modeling_distilbert.py`. How it starts from a
teacher (`scripts/extract_distilbert.py`) and learns from it is in tasks/distill.py.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.layers.attention import SelfAttention, visible
from bertvariants_jax.layers.dense import FLOAT32, Compute, LayerNorm, dropout
from bertvariants_jax.layers.embeddings import Embed, positions
from bertvariants_jax.layers.ffn import FeedForward
from bertvariants_jax.layers.heads import Classifier, MaskedLM, SentenceClassifier
from bertvariants_jax.layers.stack import stack
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Head, Variant
from bertvariants_jax.names import FLAT, Row, linear, norm, table, under


@dataclass(frozen=True)
class DistilBertConfig(Config):
    """HF's fields; the defaults are distilbert-base-uncased. BERT's names for them are read-only properties."""

    vocab_size: int = 30522
    dim: int = 768
    n_layers: int = 6
    n_heads: int = 12
    hidden_dim: int = 3072
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    initializer_range: float = 0.02

    model_type: ClassVar[str] = "distilbert"
    required: ClassVar[tuple[str, ...]] = ("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim")
    renamed: ClassVar[dict[str, str]] = {"hidden_size": "dim", "num_hidden_layers": "n_layers",
                                         "num_attention_heads": "n_heads"}
    layer_norm_eps: ClassVar[float] = 1e-12            # fixed: no file says it

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.n_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of n_heads {self.n_heads}")

    hidden_size = property(lambda self: self.dim)
    num_hidden_layers = property(lambda self: self.n_layers)
    num_attention_heads = property(lambda self: self.n_heads)
    intermediate_size = property(lambda self: self.hidden_dim)
    hidden_act = property(lambda self: self.activation)
    hidden_dropout_prob = property(lambda self: self.dropout)
    attention_probs_dropout_prob = property(lambda self: self.attention_dropout)


def sinusoid(rng: jax.Array, shape: tuple[int, int], dtype) -> jax.Array:
    """An initialiser: sin(p / 10000^(2i/D)) in column 2i and cos of the same in 2i + 1, float64 in numpy."""
    rows, width = shape
    angles = np.arange(rows)[:, None] / 10000.0 ** (2 * (np.arange(width) // 2) / width)
    return jnp.asarray(np.where(np.arange(width) % 2, np.cos(angles), np.sin(angles)), dtype)


class DistilBertEmbeddings(nn.Module):
    """LayerNorm(word + position), then dropout -> [B, L, D].

    A sinusoidal table stays in the parameters, for files hold it, but gets no gradient.
    """

    cfg: DistilBertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, position_ids, deterministic=True):
        cfg, fixed = self.cfg, self.cfg.sinusoidal_pos_embds
        x = Embed(cfg.vocab_size, cfg.dim, cfg.initializer_range, self.compute, name="word_embeddings")(input_ids)
        places = Embed(cfg.max_position_embeddings, cfg.dim, cfg.initializer_range, self.compute,
                       sinusoid if fixed else None, name="position_embeddings")(position_ids)
        x = x + (jax.lax.stop_gradient(places) if fixed else places)                         # B L D
        return dropout(cfg.dropout, deterministic)(
            LayerNorm(cfg.layer_norm_eps, compute=self.compute, name="norm")(x))


class DistilBertBlock(nn.Module):
    """BERT's post-norm layer without dropout on what attention gives; x [B, L, D]."""

    cfg: DistilBertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, mask, deterministic=True):
        cfg, norm = self.cfg, lambda name: LayerNorm(self.cfg.layer_norm_eps, compute=self.compute, name=name)
        y = SelfAttention(cfg, self.compute, name="attention")(x, mask, deterministic=deterministic)
        x = norm("attention_norm")(x + y)
        y = FeedForward(cfg, self.compute, name="ffn")(x)
        return norm("ffn_norm")(x + dropout(cfg.dropout, deterministic)(y))


class DistilBert(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D]; arguments and intermediates as BERT's.

    token_type_ids are taken, for BERT's tokenizer gives them, and ignored: the network has no segments.
    """

    cfg: DistilBertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, deterministic=True):
        cfg = self.cfg
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        if position_ids is None:
            position_ids = positions(attention_mask)
        x = DistilBertEmbeddings(cfg, self.compute, name="embeddings")(input_ids, position_ids, deterministic)   # B L D
        self.sow("intermediates", "embedded", x)
        return stack(lambda name: DistilBertBlock(cfg, self.compute, name=name), cfg.n_layers, x,
                     visible(attention_mask), deterministic=deterministic, compute=self.compute)


def names(cfg: DistilBertConfig) -> list[Row]:
    embeddings = [*table("word_embeddings", "word_embeddings"), *table("position_embeddings", "position_embeddings"),
                  *norm("LayerNorm", "norm")]
    layer = [*(row for letter, name in (("q", "query"), ("k", "key"), ("v", "value"))
               for row in linear(f"attention.{letter}_lin", f"attention/{name}")),
             *linear("attention.out_lin", "attention/out", axes=2), *norm("sa_layer_norm", "attention_norm"),
             *linear("ffn.lin1", "ffn/up"), *linear("ffn.lin2", "ffn/down"), *norm("output_layer_norm", "ffn_norm")]
    return [*under("embeddings", "embeddings", embeddings),
            *under("transformer.layer.{}", "layers", layer, range(cfg.n_layers))]


def sentence_head(labels) -> Head:
    """dense(drop(relu(dense(h[0])))); labels(cfg) classes."""
    return Head(lambda cfg, compute: SentenceClassifier(cfg, labels(cfg), "relu", cfg.seq_classif_dropout, 0.0, compute),
                lambda cfg: [*linear("pre_classifier", "dense"), *linear("classifier", "out")])


def token_head(hf: str, labels, rate) -> Head:
    """dense(drop(h)) of every token; labels(cfg) classes, dropout rate(cfg)."""
    return Head(lambda cfg, compute: Classifier(cfg, labels(cfg), rate(cfg), False, compute),
                lambda cfg: linear(hf, "dense"))


HEADS = {
    "mlm": Head(lambda cfg, compute: MaskedLM(cfg, cfg.dim, cfg.layer_norm_eps, cfg.activation, compute),
                lambda cfg: [Row("vocab_projector.bias", "bias", FLAT), *linear("vocab_transform", "dense"),
                             *norm("vocab_layer_norm", "norm")],
                tied=("vocab_projector.weight",)),
    "classify": sentence_head(lambda cfg: cfg.num_labels),
    "span": token_head("qa_outputs", lambda cfg: 2, lambda cfg: cfg.qa_dropout),
    "tag": token_head("classifier", lambda cfg: cfg.num_labels, lambda cfg: cfg.dropout),
    "choice": sentence_head(lambda cfg: 1),
}

CLASSES = {
    "DistilBertModel": (),
    "DistilBertForMaskedLM": ("mlm",),
    "DistilBertForSequenceClassification": ("classify",),
    "DistilBertForQuestionAnswering": ("span",),
    "DistilBertForTokenClassification": ("tag",),
    "DistilBertForMultipleChoice": ("choice",),
}

BASE = DistilBertConfig()

SIZES = {
    "distilbert-base-uncased": BASE,
    "distilbert-base-cased": replace(BASE, vocab_size=28996),
    "distilbert-base-multilingual-cased": replace(BASE, vocab_size=119547),
}

DUMMY = DistilBertConfig(vocab_size=61, dim=24, n_layers=3, n_heads=3, hidden_dim=40, max_position_embeddings=40)

FINETUNE = {"": {"rate": 3e-5, "batch_size": 32, "epochs": 3}}       # as BERT

DISTILBERT = Variant(
    name="distilbert", config=DistilBertConfig, encoder=DistilBert, names=names, prefix="distilbert", heads=HEADS,
    classes=CLASSES, sizes=SIZES, dummy=DUMMY, ignored=(r"embeddings\.position_ids$",),
    finetune=FINETUNE, summary="distilled from BERT: soft targets + masked LM + hidden states",
)
