"""ALBERT's n-grams and DeBERTa's windows against literal restatements and against the papers'
numbers on real text.
"""

from bisect import bisect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import Corpus, full_sentences, sop_pairs
from bertvariants_jax.data.ngrams import (
    albert_starts,
    deberta_starts,
    mask_ngrams,
    mask_windows,
    window_places,
)
from bertvariants_jax.text import Tokenizer, train

SEED, L = 5, 96


class Sample:
    """More than ten thousand rows of real text under a tokenizer, and what masks them."""

    def __init__(self, documents, tokenizer, starts, pairs, never):
        self.tokenizer, self.starts = tokenizer, starts
        corpus = Corpus.build(documents, tokenizer)
        ids = {
            f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
            for name in ("cls", "sep", "pad")
        }
        if pairs:
            examples = sop_pairs(corpus, L, seed=1, dupe_factor=3, **ids)
        else:
            examples = full_sentences(corpus, 40, cross_documents=False, **ids)
        assert len(examples) > 10_000
        self.rows = examples.rows(np.arange(len(examples)))
        self.options = dict(
            seed=SEED,
            vocab_size=tokenizer.vocab_size,
            mask_token_id=tokenizer.mask_token_id,
            never=tuple(getattr(tokenizer, f"{name}_token_id") for name in never),
            starts_word=starts,
        )

    def masked(self, procedure, rows=None, epoch=0, **options):
        rows = self.rows if rows is None else rows
        index = np.arange(len(rows["input_ids"]))
        epoch = np.full(len(index), epoch)
        return procedure(rows, index, epoch, **{**self.options, **options})


@pytest.fixture(scope="module")
def albert(manual, sentences):
    tokenizer = train(sentences, "albert", 8000)
    return Sample(manual, tokenizer, albert_starts(tokenizer), True, ("cls", "sep"))


@pytest.fixture(scope="module")
def deberta(manual, sentences):
    tokenizer = train(sentences, "deberta-v2", 8000)
    never = ("mask", "cls", "sep", "pad", "unk")
    return Sample(manual, tokenizer, deberta_starts(tokenizer), False, never)


def candidates_of(tokens, never, starts):
    found = []
    for i, token in enumerate(tokens):
        if token in never:
            continue
        if found and not starts[token]:
            found[-1].append(i)
        else:
            found.append([i])
    return found


def numbers(index, epoch, length):
    """The noise of one row that both restatements draw from."""
    uniform = lambda name, n: noise.uniform(SEED, name, epoch, index, n)[0]
    order = noise.bits(SEED, "mask/order", epoch, index, length)[0]
    return order, uniform("mask/ngram", length), uniform("mask/window", length + 2)


def albert_literal(tokens, length, index, epoch, most, starts, never, rate=0.15, longest=3):
    """create_masked_lm_predictions of google-research/albert, line by line: the chosen places."""
    order, draws, _ = numbers(index, epoch, length)
    cand_indexes = candidates_of(tokens, never, starts)
    num_to_predict = min(most, max(1, round(len(tokens) * rate)))
    pvals = 1.0 / np.arange(1, longest + 1)
    pvals /= pvals.sum()
    ngram_indexes = [
        [cand_indexes[idx : idx + n] for n in range(1, longest + 1)]
        for idx in range(len(cand_indexes))
    ]
    low = (1 << max(1, (length - 1).bit_length())) - 1
    ngram_indexes.sort(key=lambda grams: int(order[grams[0][0][0]]) & ~low | grams[0][0][0])
    masked_lms, covered_indexes = [], set()
    for cand_index_set in ngram_indexes:
        if len(masked_lms) >= num_to_predict:
            break
        n = 1 + bisect(np.cumsum(pvals)[:-1].tolist(), draws[cand_index_set[0][0][0]])
        index_set = [i for word in cand_index_set[n - 1] for i in word]
        n -= 1
        while len(masked_lms) + len(index_set) > num_to_predict:
            if n == 0:
                break
            index_set = [i for word in cand_index_set[n - 1] for i in word]
            n -= 1
        if len(masked_lms) + len(index_set) > num_to_predict:
            continue
        if any(i in covered_indexes for i in index_set):
            continue
        for i in index_set:
            covered_indexes.add(i)
            masked_lms.append(i)
    return sorted(masked_lms)


