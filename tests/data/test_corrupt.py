"""BERT's, RoBERTa's and ModernBERT's masking against literal restatements and against their
statistics on real text.
"""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import full_sentences, nsp_pairs
from bertvariants_jax.data.corrupt import (
    Static,
    fairseq_places,
    independent_places,
    mask_independently,
    mask_like_fairseq,
    mask_tokens,
    quota,
)
from bertvariants_jax.data.pack import packed

PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103
V = 30522
BERT = dict(vocab_size=V, mask_token_id=MASK, never=(CLS, SEP), seed=5)


@pytest.fixture(scope="module")
def rows(books):
    """More than 10 thousand pairs of real text at length 128."""
    pairs = nsp_pairs(
        books, 128, seed=1, dupe_factor=3, cls_token_id=CLS, sep_token_id=SEP, pad_token_id=PAD
    )
    assert len(pairs) >= 10_000
    return pairs.rows(np.arange(len(pairs)))


def masked(batch, epoch=0, **options):
    index = np.arange(len(batch["input_ids"]))
    return mask_tokens(
        batch, index, np.full(len(index), epoch), **{"max_predictions": 20, **BERT, **options}
    )


def literal(ids, length, index, epoch, max_predictions, starts_word=None, seed=5, rate=0.15):
    """create_masked_lm_predictions of google-research/bert, line by line; its rng is the noise at
    the same places.
    """
    tokens = ids[:length].tolist()
    order = noise.bits(seed, "mask/order", epoch, index, len(ids))[0]
    fate = noise.uniform(seed, "mask/fate", epoch, index, len(ids))[0]
    word = noise.integers(seed, "mask/word", epoch, index, len(ids), V)[0]
    cand_indexes = []
    for i, token in enumerate(tokens):
        if token in (CLS, SEP):
            continue
        if starts_word is not None and len(cand_indexes) >= 1 and not starts_word[token]:
            cand_indexes[-1].append(i)
        else:
            cand_indexes.append([i])
    low = (1 << (len(ids) - 1).bit_length()) - 1
    cand_indexes.sort(key=lambda c: (int(order[c[0]]) & ~low, c[0]))
    output_tokens = list(tokens)
    num_to_predict = min(max_predictions, max(1, round(len(tokens) * rate)))
    masked_lms, covered_indexes = [], set()
    for index_set in cand_indexes:
        if len(masked_lms) >= num_to_predict:
            break
        if len(masked_lms) + len(index_set) > num_to_predict:
            continue
        if any(i in covered_indexes for i in index_set):
            continue
        for i in index_set:
            covered_indexes.add(i)
            if fate[i] < 0.8:
                masked_token = MASK
            elif fate[i] < 0.9:
                masked_token = tokens[i]
            else:
                masked_token = int(word[i])
            output_tokens[i] = masked_token
            masked_lms.append((i, tokens[i]))
    return output_tokens, sorted(masked_lms)


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("most", [20, 7])
def test_equals_the_literal_procedure(rows, bert, whole_words, most):
    some = {k: v[:3000] for k, v in rows.items()}
    starts = bert.starts_word if whole_words else None
    out = masked(some, epoch=3, starts_word=starts, max_predictions=most)
    for i, length in enumerate(some["attention_mask"].sum(1).tolist()):
        tokens, predictions = literal(some["input_ids"][i], length, i, 3, most, starts)
        assert out["input_ids"][i, :length].tolist() == tokens
        n = len(predictions)
        assert (
            list(
                zip(
                    out["masked_positions"][i, :n].tolist(),
                    out["masked_labels"][i, :n].tolist(),
                    strict=True,
                )
            )
            == predictions
        )
        assert out["masked_weights"][i].tolist() == [1.0] * n + [0.0] * (most - n)
        assert not out["masked_positions"][i, n:].any() and not out["masked_labels"][i, n:].any()


def test_word_starts_of_the_vocabulary(bert):
    pieces = [bert.id_to_token(i) for i in range(V)]
    assert bert.starts_word.shape == (V,)
    assert bert.starts_word.tolist() == [not p.startswith("##") for p in pieces]


