"""ALBERT: a factorised embedding and one layer used at every depth, with sentence order (arXiv:1909.11942).

Original code: google-research/albert `modeling.py`; numbers follow HF's `modeling_albert.py`. HF drops out
nothing of the feed-forward output; the original does, and so does this.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from bertvariants_jax.layers.attention import visible
from bertvariants_jax.layers.beam import BeamSpan
from bertvariants_jax.layers.block import Block
from bertvariants_jax.layers.dense import FLOAT32, Compute, Dense
from bertvariants_jax.layers.embeddings import Embeddings, positions
from bertvariants_jax.layers.heads import MaskedLM, Pooler
from bertvariants_jax.layers.stack import stack
from bertvariants_jax.models.bert import classifier, embedding_rows
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Head, Variant, beam, grid
from bertvariants_jax.names import FLAT, Row, linear, norm, under


@dataclass(frozen=True)
class AlbertConfig(Config):
    """HF's fields; the defaults are albert-base-v2.

    num_hidden_groups: sets of parameters that the depth is divided among; inner_group_num: layers, each
    with its own parameters, that one of the num_hidden_layers turns runs through.
    """

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_hidden_groups: int = 1
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    inner_group_num: int = 1
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    classifier_dropout_prob: float | None = 0.1

    model_type: ClassVar[str] = "albert"

    def __post_init__(self):
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                             f"{self.num_attention_heads}")
        for name in ("num_hidden_layers", "num_hidden_groups", "inner_group_num"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")

    @property
    def classifier_dropout(self) -> float | None:
        return self.classifier_dropout_prob

    @property
    def sets(self) -> int:
        """How many sets of layer parameters there are."""
        return self.num_hidden_groups * self.inner_group_num

    @property
    def turns(self) -> tuple[int, ...]:
        """Which set each layer of the depth uses: the groups in order, each over its share of the depth.

        HF's float division: where it rounds below a whole number, the layer belongs to the group before.
        """
        inner = range(self.inner_group_num)
        return tuple(int(i / (self.num_hidden_layers / self.num_hidden_groups)) * self.inner_group_num + k
                     for i in range(self.num_hidden_layers) for k in inner)


class Albert(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D].

    Arguments and intermediates as BERT's; `embedded` is the embedding mapped to width D, and there is one
    hidden state for each of the num_hidden_layers * inner_group_num turns. The layer's parameters have a
    leading axis over the sets only where there are several.
    """

    cfg: AlbertConfig
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
        x = Dense(cfg.hidden_size, stddev=cfg.initializer_range, compute=self.compute, name="project")(x)   # B L D
        self.sow("intermediates", "embedded", x)
        return stack(lambda name: Block(cfg, self.compute, name=name), len(cfg.turns), x, visible(attention_mask),
                     share=cfg.turns if cfg.sets > 1 else True, sets=cfg.sets,
                     deterministic=deterministic, compute=self.compute)


def layer_rows() -> list[Row]:
    return [*(row for name in ("query", "key", "value") for row in linear(f"attention.{name}", f"attention/{name}")),
            *linear("attention.dense", "attention/out", axes=2), *norm("attention.LayerNorm", "attention_norm"),
            *linear("ffn", "ffn/up"), *linear("ffn_output", "ffn/down"), *norm("full_layer_layer_norm", "ffn_norm")]


def names(cfg: AlbertConfig) -> list[Row]:
    sets = [f"{group}.albert_layers.{inner}"
            for group in range(cfg.num_hidden_groups) for inner in range(cfg.inner_group_num)]
    layers = (under("encoder.albert_layer_groups.{}", "layers", layer_rows(), sets) if cfg.sets > 1 else
              under(f"encoder.albert_layer_groups.{sets[0]}", "layers", layer_rows()))
    return [*under("embeddings", "embeddings", embedding_rows()),
            *linear("encoder.embedding_hidden_mapping_in", "project"), *layers]


