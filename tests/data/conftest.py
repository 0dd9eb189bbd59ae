"""A toy tokenizer, and real text under a real vocabulary, for the tests of data/."""

import pytest
from corpora import Words

from bertvariants_jax.data.corpus import Corpus
from bertvariants_jax.data.source import open_source
from bertvariants_jax.text.tokenizer import Tokenizer


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