def deberta_literal(tokens, length, index, epoch, most, starts, never, rate=0.15, longest=3):
    """NGramMaskGenerator.mask_tokens of microsoft/DeBERTa, line by line: the chosen places."""
    draws = iter(numbers(index, epoch, length)[2])
    unigrams = candidates_of(tokens, never, starts if longest > 1 else np.ones_like(starts))
    num_to_predict = min(most, max(1, round(len(tokens) * rate)))
    pvals = np.cumsum(1.0 / np.arange(1, longest + 1))
    offset, mask_grams = 0, np.zeros(len(unigrams), bool)
    while offset < len(unigrams):
        n = 1 + bisect(pvals.tolist(), next(draws) * pvals[-1])
        ctx_size = min(n * int(1 / rate), len(unigrams) - offset)
        m = int(next(draws) * ctx_size)
        s = offset + m
        e = min(offset + m + n, len(unigrams))
        offset = max(offset + ctx_size, e)
        mask_grams[s:e] = True
    chosen = []
    for m, word in zip(mask_grams, unigrams, strict=True):
        if m:
            chosen += word
            if len(chosen) >= num_to_predict:
                break
    return chosen


def places(out):
    return [
        p[w > 0].tolist()
        for p, w in zip(out["masked_positions"], out["masked_weights"], strict=True)
    ]


def chosen_of(out):
    chosen = np.zeros(out["input_ids"].shape, bool)
    used = out["masked_weights"] > 0
    chosen[np.nonzero(used)[0], out["masked_positions"][used]] = True
    return chosen


@pytest.mark.parametrize("most", [14, 5])
def test_ngrams_equal_the_literal_procedure(albert, most):
    some = {k: v[:2500] for k, v in albert.rows.items()}
    out = albert.masked(mask_ngrams, some, epoch=2, max_predictions=most)
    never = albert.options["never"]
    for i, length in enumerate(some["attention_mask"].sum(1)):
        tokens = some["input_ids"][i, :length].tolist()
        expected = albert_literal(tokens, L, i, 2, most, albert.starts, never)
        n = len(expected)
        assert out["masked_positions"][i, :n].tolist() == expected
        assert out["masked_weights"][i].sum() == n


@pytest.mark.parametrize("longest", [3, 1])
def test_windows_equal_the_literal_procedure(deberta, longest):
    some = {k: v[:2500] for k, v in deberta.rows.items()}
    most, never = window_places(40, 0.15), deberta.options["never"]
    out = deberta.masked(mask_windows, some, epoch=2, max_predictions=most, longest=longest)
    for i, length in enumerate(some["attention_mask"].sum(1)):
        tokens = some["input_ids"][i, :length].tolist()
        expected = deberta_literal(tokens, 40, i, 2, 99, deberta.starts, never, longest=longest)
        n = len(expected)
        assert out["masked_positions"][i, :n].tolist() == expected
        assert out["masked_weights"][i].sum() == n


def word_runs(chosen, rows, starts, never):
    """The numbers of words of the maximal runs of chosen words, over all rows."""
    body = (rows["attention_mask"] > 0) & ~np.isin(rows["input_ids"], never)
    first = body & (np.cumsum(body, 1) == 1)
    heads = body & (starts[rows["input_ids"]] | first)
    runs = []
    for head, pick in zip(heads, chosen, strict=True):
        words = pick[head]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], words.astype(int), [0]])))
        runs.append(edges[1::2] - edges[::2])
    return np.concatenate(runs)


