"""With remat=full the backward pass keeps what layers are given, and nothing from inside one: of any layer, in or outside
the stack."""

import jax
import jax.numpy as jnp
import pytest

from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS

ROWS, LENGTH, PLACES = 7, 13, 5


def kept_inside(variant, config, compute, head):
    """Shapes that the backward pass keeps of the feed-forward's units, of attention's scores and of a convolution's taps."""
    network = variant.network(config, ("mlm",) if head else (), compute)
    ids = jnp.ones((ROWS, LENGTH), jnp.int32)
    batch = {"input_ids": ids, "attention_mask": ids, "masked_positions": ids[:, :PLACES]}

    def encode(params):
        encoded = network.encode(params, batch, pool=False)
        hidden = encoded.last_hidden_state
        return network.logits(params, "mlm", encoded.at(batch["masked_positions"])) if head else hidden

    pull = jax.eval_shape(lambda params: jax.vjp(encode, params)[1], network.shapes())
    for leaf in jax.tree.leaves(pull):
        shape = leaf.shape
        scores = shape.count(LENGTH) > 1 or (PLACES in shape and LENGTH in shape)
        taps = shape[:3] == (ROWS, LENGTH, 3)                             # or queries, keys and values
        if ROWS in shape and leaf.dtype == jnp.float32 and (config.intermediate_size in shape or scores or taps):
            yield shape


ENCODERS = {variant.encoder: name for name, variant in VARIANTS.items() if name != "deberta-v3"}   # whose decoder is v2's too


@pytest.mark.parametrize("name", ENCODERS.values())
def test_nothing_is_kept_from_inside_a_layer(name):
    variant = VARIANTS[name]
    head = getattr(variant.dummy, "enhanced_mask_decoder", False)         # whose two turns of the last layer are in the head
    assert list(kept_inside(variant, variant.dummy, Compute(), head))
    assert not list(kept_inside(variant, variant.dummy, Compute(remat="full"), head))


def test_xla_may_not_merge_what_unrolled_layers_recompute():
    """A loop keeps the forward pass and its repetition apart; without one only a barrier does."""
    network = VARIANTS["bert"].network(VARIANTS["bert"].dummy, (), Compute(remat="full", unroll=0))
    ids = jnp.ones((ROWS, LENGTH), jnp.int32)
    slopes = jax.jit(jax.grad(lambda params: network.encode(params, {"input_ids": ids}).last_hidden_state.sum()))
    assert "optimization_barrier" in slopes.lower(network.shapes()).as_text()
