"""FLOPs counted from the program: loops at full length, BERT's published figures, steps by hand, and peaks by device."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from bertvariants_jax.models import find_size
from bertvariants_jax.objectives import distill
from bertvariants_jax.objectives.embeddings import contrastive
from bertvariants_jax.objectives.mlm import masked_lm
from bertvariants_jax.objectives.rtd import replaced_tokens
from bertvariants_jax.training import flops
from bertvariants_jax.training.step import step_flops


def shapes(rows, length, places=0):
    """What a masked batch looks like."""
    shape, ids = jax.ShapeDtypeStruct, {}
    for key in ("input_ids", "attention_mask", "token_type_ids"):
        ids[key] = shape((rows, length), jnp.int32)
    slots = {"masked_weights": jnp.float32, "masked_positions": jnp.int32, "masked_labels": jnp.int32}
    return {**ids, **{key: shape((rows, places), dtype) for key, dtype in slots.items()},
            "next_sentence_label": shape((rows,), jnp.int32)}


def network(size, *heads, **fields):
    variant, config = find_size(size)
    return variant.network(dataclasses.replace(config, **fields), heads)


def encoder(length, layers, width, inner, embedding=0):
    """Products of a row, a multiply-add as 2: q, k, v, out, the feed-forward's two, q k and p v, and a projection up."""
    layer = length * (4 * width ** 2 + 2 * width * inner) + 2 * length ** 2 * width
    return 2 * (layers * layer + length * embedding * width)


def words(places, width, vocab, embedding=0):
    """The head of a masked LM: to the table's width, and to the vocabulary."""
    embedding = embedding or width
    return 2 * places * (width * embedding + embedding * vocab)


@pytest.mark.parametrize("size,length,places,gflop", [
    ("bert-base-uncased", 128, 20, 69.8), ("bert-base-uncased", 512, 77, 301), ("bert-large-uncased", 128, 20, 240.5),
    ("bert-large-uncased", 512, 77, 1020), ("albert-base-v2", 128, 20, 67.6), ("distilbert-base-uncased", 128, 20, 36.3)])
def test_training_flops_are_the_published_ones(size, length, places, gflop):
    assert step_flops(masked_lm(network(size, "mlm")), shapes(1, length, places)) / 1e9 == pytest.approx(gflop, rel=0.01)


def test_a_step_of_bert_by_hand():
    pair = 2 * (768 ** 2 + 2 * 768)
    row = encoder(512, 12, 768, 3072) + words(77, 768, 30522) + pair
    objective = masked_lm(network("bert-base-uncased", "mlm", "pair"), pair=True)
    assert step_flops(objective, shapes(4, 512, 77)) == 3 * 4 * row


def test_a_teacher_counts_once():
    """DistilBERT's step, whose soft targets take the scores of both at every token."""
    student, teacher = network("distilbert-base-uncased", "mlm"), network("bert-base-uncased", "mlm")
    taught, known = (encoder(128, layers, 768, 3072) + words(128, 768, 30522) for layers in (6, 12))
    assert step_flops(distill.masked_lm(student, teacher), shapes(4, 128, 20)) == 4 * (3 * taught + known)


@pytest.mark.parametrize("options, times", [({"sharing": "tied"}, 3), ({"sharing": "none", "decoupled": True}, 3),
                                            ({"sharing": "none", "frozen": True}, 1)])
def test_a_step_of_electra_by_hand(options, times):
    """The generator's forward serves both updates of a step in two, and counts once where it is frozen."""
    discriminator, (variant, config) = network("electra-small-discriminator", "rtd"), find_size("electra-small-discriminator")
    generator = variant.network(variant.generator(config, 0.25, 1.0), ("mlm",))
    made = encoder(128, 12, 64, 256, 128) + words(20, 64, 30522, 128)
    told = encoder(128, 12, 256, 1024, 128) + 2 * 128 * (256 ** 2 + 256)
    assert step_flops(replaced_tokens(discriminator, generator, **options), shapes(4, 128, 20)) == 4 * (times * made + 3 * told)


def test_all_pairs_of_a_batch_are_compared():
    ids = {key: jax.ShapeDtypeStruct((6, 2, 32), jnp.int32) for key in ("input_ids", "attention_mask")}
    row = 2 * encoder(32, 2, 128, 512)
    assert step_flops(contrastive(network("bert-tiny")), ids) == 3 * (6 * row + 2 * 6 * 6 * 128)


def test_loops_count_at_their_length():
    def ten(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=10)[0]

    x, w = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
    assert flops.count_flops(ten, x, w) == 10 * 2 * 4 * 8 * 8


class Chip:
    def __init__(self, kind):
        self.device_kind = kind


@pytest.mark.parametrize("kind, peak", [
    ("TPU v2", 45e12 / 2), ("TPU v3", 123e12 / 2), ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v5", 459e12),
    ("TPU v5p", 459e12), ("TPU v6 lite", 918e12), ("TPU7x", 2307e12 / 2), ("NVIDIA H200", 989e12),
    ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-40GB", 312e12),
    ("NVIDIA L40S", 362e12), ("NVIDIA L40", 181e12), ("NVIDIA L4", 121e12), ("NVIDIA A10G", 70e12), ("NVIDIA A10", 125e12),
    ("NVIDIA H20", 148e12), ("Tesla V100-SXM2-16GB", 125e12), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
    ("NVIDIA RTX A4000", None), ("cpu", None)])
def test_peaks_are_a_devices_own(kind, peak, monkeypatch):
    """Two devices of a chip have half of its peak each."""
    assert flops.peak_flops(Chip(kind)) == peak
    monkeypatch.setattr(flops, "peak_flops", lambda: peak)
    assert flops.mfu(1e12, 2.0, 4) == (None if peak is None else pytest.approx(1e12 / (2 * 4 * peak)))
