"""BERT: bidirectional post-norm Transformer with masked LM and next-sentence prediction (arXiv:1810.04805).

Original code: google-research/bert `modeling.py`; numbers follow HF's `modeling_bert.py`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from bertvariants_jax.layers.attention import visible
from bertvariants_jax.layers.block import Block
from bertvariants_jax.layers.dense import FLOAT32, Compute
from bertvariants_jax.layers.embeddings import Embeddings, positions
from bertvariants_jax.layers.heads import Classifier, MaskedLM, Pooler
from bertvariants_jax.layers.stack import stack
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Head, Variant, grid
from bertvariants_jax.names import FLAT, Row, flip, linear, norm, table, tf_dense, tf_norm, under


@dataclass(frozen=True)
class BertConfig(Config):
    """HF's fields; the defaults are bert-base-uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | None = None

    model_type: ClassVar[str] = "bert"

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                             f"{self.num_attention_heads}")


class Bert(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D].

    attention_mask int32 [B, L]: 0 is padding, equal positive numbers see each other (None: all do).
    token_type_ids, position_ids int32 [B, L]: zeros and 0, 1, 2, ... (again from 0 in each packed
    sequence) unless given. Sows intermediates: layers/hidden_states [layers, B, L, D],
    layers/attention/attentions [layers, B, N, L, L], embedded [B, L, D].
    """

    cfg: BertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, deterministic=True):
        cfg = self.cfg
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        if position_ids is None:
            position_ids = positions(attention_mask)
        x = Embeddings(cfg, cfg.hidden_size, self.compute, name="embeddings")(
            input_ids, token_type_ids, position_ids, deterministic)                          # B L D
        self.sow("intermediates", "embedded", x)
        return stack(lambda name: Block(cfg, self.compute, name=name), cfg.num_hidden_layers, x,
                     visible(attention_mask), deterministic=deterministic, compute=self.compute)


def embedding_rows() -> list[Row]:
    return [*table("word_embeddings", "word_embeddings"), *table("position_embeddings", "position_embeddings"),
            *table("token_type_embeddings", "token_type_embeddings"), *norm("LayerNorm", "norm")]


def layer_rows() -> list[Row]:
    return [*(row for name in ("query", "key", "value")
              for row in linear(f"attention.self.{name}", f"attention/{name}")),
            *linear("attention.output.dense", "attention/out", axes=2),
            *norm("attention.output.LayerNorm", "attention_norm"),
            *linear("intermediate.dense", "ffn/up"), *linear("output.dense", "ffn/down"),
            *norm("output.LayerNorm", "ffn_norm")]


def names(cfg: BertConfig) -> list[Row]:
    return [*under("embeddings", "embeddings", embedding_rows()),
            *under("encoder.layer.{}", "layers", layer_rows(), range(cfg.num_hidden_layers))]


def tf_names(cfg: BertConfig) -> dict[str, list[Row]]:
    """The variables of google-research/bert; its heads' weights are [classes, D], unlike its other kernels."""
    embeddings = [*(Row(name, f"{name}/embedding") for name in (
        "word_embeddings", "position_embeddings", "token_type_embeddings")), *tf_norm("LayerNorm", "norm")]
    layer = [*(row for name in ("query", "key", "value")
               for row in tf_dense(f"attention/self/{name}", f"attention/{name}")),
             *tf_dense("attention/output/dense", "attention/out", axes=2),
             *tf_norm("attention/output/LayerNorm", "attention_norm"),
             *tf_dense("intermediate/dense", "ffn/up"), *tf_dense("output/dense", "ffn/down"),
             *tf_norm("output/LayerNorm", "ffn_norm")]

    def head(tf: str) -> list[Row]:
        return [Row(f"{tf}/output_weights", "dense/kernel", flip()), Row(f"{tf}/output_bias", "dense/bias", FLAT)]

    return {
        "encoder": [*under("bert/embeddings", "embeddings", embeddings, joint="/"),
                    *under("bert/encoder/layer_{}", "layers", layer, range(cfg.num_hidden_layers), joint="/")],
        "pooler": tf_dense("bert/pooler/dense", "dense"),
        "mlm": [Row("cls/predictions/output_bias", "bias", FLAT), *tf_dense("cls/predictions/transform/dense", "dense"),
                *tf_norm("cls/predictions/transform/LayerNorm", "norm")],
        "pair": head("cls/seq_relationship"),
        "span": head("cls/squad"),
    }


