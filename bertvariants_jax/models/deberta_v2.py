"""DeBERTa-v2: DeBERTa with shared projections, log-spaced positions and a convolution (microsoft/DeBERTa, 2021).

Original code: microsoft/DeBERTa `deberta/`, whose v2 has no paper of its own beside arXiv:2006.03654; numbers
follow HF's `modeling_deberta_v2.py`. Distances beyond half the buckets share rows, ever more of them; content and
positions share their projections (`share_att_key`); the released sizes add a convolution to their first layer.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.layers.attention import visible
from bertvariants_jax.layers.dense import FLOAT32, Compute, Dense, LayerNorm, activation, dropout, einsum, initializer
from bertvariants_jax.layers.embeddings import Embed
from bertvariants_jax.layers.stack import recomputed, stack
from bertvariants_jax.models import deberta
from bertvariants_jax.models.deberta import DebertaConfig, WordEmbeddings, pick, reachable
from bertvariants_jax.models.variant import Variant, grid
from bertvariants_jax.names import Row, Transform, linear, norm, table, under


@dataclass(frozen=True)
class DebertaV2Config(DebertaConfig):
    """DeBERTa's fields and v2's; the defaults are deberta-v2-xlarge.

    position_buckets: rows to either side of the relative table, one a distance where it is not positive.
    share_att_key: whether positions go through the projections of content. norm_rel_ebd: "layer_norm", or "none".
    conv_kernel_size: 0 is no convolution.
    """

    vocab_size: int = 128100
    hidden_size: int = 1536
    num_hidden_layers: int = 24
    num_attention_heads: int = 24
    intermediate_size: int = 6144
    position_buckets: int = 256
    share_att_key: bool = True
    norm_rel_ebd: str = "layer_norm"
    conv_kernel_size: int = 3
    conv_groups: int = 1
    conv_act: str = "gelu"

    model_type: ClassVar[str] = "deberta-v2"
    absent: ClassVar[dict[str, Any]] = {
        **DebertaConfig.absent, "position_buckets": -1, "share_att_key": False, "norm_rel_ebd": "none",
        "conv_kernel_size": 0, "conv_act": "tanh"}

    def __post_init__(self):
        super().__post_init__()
        if self.conv_kernel_size > 0 and self.conv_kernel_size % 2 == 0:
            raise ValueError(f"conv_kernel_size {self.conv_kernel_size} is even: its output is not as long as its input")
        if self.hidden_size % self.conv_groups:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of conv_groups {self.conv_groups}")
        if self.position_buckets == 1:
            raise ValueError("position_buckets is 1; it is at least 2, or not positive for no buckets")

    @property
    def buckets(self) -> int:
        """Rows of the relative table to either side."""
        return self.position_buckets if self.position_buckets > 0 else self.span

    @property
    def scored_terms(self) -> int:
        return 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)

    @property
    def normed(self) -> bool:
        return "layer_norm" in (part.strip() for part in self.norm_rel_ebd.lower().split("|"))

    def rows_of(self, distance):
        if self.position_buckets > 0:
            distance = log_bucket(distance, self.position_buckets, self.span)
        return np.clip(distance + self.buckets, 0, 2 * self.buckets - 1)


def log_bucket(distance: np.ndarray, buckets: int, longest: int) -> np.ndarray:
    """Distances below half the buckets as they are, those up to `longest` - 1 on a logarithm's scale up to buckets - 1.

    int array -> int64 array; float64 inside, as lower precision misses the edges.
    """
    distance, middle = np.asarray(distance, np.int64), buckets // 2
    far = np.maximum(np.abs(distance), middle).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):     # tables so short that no distance is far
        scaled = np.ceil(np.log(far / middle) / np.log((longest - 1) / middle) * (middle - 1)) + middle
    return np.where(np.abs(distance) <= middle, distance, np.sign(distance) * np.nan_to_num(scaled)).astype(np.int64)


class SharedAttention(nn.Module):
    """As `deberta.DisentangledAttention`, with separate projections that positions may share."""

    cfg: DebertaV2Config
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, mask, relative=None, states=None, places=None, deterministic=True):
        cfg, states = self.cfg, x if states is None else states
        heads = (cfg.num_attention_heads, cfg.hidden_size // cfg.num_attention_heads)        # N H
        project = lambda name: Dense(heads, stddev=cfg.initializer_range, compute=self.compute, name=name)
        query, key = project("query"), project("key")
        q, k, v = query(x), key(states), project("value")(states)                            # B L N H
        keys = queries = None
        if relative is not None:
            relative = dropout(cfg.hidden_dropout_prob, deterministic)(relative)
            _, of_distance = reachable(cfg, k.shape[1])
            if "c2p" in cfg.pos_att_type:
                keys = pick((key if cfg.share_att_key else project("pos_key"))(relative), of_distance)       # 2L N H
            if "p2c" in cfg.pos_att_type:
                queries = pick((query if cfg.share_att_key else project("pos_query"))(relative), of_distance)
        return deberta.disentangled(self, q, k, v, mask, keys, queries, places, deterministic)


class Convolution(nn.Module):
    """act(drop(convolution of x over its neighbours)), zero at padding, [B, L, D], and the LayerNorm of its sum.

    A neighbour of another packed sequence counts as none. kernel: [K, D / groups, D]; norm: scale and bias [D].
    """

    cfg: DebertaV2Config
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, attention_mask, deterministic=True):
        cfg, (batch, length, width) = self.cfg, x.shape
        size, groups, dtype = cfg.conv_kernel_size, cfg.conv_groups, jnp.dtype(self.compute.param_dtype)
        kernel = self.param("kernel", initializer(cfg.initializer_range), (size, width // groups, width), dtype)
        bias = self.param("bias", nn.initializers.zeros, (width,), dtype)
        affine = self.param("norm", lambda rng: {"scale": jnp.ones((width,), dtype), "bias": jnp.zeros((width,), dtype)})

        def neighbour(y, step):
            """y of the place `step` further, zero beyond the ends."""
            pad = [(0, 0), (max(-step, 0), max(step, 0)), *[(0, 0)] * (y.ndim - 2)]
            return jnp.pad(y, pad)[:, max(step, 0) : max(step, 0) + length]

        steps = [tap - size // 2 for tap in range(size)]
        taps = jnp.stack([jnp.where((neighbour(attention_mask, s) == attention_mask)[..., None], neighbour(x, s), 0)
                          for s in steps], axis=2).reshape(batch, length, size, groups, -1)  # B L K G D/G
        kernel = kernel.reshape(size, width // groups, groups, -1).astype(x.dtype)
        y = einsum("blkgi,kigo->blgo", taps, kernel).reshape(batch, length, width) + bias.astype(jnp.float32)
        y = jnp.where(attention_mask[..., None] > 0, y, 0).astype(x.dtype)
        return activation(cfg.conv_act)(dropout(cfg.hidden_dropout_prob, deterministic)(y)), affine


class Layer(nn.Module):
    """DeBERTa's layer; `convolved`, in the turn that is `first`, is added to its output: (what `Convolution`
    gives, attention_mask)."""

    cfg: DebertaV2Config
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x, mask, relative, convolved=None, first=None, deterministic=True):
        layer = deberta.Layer(self.cfg, self.compute, SharedAttention, name="plain")
        nn.share_scope(self, layer)
        x = layer(x, mask, relative, deterministic=deterministic)
        if convolved is None:
            return x
        norm = LayerNorm(self.cfg.layer_norm_eps, compute=self.compute, parent=None)

        def add(x, convolved):
            (y, affine), attention_mask = convolved
            return jnp.where(attention_mask[..., None] > 0, norm.apply({"params": affine}, x + y), 0)

        x, *previous = x if isinstance(x, tuple) else (x,)
        x = jax.checkpoint(lambda first, *both: jax.lax.cond(first, add, lambda x, _: x, *both))(first, x, convolved)
        return (x, *previous) if previous else x


class DebertaV2(nn.Module):
    """input_ids int32 [B, L] -> last_hidden_state [B, L, D]; inputs, and what it sows, as `deberta.Deberta`."""

    cfg: DebertaV2Config
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, input_ids, attention_mask=None, token_type_ids=None, position_ids=None, deterministic=True):
        cfg = self.cfg
        attention_mask, position_ids = deberta.prepare(cfg, attention_mask, position_ids, input_ids)
        x = WordEmbeddings(cfg, self.compute, name="embeddings")(
            input_ids, attention_mask, token_type_ids, position_ids, deterministic)          # B L D
        self.sow("intermediates", "embedded", x)
        relative, convolved, per_layer = None, None, ()
        if cfg.relative_attention:
            rows, _ = reachable(cfg, input_ids.shape[1])
            table = Embed(2 * cfg.buckets, cfg.hidden_size, cfg.initializer_range, self.compute, name="rel_embeddings")
            relative = pick(table.embedding, rows).astype(self.compute.dtype)                # U D
        if cfg.normed:                              # HF has it without relative attention too, where nothing reads it
            norm = LayerNorm(cfg.layer_norm_eps, compute=self.compute, name="rel_norm")
            normed = norm(jnp.zeros((1, cfg.hidden_size)) if relative is None else relative)
            relative = None if relative is None else normed
        if cfg.conv_kernel_size > 0:
            convolution = recomputed(Convolution, self.compute, static=(3,))     # deterministic
            convolved = convolution(cfg, self.compute, name="conv")(x, attention_mask, deterministic), attention_mask
            per_layer = (jnp.arange(cfg.num_hidden_layers) == 0,)
        x = stack(lambda name: Layer(cfg, self.compute, name=name), cfg.num_hidden_layers,
                  (x, x) if cfg.enhanced_mask_decoder else x, visible(attention_mask), relative, convolved,
                  per_layer=per_layer, deterministic=deterministic, compute=self.compute)
        if not cfg.enhanced_mask_decoder:
            return x
        x, previous = x
        deberta.carry_to_decoder(self, previous, position_ids, relative)
        return x


def names(cfg: DebertaV2Config) -> list[Row]:
    layer = [row for name in ("query", "key", "value") for row in linear(f"{name}_proj", name)]
    for term, name in (("c2p", "key"), ("p2c", "query")):
        if cfg.relative_attention and not cfg.share_att_key and term in cfg.pos_att_type:
            layer += linear(f"pos_{name}_proj", f"pos_{name}")
    layer = [*under("attention.self", "attention", layer), *deberta.block_rows()]
    kernel = Transform(lambda w, shape: w.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))    # torch: [D, D/G, K]
    convolution = [Row("conv.weight", "kernel", kernel), Row("conv.bias", "bias"), *norm("LayerNorm", "norm")]
    return [*under("embeddings", "embeddings", deberta.embedding_rows(cfg)),
            *under("encoder.layer.{}", "layers", layer, range(cfg.num_hidden_layers)),
            *(table("encoder.rel_embeddings", "rel_embeddings") if cfg.relative_attention else []),
            *(norm("encoder.LayerNorm", "rel_norm") if cfg.normed else []),
            *(under("encoder.conv", "conv", convolution) if cfg.conv_kernel_size > 0 else [])]


HEADS = deberta.heads(SharedAttention)

CLASSES = deberta.classes("DebertaV2")

XLARGE = DebertaV2Config()

SIZES = {"deberta-v2-xlarge": XLARGE, "deberta-v2-xxlarge": replace(XLARGE, num_hidden_layers=48)}

DUMMY = DebertaV2Config(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
                        max_position_embeddings=40, position_buckets=6, enhanced_mask_decoder=True)

# microsoft/DeBERTa experiments/glue, superglue and ner, *.sh; other sizes than the two take xlarge's numbers.
FINETUNE = {
    "": {"rate": 4e-6, "batch_size": 32, "epochs": 6},
    **grid(f"{deberta.COLUMNS} max_length", {
        "mnli": (4e-6, 64, 3, 1000, 0.25, 256), "cola": (3e-6, 32, 8, 100, 0.2, 64),
        "sst2": (4e-6, 32, 4, 500, 0.2, 128), "qnli": (4e-6, 64, 4, 500, 0.2, 512),
        "qqp": (4e-6, 64, 10, 1000, 0.2, 320), "rte": (4e-6, 48, 6, 50, 0.2, 320),
        "mrpc": (3.5e-6, 32, 6, 50, 0.2, 128), "stsb": (4e-6, 32, 4, 100, 0.2, 128),
        "copa": (2e-6, 24, 4, 30, 0.1, 136), "record": (5e-6, 64, 3, 1000, 0.15, 512),
        "ner": (4e-6, 16, 15, 0.1, 0.0, 512)}),
    "deberta-v2-xxlarge": {"rate": 3e-6},
    **grid(deberta.COLUMNS, {
        "deberta-v2-xxlarge/mnli": (3e-6, 64, 3, 1000, 0.3), "deberta-v2-xxlarge/cola": (2.5e-6, 32, 10, 100, 0.2),
        "deberta-v2-xxlarge/sst2": (3e-6, 32, 4, 500, 0.2), "deberta-v2-xxlarge/qnli": (3e-6, 64, 4, 500, 0.2),
        "deberta-v2-xxlarge/qqp": (3e-6, 64, 10, 1000, 0.2), "deberta-v2-xxlarge/rte": (3e-6, 48, 6, 50, 0.2),
        "deberta-v2-xxlarge/mrpc": (2e-6, 32, 6, 50, 0.2), "deberta-v2-xxlarge/stsb": (3e-6, 32, 4, 100, 0.2),
        "deberta-v2-xxlarge/copa": (1e-6, 24, 8, 30, 0.1), "deberta-v2-xxlarge/record": (3e-6, 64, 3, 1000, 0.15),
        "deberta-v2-xxlarge/ner": (2.5e-6, 16, 15, 0.1, 0.0)}),
}

DEBERTA_V2 = Variant(
    name="deberta-v2", config=DebertaV2Config, encoder=DebertaV2, names=names, prefix="deberta", heads=HEADS,
    classes=CLASSES, sizes=SIZES, dummy=DUMMY, ignored=deberta.IGNORED, traced=deberta.traced, longest=deberta.longest,
    marks=(r"(^|\.)encoder\.conv\.",), fitted=deberta.fitted,
    tokenizer="deberta-v2", finetune=FINETUNE, summary="DeBERTa with log-spaced positions and a convolution",
)
