"""A toy tokenizer, and real text under a real vocabulary, for the tests of data/."""

import zlib

import numpy as np
import pytest

from bertvariants_jax.data.corpus import Corpus
from bertvariants_jax.data.source import open_source
from bertvariants_jax.text.tokenizer import Tokenizer

SPECIALS = {"cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}


class Words:
    """One id for each word, from 5 on."""

    def __init__(self, vocab_size=1000):
        self.vocab_size = vocab_size

    def ids(self, texts):
        return [np.array([5 + zlib.crc32(w.encode()) % (self.vocab_size - 5) for w in t.split()], np.int32) for t in texts]

    def id_to_token(self, i):
        return f"word{i}"


@pytest.fixture(scope="session")
def words():
    return Words()


@pytest.fixture(scope="session")
def bert(shared_data):
    return Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")


@pytest.fixture(scope="session")
def books(shared_data, bert):
    """Three novels: about 180 documents, 600 thousand tokens."""
    documents = []
    for name in ("pride_and_prejudice_1342", "great_expectations_1400", "sherlock_holmes_1661"):
        documents += open_source(f"text:{shared_data}/pretrain/gutenberg/{name}.txt.gz").documents()
    return Corpus.build(documents, bert)


def make_corpus(documents, vocab_size=1000):
    """A corpus from lists of sentence lengths: its tokens are 5, 6, 7, ... so that each tells its place."""
    lengths = [n for document in documents for n in document]
    tokens = (np.arange(sum(lengths)) + 5).astype(np.uint32)
    sentences = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    return Corpus(tokens, sentences, bounds)
