"""Exact published parameter counts, abstractly: no array is made."""

import pytest

from bertvariants_jax.models import find_size
from bertvariants_jax.models.variant import count

# size: (encoder without pooler, heads, encoder + pooler + heads); from ../shared/specs/variants.md, measured on
# transformers' modules.
PUBLISHED = {
    "bert-base-uncased": (108_891_648, ("mlm", "pair"), 110_106_428),
    "bert-large-uncased": (334_092_288, ("mlm", "pair"), 336_226_108),
    "bert-large-uncased-whole-word-masking": (334_092_288, ("mlm", "pair"), 336_226_108),
    "bert-base-cased": (107_719_680, ("mlm", "pair"), 108_932_934),
    "bert-large-cased": (332_529_664, ("mlm", "pair"), 334_661_958),
    "bert-large-cased-whole-word-masking": (332_529_664, ("mlm", "pair"), 334_661_958),
    "bert-base-multilingual-cased": (177_262_848, ("mlm", "pair"), 178_566_653),
    "bert-base-multilingual-uncased": (166_765_824, ("mlm", "pair"), 168_055_961),
    "bert-base-chinese": (101_677_056, ("mlm", "pair"), 102_882_442),
    "bert-tiny": (4_369_408, ("mlm", "pair"), 4_433_468),
    "bert-mini": (11_104_768, ("mlm", "pair"), 11_267_900),
    "bert-small": (28_500_992, ("mlm", "pair"), 29_058_876),
    "bert-medium": (41_110_528, ("mlm", "pair"), 41_668_412),
    "biobert-large-cased": (363_249_664, ("pooler",), 364_299_264),
    "scibert-scivocab-uncased": (109_327_872, ("pooler",), 109_918_464),
    "scibert-scivocab-cased": (109_347_840, ("pooler",), 109_938_432),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_count(size):
    encoder, heads, total = PUBLISHED[size]
    variant, config = find_size(size)
    shapes = variant.network(config, heads).shapes()
    assert (count(shapes["encoder"]), count(shapes)) == (encoder, total)