HEADS = {
    "pooler": Head(Pooler, lambda cfg: linear("pooler", "dense")),
    "mlm": Head(lambda cfg, compute: MaskedLM(cfg, cfg.embedding_size, cfg.layer_norm_eps, cfg.hidden_act, compute),
                lambda cfg: under("predictions", "", [
                    Row("bias", "bias", FLAT, aliases=("decoder.bias",)),
                    *linear("dense", "dense"), *norm("LayerNorm", "norm")]),
                tied=("predictions.decoder.weight",)),
    # HF sizes the sentence-order head by num_labels, so a file of another number than 2 holds that many
    "pair": classifier("sop_classifier.classifier", lambda cfg: cfg.num_labels, pooled=True),
    "classify": classifier("classifier", lambda cfg: cfg.num_labels, pooled=True),
    "span": classifier("qa_outputs", lambda cfg: 2, pooled=False, dropout=False),
    "tag": classifier("classifier", lambda cfg: cfg.num_labels, pooled=False),
    "choice": classifier("classifier", lambda cfg: 1, pooled=True),
    "beam": beam(lambda cfg, compute: BeamSpan(                     # the original's for SQuAD 2.0; HF has it not
        cfg, cfg.hidden_size, eps=cfg.layer_norm_eps, dropout_rate=cfg.hidden_dropout_prob, compute=compute)),
}

CLASSES = {
    "AlbertModel": (),
    "AlbertForPreTraining": ("mlm", "pair"),
    "AlbertForMaskedLM": ("mlm",),
    "AlbertForSequenceClassification": ("classify",),
    "AlbertForQuestionAnswering": ("span",),
    "AlbertForTokenClassification": ("tag",),
    "AlbertForMultipleChoice": ("choice",),
}


def sized(layers: int, width: int) -> AlbertConfig:
    """An ALBERT v2 of the released shapes: heads of 64, a feed-forward of four times the width, no dropout."""
    return AlbertConfig(num_hidden_layers=layers, hidden_size=width, num_attention_heads=width // 64,
                        intermediate_size=4 * width)


def first_version(cfg: AlbertConfig, dropout: float = 0.1) -> AlbertConfig:
    """v1 of a size: exact GELU in HF's files, and dropout."""
    return replace(cfg, hidden_act="gelu", hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)


# xlarge has heads of 128
BASE, LARGE, XXLARGE = sized(12, 768), sized(24, 1024), sized(12, 4096)
XLARGE = replace(sized(24, 2048), num_attention_heads=16)

SIZES = {
    "albert-base-v2": BASE,
    "albert-large-v2": LARGE,
    "albert-xlarge-v2": XLARGE,
    "albert-xxlarge-v2": XXLARGE,
    "albert-base-v1": first_version(BASE),
    "albert-large-v1": first_version(LARGE),
    "albert-xlarge-v1": first_version(XLARGE),
    "albert-xxlarge-v1": first_version(XXLARGE, dropout=0.0),
}

DUMMY = AlbertConfig(vocab_size=61, embedding_size=16, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
                     intermediate_size=40, max_position_embeddings=40, hidden_dropout_prob=0.1,
                     attention_probs_dropout_prob=0.1)

# google-research/albert run_glue.sh, whose dropout is the checkpoint's own; SQuAD and RACE: its README and the
# paper's A.4.
FINETUNE = {
    "": {"rate": 2e-5, "batch_size": 32, "epochs": 3},
    **grid("rate batch_size steps warmup max_length", {
        "sst2": (1e-5, 32, 20935, 1256, 512), "mnli": (3e-5, 128, 10000, 1000, 512),
        "cola": (1e-5, 16, 5336, 320, 512), "qnli": (1e-5, 32, 33112, 1986, 512),
        "qqp": (5e-5, 128, 14000, 1000, 512), "rte": (3e-5, 32, 800, 200, 512),
        "stsb": (2e-5, 16, 3598, 214, 512), "mrpc": (2e-5, 32, 800, 200, 512),
        "wnli": (2e-5, 16, 2000, 250, 512)}),
    **grid("rate batch_size steps warmup", {
        "squad": (5e-5, 48, 3649, 365), "squad2": (3e-5, 48, 8144, 814), "race": (1e-5, 32, 12000, 1000)}),
    **{f"{size}/race": {"rate": 2e-5} for size in SIZES if size.endswith("v1")},        # at which version 2 diverges
}

ALBERT = Variant(
    name="albert", config=AlbertConfig, encoder=Albert, names=names, prefix="albert", heads=HEADS, classes=CLASSES,
    sizes=SIZES, dummy=DUMMY, ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
    tokenizer="albert", finetune=FINETUNE, summary="masked LM over n-grams + sentence order",
)
