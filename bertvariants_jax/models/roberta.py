"""RoBERTa and XLM-R: BERT without segments, positions counted from the padding id (arXiv:1907.11692, 1911.02116).

CamemBERT and DistilRoBERTa are the same network; XLM-R XL and XXL (arXiv:2105.00572) are its pre-norm form.
Original code: fairseq `models/roberta/model.py`; numbers follow HF's `modeling_roberta.py`, `modeling_xlm_roberta_xl.py`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertvariants_jax.layers.attention import SelfAttention, visible
from bertvariants_jax.layers.block import Block
from bertvariants_jax.layers.dense import FLOAT32, Compute, LayerNorm, dropout
from bertvariants_jax.layers.embeddings import Embeddings, starts
from bertvariants_jax.layers.ffn import FeedForward
from bertvariants_jax.layers.heads import MaskedLM, Pooler, SentenceClassifier
from bertvariants_jax.layers.stack import stack
from bertvariants_jax.models.bert import BertConfig, classifier, embedding_rows, layer_rows
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Head, Variant, grid, traced
from bertvariants_jax.names import FLAT, Row, linear, norm, table, under


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """HF's fields; the defaults are roberta-base.

    HF's class has other defaults for the three fields that `required` adds, so a file must say them.
    """

    vocab_size: int = 50265
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1
    model_type: str = "roberta"               # kept from the file: "roberta", "xlm-roberta", "camembert"

    required: ClassVar[tuple[str, ...]] = (*Config.required, "max_position_embeddings", "type_vocab_size",
                                           "layer_norm_eps")

    def __post_init__(self):
        super().__post_init__()
        if self.max_position_embeddings <= self.pad_token_id + 1:
            raise ValueError(f"max_position_embeddings {self.max_position_embeddings} leaves no position after "
                             f"pad_token_id {self.pad_token_id}: positions begin at pad_token_id + 1")

    @classmethod
    def unsupported(cls, data):
        faults = super().unsupported(data)
        if data.get("pad_token_id", 1) is None:
            faults.append("pad_token_id is null: positions are counted from it")
        return faults


def token_positions(input_ids: jax.Array, attention_mask: jax.Array, pad_token_id: int) -> jax.Array:
    """pad + 1, pad + 2, ... over the tokens that are not padding, int32 [B, L].

    Padding ids get position `pad_token_id` and are skipped wherever they stand; counts begin again in
    each packed sequence. As fairseq's `make_positions`: the ids decide, not the mask.
    """
    real = (input_ids != pad_token_id).astype(jnp.int32)                                     # B L
    count = jnp.cumsum(real, axis=1)
    before = jax.lax.cummax(jnp.where(starts(attention_mask), count - real, 0), axis=1)      # in earlier sequences
    return pad_token_id + (count - before) * real


class Roberta(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D]; arguments and intermediates as BERT's.

    position_ids: pad_token_id + 1, + 2, ... over the tokens that are not padding unless given.
    """

    cfg: RobertaConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, deterministic=True):
        cfg = self.cfg
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        if position_ids is None:
            position_ids = token_positions(input_ids, attention_mask, cfg.pad_token_id)
        x = Embeddings(cfg, cfg.hidden_size, self.compute, name="embeddings")(
            input_ids, token_type_ids, position_ids, deterministic)                          # B L D
        self.sow("intermediates", "embedded", x)
        return stack(lambda name: Block(cfg, self.compute, name=name), cfg.num_hidden_layers, x,
                     visible(attention_mask), deterministic=deterministic, compute=self.compute)


def names(cfg: RobertaConfig) -> list[Row]:
    return [*under("embeddings", "embeddings", embedding_rows()),
            *under("encoder.layer.{}", "layers", layer_rows(), range(cfg.num_hidden_layers))]


def sentence_classifier(cfg: RobertaConfig, compute: Compute) -> SentenceClassifier:
    rate = cfg.hidden_dropout_prob if cfg.classifier_dropout is None else cfg.classifier_dropout
    return SentenceClassifier(cfg, cfg.num_labels, "tanh", rate, rate, compute)


