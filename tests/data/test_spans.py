"""SpanBERT's masking against a literal restatement and against its statistics on real text."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data import noise
from bertvariants_jax.data.batch import check
from bertvariants_jax.data.corpus import full_sentences
from bertvariants_jax.data.spans import choose_spans, lengths, mask_spans

PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103
V = 30522
IDS = {"cls_token_id": CLS, "sep_token_id": SEP, "pad_token_id": PAD}
PLACES = math.ceil(0.15 * 126)


@pytest.fixture(scope="module")
def rows(books):
    """More than 10 thousand segments of real text, at length 64 and 128."""
    blocks = [full_sentences(books, n, cross_documents=False, drop_long=True, **IDS) for n in (128, 64)]
    batches = [b.rows(np.arange(len(b))) for b in blocks]
    batches[1] = {k: np.pad(v, ((0, 0), (0, 64))) for k, v in batches[1].items()}
    whole = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    assert len(whole["input_ids"]) >= 10_000
    return whole


@pytest.fixture(scope="module")
def masker(books, bert):
    return functools.partial(mask_spans, seed=7, starts_word=bert.starts_word, counts=books.counts(V),
                             mask_token_id=MASK, max_predictions=PLACES)


@pytest.fixture(scope="module")
def masked(rows, masker):
    n = len(rows["input_ids"])
    return masker(rows, np.arange(n), np.zeros(n, int))


def chosen_of(out):
    chosen = np.zeros(out["input_ids"].shape, bool)
    used = out["masked_weights"] > 0
    chosen[np.nonzero(used)[0], out["masked_positions"][used]] = True
    return chosen


def literal(ids, size, starts_word, total, index, epoch, seed=7, rate=0.15, places=PLACES, targets=15):
    """PairWithSpanMaskingScheme.mask, merge_intervals and span_masking of facebookresearch/SpanBERT, line by line; the
    block is ids[1 : 1 + size], and np.random is the noise at the same places.
    """
    sentence = ids[1 : 1 + size].tolist()
    starts = starts_word[sentence] if size else []
    draw = lambda stream, at: float(noise.uniform(seed, stream, epoch, index, np.array([[at]]))[0, 0])
    mask_num, mask, spans, turn = math.ceil(size * rate), set(), [], 0
    shares = np.cumsum(lengths())

    def word_start(at):
        while at > 0 and not starts[at]:
            at -= 1
        return at

    def word_end(at):
        at += 1
        while at < size and not starts[at]:
            at += 1
        return at

    while len(mask) < mask_num:
        span_len = 1 + int((shares[:-1] <= draw("span/length", turn)).sum())
        anchor = int(noise.integers(seed, "span/anchor", epoch, index, np.array([[turn]]), size)[0, 0])
        turn += 1
        if anchor in mask:
            continue
        left1, right1 = word_start(anchor), word_end(anchor)
        spans.append([left1, left1])
        for i in range(left1, right1):
            if len(mask) >= mask_num:
                break
            mask.add(i)
            spans[-1][-1] = i
        num_words, right2 = 1, right1
        while num_words < span_len and right2 < size and len(mask) < mask_num:
            left2, right2 = right2, word_end(right2)
            num_words += 1
            for i in range(left2, right2):
                if len(mask) >= mask_num:
                    break
                mask.add(i)
                spans[-1][-1] = i
    merged = []
    for start, end in sorted(spans):
        if not merged or merged[-1][1] + 1 < start:
            merged.append([start, end])
        else:
            merged[-1][1] = max(merged[-1][1], end)
    assert len(mask) == sum(end - start + 1 for start, end in merged)

    out, pairs, new = [], {}, list(sentence)
    for start, end in merged:
        rand = draw("span/fate", start + 1)
        for i in range(start, end + 1):
            out.append((i + 1, sentence[i]))
            if start > 0 and end < size - 1 and i - start < targets:
                pairs[i + 1] = (start, end + 2, i - start)          # + 1, for [CLS] stands before the block
            if rand < 0.8:
                new[i] = MASK
            elif rand >= 0.9:                                       # the same share of random ones as in the original
                new[i] = int(np.searchsorted(total, draw("span/word", i + 1) * total[-1], side="right"))
    return [ids[0].item(), *new, *ids[1 + size :].tolist()], out, pairs


def test_equals_the_literal_procedure(rows, masked, masker, bert, books):
    total = np.cumsum(books.counts(V), dtype=float)
    for i in range(0, len(rows["input_ids"]), 9):
        size = int(rows["attention_mask"][i].sum()) - 2
        tokens, predictions, pairs = literal(rows["input_ids"][i], size, bert.starts_word, total, i, 0)
        assert masked["input_ids"][i].tolist() == tokens
        n = len(predictions)
        assert list(zip(masked["masked_positions"][i, :n].tolist(), masked["masked_labels"][i, :n].tolist(),
                        strict=True)) == predictions
        assert masked["masked_weights"][i].tolist() == [1.0] * n + [0.0] * (PLACES - n)
        got = {p: (*masked["span_boundaries"][i, k].tolist(), int(masked["span_offsets"][i, k]))
               for k, (p, _) in enumerate(predictions) if masked["span_weights"][i, k]}
        assert got == pairs
        assert not masked["span_weights"][i, n:].any() and not masked["span_boundaries"][i, n:].any()


def test_lengths_are_the_papers():
    want = [0.2241, 0.1792, 0.1434, 0.1147, 0.0918, 0.0734, 0.0587, 0.0470, 0.0376, 0.0301]
    np.testing.assert_allclose(lengths(), want, atol=5e-5)
    assert (lengths() * np.arange(1, 11)).sum() == pytest.approx(3.797, abs=5e-4)


def test_budgets_are_exact(rows, masked):
    sizes = (rows["attention_mask"].sum(1) - 2).tolist()
    assert masked["masked_weights"].sum(1).tolist() == [math.ceil(0.15 * n) for n in sizes]
    assert len(set(sizes)) > 50


def test_drawn_lengths_and_anchors():
    """One span in a long block of one-piece words, its budget out of reach: its length is the drawn one."""
    n, length = 20_000, 64
    starts, sizes = np.ones((n, length), bool), np.full(n, 62)
    one = choose_spans(starts, sizes, np.full(n, 1), 3, 0, np.arange(n))
    first = one.argmax(1)
    parts = np.bincount(first, minlength=64)[1:63]
    assert ((parts - n / 62) ** 2 / (n / 62)).sum() < 61 + 5 * np.sqrt(2 * 61)      # anchors are even over the block
    many = choose_spans(starts, sizes, np.full(n, 30), 3, 0, np.arange(n))
    runs = np.diff(np.nonzero(np.pad(many, ((0, 0), (1, 1))).ravel())[0])
    assert (runs > 1).any()
    # where the first span reaches neither the block's end nor another span, its run is as long as drawn
    drawn = 1 + np.searchsorted(np.cumsum(lengths())[:-1], noise.uniform(3, "span/length", 0, np.arange(n), 1)[:, 0], "right")
    whole = choose_spans(starts, sizes, drawn, 3, 0, np.arange(n))
    fits = first + drawn <= 63
    run = whole.sum(1)
    assert (run[fits] == drawn[fits]).all()
    share = np.bincount(drawn, minlength=11)[1:] / n
    np.testing.assert_allclose(share, lengths(), atol=5 * np.sqrt(0.18 / n))
    assert drawn.mean() == pytest.approx(3.797, abs=5 * 2.6 / np.sqrt(n))


def test_spans_are_whole_words_but_the_last(rows, masked, bert):
    chosen, starts = chosen_of(masked), bert.starts_word[rows["input_ids"]]
    goes_on = ~starts[:, 1:] & (rows["attention_mask"][:, 1:] > 0) & (np.arange(1, 128) > 1)
    cut_left = goes_on & chosen[:, 1:] & ~chosen[:, :-1]
    cut_right = goes_on & chosen[:, :-1] & ~chosen[:, 1:]
    assert not cut_left.any()                                  # a span begins where a word does
    assert cut_right.sum(1).max() == 1                         # only the last drawn is cut, by the budget
    assert 0.02 < cut_right.any(1).mean() < 0.3


def test_one_fate_a_span_and_the_corpus_own_distribution(rows, masked, books):
    used = masked["masked_weights"] > 0
    now = np.take_along_axis(masked["input_ids"], masked["masked_positions"], 1)
    label, places = masked["masked_labels"], masked["masked_positions"]
    new = used.copy()
    new[:, 1:] &= places[:, 1:] != places[:, :-1] + 1
    number = np.cumsum(new.ravel()).reshape(new.shape) - 1
    spans = int(new.sum())
    size = np.bincount(number[used], minlength=spans)
    masks = np.bincount(number[used], (now == MASK)[used], minlength=spans)
    assert set(np.unique(masks / size)) == {0.0, 1.0}          # all of a span or none of it
    share = (masks > 0).mean()
    assert spans > 30_000 and share == pytest.approx(0.8, abs=5 * np.sqrt(0.16 / spans))
    same = np.bincount(number[used], (now == label)[used], minlength=spans)
    long = size >= 4                                           # a random span hardly repeats four tokens
    assert (same == size)[long].mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / long.sum()))
    random = used & (now != MASK) & ((masks == 0) & (same < size))[number]
    drawn = now[random]
    n, p = len(drawn), books.counts(V) / books.num_tokens
    frequent = np.argsort(-p)[:100]
    got = np.bincount(drawn, minlength=V)[frequent]
    want = n * p[frequent]
    assert n > 5_000 and ((got - want) ** 2 / want).sum() < 100 + 6 * np.sqrt(200)    # uniform drawing gives thousands
    assert (p[drawn] > 0).all()
    # spans follow each other apart: no span touches another
    assert (np.diff(places, axis=1)[used[:, 1:] & new[:, 1:]] > 1).all()


def test_boundary_targets(rows, masked):
    on = masked["span_weights"] > 0
    row, _ = np.nonzero(on)
    left, right = masked["span_boundaries"][on].T
    place, offset = masked["masked_positions"][on], masked["span_offsets"][on]
    chosen, sizes = chosen_of(masked), rows["attention_mask"].sum(1) - 2
    assert (left == place - offset - 1).all() and (right > place).all()
    assert not chosen[row, left].any() and not chosen[row, right].any()
    assert left.min() >= 1 and (right <= sizes[row]).all()     # neighbours are words, not [CLS] or [SEP]
    assert offset.min() == 0 and offset.max() == 14
    # what is no target stands in a span at the block's edge, or beyond 15
    off = (masked["masked_weights"] > 0) & ~on
    edge = np.zeros_like(chosen)
    for step in range(1, 128):                                 # runs that hold the block's first place
        edge[:, step] = chosen[:, step] & (edge[:, step - 1] | (step == 1))
    back = np.zeros_like(chosen)
    for step in range(126, 0, -1):
        back[:, step] = chosen[:, step] & (back[:, step + 1] | (step == sizes))
    r, _ = np.nonzero(off)
    p = masked["masked_positions"][off]
    far = chosen[r[:, None], np.maximum(p[:, None] - np.arange(16), 0)].all(1)
    assert (edge[r, p] | back[r, p] | far).all() and far.any() and edge[r, p].any()
    assert 0.85 < on.sum() / masked["masked_weights"].sum() < 0.98


def test_what_is_chosen_and_changed(rows, masked):
    chosen = chosen_of(masked)
    assert not ((masked["input_ids"] != rows["input_ids"]) & ~chosen).any()
    ids = rows["input_ids"][chosen]
    assert not np.isin(ids, [CLS, SEP, PAD]).any()
    check(masked, V, 2, 128)


def test_depends_on_example_and_epoch_alone(rows, masked, masker):
    some = {k: v[40:60] for k, v in rows.items()}
    part = masker(some, np.arange(40, 60), np.zeros(20, int))
    assert all((part[k] == masked[k][40:60]).all() for k in part)
    other = masker(some, np.arange(40, 60), np.ones(20, int))
    assert (other["masked_positions"] != part["masked_positions"]).any(1).all()


def test_bad_input_is_named(rows, masker, masked, bert):
    some = {k: v[:2] for k, v in rows.items()}
    with pytest.raises(ValueError, match="masked already"):
        masker({k: v[:2] for k, v in masked.items()}, np.arange(2), np.zeros(2, int))
    with pytest.raises(ValueError, match="packed"):
        masker({**some, "attention_mask": some["attention_mask"] * 2}, np.arange(2), np.zeros(2, int))
    with pytest.raises(ValueError, match="`counts` is 0 everywhere"):
        masker(some, np.arange(2), np.zeros(2, int), counts=np.zeros(V, int))
    with pytest.raises(ValueError, match="slots a row"):
        masker(some, np.arange(2), np.zeros(2, int), max_predictions=3)
    with pytest.raises(ValueError, match="0 < stop < 1"):
        masker(some, np.arange(2), np.zeros(2, int), stop=1.0)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), length=st.integers(2, 24), rate=st.sampled_from([0.05, 0.15, 0.5, 1.0]))
def test_corner_cases(data, length, rate):
    """Empty blocks, blocks of one word, of one token, of continuations alone: as the literal procedure."""
    token = st.sampled_from([MASK, UNK, 500, 501, 502, 503])
    ids = np.array(data.draw(st.lists(st.lists(token, min_size=length, max_size=length), min_size=1, max_size=3)), np.int32)
    real = np.array(data.draw(st.lists(st.integers(0, length), min_size=len(ids), max_size=len(ids))))
    starts = np.ones(600, bool)
    starts[[501, 502, 503]] = False
    counts = np.arange(600)
    batch = {"input_ids": ids, "attention_mask": (np.arange(length) < real[:, None]).astype(np.int32)}
    out = mask_spans(batch, np.arange(len(ids)), np.zeros(len(ids), int), seed=7, starts_word=starts, counts=counts,
                     mask_token_id=MASK, max_predictions=length, rate=rate)
    for i, size in enumerate(np.maximum(real - 2, 0).tolist()):
        tokens, predictions, pairs = literal(ids[i], size, starts, np.cumsum(counts, dtype=float), i, 0, rate=rate)
        assert out["input_ids"][i].tolist() == tokens
        assert out["masked_positions"][i, : len(predictions)].tolist() == [p for p, _ in predictions]
        assert out["masked_weights"][i].sum() == len(predictions) and out["span_weights"][i].sum() == len(pairs)


def test_counts_of_a_corpus(books):
    counts = books.counts(V)
    assert counts.sum() == books.num_tokens and counts[:100].sum() == 0
    first, rest = books.split(0.1)
    assert (first.counts(V) + rest.counts(V) == counts).all() and rest.counts(V).sum() == rest.num_tokens