@pytest.mark.parametrize("most", [20, 12])
def test_counts_are_exact(rows, most):
    lengths = rows["attention_mask"].sum(1)
    expected = [min(most, max(1, round(n * 0.15))) for n in lengths.tolist()]
    assert masked(rows, max_predictions=most)["masked_weights"].sum(1).tolist() == expected
    assert len(set(expected)) > 5
    assert quota(np.array([0, 1, 10, 30, 50]), 0.15, 99).tolist() == [
        0,
        1,
        2,
        4,
        8,
    ]  # 1.5 -> 2, 4.5 -> 4, 7.5 -> 8


def test_eighty_ten_ten_over_the_whole_vocabulary(rows):
    out = masked(rows)
    used = out["masked_weights"] > 0
    label = out["masked_labels"][used]
    now = np.take_along_axis(out["input_ids"], out["masked_positions"], 1)[used]
    n = used.sum()
    assert n > 150_000
    sigma = np.sqrt(0.1 * 0.9 / n)
    assert (now == MASK).mean() == pytest.approx(0.8, abs=5 * np.sqrt(0.16 / n))
    assert (now == label).mean() == pytest.approx(0.1, abs=5 * sigma)
    drawn = now[(now != MASK) & (now != label)]
    assert len(drawn) / n == pytest.approx(0.1, abs=5 * sigma)
    # Uniform over all rows, special and unused ones too: a wrong range shows in one of 20 parts.
    parts = np.histogram(drawn, 20, (0, V))[0]
    assert ((parts - len(drawn) / 20) ** 2 / (len(drawn) / 20)).sum() < 60
    low = (drawn < 1000).sum()  # [PAD], [UNK], [CLS], [SEP], [MASK] and [unused...]
    assert low == pytest.approx(len(drawn) * 1000 / V, abs=5 * np.sqrt(len(drawn) * 1000 / V))
    count = lambda ids: int(((ids == CLS) | (ids == SEP)).sum())
    more = sum(
        count(masked(rows, epoch=e)["input_ids"]) - count(rows["input_ids"]) for e in range(8)
    )
    assert 0 < more < 40  # about 11, 8 * n / 10 * 2 / V


def test_who_is_chosen(rows, bert):
    label_counts = np.zeros(V, np.int64)
    for epoch in range(3):
        out = masked(rows, epoch=epoch)
        used = out["masked_weights"] > 0
        label_counts += np.bincount(out["masked_labels"][used], minlength=V)
        assert (
            np.diff(out["masked_positions"], axis=1)[used[:, 1:]] > 0
        ).all()  # ascending, no position twice
        changed = out["input_ids"] != rows["input_ids"]
        chosen = np.zeros_like(changed)
        chosen[np.nonzero(used)[0], out["masked_positions"][used]] = True
        assert not (changed & ~chosen).any()
        assert (rows["attention_mask"][chosen] == 1).all()
    there = np.bincount(rows["input_ids"][rows["attention_mask"] > 0], minlength=V) * 3
    assert not label_counts[[PAD, CLS, SEP]].any()
    if there[UNK] > 200:  # BERT does predict [UNK]
        assert label_counts[UNK] > 0
    # Every other token is chosen as often as it stands there.
    frequent = np.argsort(there)[-50:]
    frequent = frequent[(frequent != CLS) & (frequent != SEP)]
    rate = label_counts.sum() / (there.sum() - there[CLS] - there[SEP])
    assert np.abs(label_counts[frequent] / there[frequent] - rate).max() < 6 * np.sqrt(
        rate / there[frequent].min()
    )