HEADS = {
    "pooler": Head(Pooler, lambda cfg: linear("pooler.dense", "dense")),
    "mlm": Head(lambda cfg, compute: MaskedLM(cfg, cfg.hidden_size, cfg.layer_norm_eps, "gelu", compute),
                lambda cfg: under("lm_head", "", [
                    Row("bias", "bias", FLAT, aliases=("decoder.bias",)),
                    *linear("dense", "dense"), *norm("layer_norm", "norm")]),
                tied=("lm_head.decoder.weight", "lm_head.weight")),
    "classify": Head(sentence_classifier, lambda cfg: under("classifier", "", [
        *linear("dense", "dense"), *linear("out_proj", "out")])),
    "span": classifier("qa_outputs", lambda cfg: 2, pooled=False, dropout=False),
    "tag": classifier("classifier", lambda cfg: cfg.num_labels, pooled=False),
    "choice": classifier("classifier", lambda cfg: 1, pooled=True),
}

CLASSES = {
    "RobertaModel": (),
    "RobertaForMaskedLM": ("mlm",),
    "RobertaForSequenceClassification": ("classify",),
    "RobertaForQuestionAnswering": ("span",),
    "RobertaForTokenClassification": ("tag",),
    "RobertaForMultipleChoice": ("choice",),
}

BASE = RobertaConfig()
LARGE = RobertaConfig(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096)

SIZES = {
    "roberta-base": BASE,
    "roberta-large": LARGE,
    "distilroberta-base": replace(BASE, num_hidden_layers=6),
    "xlm-roberta-base": replace(BASE, vocab_size=250002, model_type="xlm-roberta"),
    "xlm-roberta-large": replace(LARGE, vocab_size=250002, model_type="xlm-roberta"),
    "camembert-base": replace(BASE, vocab_size=32005, model_type="camembert"),
}

DUMMY = RobertaConfig(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
                      intermediate_size=40, max_position_embeddings=42)

IGNORED = (r"embeddings\.position_ids$", r"embeddings\.token_type_ids$")


def longest(cfg: RobertaConfig) -> int:
    """512 of the 514 rows: the first `pad_token_id` + 1 are never a token's."""
    return cfg.max_position_embeddings - cfg.pad_token_id - 1


# fairseq examples/roberta: config/finetuning and the READMEs of SQuAD and RACE. Warm-ups there are 6% of the steps, but
# 28,318 of 113,272 for QQP; nothing is dropped before or in the classifier (pooler_dropout).
FINETUNE = {
    "": {"rate": 1e-5, "batch_size": 32, "epochs": 10, "schedule": "shifted", "warmup": 0.06, "b2": 0.98,
         "weight_decay": 0.1, "decay": "all", "clip": 0.0, "classifier_dropout": 0.0},
    **grid("rate batch_size warmup max_length", {
        "cola": (1e-5, 16, 0.06, 512), "mnli": (1e-5, 32, 0.06, 512), "mrpc": (1e-5, 16, 0.06, 512),
        "qnli": (1e-5, 32, 0.06, 512), "qqp": (1e-5, 32, 0.25, 512), "rte": (2e-5, 16, 0.06, 512),
        "sst2": (1e-5, 32, 0.06, 512), "stsb": (2e-5, 16, 0.06, 512), "wnli": (1e-5, 32, 0.06, 512)}),
    **grid("rate batch_size epochs weight_decay", {"squad": (1.5e-5, 48, 2, 0.01), "squad2": (1.5e-5, 48, 2, 0.01)}),
    "race": {"rate": 1e-5, "batch_size": 16, "epochs": 4, "weight_decay": 0.01, "schedule": "constant", "warmup": 0.0},
}

ROBERTA = Variant(
    name="roberta", config=RobertaConfig, encoder=Roberta, names=names, prefix="roberta", heads=HEADS,
    classes=CLASSES, sizes=SIZES, dummy=DUMMY, ignored=IGNORED, longest=longest,
    aliases={"xlm-roberta": "XLMRoberta", "camembert": "Camembert"}, tokenizer="roberta",
    finetune=FINETUNE, summary="masked LM on full sentences",
)


