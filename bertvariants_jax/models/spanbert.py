"""SpanBERT: a cased BERT on one segment, trained to tell a span from its boundary (arXiv:1907.10529).

Original code: facebookresearch/SpanBERT `pretraining/fairseq/models/pair_bert.py`. The network is BERT's (the
original clamps attention scores to +-1e4 in pre-training, far beyond what they reach). Published files say
"bert" and hold no span-boundary head: they load as "bert", and as "spanbert" where that head is in the file,
under names of our own (`sbo.*`), as HF has no such head.
"""

from dataclasses import dataclass, replace

import flax.linen as nn
import jax.numpy as jnp

from bertvariants_jax.layers.dense import FLOAT32, Compute, Dense, LayerNorm, activation, product
from bertvariants_jax.layers.embeddings import Embed
from bertvariants_jax.models import bert
from bertvariants_jax.models.bert import Bert, BertConfig
from bertvariants_jax.models.variant import Head, Variant
from bertvariants_jax.names import FLAT, Row, linear, norm, table, under


@dataclass(frozen=True)
class SpanBertConfig(BertConfig):
    """BERT's fields and those of the span-boundary head; the defaults are spanbert-base-cased.

    max_span_targets: offsets that the head knows; targets further into a span have no prediction.
    span_position_size: width of its table of offsets.
    """

    vocab_size: int = 28996
    max_span_targets: int = 15
    span_position_size: int = 200


class SpanBoundary(nn.Module):
    """Each target of a span from the states beside the span and its offset -> [B, P, V] float32.

    h0 = [x_left; x_right; p_offset], h1 = LN(gelu(dense(h0))), h2 = LN(gelu(dense(h1))), scores = h2 word table^T + bias.

    span_boundaries int32 [B, P, 2]: positions of the tokens before and after the target's span.
    span_offsets int32 [B, P]: how far into the span the target stands, 0 for its first token.
    Without them each of the L tokens is a span of its own, told from its neighbours (P is L); at the row's
    ends a token is its own neighbour.
    """

    cfg: SpanBertConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, span_boundaries=None, span_offsets=None, deterministic=True):
        cfg, hidden = self.cfg, encoded.last_hidden_state                                    # B L D
        if span_boundaries is None:
            place = jnp.broadcast_to(jnp.arange(hidden.shape[1]), hidden.shape[:2])
            span_boundaries = jnp.clip(jnp.stack([place - 1, place + 1], -1), 0, hidden.shape[1] - 1)
        if span_offsets is None:
            span_offsets = jnp.zeros(span_boundaries.shape[:2], jnp.int32)

        def layer(x, number):
            x = Dense(cfg.hidden_size, stddev=cfg.initializer_range, compute=self.compute, name=f"dense{number}")(x)
            return LayerNorm(cfg.layer_norm_eps, compute=self.compute, name=f"norm{number}")(activation("gelu")(x))

        left, right = (jnp.take_along_axis(hidden, span_boundaries[..., side, None], axis=1) for side in (0, 1))   # B P D
        offsets = Embed(cfg.max_span_targets, cfg.span_position_size, cfg.initializer_range, self.compute,
                        name="position_embeddings")(span_offsets)
        x = layer(layer(jnp.concatenate([left, right, offsets], -1), 1), 2)                  # B P D
        bias = self.param("bias", nn.initializers.zeros, (cfg.vocab_size,), jnp.dtype(self.compute.param_dtype))
        return product(x, encoded.word_embeddings.astype(x.dtype).T) + bias.astype(jnp.float32)


def span_rows(cfg: SpanBertConfig) -> list[Row]:
    return under("sbo", "", [Row("bias", "bias", FLAT), *table("position_embeddings", "position_embeddings"),
                             *linear("dense1", "dense1"), *norm("LayerNorm1", "norm1"),
                             *linear("dense2", "dense2"), *norm("LayerNorm2", "norm2")])


HEADS = {**{name: head for name, head in bert.HEADS.items() if name != "pair"},
         "sbo": Head(SpanBoundary, span_rows, inputs=("span_boundaries", "span_offsets"))}

CLASSES = {cls: heads for cls, heads in bert.CLASSES.items() if "pair" not in heads}

BASE = SpanBertConfig()

SIZES = {
    "spanbert-base-cased": BASE,
    "spanbert-large-cased": replace(BASE, num_hidden_layers=24, hidden_size=1024, num_attention_heads=16,
                                    intermediate_size=4096),
}

DUMMY = SpanBertConfig(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
                       intermediate_size=40, max_position_embeddings=40, max_span_targets=5, span_position_size=7)

# facebookresearch/SpanBERT README; its warmup_linear (code/pytorch_pretrained_bert/optimization.py) meets the peak.
FINETUNE = {"": {"rate": 2e-5, "batch_size": 32, "epochs": 10, "schedule": "shifted"},
            "squad": {"epochs": 4}, "squad2": {"epochs": 4}}

SPANBERT = Variant(
    name="spanbert", config=SpanBertConfig, encoder=Bert, names=bert.names, prefix="bert", heads=HEADS,
    classes=CLASSES, sizes=SIZES, dummy=DUMMY, ignored=bert.BERT.ignored, marks=(r"^sbo\.",),
    finetune=FINETUNE, summary="masked LM of spans + span boundary",
)
