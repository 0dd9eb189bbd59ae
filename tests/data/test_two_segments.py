"""ELECTRA's two segments against a literal restatement of build_pretraining_dataset.py and against
its rates.
"""

import pickle
import random

import numpy as np
import pytest
from corpora import SPECIALS, make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import Corpus
from bertvariants_jax.data.two_segments import two_segments

CLS, SEP, PAD = SPECIALS["cls_token_id"], SPECIALS["sep_token_id"], SPECIALS["pad_token_id"]
lengths = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=1, max_size=6)


class ExampleBuilder:
    """The class of that name in google-research/electra, line by line; its randint is made of
    random().
    """

    def __init__(self, max_length, rng, short_prob=0.05, single_prob=0.1):
        self.rng, self._max_length = rng, max_length
        self.short_prob, self.single_prob = short_prob, single_prob
        self._current_sentences, self._current_length = [], 0
        self._next_target()

    def _next_target(self):
        if self.rng.random() < self.short_prob:
            self._target_length = 5 + int(self.rng.random() * (self._max_length - 4))
        else:
            self._target_length = self._max_length

    def add_line(self, tokids):
        if not tokids and self._current_length != 0:
            return self._create_example()
        self._current_sentences.append(tokids)
        self._current_length += len(tokids)
        if self._current_length >= self._target_length:
            return self._create_example()
        return None

    def _create_example(self):
        if self.rng.random() < self.single_prob:
            first_segment_target_length = 100000
        else:
            first_segment_target_length = (self._target_length - 3) // 2
        first_segment, second_segment = [], []
        for sentence in self._current_sentences:
            if (
                len(first_segment) == 0
                or len(first_segment) + len(sentence) < first_segment_target_length
                or (
                    len(second_segment) == 0
                    and len(first_segment) < first_segment_target_length
                    and self.rng.random() < 0.5
                )
            ):
                first_segment += sentence
            else:
                second_segment += sentence
        first_segment = first_segment[: self._max_length - 2]
        second_segment = second_segment[: max(0, self._max_length - len(first_segment) - 3)]
        self._current_sentences, self._current_length = [], 0
        self._next_target()
        input_ids = [CLS, *first_segment, SEP]
        segment_ids = [0] * len(input_ids)
        if second_segment:
            input_ids += [*second_segment, SEP]
            segment_ids += [1] * (len(second_segment) + 1)
        return input_ids, segment_ids


def literal(corpus, max_length, seed, **options):
    """Every example; each document begins with draws of its own."""
    examples = []
    for d in range(corpus.num_documents):
        rng = random.Random(int(noise.key(seed, "segments", 0, d)[0]))
        builder = ExampleBuilder(max_length, rng, **options)
        for s in range(corpus.documents[d], corpus.documents[d + 1]):
            first, last = corpus.sentences[s : s + 2]
            if example := builder.add_line(corpus.tokens[first:last].tolist()):
                examples.append(example)
        if example := builder.add_line([]) if builder._current_length else None:
            examples.append(example)
    return examples


def listed(segments, chunk=1000):
    """All examples as (ids, types) without padding, which is checked."""
    for start in range(0, len(segments), chunk):
        which = np.arange(start, min(start + chunk, len(segments)))
        batch = segments.rows(which)
        assert {v.dtype.name for v in batch.values()} == {"int32"}
        real = batch["attention_mask"].sum(1)
        assert (real == segments.lengths[which]).all()
        for i, n in enumerate(real.tolist()):
            assert batch["attention_mask"][i, :n].all()
            assert (batch["input_ids"][i, n:] == PAD).all()
            assert not batch["token_type_ids"][i, n:].any()
            yield batch["input_ids"][i, :n].tolist(), batch["token_type_ids"][i, :n].tolist()


@settings(max_examples=200, deadline=None)
@given(
    documents=lengths,
    max_length=st.integers(5, 40),
    seed=st.integers(0, 5),
    short=st.sampled_from([0.05, 0.5, 1.0]),
    single=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_equals_the_literal_builder(documents, max_length, seed, short, single):
    """From one document of one sentence to sentences that are longer than an example."""
    corpus = make_corpus(documents)
    got = two_segments(
        corpus, max_length, seed=seed, short_prob=short, single_prob=single, **SPECIALS
    )
    want = literal(corpus, max_length, seed, short_prob=short, single_prob=single)
    assert list(listed(got)) == want


def test_equals_the_literal_builder_on_real_text(books):
    segments = two_segments(books, 128, seed=3, **SPECIALS)
    assert list(listed(segments)) == literal(books, 128, 3)
    two = [sum(types) > 0 for _, types in listed(segments)]
    assert 0.5 < np.mean(two) < 0.95


def test_rates_on_many_examples():
    """10 thousand chunks and more: 10% single segments, 5% short targets, half of the sentences at
    the border in A.
    """
    rng = np.random.default_rng(0)
    corpus = make_corpus([rng.integers(5, 30, 4000).tolist() for _ in range(20)])
    segments = two_segments(corpus, 64, seed=0, **SPECIALS)
    n = len(segments)
    assert n > 10_000
    second = np.add.reduceat(segments.sizes * segments.second, segments.offsets[:-1])
    first = np.add.reduceat(segments.sizes * (1 - segments.second), segments.offsets[:-1])
    # With a target of 61 and sentences below 30 a second segment is empty only by the first draw, but
    # for short targets.
    short = first + second < 59
    assert short.mean() == pytest.approx(0.05 * (59 - 5) / 60, abs=0.01)
    assert (second[~short] == 0).mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / n))
    two = (second > 0) & ~short
    over = first[two] >= (64 - 3) // 2
    assert over.mean() == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / two.sum()))
    assert (first + second <= 61).all() or (second[first + second > 61] == 0).all()
    assert (first <= 62).all()


def test_keyed_by_the_document_and_small_to_send(tmp_path, words):
    documents = [["a b c d e"] * 9, ["f g h"] * 5, ["i"]]
    corpus = Corpus.build(documents, words, tmp_path)
    a, b = (two_segments(corpus, 12, seed=1, **SPECIALS) for _ in range(2))
    assert (a.sizes == b.sizes).all() and (a.starts == b.starts).all()
    again = pickle.loads(pickle.dumps(a))
    assert all((again.rows([0, 2])[k] == a.rows([0, 2])[k]).all() for k in a.rows([0]))
    train, held = corpus.split(0.4)
    assert len(two_segments(held, 12, seed=1, **SPECIALS)) == 1
    assert list(listed(two_segments(train, 12, seed=1, **SPECIALS))) == literal(train, 12, 1)


def test_too_short():
    with pytest.raises(ValueError, match="max_length 4 leaves no room"):
        two_segments(make_corpus([[3]]), 4, seed=0, **SPECIALS)
