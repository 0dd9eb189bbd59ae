"""NSP and SOP pairs against a literal restatement of create_pretraining_data.py; full sentences;
the corpus on disk.
"""

import os
import pickle
import random

import numpy as np
import pytest
from corpora import SPECIALS, make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import Corpus, full_sentences, joined_text, nsp_pairs, sop_pairs

lengths = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=1, max_size=6)


class Rng:
    """random.Random whose whole numbers come from random() by one formula, as in the builder."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def randint(self, low, high):
        return low + int(self.random() * (high - low + 1))


def create_instances_from_document(
    all_documents, document_index, max_seq_length, short_seq_prob, random_next_sentence, rng
):
    """google-research/bert and google-research/albert, line by line; token lists, no masking."""
    document = all_documents[document_index]
    max_num_tokens = max_seq_length - 3
    target_seq_length = max_num_tokens
    if rng.random() < short_seq_prob:
        target_seq_length = rng.randint(2, max_num_tokens)
    instances = []
    current_chunk, current_length = [], 0
    i = 0
    while i < len(document):
        segment = document[i]
        current_chunk.append(segment)
        current_length += len(segment)
        if i == len(document) - 1 or current_length >= target_seq_length:
            if current_chunk:
                a_end = 1
                if len(current_chunk) >= 2:
                    a_end = rng.randint(1, len(current_chunk) - 1)
                tokens_a = []
                for j in range(a_end):
                    tokens_a.extend(current_chunk[j])
                tokens_b = []
                is_random_next = False
                if len(current_chunk) == 1 or (random_next_sentence and rng.random() < 0.5):
                    is_random_next = True
                    target_b_length = target_seq_length - len(tokens_a)
                    for _ in range(10):
                        random_document_index = rng.randint(0, len(all_documents) - 1)
                        if random_document_index != document_index:
                            break
                    random_document = all_documents[random_document_index]
                    random_start = rng.randint(0, len(random_document) - 1)
                    for j in range(random_start, len(random_document)):
                        tokens_b.extend(random_document[j])
                        if len(tokens_b) >= target_b_length:
                            break
                    num_unused_segments = len(current_chunk) - a_end
                    i -= num_unused_segments
                elif not random_next_sentence and rng.random() < 0.5:
                    is_random_next = True
                    for j in range(a_end, len(current_chunk)):
                        tokens_b.extend(current_chunk[j])
                    tokens_a, tokens_b = tokens_b, tokens_a
                else:
                    is_random_next = False
                    for j in range(a_end, len(current_chunk)):
                        tokens_b.extend(current_chunk[j])
                while len(tokens_a) + len(tokens_b) > max_num_tokens:
                    trunc_tokens = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
                    if rng.random() < 0.5:
                        del trunc_tokens[0]
                    else:
                        trunc_tokens.pop()
                assert len(tokens_a) >= 1 and len(tokens_b) >= 1
                instances.append((tokens_a, tokens_b, int(is_random_next)))
            current_chunk, current_length = [], 0
        i += 1
    return instances


def literal(corpus, max_length, seed, dupe_factor, short_seq_prob, random_next_sentence):
    documents = [
        [
            corpus.tokens[corpus.sentences[s] : corpus.sentences[s + 1]].tolist()
            for s in range(*corpus.documents[d : d + 2])
        ]
        for d in range(corpus.num_documents)
    ]
    for copy in range(dupe_factor):
        for d in range(len(documents)):
            rng = Rng(int(noise.key(seed, "pairs", copy, d)[0]))
            yield from create_instances_from_document(
                documents, d, max_length, short_seq_prob, random_next_sentence, rng
            )


def assert_same(pairs, expected):
    cls, sep, pad = pairs.cls_token_id, pairs.sep_token_id, pairs.pad_token_id
    assert len(pairs) == len(expected)
    rows = pairs.rows(np.arange(len(pairs)))
    for i, (a, b, label) in enumerate(expected):
        padding = [0] * (pairs.max_length - len(a) - len(b) - 3)
        assert rows["input_ids"][i].tolist() == [cls, *a, sep, *b, sep, *[pad for _ in padding]]
        assert (
            rows["token_type_ids"][i].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1) + padding
        )
        assert rows["attention_mask"][i].tolist() == [1] * (len(a) + len(b) + 3) + padding
        assert rows["next_sentence_label"][i] == label
    assert {k: v.dtype.name for k, v in rows.items()} == dict.fromkeys(rows, "int32")


@pytest.mark.parametrize("builder", [nsp_pairs, sop_pairs])
@pytest.mark.parametrize("max_length", [64, 512])
def test_pairs_equal_the_literal_procedure_on_real_text(books, builder, max_length):
    pairs = builder(
        books,
        max_length,
        seed=11,
        dupe_factor=2,
        cls_token_id=101,
        sep_token_id=102,
        pad_token_id=0,
    )
    assert_same(pairs, list(literal(books, max_length, 11, 2, 0.1, builder is nsp_pairs)))


@settings(max_examples=150, deadline=None)
@given(
    documents=lengths,
    max_length=st.integers(5, 60),
    seed=st.integers(0, 10**6),
    short=st.sampled_from([0.0, 0.1, 1.0]),
    builder=st.sampled_from([nsp_pairs, sop_pairs]),
)
def test_pairs_equal_the_literal_procedure_on_any_corpus(
    documents, max_length, seed, short, builder
):
    corpus = make_corpus(documents)
    if max(map(len, documents)) < 2:
        with pytest.raises(ValueError, match="two sentences"):
            builder(corpus, max_length, seed=seed, **SPECIALS)
        return
    pairs = builder(corpus, max_length, seed=seed, dupe_factor=2, short_seq_prob=short, **SPECIALS)
    assert_same(pairs, list(literal(corpus, max_length, seed, 2, short, builder is nsp_pairs)))


def test_nsp_statistics(books):
    pairs = nsp_pairs(
        books, 128, seed=3, dupe_factor=4, cls_token_id=101, sep_token_id=102, pad_token_id=0
    )
    assert len(pairs) >= 10_000
    assert 0.5 < pairs.label.mean() < 0.62  # one half, and more for chunks of one sentence
    real = pairs.label == 0
    assert (pairs.second[real] >= pairs.first[real] + pairs.sizes[real, 0]).all()
    start = np.searchsorted(books.sentences[books.documents], [pairs.first, pairs.second], "right")
    assert (start[0] == start[1])[real].all() and (start[0] != start[1])[~real].mean() > 0.999
    assert pairs.lengths.max() == 128 and (pairs.lengths >= 120).mean() > 0.6
    assert (pairs.sizes >= 1).all()
    quarter = len(pairs) // 4
    assert (
        pairs.first[:1000] != pairs.first[quarter : quarter + 1000]
    ).any()  # copies are drawn anew
    again = nsp_pairs(
        books, 128, seed=3, dupe_factor=4, cls_token_id=101, sep_token_id=102, pad_token_id=0
    )
    assert (pairs.first == again.first).all() and (pairs.second == again.second).all()
    full = nsp_pairs(
        books,
        128,
        seed=3,
        dupe_factor=1,
        short_seq_prob=0,
        cls_token_id=101,
        sep_token_id=102,
        pad_token_id=0,
    )
    assert (full.lengths < 40).mean() < 0.03 < (pairs.lengths < 40).mean()


def test_short_sequences_are_drawn_once_per_pass():
    corpus = make_corpus(
        [[1] * 400] * 60
    )  # sentences of one token: a chunk meets its target exactly
    pairs = sop_pairs(corpus, 43, seed=0, short_seq_prob=0.5, **SPECIALS)
    document = np.searchsorted(
        corpus.sentences[corpus.documents], np.minimum(pairs.first, pairs.second), "right"
    )
    total = pairs.sizes.sum(1)
    targets = []
    for d in np.unique(document):
        inside = total[document == d]
        assert len(set(inside[:-1].tolist())) == 1  # but for the rest at the document's end
        targets.append(int(inside[0]))
    assert 15 < sum(t < 40 for t in targets) < 45 and len(set(targets)) > 10 and min(targets) >= 2


def test_sop_statistics(books):
    pairs = sop_pairs(
        books, 128, seed=3, dupe_factor=3, cls_token_id=101, sep_token_id=102, pad_token_id=0
    )
    start = np.searchsorted(books.sentences[books.documents], [pairs.first, pairs.second], "right")
    same = start[0] == start[1]
    assert 0.48 < pairs.label[same].mean() < 0.53
    assert (
        pairs.label[~same].all() and 0 < (~same).mean() < 0.25
    )  # chunks of one sentence take a random document
    swapped = same & (pairs.label == 1) & (abs(pairs.second - pairs.first) < 400)
    assert (pairs.second[swapped] < pairs.first[swapped]).mean() > 0.97


@pytest.mark.parametrize("documents", [[[5]], [[5], [6], [7]]])
def test_pairs_need_two_sentences(documents):
    with pytest.raises(ValueError, match="has two sentences"):
        nsp_pairs(make_corpus(documents), 64, seed=0, **SPECIALS)
    with pytest.raises(ValueError, match="5 or more"):
        nsp_pairs(make_corpus([[5, 5]]), 4, seed=0, **SPECIALS)


@settings(max_examples=150, deadline=None)
@given(documents=lengths, max_length=st.integers(3, 60), cross=st.booleans(), drop=st.booleans())
def test_full_sentences_on_any_corpus(documents, max_length, cross, drop):
    corpus = make_corpus(documents)
    room = max_length - 2
    if drop and min(n for d in documents for n in d) > room:
        with pytest.raises(ValueError, match="fits"):
            full_sentences(corpus, max_length, cross_documents=cross, drop_long=drop, **SPECIALS)
        return
    blocks = full_sentences(corpus, max_length, cross_documents=cross, drop_long=drop, **SPECIALS)
    # The literal rule: sentence after sentence into the open block, a separator between documents.
    expected, block = [], []
    for d in range(corpus.num_documents):
        if not cross and block:
            expected.append(block)
            block = []
        fresh = True
        for s in range(*corpus.documents[d : d + 2]):
            sentence = corpus.tokens[corpus.sentences[s] : corpus.sentences[s + 1]].tolist()
            border = [3] if fresh and block else []
            if block and len(block) + len(border) + len(sentence) > room:
                expected.append(block)
                block, border = [], []
            fresh = False
            if len(sentence) > room:
                expected += (
                    [] if drop else [sentence[i : i + room] for i in range(0, len(sentence), room)]
                )
            else:
                block = block + border + sentence
    if block:
        expected.append(block)
    rows = blocks.rows(np.arange(len(blocks)))
    assert len(blocks) == len(expected)
    assert blocks.lengths.tolist() == [len(b) + 2 for b in expected]
    for i, tokens in enumerate(expected):
        padding = [0] * (max_length - len(tokens) - 2)
        assert rows["input_ids"][i].tolist() == [2, *tokens, 3, *padding]
        assert rows["attention_mask"][i].tolist() == [1] * (len(tokens) + 2) + padding
    assert not rows["token_type_ids"].any()


def token_block_utils(lines, complete, block_size):
    """fairseq's `complete` (or `complete_doc`) blocks of lines that end with </s>, "line by line";
    an empty line, which ends a document, is a lone </s>. A block does not begin with one.
    """
    slices, current = [], []
    for line in lines:
        if len(current) + len(line) > block_size or (not complete and len(line) == 1):
            slices.append(current)
            current = []
        if current or len(line) > 1:
            current = current + line
    slices.append(current)
    return [block for block in slices if len(block) > 1]


@settings(max_examples=150, deadline=None)
@given(documents=lengths, max_length=st.integers(33, 70), cross=st.booleans())
def test_full_sentences_as_fairseq_cuts_them(documents, max_length, cross):
    corpus = make_corpus(documents)
    blocks = full_sentences(
        corpus, max_length, cross_documents=cross, line_ends=True, token_type_ids=False, **SPECIALS
    )
    lines = []
    for d in range(corpus.num_documents):
        for s in range(*corpus.documents[d : d + 2]):
            lines.append([*corpus.tokens[corpus.sentences[s] : corpus.sentences[s + 1]], 3])
        lines.append([3])
    expected = token_block_utils(lines, cross, max_length - 1)
    batch = blocks.rows(np.arange(len(blocks)))
    assert len(blocks) == len(expected)
    for row, mask, block in zip(batch["input_ids"], batch["attention_mask"], expected, strict=True):
        while block[-2] == 3:  # an empty line that ends its block
            block = block[:-1]
        assert row[mask > 0].tolist() == [2, *block]


def test_full_sentences_of_real_text(books):
    ids = dict(cls_token_id=101, sep_token_id=102, pad_token_id=0)
    blocks = full_sentences(books, 512, token_type_ids=False, **ids)
    assert blocks.sizes.sum() == books.num_tokens
    assert blocks.lengths.mean() > 480 and blocks.lengths.max() <= 512
    assert "token_type_ids" not in blocks.rows(np.arange(3))
    inside = full_sentences(books, 512, cross_documents=False, **ids)
    assert len(inside) > len(blocks) and inside.sizes.sum() == books.num_tokens
    ids = inside.rows(np.arange(len(inside)))["input_ids"]
    assert ((ids == 102).sum(1) == 1).all()


@settings(max_examples=60, deadline=None)
@given(documents=lengths, max_length=st.integers(3, 40), part=st.sampled_from([0, 1, None]))
def test_joined_text_as_deberta_cuts_it(documents, max_length, part):
    corpus = make_corpus(documents)
    if part is not None and corpus.num_documents > 1:
        corpus = corpus.split(0.4)[part]
    all_tokens = []
    for s in range(corpus.documents[0], corpus.documents[-1]):
        all_tokens.extend(corpus.tokens[corpus.sentences[s] : corpus.sentences[s + 1]].tolist())
    expected, idx = [], 0
    while idx < len(all_tokens):
        expected.append([2, *all_tokens[idx : idx + max_length - 2], 3])
        idx += max_length - 2
    blocks = joined_text(corpus, max_length, **SPECIALS)
    batch = blocks.rows(np.arange(len(blocks)))
    found = [
        row[mask > 0].tolist()
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert found == expected and blocks.lengths.tolist() == [len(row) for row in expected]


def test_corpus_is_what_the_tokenizer_gives(words):
    documents = [["a b", "", "c d e"], [], ["  "], ["f"], ["g h", "i"]]
    for batch in (1, 2, 3, 100):
        corpus = Corpus.build(documents, words, batch=batch)
        assert corpus.sentences.tolist() == [0, 2, 5, 6, 8, 9]
        assert corpus.documents.tolist() == [0, 2, 3, 5]
        assert corpus.tokens.tolist() == np.concatenate(words.ids(["a b c d e f g h i"])).tolist()
        assert (corpus.num_documents, corpus.num_sentences, corpus.num_tokens) == (3, 5, 9)
        assert corpus.tokens.dtype == np.uint16


def test_empty_corpus_is_said(words, tmp_path):
    for documents in ([], [[]], [["", " "]]):
        for folder in (None, tmp_path):
            with pytest.raises(ValueError, match="empty"):
                Corpus.build(documents, words, folder)
    assert not any(tmp_path.iterdir())  # nothing half-written is left


def test_corpus_on_disk(words, tmp_path, monkeypatch):
    documents = [[f"sentence {i} {j} of the text" for j in range(5)] for i in range(20)]
    memory = Corpus.build(documents, words)
    disk = Corpus.build(documents, words, tmp_path)
    for name in ("tokens", "sentences", "documents"):
        assert (getattr(disk, name) == getattr(memory, name)).all()
    assert isinstance(disk.tokens, np.memmap)
    monkeypatch.setattr(words, "ids", lambda texts: [np.zeros(1, np.int32) for _ in texts])
    other = Corpus.build(documents, words, tmp_path)  # another way to cut is another corpus
    assert other.folder != disk.folder and other.num_tokens == 100
    monkeypatch.undo()
    monkeypatch.setattr(
        "bertvariants_jax.data.corpus._tokenised", None
    )  # the second time nothing is tokenised
    assert Corpus.build(documents, words, tmp_path).folder == disk.folder
    copy = pickle.loads(pickle.dumps(disk))
    assert isinstance(copy.tokens, np.memmap) and len(pickle.dumps(disk)) < 1000
    train, valid = disk.split(0.1)
    assert (train.num_documents, valid.num_documents) == (
        18,
        2,
    ) and train.num_tokens + valid.num_tokens == disk.num_tokens
    again = pickle.loads(pickle.dumps(valid))
    assert again.documents.tolist() == valid.documents.tolist() and isinstance(
        again.tokens, np.memmap
    )
    held_out = full_sentences(valid, 32, **SPECIALS)
    assert held_out.sizes.sum() == valid.num_tokens
    pairs = nsp_pairs(again, 32, seed=0, **SPECIALS)
    assert pairs.first.min() >= disk.sentences[valid.documents[0]]
    with pytest.raises(ValueError, match="hold out"):
        make_corpus([[3, 3]]).split(0.5)


def test_damaged_corpus_is_said(words, tmp_path):
    disk = Corpus.build([["a b c", "d e"]], words, tmp_path)
    tokens = os.path.join(disk.folder, "tokens.bin")
    with open(tokens, "r+b") as file:
        file.truncate(4)
    with pytest.raises(ValueError, match=r"tokens.bin has 4 bytes, expected 10"):
        Corpus.build([["a b c", "d e"]], words, tmp_path)
    with pytest.raises(FileNotFoundError, match="no corpus"):
        Corpus.load(tmp_path)
    with pytest.raises(ValueError, match="not an iterator"):
        Corpus.build(iter([["a b"]]), words, tmp_path)