@dataclass(frozen=True)
class XlmRobertaXlConfig(RobertaConfig):
    """HF's fields; the defaults are xlm-roberta-xl."""

    vocab_size: int = 250880
    hidden_size: int = 2560
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    intermediate_size: int = 10240
    model_type: str = "xlm-roberta-xl"


class PreNormBlock(nn.Module):
    """x + drop(attention(LN(x))), then x + drop(ffn(LN(x))); x [B, L, D].

    The second dropout is fairseq's; HF leaves it out.
    """

    cfg: XlmRobertaXlConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, mask, deterministic=True):
        cfg, drop = self.cfg, lambda y: dropout(self.cfg.hidden_dropout_prob, deterministic)(y)
        norm = lambda name: LayerNorm(cfg.layer_norm_eps, compute=self.compute, name=name)
        x = x + drop(SelfAttention(cfg, self.compute, name="attention")(
            norm("attention_norm")(x), mask, deterministic=deterministic))
        return x + drop(FeedForward(cfg, self.compute, name="ffn")(norm("ffn_norm")(x)))


class XlmRobertaXl(nn.Module):
    """RoBERTa of pre-norm layers, with one LayerNorm at the end and none at the embeddings; sows also `final` [B, L, D]."""

    cfg: XlmRobertaXlConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, deterministic=True):
        cfg = self.cfg
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        if position_ids is None:
            position_ids = token_positions(input_ids, attention_mask, cfg.pad_token_id)
        x = Embeddings(cfg, cfg.hidden_size, self.compute, normalise=False, name="embeddings")(
            input_ids, token_type_ids, position_ids, deterministic)                          # B L D
        self.sow("intermediates", "embedded", x)
        x = stack(lambda name: PreNormBlock(cfg, self.compute, name=name), cfg.num_hidden_layers, x,
                  visible(attention_mask), deterministic=deterministic, compute=self.compute)
        x = LayerNorm(cfg.layer_norm_eps, compute=self.compute, name="norm")(x)
        self.sow("intermediates", "final", x)
        return x


def xl_names(cfg: XlmRobertaXlConfig) -> list[Row]:
    layer = [*(row for name in ("query", "key", "value")
               for row in linear(f"attention.self.{name}", f"attention/{name}")),
             *linear("attention.output.dense", "attention/out", axes=2),
             *norm("attention.self_attn_layer_norm", "attention_norm"),
             *linear("intermediate.dense", "ffn/up"), *linear("output.dense", "ffn/down"),
             *norm("LayerNorm", "ffn_norm")]
    tables = (row for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
              for row in table(name, name))
    return [*under("embeddings", "embeddings", tables), *norm("encoder.LayerNorm", "norm"),
            *under("encoder.layer.{}", "layers", layer, range(cfg.num_hidden_layers))]


def xl_traced(sown):
    """The last hidden state is the one after the final LayerNorm, as in HF."""
    hidden_states, attentions = traced(sown)
    return (*hidden_states[:-1], sown["final"][0]), attentions


XLM_ROBERTA_XL = Variant(
    name="xlm-roberta-xl", config=XlmRobertaXlConfig, encoder=XlmRobertaXl, names=xl_names, prefix="roberta",
    heads=HEADS, classes={f"XLM{cls.replace('Roberta', 'RobertaXL')}": heads for cls, heads in CLASSES.items()},
    sizes={"xlm-roberta-xl": XlmRobertaXlConfig(),
           "xlm-roberta-xxl": XlmRobertaXlConfig(hidden_size=4096, num_hidden_layers=48, intermediate_size=16384)},
    dummy=XlmRobertaXlConfig(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
                             intermediate_size=40, max_position_embeddings=42),
    ignored=IGNORED, longest=longest, traced=xl_traced, tokenizer="roberta",
    finetune=FINETUNE, summary="masked LM on full sentences, pre-norm",
)
