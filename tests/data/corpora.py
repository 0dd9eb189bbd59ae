"""Made corpora for the tests of data/: a tokenizer of whole words, and tokens that tell their
place.
"""

import zlib

import numpy as np

from bertvariants_jax.data.corpus import Corpus

SPECIALS = {"cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}


class Words:
    """One id for each word, from 5 on."""

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
