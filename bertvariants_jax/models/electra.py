"""ELECTRA: a small masked LM generates replacements, a BERT tells which tokens were replaced (arXiv:2003.10555).

Both are one network at different sizes: the generator with the head "mlm", the discriminator with "rtd".
Original code: google-research/electra `model/modeling.py`; numbers follow HF's `modeling_electra.py`.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from bertvariants_jax.layers.attention import visible
from bertvariants_jax.layers.beam import BeamSpan
from bertvariants_jax.layers.block import Block
from bertvariants_jax.layers.dense import ACTIVATIONS, FLOAT32, Compute, Dense, activation, dropout
from bertvariants_jax.layers.embeddings import Embeddings, positions
from bertvariants_jax.layers.heads import MaskedLM, SentenceClassifier
from bertvariants_jax.layers.stack import stack
from bertvariants_jax.models.bert import classifier, embedding_rows, layer_rows
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Head, Variant, beam, grid
from bertvariants_jax.names import FLAT, Row, linear, norm, under


@dataclass(frozen=True)
class ElectraConfig(Config):
    """HF's fields; the defaults are electra-small-discriminator.

    summary_*: how the multiple-choice head makes one vector of the first token's.
    """

    vocab_size: int = 30522
    embedding_size: int = 128
    hidden_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_activation: str | None = "gelu"
    summary_last_dropout: float = 0.1
    classifier_dropout: float | None = None

    model_type: ClassVar[str] = "electra"

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                             f"{self.num_attention_heads}")

    @classmethod
    def unsupported(cls, data: dict[str, Any]) -> list[str]:
        faults = super().unsupported(data)
        if data.get("summary_type", "first") != "first":
            faults.append(f"summary_type {data['summary_type']!r} is not supported (only 'first': HF's others "
                          "read padding)")
        if data.get("summary_proj_to_labels"):
            faults.append("summary_proj_to_labels is true: a summary of another width than hidden_size is not supported")
        if (name := data.get("summary_activation")) and name not in ACTIVATIONS:
            faults.append(f"summary_activation {name!r} is not supported (known: {', '.join(ACTIVATIONS)})")
        return faults


class Electra(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D]; arguments and intermediates as BERT's.

    The embedding (and its LayerNorm) has width E and is projected where E is not D.
    """

    cfg: ElectraConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, deterministic=True):
        cfg = self.cfg
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        if position_ids is None:
            position_ids = positions(attention_mask)
        x = Embeddings(cfg, cfg.embedding_size, self.compute, name="embeddings")(
            input_ids, token_type_ids, position_ids, deterministic)                          # B L E
        if cfg.embedding_size != cfg.hidden_size:
            x = Dense(cfg.hidden_size, stddev=cfg.initializer_range, compute=self.compute, name="project")(x)   # B L D
        self.sow("intermediates", "embedded", x)
        return stack(lambda name: Block(cfg, self.compute, name=name), cfg.num_hidden_layers, x,
                     visible(attention_mask), deterministic=deterministic, compute=self.compute)


class ReplacedTokens(nn.Module):
    """dense(act(dense(h))) -> float32 [B, L], above 0 where the token looks replaced."""

    cfg: ElectraConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        cfg, dense = self.cfg, lambda width, name: Dense(
            width, stddev=self.cfg.initializer_range, compute=self.compute, name=name)
        x = activation(cfg.hidden_act)(dense(cfg.hidden_size, "dense")(encoded.last_hidden_state))   # B L D
        return dense(1, "out")(x)[..., 0].astype(jnp.float32)                                # B L


class ChoiceScorer(nn.Module):
    """One score for a row: dense(drop(act(dense(h[0])))) -> float32 [B, 1], the inner parts as summary_* say."""

    cfg: ElectraConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        cfg, dense = self.cfg, lambda width, name: Dense(
            width, stddev=self.cfg.initializer_range, compute=self.compute, name=name)
        x = encoded.last_hidden_state[:, 0]                                                  # B D
        if cfg.summary_use_proj:
            x = dense(cfg.hidden_size, "summary")(x)
        if cfg.summary_activation:
            x = activation(cfg.summary_activation)(x)
        return dense(1, "out")(dropout(cfg.summary_last_dropout, deterministic)(x)).astype(jnp.float32)


def sentence_classifier(cfg: ElectraConfig, compute: Compute) -> SentenceClassifier:
    """As HF has it; the original has no hidden layer."""
    rate = cfg.hidden_dropout_prob if cfg.classifier_dropout is None else cfg.classifier_dropout
    return SentenceClassifier(cfg, cfg.num_labels, "gelu", rate, rate, compute)