def test_ngram_numbers_on_real_text(albert):
    rows, options = albert.rows, albert.options
    out = albert.masked(mask_ngrams, max_predictions=14)
    lengths = rows["attention_mask"].sum(1)
    quota = np.array([min(14, max(1, round(n * 0.15))) for n in lengths.tolist()])
    count = out["masked_weights"].sum(1)
    assert (count <= quota).all() and (count == quota).mean() > 0.99
    chosen = chosen_of(out)
    assert not (chosen & np.isin(rows["input_ids"], options["never"])).any()
    assert not (chosen & (rows["attention_mask"] == 0)).any()
    # Whole words: a piece goes with the piece it continues.
    body = (rows["attention_mask"] > 0) & ~np.isin(rows["input_ids"], options["never"])
    goes_on = body[:, 1:] & body[:, :-1] & ~albert.starts[rows["input_ids"][:, 1:]]
    assert goes_on.sum() > 50_000
    assert (chosen[:, 1:][goes_on] == chosen[:, :-1][goes_on]).all()
    # Runs: where nothing hinders, as one n-gram in a long row of one-piece words, n has 6/11, 3/11
    # and 2/11. On a full row quotas and collisions shift it; whole words alone would give few runs.
    plain = {
        "input_ids": np.full((20_000, 60), 1000, np.int32),
        "attention_mask": np.ones((20_000, 60), np.int32),
    }
    starts = np.ones(options["vocab_size"], bool)
    one = albert.masked(mask_ngrams, plain, max_predictions=3, starts_word=starts)
    first = word_runs(chosen_of(one), plain, starts, options["never"])
    assert first.sum() == 60_000
    # of three words: one run has 2/11 * 58/60, two that touch (3/11 + 6/11 * 5/11) * 2/58
    triples = (np.bincount(first, minlength=4)[3]) / 20_000
    assert triples == pytest.approx(0.1758 + 0.0179, abs=0.01)
    tops = noise.uniform(SEED, "mask/ngram", 0, np.arange(20_000), 60)
    lengths = 1 + np.searchsorted([6 / 11, 9 / 11], tops, "right")
    shares = np.bincount(lengths.ravel())[1:] / lengths.size
    assert shares == pytest.approx([0.5455, 0.2727, 0.1818], abs=0.003)
    # 80/10/10 for each piece, over the whole vocabulary
    used = out["masked_weights"] > 0
    label = out["masked_labels"][used]
    now = np.take_along_axis(out["input_ids"], out["masked_positions"], 1)[used]
    mask = options["mask_token_id"]
    assert (now == mask).mean() == pytest.approx(0.8, abs=0.006)
    assert (now == label).mean() == pytest.approx(0.1, abs=0.005)
    drawn = now[(now != mask) & (now != label)]
    assert drawn.min() < 100 and drawn.max() > 0.99 * options["vocab_size"]
    both = goes_on & chosen[:, 1:] & chosen[:, :-1]
    is_mask = out["input_ids"] == mask
    assert (is_mask[:, 1:] & is_mask[:, :-1])[both].mean() == pytest.approx(0.64, abs=0.03)


def test_window_numbers_on_real_text(deberta):
    rows, options = deberta.rows, deberta.options
    most = window_places(40, 0.15)
    assert most == 6 + 15
    out = deberta.masked(mask_windows, max_predictions=most)
    count, lengths = out["masked_weights"].sum(1), rows["attention_mask"].sum(1)
    quota = np.array([max(1, round(n * 0.15)) for n in lengths.tolist()])
    chosen = chosen_of(out)
    # The last word is taken whole: some rows exceed the quota, by less than a word.
    assert (count > quota).any() and (count - quota).max() <= 8 and count.max() < most
    # About one word in six is picked, and the right end of a row less than the rest.
    body = (rows["attention_mask"] > 0) & ~np.isin(rows["input_ids"], options["never"])
    assert (chosen.sum() / body.sum()) == pytest.approx(0.155, abs=0.02)
    full = lengths == 40
    share = chosen[full].mean(0)
    assert share[1:20].mean() > 1.02 * share[32:39].mean() > 0
    assert not (chosen & ~body).any()
    # Runs in a long row of one-piece words: windows of 6 n words, each with a run of n.
    plain = {
        "input_ids": np.full((3_000, 200), 1000, np.int32),
        "attention_mask": np.ones((3_000, 200), np.int32),
    }
    starts = np.ones(options["vocab_size"], bool)
    some = deberta.masked(mask_windows, plain, max_predictions=45, most=99, starts_word=starts)
    pick = chosen_of(some)[:, :120]  # before the quota ends a row
    assert pick.mean() == pytest.approx(1 / 6, abs=0.004)
    runs = word_runs(pick, {k: v[:, :120] for k, v in plain.items()}, starts, options["never"])
    shares = np.bincount(runs, minlength=4)[1:4] / len(runs)
    assert shares == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=0.04)
    # without n-grams every run is one token
    alone = deberta.masked(mask_windows, plain, max_predictions=45, most=99, longest=1)
    pick = chosen_of(alone)[:, :120].reshape(3_000, 20, 6)
    assert (pick.sum(2) == 1).all()
    assert pick.mean((0, 1)) == pytest.approx(np.full(6, 1 / 6), abs=0.01)