def test_whole_words_are_whole(rows, bert):
    out = masked(rows, starts_word=bert.starts_word)
    ids, starts = rows["input_ids"], bert.starts_word[rows["input_ids"]]
    used = out["masked_weights"] > 0
    chosen = np.zeros(ids.shape, bool)
    chosen[np.nonzero(used)[0], out["masked_positions"][used]] = True
    body = (rows["attention_mask"] > 0) & (ids != CLS) & (ids != SEP)
    goes_on = (
        body[:, 1:] & body[:, :-1] & ~starts[:, 1:]
    )  # a piece that continues the word to its left
    assert goes_on.sum() > 50_000
    assert (chosen[:, 1:][goes_on] == chosen[:, :-1][goes_on]).all()
    pieces = masked(rows)
    alone = np.zeros(ids.shape, bool)
    alone[
        np.nonzero(pieces["masked_weights"])[0],
        pieces["masked_positions"][pieces["masked_weights"] > 0],
    ] = True
    assert (
        alone[:, 1:][goes_on] == alone[:, :-1][goes_on]
    ).mean() < 0.8  # piece by piece it is otherwise
    n = quota(rows["attention_mask"].sum(1), 0.15, 20)
    got = out["masked_weights"].sum(1)
    assert (got <= n).all() and (got == n).mean() > 0.99
    # Each piece has a fate of its own: a word of two is neither all masked nor all kept.
    two = goes_on & chosen[:, 1:] & chosen[:, :-1]
    left, right = (out["input_ids"][:, :-1] == MASK)[two], (out["input_ids"][:, 1:] == MASK)[two]
    assert (left & right).mean() == pytest.approx(0.64, abs=0.02)


def test_dynamic_and_static(rows):
    some = {k: v[:500] for k, v in rows.items()}
    epochs = [masked(some, epoch=e)["masked_positions"] for e in range(4)]
    for a in range(4):
        for b in range(a):
            assert (epochs[a] != epochs[b]).any(1).mean() > 0.99
    mask = functools.partial(mask_tokens, max_predictions=20, **BERT)
    index = np.arange(500)
    static = [Static(mask, 3)(some, index, np.full(500, e)) for e in range(7)]
    for name in ("input_ids", "masked_positions"):
        assert (static[0][name] == static[3][name]).all() and (
            static[1][name] == static[4][name]
        ).all()
    assert (static[0]["masked_positions"] != static[1]["masked_positions"]).any()
    assert (static[6]["masked_positions"] == epochs[0]).all()


def test_does_not_depend_on_the_batch(rows):
    whole = masked({k: v[:64] for k, v in rows.items()})
    part = {k: v[10:20] for k, v in rows.items()}
    before = {k: v.copy() for k, v in part.items()}
    out = mask_tokens(part, np.arange(10, 20), np.zeros(10, int), max_predictions=20, **BERT)
    assert all((out[k] == whole[k][10:20]).all() for k in out)
    assert all((part[k] == before[k]).all() for k in part)  # the input is not written to
    assert {k: v.dtype.name for k, v in out.items() if k.startswith("masked")} == {
        "masked_positions": "int32",
        "masked_labels": "int32",
        "masked_weights": "float32",
    }


def test_masking_twice_is_refused(rows):
    with pytest.raises(ValueError, match="masked already"):
        masked(masked({k: v[:2] for k, v in rows.items()}))


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    length=st.integers(1, 20),
    most=st.integers(1, 8),
    whole=st.booleans(),
    rate=st.floats(0.0, 1.0),
)
def test_corner_cases(data, length, most, whole, rate):
    token = st.sampled_from([CLS, SEP, MASK, UNK, 500, 501, 502, 503])
    ids = np.array(
        data.draw(
            st.lists(st.lists(token, min_size=length, max_size=length), min_size=1, max_size=4)
        ),
        np.int32,
    )
    real = np.array(
        data.draw(st.lists(st.integers(0, length), min_size=len(ids), max_size=len(ids)))
    )
    batch = {
        "input_ids": ids,
        "attention_mask": (np.arange(length) < real[:, None]).astype(np.int32),
    }
    starts = np.ones(V, bool)
    starts[[502, 503]] = False
    out = masked(batch, rate=rate, max_predictions=most, starts_word=starts if whole else None)
    for i in range(len(ids)):
        tokens, predictions = literal(
            ids[i], real[i], i, 0, most, starts if whole else None, rate=rate
        )
        n = int(out["masked_weights"][i].sum())
        if real[i] == 0:
            assert n == 0
            continue
        assert out["input_ids"][i, : real[i]].tolist() == tokens
        assert out["masked_positions"][i, :n].tolist() == [p for p, _ in predictions]


