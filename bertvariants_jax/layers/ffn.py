"""The position-wise feed-forward network: down(act(up(x)))."""

import flax.linen as nn

from bertvariants_jax.layers.dense import FLOAT32, Compute, Dense, activation, dropout


class FeedForward(nn.Module):
    """x [B, L, D] -> [B, L, D] through `cfg.intermediate_size` units of `cfg.hidden_act`.

    inner_dropout: rate of the dropout behind the activation.
    """

    cfg: object
    compute: Compute = FLOAT32
    inner_dropout: float = 0.0

    @nn.compact
    def __call__(self, x, deterministic=True):
        cfg = self.cfg
        x = Dense(cfg.intermediate_size, stddev=cfg.initializer_range, compute=self.compute, name="up")(x)   # B L F
        x = dropout(self.inner_dropout, deterministic)(activation(cfg.hidden_act)(x))
        return Dense(cfg.hidden_size, stddev=cfg.initializer_range, compute=self.compute, name="down")(x)    # B L D
