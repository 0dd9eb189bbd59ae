"""FLOPs counted from the program: loops at full length, BERT's published figures, and peaks by device."""

import jax
import jax.numpy as jnp
import pytest

from bertvariants_jax.models import find_size
from bertvariants_jax.objectives.mlm import masked_lm
from bertvariants_jax.training import flops


def masked_lm_gflop(size, length, places):
    """GFLOP of one training sequence: three forwards."""
    variant, config = find_size(size)
    network = variant.network(config, ("mlm",))
    objective, shape = masked_lm(network), jax.ShapeDtypeStruct
    batch = {"input_ids": shape((1, length), jnp.int32), "masked_weights": shape((1, places), jnp.float32),
             "masked_positions": shape((1, places), jnp.int32), "masked_labels": shape((1, places), jnp.int32)}
    return 3 * flops.count_flops(lambda p, b: objective.loss(p, b, None).sums, network.shapes(), batch) / 1e9


@pytest.mark.parametrize("size,length,places,gflop", [
    ("bert-base-uncased", 128, 20, 69.8), ("bert-base-uncased", 512, 77, 301), ("bert-large-uncased", 128, 20, 240.5),
    ("bert-large-uncased", 512, 77, 1020), ("albert-base-v2", 128, 20, 67.6), ("distilbert-base-uncased", 128, 20, 36.3)])
def test_training_flops_are_the_ones_counted_by_hand(size, length, places, gflop):
    assert masked_lm_gflop(size, length, places) == pytest.approx(gflop, rel=0.01)


def test_loops_count_at_their_length():
    def ten(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=10)[0]

    x, w = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
    assert flops.count_flops(ten, x, w) == 10 * 2 * 4 * 8 * 8


class Chip:
    def __init__(self, kind):
        self.device_kind = kind


@pytest.mark.parametrize("kind, peak", [("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5p", 459e12),
                                        ("TPU v6 lite", 918e12), ("NVIDIA H200", 989e12),
                                        ("NVIDIA A100-SXM4-40GB", 312e12), ("cpu", None)])
def test_peaks(kind, peak):
    assert flops.peak_flops(Chip(kind)) == peak
    assert flops.mfu(1e12, 1.0) is None                      # a CPU's peak is unknown