@pytest.fixture(scope="module")
def blocks(books):
    """More than 10 thousand full sentences, most of them 64 long."""
    ids = dict(cls_token_id=CLS, sep_token_id=SEP, pad_token_id=PAD)
    examples = full_sentences(books, 64, line_ends=True, **ids)
    assert len(examples) > 10_000
    return examples.rows(np.arange(len(examples)))


def by_fairseq(batch, epoch=0, rate=0.15):
    index, length = np.arange(len(batch["input_ids"])), batch["input_ids"].shape[1]
    return mask_like_fairseq(
        batch,
        index,
        np.full(len(index), epoch),
        seed=5,
        mask_token_id=MASK,
        words=WORDS,
        max_predictions=fairseq_places(length, rate),
        rate=rate,
    )


WORDS = np.setdiff1d(np.arange(V), [CLS, PAD, SEP, UNK])


def chosen_of(out):
    chosen = np.zeros(out["input_ids"].shape, bool)
    used = out["masked_weights"] > 0
    chosen[np.nonzero(used)[0], out["masked_positions"][used]] = True
    return chosen


def fates(out):
    """The chosen tokens' true ids and what became of them."""
    used = out["masked_weights"] > 0
    now = np.take_along_axis(out["input_ids"], out["masked_positions"], 1)
    return out["masked_labels"][used], now[used]


def assert_eighty_ten_ten(label, now):
    n = len(now)
    drawn = now[(now != MASK) & (now != label)]
    assert (now == MASK).mean() == pytest.approx(0.8, abs=5 * np.sqrt(0.16 / n))
    assert (now == label).mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / n))
    assert len(drawn) / n == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / n))
    parts = np.histogram(drawn, 20, (0, V))[0]
    assert ((parts - len(drawn) / 20) ** 2 / (len(drawn) / 20)).sum() < 60
    return drawn


def test_fairseq_equals_the_literal_procedure(blocks):
    some = {k: v[:1500] for k, v in blocks.items()}
    out = by_fairseq(some, epoch=4)
    for i, length in enumerate(some["attention_mask"].sum(1).tolist()):
        item = some["input_ids"][i, :length]
        rand = noise.uniform(5, "mask/count", 4, i, 1)[0, 0]
        num_mask = int(0.15 * length + rand)
        order = noise.bits(5, "mask/order", 4, i, length)[0]
        choice = np.sort(
            np.argsort(order & ~np.uint64(63) | np.arange(length, dtype=np.uint64))[:num_mask]
        )
        fate = noise.uniform(5, "mask/fate", 4, i, 64)[0]
        word = noise.integers(5, "mask/word", 4, i, 64, len(WORDS))[0]
        new_item = item.copy()
        for place in choice:
            rand_or_unmask = fate[place] >= 0.8
            if not rand_or_unmask:
                new_item[place] = MASK
            elif fate[place] >= 0.9:
                new_item[place] = WORDS[word[place]]
        assert out["input_ids"][i, :length].tolist() == new_item.tolist()
        assert out["masked_positions"][i, :num_mask].tolist() == choice.tolist()
        assert out["masked_labels"][i, :num_mask].tolist() == item[choice].tolist()
        assert out["masked_weights"][i].sum() == num_mask


def test_fairseq_numbers_on_real_text(blocks):
    out = by_fairseq(blocks)
    lengths, count = blocks["attention_mask"].sum(1), out["masked_weights"].sum(1)
    low = np.floor(0.15 * lengths)
    assert ((count == low) | (count == low + 1)).all()  # int(.15 n + u)
    share = 0.15 * lengths - low
    assert (count - low).mean() == pytest.approx(share.mean(), abs=4 * np.sqrt(0.25 / len(low)))
    part = share > 0.5
    assert (count - low)[part].mean() > (count - low)[~part].mean() + 0.2
    # Every position is as likely as any other: <s>, every </s>, and the unknown.
    chosen, ids = chosen_of(out), blocks["input_ids"]
    for token in (CLS, SEP):
        there = (ids == token) & (blocks["attention_mask"] > 0)
        assert chosen[there].mean() == pytest.approx(0.15, abs=5 * np.sqrt(0.13 / there.sum()))
    assert not chosen[blocks["attention_mask"] == 0].any()
    label, now = fates(out)
    drawn = assert_eighty_ten_ten(label, now)
    seen = np.concatenate([fates(by_fairseq(blocks, epoch=e))[1] for e in range(6)])
    assert not np.isin(drawn, [CLS, PAD, SEP, UNK]).any()
    before = np.concatenate([fates(by_fairseq(blocks, epoch=e))[0] for e in range(6)])
    assert not np.isin(seen[seen != before], [CLS, PAD, SEP, UNK]).any()
    # dynamic: another epoch, other places
    assert (by_fairseq(blocks, epoch=1)["masked_positions"] != out["masked_positions"]).any(
        1
    ).mean() > 0.99


