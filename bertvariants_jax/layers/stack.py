"""A stack of equal layers as a scan over one layer with a leading parameter axis (or shared parameters)."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np

from bertvariants_jax.layers.dense import FLOAT32, Compute

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def stack(block: Callable[..., nn.Module], length: int, x, *context, per_layer=(),
          share: bool | Sequence[int] = False, sets: int = 0, deterministic=True,
          compute: Compute = FLOAT32, name="layers"):
    """Apply `length` turns of a block to x (any pytree).

    block: (name=...) -> module, called as module(x, *context, *per_layer_slice, deterministic=...) -> x.
    context: the same at each turn (mask, relative table). per_layer: pytrees sliced along axis 0.
    share: one set of parameters for all turns (ALBERT) instead of a leading axis of `length`; or, for each
      turn, which of `sets` sets it uses, and the leading axis is of `sets`.
    Sows the output of each turn as intermediates/hidden_states, stacked [length, ...].
    Call inside a compact method: the layer becomes the submodule `name`.
    """

    class Turn(nn.Module):
        @nn.compact
        def __call__(self, x, sliced, *context):
            layer = block(name="layer")
            nn.share_scope(self, layer)
            x = layer(x, *context, *sliced, deterministic=deterministic)
            self.sow("intermediates", "hidden_states", x)
            return x, None

    turn = Turn
    if compute.remat != "none":
        turn = nn.remat(turn, prevent_cse=False, policy=REMAT_POLICIES[compute.remat])
    parameters = {"variable_broadcast": "params", "variable_axes": {"intermediates": 0}} if share is True else {
        "variable_axes": {"params": 0, "intermediates": 0}}
    scanned = nn.scan(turn, **parameters, split_rngs={"params": share is not True, "dropout": True},
                      in_axes=(0, *(nn.broadcast for _ in context)), length=length,
                      unroll=compute.unroll or length)
    if not isinstance(share, bool):
        turns = np.asarray(share)
        drawn = np.array([turns.tolist().index(s) if s in turns else s % length for s in range(sets)])
        scanned = nn.map_variables(scanned, "params", mutable=True,
                                   trans_in_fn=lambda params: jax.tree.map(lambda leaf: leaf[turns], params),
                                   trans_out_fn=lambda params: jax.tree.map(lambda leaf: leaf[drawn], params))
    return scanned(name=name)(x, tuple(per_layer), *context)[0]