def classifier(hf: str, labels, pooled: bool, dropout: bool = True) -> Head:
    """A dense layer named `hf` in HF's files; labels(cfg) classes; HF's classifier dropout where `dropout`."""
    def module(cfg, compute):
        rate = cfg.hidden_dropout_prob if cfg.classifier_dropout is None else cfg.classifier_dropout
        return Classifier(cfg, labels(cfg), rate if dropout else 0.0, pooled, compute)
    return Head(module, lambda cfg: linear(hf, "dense"), pooled)


HEADS = {
    "pooler": Head(Pooler, lambda cfg: linear("pooler.dense", "dense")),
    "mlm": Head(lambda cfg, compute: MaskedLM(cfg, cfg.hidden_size, cfg.layer_norm_eps, cfg.hidden_act, compute),
                lambda cfg: under("cls.predictions", "", [
                    Row("bias", "bias", FLAT, aliases=("decoder.bias",)),
                    *linear("transform.dense", "dense"), *norm("transform.LayerNorm", "norm")]),
                tied=("cls.predictions.decoder.weight",)),
    "pair": classifier("cls.seq_relationship", lambda cfg: 2, pooled=True, dropout=False),
    "classify": classifier("classifier", lambda cfg: cfg.num_labels, pooled=True),
    "span": classifier("qa_outputs", lambda cfg: 2, pooled=False, dropout=False),
    "tag": classifier("classifier", lambda cfg: cfg.num_labels, pooled=False),
    "choice": classifier("classifier", lambda cfg: 1, pooled=True),
}

CLASSES = {
    "BertModel": (),
    "BertForPreTraining": ("mlm", "pair"),
    "BertForMaskedLM": ("mlm",),
    "BertForNextSentencePrediction": ("pair",),
    "BertForSequenceClassification": ("classify",),
    "BertForQuestionAnswering": ("span",),
    "BertForTokenClassification": ("tag",),
    "BertForMultipleChoice": ("choice",),
}


def sized(layers: int, width: int, heads: int | None = None, **fields) -> BertConfig:
    """A BERT of the released shapes: heads of 64, a feed-forward of four times the width."""
    return BertConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads or width // 64,
                      intermediate_size=4 * width, **fields)


BASE, LARGE = sized(12, 768), sized(24, 1024)

SIZES = {
    "bert-base-uncased": BASE,
    "bert-large-uncased": LARGE,
    "bert-base-cased": replace(BASE, vocab_size=28996),
    "bert-large-cased": replace(LARGE, vocab_size=28996),
    "bert-large-uncased-whole-word-masking": LARGE,
    "bert-large-cased-whole-word-masking": replace(LARGE, vocab_size=28996),
    "bert-base-multilingual-cased": replace(BASE, vocab_size=119547),
    "bert-base-multilingual-uncased": replace(BASE, vocab_size=105879),
    "bert-base-chinese": replace(BASE, vocab_size=21128),
    "bert-tiny": sized(2, 128),
    "bert-mini": sized(4, 256),
    "bert-small": sized(4, 512),
    "bert-medium": sized(8, 512),
    "biobert-base-cased": replace(BASE, vocab_size=28996),
    "biobert-large-cased": replace(LARGE, vocab_size=58996),
    "scibert-scivocab-uncased": replace(BASE, vocab_size=31090),
    "scibert-scivocab-cased": replace(BASE, vocab_size=31116),
    # sentence encoders distilled into narrow BERTs (MiniLM, arXiv:2002.10957)
    "MiniLM-L12-H384-uncased": sized(12, 384, 12),
    "all-MiniLM-L12-v2": sized(12, 384, 12),
    "all-MiniLM-L6-v2": sized(6, 384, 12),
    "paraphrase-multilingual-MiniLM-L12-v2": sized(12, 384, 12, vocab_size=250037),
}

DUMMY = BertConfig(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
                   intermediate_size=40, max_position_embeddings=40)

# The paper's A.3 leaves rates of 2e-5 to 5e-5 and batches of 16 and 32 to choose from; WWM: README of the models.
FINETUNE = {
    "": {"rate": 3e-5, "batch_size": 32, "epochs": 3},
    **grid("rate batch_size epochs", {
        "mrpc": (2e-5, 32, 3), "squad": (5e-5, 32, 3), "squad2": (5e-5, 48, 2), "swag": (2e-5, 16, 3),
        "bert-large-uncased-whole-word-masking/squad": (3e-5, 24, 2)}),
}

BERT = Variant(
    name="bert", config=BertConfig, encoder=Bert, names=names, prefix="bert", heads=HEADS, classes=CLASSES,
    sizes=SIZES, dummy=DUMMY, ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
    tf_names=tf_names, finetune=FINETUNE, summary="masked LM + next sentence",
)
