"""DeBERTa-v3: DeBERTa-v2 as an ELECTRA, with gradient-disentangled embedding sharing (arXiv:2111.09543).

Original code: microsoft/DeBERTa `apps/models/replaced_token_detection_model.py`. The network is v2's without its
convolution, and HF calls both "deberta-v2": a file with a convolution is v2, any other v3. HF has no class for the
head that detects replaced tokens (`mask_predictions.*` in the released files).
"""

from dataclasses import dataclass, replace

import flax.linen as nn
import jax.numpy as jnp

from bertvariants_jax.layers.dense import FLOAT32, Compute, Dense, LayerNorm, activation
from bertvariants_jax.layers.embeddings import positions
from bertvariants_jax.models import deberta, deberta_v2
from bertvariants_jax.models.deberta_v2 import DebertaV2, DebertaV2Config
from bertvariants_jax.models.variant import Head, Variant, grid
from bertvariants_jax.names import FLAT, Row, flip, linear, norm, under


@dataclass(frozen=True)
class DebertaV3Config(DebertaV2Config):
    """DeBERTa-v2's fields; the defaults are deberta-v3-base."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_kernel_size: int = 0


class ReplacedTokens(nn.Module):
    """dense(act(dense(LN(h_i + h_[CLS])))) -> float32 [B, L], positive where a token looks replaced.

    [CLS] is the first token of the sequence that token i is in, where several are packed.
    """

    cfg: DebertaV3Config
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, encoded, deterministic=True):
        cfg, x = self.cfg, encoded.last_hidden_state                                         # B L D
        first = x[:, :1]
        if encoded.attention_mask is not None:
            place = jnp.arange(x.shape[1])[None] - positions(encoded.attention_mask)         # B L
            first = jnp.take_along_axis(x, place[..., None], axis=1)
        dense = lambda width, name: Dense(width, stddev=cfg.initializer_range, compute=self.compute, name=name)
        x = LayerNorm(cfg.layer_norm_eps, compute=self.compute, name="norm")(x + first)
        x = activation(cfg.hidden_act)(dense(cfg.hidden_size, "dense")(x))
        return dense(1, "out")(x)[..., 0].astype(jnp.float32)


def replaced_names(cfg: DebertaV3Config) -> list[Row]:
    """The original's code spells the last layer "classifer"."""
    return under("mask_predictions", "", [
        *linear("dense", "dense"), *norm("LayerNorm", "norm"),
        Row("classifier.weight", "out/kernel", flip(), aliases=("classifer.weight",)),
        Row("classifier.bias", "out/bias", FLAT, aliases=("classifer.bias",))])


HEADS = {**deberta_v2.HEADS, "rtd": Head(ReplacedTokens, replaced_names)}


def sized(layers: int, width: int, **fields) -> DebertaV3Config:
    """Heads of 64, a feed-forward of four times the width."""
    return DebertaV3Config(num_hidden_layers=layers, hidden_size=width, num_attention_heads=width // 64,
                           intermediate_size=4 * width, **fields)


def generator_of(cfg: DebertaV3Config, width: float = 1.0, depth: float = 0.5) -> DebertaV3Config:
    """The generator beside a discriminator, a masked LM with the mask decoder; the released ones are as wide and half
    as deep."""
    size, heads = round(cfg.hidden_size * width), max(1, round(cfg.num_attention_heads * width))
    return replace(cfg, hidden_size=size, num_attention_heads=heads, intermediate_size=round(cfg.intermediate_size * width),
                   num_hidden_layers=max(1, round(cfg.num_hidden_layers * depth)),
                   enhanced_mask_decoder=not cfg.position_biased_input and cfg.embedding_size in (None, size))


DISCRIMINATORS = {"deberta-v3-base": sized(12, 768), "deberta-v3-small": sized(6, 768),
                  "deberta-v3-xsmall": sized(12, 384), "deberta-v3-large": sized(24, 1024),
                  "mdeberta-v3-base": sized(12, 768, vocab_size=251000)}

# Generators are as wide and half as deep (experiments/language_model/rtd_*.json).
SIZES = {**DISCRIMINATORS, **{f"{name}-generator": replace(cfg, num_hidden_layers=cfg.num_hidden_layers // 2)
                              for name, cfg in DISCRIMINATORS.items()}}

DUMMY = DebertaV3Config(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
                        max_position_embeddings=40, position_buckets=6, enhanced_mask_decoder=True)

# microsoft/DeBERTa experiments/glue, superglue and ner, *.sh, which have MNLI alone for the smaller sizes.
FINETUNE = {
    "": {"rate": 2e-5, "batch_size": 32, "epochs": 6}, **deberta.LENGTHS,
    **grid(deberta.COLUMNS, {
        "deberta-v3-xsmall/mnli": (4.5e-5, 64, 3, 1000, 0.1), "deberta-v3-small/mnli": (4.5e-5, 64, 3, 1500, 0.2),
        "deberta-v3-base/mnli": (1.5e-5, 64, 3, 1000, 0.1)}),
    "deberta-v3-large": {"rate": 7e-6},
    **grid(deberta.COLUMNS, {
        "deberta-v3-large/mnli": (7e-6, 64, 2, 500, 0.3), "deberta-v3-large/cola": (5.5e-6, 32, 10, 50, 0.1),
        "deberta-v3-large/sst2": (6e-6, 32, 8, 500, 0.1), "deberta-v3-large/qnli": (7e-6, 64, 6, 200, 0.2),
        "deberta-v3-large/qqp": (1e-5, 64, 6, 1000, 0.2), "deberta-v3-large/rte": (1e-5, 32, 6, 50, 0.3),
        "deberta-v3-large/mrpc": (6e-6, 32, 6, 50, 0.2), "deberta-v3-large/stsb": (7e-6, 32, 4, 50, 0.1),
        "deberta-v3-large/record": (7e-6, 64, 3, 500, 0.1), "deberta-v3-large/ner": (9e-6, 16, 10, 10, 0.0)}),
}

DEBERTA_V3 = Variant(
    name="deberta-v3", config=DebertaV3Config, encoder=DebertaV2, names=deberta_v2.names, prefix="deberta", heads=HEADS,
    classes=deberta_v2.CLASSES, sizes=SIZES, dummy=DUMMY, ignored=deberta.IGNORED, traced=deberta.traced,
    longest=deberta.longest, fitted=deberta.fitted, tokenizer="deberta-v2", generator=generator_of,
    finetune=FINETUNE, summary="replaced token detection on DeBERTa-v2's network",
)
