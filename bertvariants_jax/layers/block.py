"""The post-norm Transformer layer: attention and feed-forward, each added to its input and normalised."""

import flax.linen as nn

from bertvariants_jax.layers.attention import SelfAttention
from bertvariants_jax.layers.dense import FLOAT32, Compute, LayerNorm, dropout
from bertvariants_jax.layers.ffn import FeedForward


class Block(nn.Module):
    """LN(x + drop(attention(x, *context))), then LN(x + drop(ffn(x))); x [B, L, D].

    `attention` is the slot that variants fill: a module class taking (cfg, compute), called with
    (x, *context, deterministic).
    """

    cfg: object
    compute: Compute = FLOAT32
    attention: type[nn.Module] = SelfAttention

    @nn.compact
    def __call__(self, x, *context, deterministic=True):
        cfg, norm = self.cfg, lambda name: LayerNorm(self.cfg.layer_norm_eps, compute=self.compute, name=name)
        drop = dropout(cfg.hidden_dropout_prob, deterministic)
        y = self.attention(cfg, self.compute, name="attention")(x, *context, deterministic=deterministic)
        x = norm("attention_norm")(x + drop(y))
        y = FeedForward(cfg, self.compute, name="ffn")(x)
        return norm("ffn_norm")(x + dropout(cfg.hidden_dropout_prob, deterministic)(y))
