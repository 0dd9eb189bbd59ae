"""Made corpora for the tests of data/: a tokenizer of whole words, and tokens that tell their
place.
"""

import zlib

import numpy as np

from bertvariants_jax.data.corpus import Corpus

SPECIALS = {"cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}


class Words:
    """One id for each word, from 5 on."""

    kind = "wordpiece"

    def __init__(self, vocab_size=1000):
        self.vocab_size = vocab_size

    def ids(self, texts):
        return [
            np.array(
                [5 + zlib.crc32(w.encode()) % (self.vocab_size - 5) for w in t.split()], np.int32
            )
            for t in texts
        ]

    def id_to_token(self, i):
        return f"word{i}"


def make_corpus(documents, vocab_size=1000):
    """A corpus from lists of sentence lengths: its tokens are 5, 6, 7, ... so that each tells its
    place.
    """
    lengths = [n for document in documents for n in document]
    tokens = (np.arange(sum(lengths)) + 5).astype(np.uint32)
    sentences = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    return Corpus(tokens, sentences, bounds)


# The first chapters of the Tao Te Ching (Wang Bi's text, in simplified characters): public-domain
# Chinese, a sentence a line.
TAO_TE_CHING = (
    "道可道，非常道。\n名可名，非常名。\n无名天地之始；有名万物之母。\n"
    "故常无欲，以观其妙；常有欲，以观其徼。\n此两者，同出而异名，同谓之玄。\n玄之又玄，众妙之门。",
    "天下皆知美之为美，斯恶已。\n皆知善之为善，斯不善已。\n"
    "有无相生，难易相成，长短相形，高下相倾，音声相和，前后相随。\n"
    "是以圣人处无为之事，行不言之教。\n万物作而弗始，生而弗有，为而弗恃，功成而弗居。\n"
    "夫唯弗居，是以不去。",
    "不尚贤，使民不争。\n不贵难得之货，使民不为盗。\n不见可欲，使民心不乱。\n"
    "是以圣人之治，虚其心，实其腹，弱其志，强其骨。\n常使民无知无欲。\n使夫智者不敢为也。\n"
    "为无为，则无不治。",
    "道冲，而用之或不盈。\n渊兮，似万物之宗。\n挫其锐，解其纷，和其光，同其尘。\n湛兮，似或存。\n"
    "吾不知谁之子，象帝之先。",
    "天地不仁，以万物为刍狗。\n圣人不仁，以百姓为刍狗。\n天地之间，其犹橐籥乎。\n"
    "虚而不屈，动而愈出。\n多言数穷，不如守中。",
    "谷神不死，是谓玄牝。\n玄牝之门，是谓天地根。\n绵绵若存，用之不勤。",
    "天长地久。\n天地所以能长且久者，以其不自生，故能长生。\n"
    "是以圣人后其身而身先，外其身而身存。\n非以其无私邪。\n故能成其私。",
    "上善若水。\n水善利万物而不争，处众人之所恶，故几于道。\n"
    "居善地，心善渊，与善仁，言善信，正善治，事善能，动善时。\n夫唯不争，故无尤。",
    "持而盈之，不如其已。\n揣而锐之，不可长保。\n金玉满堂，莫之能守。\n"
    "富贵而骄，自遗其咎。\n功成身退，天之道。",
    "载营魄抱一，能无离乎。\n专气致柔，能婴儿乎。\n涤除玄览，能无疵乎。\n爱民治国，能无为乎。\n"
    "天门开阖，能为雌乎。\n明白四达，能无知乎。\n生之，畜之，生而不有，为而不恃，长而不宰，是谓玄德。",
)
