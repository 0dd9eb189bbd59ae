"""DistilBERT's masking against a literal restatement and against its statistics on real text."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from corpora import SPECIALS, make_corpus

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import full_sentences
from bertvariants_jax.data.frequency import mask_rare, rarity, sound

PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103
V = 30522
IDS = {"cls_token_id": CLS, "sep_token_id": SEP, "pad_token_id": PAD}
PLACES = 40


@pytest.fixture(scope="module")
def rows(books):
    """More than 10 thousand segments of real text, at length 64 and 128, mixed."""
    blocks = [full_sentences(books, n, cross_documents=False, **IDS) for n in (128, 64)]
    batches = [b.rows(np.arange(len(b))) for b in blocks]
    batches[1] = {k: np.pad(v, ((0, 0), (0, 64))) for k, v in batches[1].items()}
    whole = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}
    assert len(whole["input_ids"]) >= 10_000
    mixed = np.random.default_rng(0).permutation(len(whole["input_ids"]))
    return {k: v[mixed] for k, v in whole.items()}


@pytest.fixture(scope="module")
def odds(books, bert):
    return rarity(books.counts(V), bert.special_ids)


@pytest.fixture(scope="module")
def masker(odds):
    return functools.partial(mask_rare, seed=3, odds=odds, mask_token_id=MASK, max_predictions=PLACES, together=8)


@pytest.fixture(scope="module")
def masked(rows, masker):
    n = len(rows["input_ids"])
    return masker(rows, np.arange(n), np.zeros(n, int))


def chosen_of(out):
    chosen = np.zeros(out["input_ids"].shape, bool)
    used = out["masked_weights"] > 0
    chosen[np.nonzero(used)[0], out["masked_positions"][used]] = True
    return chosen


def literal(batch, index, epoch, odds, together, rate=0.15, places=PLACES, seed=3):
    """The tokens of `together` rows in the order in which they are drawn, each with its odds among those that are left
    (an exponential race), until there are enough; a row is full at `places`.
    """
    chosen = np.zeros(batch["input_ids"].shape, bool)
    for low in range(0, len(chosen), together):
        race, total = [], 0
        for r in range(low, min(low + together, len(chosen))):
            u = noise.uniform(seed, "rare/order", epoch, index[r], chosen.shape[1])[0]
            for place, token in enumerate(batch["input_ids"][r].tolist()):
                if batch["attention_mask"][r, place]:
                    total += 1
                    if odds[token] > 0:
                        race.append((-math.log1p(-u[place]) / odds[token], r, place))
        left = math.ceil(rate * total)
        for _, r, place in sorted(race):
            if left and chosen[r].sum() < places:
                chosen[r, place] = True
                left -= 1
    return chosen


@pytest.mark.parametrize("together, places", [(8, 40), (5, 40), (8, 20)])
def test_equals_the_literal_procedure(rows, masker, odds, together, places):
    some = {k: v[:203] for k, v in rows.items()}
    index = np.arange(203) * 3
    out = masker(some, index, np.full(203, 2), together=together, max_predictions=places)
    want = literal(some, index, 2, odds, together, places=places)
    assert (chosen_of(out) == want).all()
    if places == 20:
        assert (want.sum(1) == 20).any()                     # the limit was met


def test_counts_are_those_of_the_rows_together(rows, masked, masker):
    lengths = rows["attention_mask"].sum(1)
    whole = len(lengths) // 8 * 8
    got = masked["masked_weights"].sum(1)
    want = np.ceil(0.15 * lengths[:whole].reshape(-1, 8).sum(1))
    assert (got[:whole].reshape(-1, 8).sum(1) == want).all()
    assert (got != np.ceil(0.15 * lengths)).mean() > 0.5     # not of each row alone
    assert (got == PLACES).mean() < 0.001                    # twice the rate is room enough
    some = {k: v[:64] for k, v in rows.items()}
    all_of_it = masker(some, np.arange(64), np.zeros(64, int), together=0)
    assert all_of_it["masked_weights"].sum() == math.ceil(0.15 * lengths[:64].sum())


def test_rare_tokens_are_chosen_as_by_drawing_with_their_odds(rows, masked, odds, books):
    """Shares by frequency, beside numpy's own drawing without replacement, row group by row group."""
    counts = books.counts(V)
    ids, real, chosen = rows["input_ids"], rows["attention_mask"] > 0, chosen_of(masked)
    bins = np.array([0, 16, 32, 128, 512, 2048, 8192, 10**9])
    bucket = np.digitize(counts[ids], bins) - 1
    candidates = real & (odds[ids] > 0)
    rng, other = np.random.default_rng(1), np.zeros(ids.shape, bool)
    groups = range(0, len(ids) // 8 * 8, 8)
    for low in groups:
        part = slice(low, low + 8)
        p = np.where(real[part], odds[ids[part]], 0).ravel()
        n = math.ceil(0.15 * real[part].sum())
        other[part].reshape(-1)[rng.choice(p.size, n, replace=False, p=p / p.sum())] = True
    rates = []
    for b in range(len(bins) - 1):
        there = candidates & (bucket == b)
        there[len(groups) * 8 :] = False
        n = there.sum()
        assert n > 5_000
        a, z = chosen[there].mean(), other[there].mean()
        rates.append(a)
        assert a == pytest.approx(z, abs=5 * np.sqrt(2 * z * (1 - z) / n) + 1e-4)
    assert (np.diff(rates) < 0).all() and rates[0] > 0.6 > 0.05 > rates[-1]    # without smoothing all would be 0.15


def test_odds():
    counts = np.array([9, 0, 1, 2, 1000, 50])
    np.testing.assert_allclose(rarity(counts, [0, 5]), [0, 1, 1, 2**-0.7, 1000**-0.7, 0])
    np.testing.assert_allclose(rarity(counts, [0], 0.0), [0, 1, 1, 1, 1, 1])


def test_special_tokens_are_never_chosen(rows, masked, bert):
    chosen = chosen_of(masked)
    assert (rows["attention_mask"][chosen] == 1).all()
    assert not np.isin(rows["input_ids"][chosen], bert.special_ids).any()
    assert UNK in bert.special_ids and MASK in bert.special_ids
    assert not ((masked["input_ids"] != rows["input_ids"]) & ~chosen).any()


def test_eighty_ten_ten_over_the_whole_vocabulary(masked):
    used = masked["masked_weights"] > 0
    label = masked["masked_labels"][used]
    now = np.take_along_axis(masked["input_ids"], masked["masked_positions"], 1)[used]
    n = used.sum()
    assert n > 100_000
    assert (now == MASK).mean() == pytest.approx(0.8, abs=5 * np.sqrt(0.16 / n))
    assert (now == label).mean() == pytest.approx(0.1, abs=5 * np.sqrt(0.09 / n))
    drawn = now[(now != MASK) & (now != label)]
    parts = np.histogram(drawn, 20, (0, V))[0]
    assert ((parts - len(drawn) / 20) ** 2 / (len(drawn) / 20)).sum() < 60


def test_depends_on_the_rows_together_alone(rows, masked, masker):
    """Hosts whose rows are whole groups give the same global batch; epochs give others."""
    some = {k: v[16:40] for k, v in rows.items()}
    part = masker(some, np.arange(16, 40), np.zeros(24, int))
    assert all((part[k] == masked[k][16:40]).all() for k in part)
    other = masker(some, np.arange(16, 40), np.ones(24, int))
    assert (other["masked_positions"] != part["masked_positions"]).any(1).mean() > 0.8


def test_corner_cases(odds, masker):
    empty = {"input_ids": np.zeros((3, 8), np.int32), "attention_mask": np.zeros((3, 8), np.int32)}
    special = {"input_ids": np.full((3, 8), CLS, np.int32), "attention_mask": np.ones((3, 8), np.int32)}
    for batch in (empty, special):
        out = masker(batch, np.arange(3), np.zeros(3, int))
        assert not out["masked_weights"].any() and (out["input_ids"] == batch["input_ids"]).all()
    one = {"input_ids": np.array([[CLS, 5000, SEP, 0]], np.int32), "attention_mask": np.array([[1, 1, 1, 0]], np.int32)}
    out = masker(one, np.arange(1), np.zeros(1, int))
    assert out["masked_positions"].shape == (1, PLACES)
    assert out["masked_weights"].sum() == 1 and out["masked_positions"][0, 0] == 1 and out["masked_labels"][0, 0] == 5000
    full = masker(one, np.arange(1), np.zeros(1, int), rate=1.0)
    assert full["masked_weights"].sum() == 1                 # three are asked for, one may be chosen
    with pytest.raises(ValueError, match="masked already"):
        masker(out, np.arange(1), np.zeros(1, int))


def test_short_and_unknown_rows_are_left_out():
    corpus = make_corpus([[9], [10], [30], [12, 11], [30]])
    blocks = full_sentences(corpus, 40, cross_documents=False, **SPECIALS)
    assert blocks.lengths.tolist() == [11, 12, 32, 25, 32]
    assert sound(blocks, unk_token_id=4).lengths.tolist() == [12, 32, 25, 32]
    tokens = corpus.tokens.copy()
    tokens[19:35] = 4                                         # 16 of the 32 tokens of the third row
    tokens[49:61] = 4                                         # 12 of the 25 of the fourth
    blocks = replace(blocks, corpus=replace(corpus, tokens=tokens))
    assert sound(blocks, unk_token_id=4).start.tolist() == [9, 49, 72]
    with pytest.raises(ValueError, match="none of the 5 rows has 50 tokens or more"):
        sound(blocks, unk_token_id=4, shortest=50)