def test_fairseq_places_hold_every_count():
    for length in range(1, 200):
        most = fairseq_places(length, 0.15)
        assert int(0.15 * length + 1 - 2**-53) <= most <= 0.15 * length + 1
    batch = {
        "input_ids": np.full((500, 3), 9, np.int32),
        "attention_mask": np.ones((500, 3), np.int32),
    }
    count = by_fairseq(batch)["masked_weights"].sum(1)
    assert set(count.tolist()) == {0.0, 1.0}  # a short row may go without
    empty = {**batch, "attention_mask": 0 * batch["attention_mask"]}
    assert by_fairseq(empty)["masked_weights"].sum() == 0


def independently(batch, rate=0.3, most=None, epoch=0):
    index, length = np.arange(len(batch["input_ids"])), batch["input_ids"].shape[1]
    return mask_independently(
        batch,
        index,
        np.full(len(index), epoch),
        seed=5,
        vocab_size=V,
        mask_token_id=MASK,
        rate=rate,
        max_predictions=independent_places(length, rate) if most is None else most,
    )


@pytest.mark.parametrize("rate", [0.3, 0.15])
def test_modernbert_numbers_on_packed_real_text(books, rate):
    ids = dict(cls_token_id=CLS, sep_token_id=SEP, pad_token_id=PAD)
    inside = full_sentences(books, 60, cross_documents=False, token_type_ids=False, **ids)
    rows = packed(inside, 60, pad_token_id=PAD)
    batch = rows.rows(np.arange(len(rows)), np.zeros(len(rows), int))
    assert len(rows) > 10_000 and batch["attention_mask"].max() > 1
    out = independently(batch, rate)
    chosen, real = chosen_of(out), batch["attention_mask"] > 0
    n = real.sum()
    assert chosen.sum() / n == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / n))
    assert not chosen[~real].any()
    # Bernoulli, not a quota: the counts of full rows spread as a binomial's do.
    full = real.all(1)
    assert chosen[full].sum(1).var() == pytest.approx(60 * rate * (1 - rate), rel=0.1)
    together = (chosen[:, 1:] & chosen[:, :-1])[real[:, 1:] & real[:, :-1]].mean()
    assert together == pytest.approx(rate**2, abs=0.005)
    for token in (CLS, SEP):  # special tokens too
        there = (batch["input_ids"] == token) & real
        spread = 5 * np.sqrt(rate * (1 - rate) / there.sum())
        assert chosen[there].mean() == pytest.approx(rate, abs=spread)
    assert_eighty_ten_ten(*fates(out))
    assert (out["attention_mask"] == batch["attention_mask"]).all()


def test_modernbert_slots_hold_all_but_the_unheard_of():
    assert independent_places(1024, 0.3) == 410 and independent_places(8, 0.3) == 8
    batch = {
        "input_ids": np.full((50, 40), 9, np.int32),
        "attention_mask": np.ones((50, 40), np.int32),
    }
    free, tight = independently(batch), independently(batch, most=10)
    assert tight["masked_weights"].sum(1).max() == 10 < free["masked_weights"].sum(1).max()
    for a, b in zip(chosen_of(free), chosen_of(tight), strict=True):
        assert np.flatnonzero(a)[:10].tolist() == np.flatnonzero(b).tolist()
