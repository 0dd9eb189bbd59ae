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
    "biobert-base-cased": (107_719_680, ("pooler",), 108_310_272),
    "MiniLM-L12-H384-uncased": (33_212_160, ("pooler",), 33_360_000),
    "all-MiniLM-L12-v2": (33_212_160, ("pooler",), 33_360_000),
    "all-MiniLM-L6-v2": (22_565_376, ("pooler",), 22_713_216),
    "paraphrase-multilingual-MiniLM-L12-v2": (117_505_920, ("pooler",), 117_653_760),
    "roberta-base": (124_055_040, ("mlm",), 124_697_433),
    "roberta-large": (354_310_144, ("mlm",), 355_412_057),
    "distilroberta-base": (81_527_808, ("mlm",), 82_170_201),
    "xlm-roberta-base": (277_453_056, ("mlm",), 278_295_186),
    "xlm-roberta-large": (558_840_832, ("mlm",), 560_142_482),
    "camembert-base": (110_031_360, ("mlm",), 110_655_493),
    "xlm-roberta-xl": (3_475_929_600, ("mlm",), 3_482_741_760),
    "xlm-roberta-xxl": (10_695_954_432, ("mlm",), 10_712_994_816),
    "distilbert-base-uncased": (66_362_880, ("mlm",), 66_985_530),
    "distilbert-base-cased": (65_190_912, ("mlm",), 65_812_036),
    "distilbert-base-multilingual-cased": (134_734_080, ("mlm",), 135_445_755),
    "ernie-1.0-base-zh": (99_275_520, ("mlm", "pair"), 100_477_778),
    "ernie-2.0-base-en": (108_893_184, ("mlm", "pair"), 110_107_964),
    "ernie-2.0-base-en-tasks": (108_905_472, ("mlm", "pair"), 110_120_252),
    "ernie-2.0-large-en": (334_094_336, ("mlm", "pair"), 336_228_156),
    "spanbert-base-cased": (107_719_680, ("pooler",), 108_310_272),
    "spanbert-large-cased": (332_529_664, ("pooler",), 333_579_264),
    "albert-base-v2": (11_092_992, ("mlm", "pair"), 11_813_810),
    "albert-large-v2": (16_634_368, ("mlm", "pair"), 17_847_474),
    "albert-xlarge-v2": (54_528_512, ("mlm", "pair"), 59_021_490),
    "albert-xxlarge-v2": (205_814_272, ("mlm", "pair"), 223_158_450),
    "albert-base-v1": (11_092_992, ("pooler",), 11_683_584),
    "albert-large-v1": (16_634_368, ("pooler",), 17_683_968),
    "albert-xlarge-v1": (54_528_512, ("pooler",), 58_724_864),
    "albert-xxlarge-v1": (205_814_272, ("pooler",), 222_595_584),
    "electra-small-discriminator": (13_483_008, ("rtd",), 13_549_057),
    "electra-base-discriminator": (108_891_648, ("rtd",), 109_483_009),
    "electra-large-discriminator": (334_092_288, ("rtd",), 335_142_913),
    "electra-small-generator": (13_483_008, ("mlm",), 13_546_682),
    "electra-small-generator-paper": (4_580_928, ("mlm",), 4_620_026),
    "electra-base-generator": (33_511_168, ("mlm",), 33_740_602),
    "electra-large-generator": (50_999_552, ("mlm",), 51_295_290),
    "ModernBERT-base": (149_014_272, ("mlm",), 149_655_232),
    "ModernBERT-large": (394_781_696, ("mlm",), 395_881_664),
    "xlnet-base-cased": (116_718_336, ("mlm",), 116_750_336),
    "xlnet-large-cased": (360_268_800, ("mlm",), 360_300_800),
    "deberta-base": (138_601_728, ("mlm",), 139_244_121),
    "deberta-large": (405_163_008, ("mlm",), 406_264_921),
    "deberta-xlarge": (757_804_032, ("mlm",), 758_905_945),
    "deberta-v2-xlarge": (884_593_152, ("mlm",), 887_085_156),
    "deberta-v2-xxlarge": (1_564_549_632, ("mlm",), 1_567_041_636),
    "deberta-v3-xsmall": (70_682_112, ("mlm",), 70_958_820),
    "deberta-v3-small": (141_304_320, ("mlm",), 142_024_548),
    "deberta-v3-base": (183_831_552, ("mlm",), 184_551_780),
    "deberta-v3-large": (434_012_160, ("mlm",), 435_191_908),
    "mdeberta-v3-base": (278_218_752, ("mlm",), 279_061_880),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_count(size):
    encoder, heads, total = PUBLISHED[size]
    variant, config = find_size(size)
    shapes = variant.network(config, heads).shapes()
    assert (count(shapes["encoder"]), count(shapes)) == (encoder, total)