def names(cfg: ElectraConfig) -> list[Row]:
    project = linear("embeddings_project", "project") if cfg.embedding_size != cfg.hidden_size else []
    return [*under("embeddings", "embeddings", embedding_rows()), *project,
            *under("encoder.layer.{}", "layers", layer_rows(), range(cfg.num_hidden_layers))]


HEADS = {
    "rtd": Head(ReplacedTokens, lambda cfg: under("discriminator_predictions", "", [
        *linear("dense", "dense"), *linear("dense_prediction", "out")])),
    "mlm": Head(lambda cfg, compute: MaskedLM(cfg, cfg.embedding_size, cfg.layer_norm_eps, "gelu", compute),
                lambda cfg: [Row("generator_lm_head.bias", "bias", FLAT),
                             *linear("generator_predictions.dense", "dense"),
                             *norm("generator_predictions.LayerNorm", "norm")],
                tied=("generator_lm_head.weight",)),
    "classify": Head(sentence_classifier, lambda cfg: under("classifier", "", [
        *linear("dense", "dense"), *linear("out_proj", "out")])),
    "choice": Head(ChoiceScorer, lambda cfg: [
        *(linear("sequence_summary.summary", "summary") if cfg.summary_use_proj else []),
        *linear("classifier", "out")]),
    "span": classifier("qa_outputs", lambda cfg: 2, pooled=False, dropout=False),
    "tag": classifier("classifier", lambda cfg: cfg.num_labels, pooled=False),
    "beam": beam(lambda cfg, compute: BeamSpan(                     # the original's for SQuAD; HF has it not
        cfg, 512, "gelu", use_bias=True, starts=20, ends=20, compute=compute), normed=False, bias=True),
}

CLASSES = {
    "ElectraModel": (),
    "ElectraForPreTraining": ("rtd",),
    "ElectraForMaskedLM": ("mlm",),
    "ElectraForSequenceClassification": ("classify",),
    "ElectraForQuestionAnswering": ("span",),
    "ElectraForTokenClassification": ("tag",),
    "ElectraForMultipleChoice": ("choice",),
}


def sized(layers: int, width: int, embedding: int) -> ElectraConfig:
    """A discriminator of the released shapes: heads of 64, a feed-forward of four times the width."""
    return ElectraConfig(num_hidden_layers=layers, hidden_size=width, embedding_size=embedding,
                         num_attention_heads=width // 64, intermediate_size=4 * width)


def generator_of(cfg: ElectraConfig, width: float, depth: float = 1.0) -> ElectraConfig:
    """The generator beside a discriminator: its embedding, so many times its width and depth, heads of 64."""
    size = round(cfg.hidden_size * width)
    return replace(cfg, hidden_size=size, num_attention_heads=max(1, size // 64), intermediate_size=4 * size,
                   num_hidden_layers=max(1, round(cfg.num_hidden_layers * depth)))


SMALL, BASE, LARGE = sized(12, 256, 128), sized(12, 768, 768), sized(24, 1024, 1024)

SIZES = {
    "electra-small-discriminator": SMALL,
    "electra-base-discriminator": BASE,
    "electra-large-discriminator": LARGE,
    "electra-small-generator": SMALL,                               # as released; the paper's is a quarter wide
    "electra-small-generator-paper": generator_of(SMALL, 1 / 4),
    "electra-base-generator": generator_of(BASE, 1 / 3),
    "electra-large-generator": generator_of(LARGE, 1 / 4),
}

DUMMY = ElectraConfig(vocab_size=61, embedding_size=16, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
                      intermediate_size=40, max_position_embeddings=40)

# google-research/electra configure_finetuning.py; the smallest rate is the paper's. The rate falls by layers.
FINETUNE = {
    "": {"rate": 1e-4, "batch_size": 32, "epochs": 3, "schedule": "electra", "layer_decay": 0.8},
    "rte": {"epochs": 10}, "stsb": {"epochs": 10}, "squad": {"epochs": 2}, "squad2": {"epochs": 2},
    **grid("rate layer_decay", {"electra-small-discriminator": (3e-4, 0.8), "electra-base-discriminator": (1e-4, 0.8),
                                 "electra-large-discriminator": (5e-5, 0.9)}),
}

ELECTRA = Variant(
    name="electra", config=ElectraConfig, encoder=Electra, names=names, prefix="electra", heads=HEADS,
    classes=CLASSES, sizes=SIZES, dummy=DUMMY,
    ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
    finetune=FINETUNE, summary="replaced-token detection beside a masked LM", generator=generator_of,
)