def test_a_word_that_the_slots_do_not_hold_is_left_out():
    starts = np.zeros(50, bool)
    starts[10] = True
    row = np.full((64, 30), 11, np.int32)
    row[:, 0], row[:, [1, 26]] = 2, 10  # one word of 25 pieces and one of 4
    batch = {"input_ids": row, "attention_mask": np.ones_like(row)}
    options = dict(seed=0, vocab_size=50, mask_token_id=4, never=(2,), starts_word=starts)
    index = np.arange(64)
    out = mask_windows(batch, index, 0 * index, max_predictions=20, most=4, **options)
    assert set(out["masked_weights"].sum(1).tolist()) == {0.0, 4.0}
    whole = mask_windows(batch, index, 0 * index, max_predictions=30, most=4, **options)
    assert set(whole["masked_weights"].sum(1).tolist()) == {25.0, 4.0}
    ngrams = mask_ngrams(batch, index, 0 * index, max_predictions=20, **options)
    assert set(ngrams["masked_weights"].sum(1).tolist()) == {4.0}  # the quota passes over the long


def begins(tokenizer, starts, *texts):
    """Whether each of these pieces begins a word."""
    return [bool(starts[tokenizer.token_to_id(text)]) for text in texts]


def assert_words_begin_where_albert_says(tokenizer, starts):
    assert all(begins(tokenizer, starts, "▁the", "▁", ",", ".", "(", "'", "<unk>"))
    pieces = [tokenizer.id_to_token(i) for i in range(tokenizer.vocab_size)]
    assert all(starts[i] for i, text in enumerate(pieces) if text and not text.isascii())
    assert not any(begins(tokenizer, starts, "s", "ing", "ed"))
    assert not tokenizer.starts_word[tokenizer.token_to_id(",")]  # the tokenizer's own rule differs


def test_words_begin_where_albert_says(albert):
    assert_words_begin_where_albert_says(albert.tokenizer, albert.starts)


def test_words_of_the_published_vocabulary_begin_where_albert_says(shared_data):
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "albert-base")
    starts = albert_starts(tokenizer)
    assert_words_begin_where_albert_says(tokenizer, starts)
    assert begins(tokenizer, starts, "9") == [True]


def test_words_begin_where_deberta_says(deberta):
    assert all(begins(deberta.tokenizer, deberta.starts, "▁the", ",", "'", "."))
    assert not any(begins(deberta.tokenizer, deberta.starts, "s", "ing", "ed"))


def test_words_of_the_published_vocabularies_begin_where_deberta_says(shared_data):
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "deberta-v3")
    starts = deberta_starts(tokenizer)
    assert all(begins(tokenizer, starts, "▁the", ",", "'", "—"))
    assert not any(begins(tokenizer, starts, "s", "ing", "9"))
    bpe = Tokenizer.load(shared_data / "tokenizers" / "roberta-base")
    starts = deberta_starts(bpe)
    assert all(begins(bpe, starts, "Ġthe", ",", "Ċ", "âĢĶ"))
    assert not any(begins(bpe, starts, "s", "ing", "..."))


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    length=st.integers(1, 20),
    most=st.integers(1, 8),
    longest=st.integers(1, 4),
    procedure=st.sampled_from([mask_ngrams, mask_windows]),
)
def test_corner_cases(data, length, most, longest, procedure):
    """Rows of special tokens only, of one token, of padding only; a word longer than the quota."""
    token = st.sampled_from([1, 2, 3, 10, 11, 12, 13])
    row = st.lists(token, min_size=length, max_size=length)
    ids = np.array(data.draw(st.lists(row, min_size=1, max_size=4)), np.int32)
    real = data.draw(st.lists(st.integers(0, length), min_size=len(ids), max_size=len(ids)))
    starts = np.ones(20, bool)
    starts[[12, 13]] = False
    mask = (np.arange(length) < np.array(real)[:, None]).astype(np.int32)
    index = np.arange(len(ids))
    out = procedure(
        {"input_ids": ids, "attention_mask": mask},
        index,
        0 * index,
        seed=SEED,
        vocab_size=20,
        mask_token_id=4,
        never=(2, 3),
        max_predictions=20,
        starts_word=starts,
        longest=longest,
        **({"most": most} if procedure is mask_windows else {"rate": 0.4}),
    )
    literal = albert_literal if procedure is mask_ngrams else deberta_literal
    for i, n in enumerate(real):
        limits = (
            (20, starts, (2, 3), 0.4) if procedure is mask_ngrams else (most, starts, (2, 3), 0.15)
        )
        expected = literal(ids[i, :n].tolist(), length, i, 0, *limits, longest) if n else []
        assert places(out)[i] == expected
