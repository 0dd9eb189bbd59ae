"""A stack of equal layers as a scan over one layer with a leading parameter axis (or shared parameters)."""

import functools
from collections.abc import Callable, Hashable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.layers.dense import FLOAT32, Compute

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def recomputed(layer: type[nn.Module], compute: Compute, looped: bool = False, static: tuple[int, ...] = ()) -> type[nn.Module]:
    """The module class whose backward pass recomputes what `compute.remat` says.

    looped: whether a loop keeps the recomputation apart from the forward pass; else XLA must be kept from merging them.
    static: arguments of its call that are no arrays, counted with self as 0.
    """
    if compute.remat == "none":
        return layer
    return nn.remat(layer, prevent_cse=not looped, policy=REMAT_POLICIES[compute.remat], static_argnums=static)


def recomputing(function: Callable[..., jax.Array], compute: Compute, looped: bool = False) -> Callable[..., jax.Array]:
    """`recomputed` for a plain function of arrays."""
    if compute.remat == "none":
        return function
    return jax.checkpoint(function, prevent_cse=not looped, policy=REMAT_POLICIES[compute.remat])


def stack(block: Callable[..., nn.Module], length: int, x, *context, per_layer=(),
          share: bool | Sequence[int] = False, sets: int = 0, deterministic=True,
          compute: Compute = FLOAT32, name="layers"):
    """Apply `length` turns of a block to x (any pytree).

    block: (name=...) -> module, called as module(x, *context, *per_layer_slice, deterministic=...) -> x.
    context: the same at each turn (mask, relative table). per_layer: pytrees sliced along axis 0.
    share: one set of parameters for all turns (ALBERT) instead of a leading axis of `length`; or, for each
      turn, which of `sets` sets it uses, and the leading axis is of `sets`.
    Sows the output of each turn as intermediates/hidden_states, stacked [length, ...]; what the block sows
    itself into "intermediates" or "memory" is stacked so too.
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

    unroll = compute.unroll or length
    turn = recomputed(Turn, compute, looped=unroll < length)
    parameters = {"variable_broadcast": "params", "variable_axes": {"intermediates": 0, "memory": 0}} if share is True else {
        "variable_axes": {"params": 0, "intermediates": 0, "memory": 0}}
    scanned = nn.scan(turn, **parameters, split_rngs={"params": share is not True, "dropout": True},
                      in_axes=(0, *(nn.broadcast for _ in context)), length=length,
                      unroll=unroll)
    if not isinstance(share, bool):
        turns = np.asarray(share)
        drawn = np.array([turns.tolist().index(s) if s in turns else s % length for s in range(sets)])
        scanned = nn.map_variables(scanned, "params", mutable=True,
                                   trans_in_fn=lambda params: jax.tree.map(lambda leaf: leaf[turns], params),
                                   trans_out_fn=lambda params: jax.tree.map(lambda leaf: leaf[drawn], params))
    return scanned(name=name)(x, tuple(per_layer), *context)[0]


def mixed_stack(block: Callable[[Hashable], nn.Module], kinds: Sequence[Hashable], x, *context,
                deterministic=True, compute: Compute = FLOAT32, name="layers"):
    """`stack` for layers with equal parameters that do different work, such as local and global attention.

    block: kind -> unbound module (parent=None), called as module(x, *context, deterministic=...) -> x.
    kinds: what each layer is, bottom first. One turn of the scan is the shortest period of `kinds`, each
      layer of it compiled for its own kind; layers left over after the last whole period follow it.
    The parameters have one leading axis of len(kinds), whatever the period; sows as `stack` does.
    """
    return _Mixed(block, tuple(kinds), compute, name=name)(x, *context, deterministic=deterministic)


def shortest_period(kinds: Sequence[Hashable]) -> int:
    """The least p with kinds[i] == kinds[i - p] wherever both exist."""
    return next(p for p in range(1, len(kinds) + 1) if all(a == b for a, b in zip(kinds, kinds[p:], strict=False)))


class _Mixed(nn.Module):
    block: Callable[[Hashable], nn.Module]
    kinds: tuple[Hashable, ...]
    compute: Compute

    @nn.compact
    def __call__(self, x, *context, deterministic):
        kinds, count, period = self.kinds, len(self.kinds), shortest_period(self.kinds)
        turns, unroll = count // period, self.compute.unroll or count
        blocks = {kind: self.block(kind) for kind in kinds}
        if self.is_initializing():
            drawn = jax.vmap(lambda key: blocks[kinds[0]].init(key, x, *context)["params"])(
                jax.random.split(self.make_rng("params"), count))
            for part, tree in drawn.items():
                self.put_variable("params", part, tree)
        draws = not deterministic and self.has_rng("dropout")
        keys = jax.random.split(self.make_rng("dropout"), count) if draws else None
        leaves = (dict(self.variables["params"]), keys)
        traces = self.is_mutable_collection("intermediates") and not self.is_initializing()

        def one(kind, x, params, key):
            """A layer -> x and what it sowed."""
            rngs = {} if key is None else {"dropout": key}
            x, sown = blocks[kind].apply({"params": params}, x, *context, deterministic=deterministic, rngs=rngs,
                                         mutable=["intermediates"] if traces else [])
            return x, {**sown.get("intermediates", {}), "hidden_states": (x,)} if traces else {}

        def layer(kind, looped):
            return recomputing(functools.partial(one, kind), self.compute, looped)

        looped = unroll < turns * period
        in_turn = {kind: layer(kind, looped) for kind in kinds}

        def turn(x, sliced):
            sown = []
            for i, kind in enumerate(kinds[:period]):
                x, of_layer = in_turn[kind](x, *jax.tree.map(lambda leaf, i=i: leaf[i], sliced))
                sown.append(of_layer)
            return x, jax.tree.map(lambda *each: jnp.stack(each), *sown)

        whole = jax.tree.map(lambda leaf: leaf[:turns * period].reshape(turns, period, *leaf.shape[1:]), leaves)
        x, sown = jax.lax.scan(turn, x, whole, unroll=max(1, min(turns, unroll // period)))
        sown = [jax.tree.map(lambda leaf: leaf.reshape(turns * period, *leaf.shape[2:]), sown)]
        for i in range(turns * period, count):
            x, of_layer = layer(kinds[i], False)(x, *jax.tree.map(lambda leaf, i=i: leaf[i], leaves))
            sown.append(jax.tree.map(lambda leaf: leaf[None], of_layer))
        if traces:
            for part, tree in jax.tree.map(lambda *each: jnp.concatenate(each), *sown).items():
                self.put_variable("intermediates", part, tree)
        return x
