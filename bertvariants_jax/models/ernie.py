"""ERNIE 1.0 and 2.0: BERT with knowledge masking, and an embedding of the task type (arXiv:1904.09223, 1907.12412).

Original code: PaddlePaddle/ERNIE `model/ernie.py`, `model/ernie_v1.py`; numbers follow HF's `modeling_ernie.py`. HF has
no heads for 2.0's further tasks: files hold them under names of our own (`capital.*`, `relation.*`, ...).
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from bertvariants_jax.layers.attention import visible
from bertvariants_jax.layers.block import Block
from bertvariants_jax.layers.dense import FLOAT32, Compute, LayerNorm, dropout
from bertvariants_jax.layers.embeddings import Embed, positions
from bertvariants_jax.layers.stack import stack
from bertvariants_jax.models import bert
from bertvariants_jax.models.bert import CLASSES, BertConfig, classifier, embedding_rows, layer_rows
from bertvariants_jax.models.config import Config
from bertvariants_jax.models.variant import Variant, grid
from bertvariants_jax.names import Row, table, under


@dataclass(frozen=True)
class ErnieConfig(BertConfig):
    """HF's fields and one of ours; the defaults are ernie-1.0-base-zh.

    reorder_segments: how many segments the head "reorder" puts in order at most.
    The two fields that `required` adds differ between releases and from HF's class defaults, so a file must say them.
    """

    vocab_size: int = 18000
    hidden_act: str = "relu"
    max_position_embeddings: int = 513
    layer_norm_eps: float = 1e-5
    task_type_vocab_size: int = 3
    use_task_id: bool = False
    reorder_segments: int = 3

    model_type: ClassVar[str] = "ernie"
    required: ClassVar[tuple[str, ...]] = (*Config.required, "hidden_act", "layer_norm_eps")


class ErnieEmbeddings(nn.Module):
    """LayerNorm(word + position + type, + task where the config has it), then dropout -> [B, L, D]."""

    cfg: ErnieConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, token_type_ids, position_ids, task_type_ids, deterministic=True):
        cfg, table = self.cfg, lambda rows, name: Embed(
            rows, self.cfg.hidden_size, self.cfg.initializer_range, self.compute, name=name)
        zeros = jnp.zeros_like(input_ids)
        x = table(cfg.vocab_size, "word_embeddings")(input_ids)                              # B L D
        x = x + table(cfg.type_vocab_size, "token_type_embeddings")(zeros if token_type_ids is None else token_type_ids)
        x = x + table(cfg.max_position_embeddings, "position_embeddings")(position_ids)
        if cfg.use_task_id:
            x = x + table(cfg.task_type_vocab_size, "task_type_embeddings")(
                zeros if task_type_ids is None else task_type_ids)
        x = LayerNorm(cfg.layer_norm_eps, compute=self.compute, name="norm")(x)
        return dropout(cfg.hidden_dropout_prob, deterministic)(x)


class Ernie(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D]; arguments and intermediates as BERT's.

    task_type_ids int32 [B, L]: zeros unless given; without meaning where the config has no `use_task_id`.
    """

    cfg: ErnieConfig
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, task_type_ids=None,
                 deterministic=True):
        cfg = self.cfg
        if attention_mask is None:
            attention_mask = jnp.ones_like(input_ids)
        if position_ids is None:
            position_ids = positions(attention_mask)
        x = ErnieEmbeddings(cfg, self.compute, name="embeddings")(
            input_ids, token_type_ids, position_ids, task_type_ids, deterministic)           # B L D
        self.sow("intermediates", "embedded", x)
        return stack(lambda name: Block(cfg, self.compute, name=name), cfg.num_hidden_layers, x,
                     visible(attention_mask), deterministic=deterministic, compute=self.compute)


def names(cfg: ErnieConfig) -> list[Row]:
    task = table("task_type_embeddings", "task_type_embeddings") if cfg.use_task_id else []
    return [*under("embeddings", "embeddings", [*embedding_rows(), *task]),
            *under("encoder.layer.{}", "layers", layer_rows(), range(cfg.num_hidden_layers))]


def reorder_classes(cfg: ErnieConfig) -> int:
    """All orders of 1, 2, ... segments."""
    return sum(math.factorial(n) for n in range(1, cfg.reorder_segments + 1))


# 2.0's tasks: two about each token, two about the row
HEADS = {
    **bert.HEADS,
    "capital": classifier("capital", lambda cfg: 2, pooled=False, dropout=False),
    "relation": classifier("relation", lambda cfg: 2, pooled=False, dropout=False),
    "reorder": classifier("reorder", reorder_classes, pooled=True, dropout=False),
    "distance": classifier("distance", lambda cfg: 3, pooled=True, dropout=False),
}

ONE = ErnieConfig()
TWO = replace(ONE, vocab_size=30522, hidden_act="gelu", max_position_embeddings=512, type_vocab_size=4)

SIZES = {
    "ernie-1.0-base-zh": ONE,
    "ernie-2.0-base-en": TWO,
    "ernie-2.0-large-en": replace(TWO, num_hidden_layers=24, hidden_size=1024, num_attention_heads=16,
                                  intermediate_size=4096),
    # as pre-trained; the published files have no task types
    "ernie-2.0-base-en-tasks": replace(TWO, use_task_id=True, task_type_vocab_size=16),
}

DUMMY = ErnieConfig(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
                    max_position_embeddings=40, type_vocab_size=3, use_task_id=True, task_type_vocab_size=5)

# PaddlePaddle/ERNIE script/en_glue; the schedule (unshifted), clipping at 1.0 and Paddle's eps: optimization.py.
FINETUNE = {
    "": {"rate": 3e-5, "batch_size": 32, "epochs": 3, "schedule": "bert", "weight_decay": 0.0, "eps": 1e-8},
    "wnli": {"rate": 2e-5, "batch_size": 8, "epochs": 4, "max_length": 512},
    **grid("rate batch_size epochs", {
        "cola": (3e-5, 64, 3), "mnli": (3e-5, 64, 3), "mrpc": (3e-5, 16, 4), "qnli": (2e-5, 32, 4), "qqp": (3e-5, 32, 3),
        "rte": (2e-5, 4, 4), "sst2": (2e-5, 32, 4), "stsb": (5e-5, 16, 3),
        "ernie-2.0-large-en/cola": (3e-5, 32, 5), "ernie-2.0-large-en/mnli": (3e-5, 32, 3),
        "ernie-2.0-large-en/mrpc": (3e-5, 8, 4), "ernie-2.0-large-en/qqp": (5e-5, 32, 3),
        "ernie-2.0-large-en/rte": (3e-5, 16, 5), "ernie-2.0-large-en/sst2": (2e-5, 8, 4)}),
}

ERNIE = Variant(
    name="ernie", config=ErnieConfig, encoder=Ernie, names=names, prefix="ernie", heads=HEADS,
    classes={cls.replace("Bert", "Ernie"): heads for cls, heads in CLASSES.items()}, sizes=SIZES, dummy=DUMMY,
    inputs=("task_type_ids",), ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
    finetune=FINETUNE, summary="masked LM of words, phrases and entities (1.0), many tasks in turn (2.0)",
)
