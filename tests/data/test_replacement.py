"""ELECTRA's masking against a literal restatement of pretrain_helpers.py and against its statistics
on real text.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data import noise
from bertvariants_jax.data.batch import check
from bertvariants_jax.data.replacement import (
    mask_one_in_window,
    mask_with_replacement,
    most_predictions,
)
from bertvariants_jax.data.two_segments import two_segments

PAD, UNK, CLS, SEP, MASK = 0, 100, 101, 102, 103
V = 30522
OPTIONS = dict(mask_token_id=MASK, never=(CLS, SEP, MASK), seed=5, max_predictions=19)


@pytest.fixture(scope="module")
def rows(books):
    """More than 10 thousand rows of real text at length 48."""
    ids = {"cls_token_id": CLS, "sep_token_id": SEP, "pad_token_id": PAD}
    passes = [two_segments(books, 48, seed=seed, **ids) for seed in (1, 2)]
    assert sum(map(len, passes)) >= 10_000
    batches = [segments.rows(np.arange(len(segments))) for segments in passes]
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def masked(batch, epoch=0, **options):
    index = np.arange(len(batch["input_ids"]))
    return mask_with_replacement(
        batch, index, np.full(len(index), epoch), **{**OPTIONS, **options}
    )


def literal(ids, length, index, epoch, n_max, rate=0.15, seed=5, masked=0.85):
    """`mask` of google-research/electra for one row; its draws are the noise at the same slots."""
    candidates = [i for i in range(length) if ids[i] not in (CLS, SEP, MASK)]
    if not candidates:
        return list(ids), []
    num_to_predict = max(1, min(n_max, round(length * rate)))
    draws = noise.integers(seed, "replacement/place", epoch, index, n_max, len(candidates))[0]
    fate = noise.uniform(seed, "replacement/fate", epoch, index, n_max)[0]
    positions = sorted(candidates[k] for k in draws[:num_to_predict])
    out = list(ids)
    for slot, position in enumerate(positions):
        if fate[slot] < masked:
            out[position] = MASK
    return out, [(p, ids[p]) for p in positions]


def test_equals_the_literal_procedure(rows):
    some = {k: v[:2000] for k, v in rows.items()}
    out = masked(some, epoch=3)
    for i, length in enumerate(some["attention_mask"].sum(1).tolist()):
        ids, predictions = literal(some["input_ids"][i].tolist(), length, i, 3, 19)
        n = len(predictions)
        assert out["input_ids"][i].tolist() == ids
        slots = zip(
            out["masked_positions"][i, :n].tolist(),
            out["masked_labels"][i, :n].tolist(),
            strict=True,
        )
        assert list(slots) == predictions
        assert out["masked_weights"][i].tolist() == [1.0] * n + [0.0] * (19 - n)
        assert not out["masked_positions"][i, n:].any() and not out["masked_labels"][i, n:].any()
    check(out, V, 2)


def test_slots():
    """The paper's and the released code's numbers."""
    assert [most_predictions(0.15, 128), most_predictions(0.15, 512)] == [19, 79]
    assert most_predictions(0.25, 512) == 130 and most_predictions(0.15, 5) == 1


@pytest.mark.parametrize("most", [19, 6])
def test_counts_are_exact(rows, most):
    expected = [min(most, max(1, round(n * 0.15))) for n in rows["attention_mask"].sum(1).tolist()]
    assert masked(rows, max_predictions=most)["masked_weights"].sum(1).tolist() == expected


def test_rates_over_two_epochs(rows):
    """85% of the draws become [MASK], the others stay, nothing becomes another word; a place is drawn
    again as often as with replacement.
    """
    draws = hidden = pairs = equal = 0
    for epoch in range(2):
        out = masked(rows, epoch=epoch)
        used, positions = out["masked_weights"] > 0, out["masked_positions"]
        now = np.take_along_axis(out["input_ids"], positions, 1)
        assert ((now == out["masked_labels"]) | (now == MASK))[used].all()
        once = used.copy()  # places drawn once: masked by one throw
        once[:, 1:] &= positions[:, 1:] != positions[:, :-1]
        once[:, :-1] &= ~used[:, 1:] | (positions[:, 1:] != positions[:, :-1])
        draws += once.sum()
        hidden += (now == MASK)[once].sum()
        n = used.sum(1)
        real = (rows["input_ids"] != CLS) & (rows["input_ids"] != SEP)
        candidates = (real & (rows["attention_mask"] > 0)).sum(1)
        pairs += (n * (n - 1) / 2 / candidates).sum()
        for gap in range(1, 19):
            both = used[:, gap:] & (positions[:, gap:] == positions[:, :-gap])
            equal += both.sum()
        changed = out["input_ids"] != rows["input_ids"]
        there = np.zeros_like(changed)
        there[np.nonzero(used)[0], positions[used]] = True
        assert not (changed & ~there).any()
    assert draws > 80_000
    assert hidden / draws == pytest.approx(0.85, abs=5 * np.sqrt(0.85 * 0.15 / draws))
    assert equal == pytest.approx(pairs, rel=0.05)  # none, were it without


def test_who_is_chosen(rows):
    """Never a special token; every other as often as it stands there, and every place alike."""
    labels = np.zeros(V, np.int64)
    places = np.zeros(48)
    for epoch in range(3):
        out = masked(rows, epoch=epoch)
        used = out["masked_weights"] > 0
        labels += np.bincount(out["masked_labels"][used], minlength=V)
        places += np.bincount(out["masked_positions"][used], minlength=48)
    real = rows["attention_mask"] > 0
    there = np.bincount(rows["input_ids"][real], minlength=V) * 3
    assert not labels[[PAD, CLS, SEP, MASK]].any() and not places[0]
    body = there.copy()
    body[[CLS, SEP]] = 0
    frequent = np.argsort(body)[-40:]
    rate = labels.sum() / body.sum()
    error = np.abs(labels[frequent] / body[frequent] - rate)
    assert (error < 6 * np.sqrt(rate / body[frequent])).all()
    assert places[1:40].min() > 0.85 * places[1:40].max()


def test_dynamic_and_independent_of_the_batch(rows):
    some = {k: v[:200] for k, v in rows.items()}
    a, b = (masked(some, epoch=e)["masked_positions"] for e in (0, 1))
    assert (a != b).any(1).mean() > 0.99
    part = {k: v[10:20] for k, v in some.items()}
    before = {k: v.copy() for k, v in part.items()}
    out = mask_with_replacement(part, np.arange(10, 20), np.zeros(10, int), **OPTIONS)
    assert (out["masked_positions"] == a[10:20]).all()
    assert all((part[k] == before[k]).all() for k in part)
    with pytest.raises(ValueError, match="masked already"):
        masked(out)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), length=st.integers(1, 20), most=st.integers(1, 8))
def test_corner_cases(data, length, most):
    """Rows of nothing but special tokens, of nothing but padding, with more slots than tokens."""
    token = st.sampled_from([CLS, SEP, MASK, UNK, 500, 501])
    ids = np.array(
        data.draw(
            st.lists(st.lists(token, min_size=length, max_size=length), min_size=1, max_size=4)
        ),
        np.int32,
    )
    real = data.draw(st.lists(st.integers(0, length), min_size=len(ids), max_size=len(ids)))
    mask = (np.arange(length) < np.array(real)[:, None]).astype(np.int32)
    batch = {"input_ids": ids, "attention_mask": mask}
    out = masked(batch, max_predictions=most, rate=0.9)
    for i in range(len(ids)):
        want, predictions = literal(ids[i].tolist(), real[i], i, 0, most, rate=0.9)
        assert out["input_ids"][i].tolist() == want
        n = int(out["masked_weights"][i].sum())
        assert out["masked_positions"][i, :n].tolist() == [p for p, _ in predictions]


def test_one_in_each_window_becomes_a_mask(rows):
    """DeBERTa-v3: the quota is met from the left, each window of six candidates has one, at any of
    its places alike, and all of them are hidden.
    """
    index = np.arange(len(rows["input_ids"]))
    never = (CLS, SEP, MASK, PAD, UNK)
    out = mask_one_in_window(
        rows, index, 0 * index, seed=5, mask_token_id=MASK, never=never, max_predictions=7
    )
    check(out, V, 2)
    used, positions = out["masked_weights"] > 0, out["masked_positions"]
    assert (np.take_along_axis(out["input_ids"], positions, 1)[used] == MASK).all()
    labels = np.take_along_axis(rows["input_ids"], positions, 1)
    assert (out["masked_labels"][used] == labels[used]).all()
    assert not np.isin(labels[used], never).any()
    candidates = (rows["attention_mask"] > 0) & ~np.isin(rows["input_ids"], never)
    number = np.take_along_axis(np.cumsum(candidates, 1) - 1, positions, 1)  # among the candidates
    windows = np.broadcast_to(np.arange(positions.shape[1]), number.shape)
    assert (number // 6 == windows)[used].all()
    expected = np.minimum(
        -(-candidates.sum(1) // 6), np.maximum(1, np.rint(0.15 * rows["attention_mask"].sum(1)))
    )
    assert (used.sum(1) == expected).all()
    whole = used & (6 * windows + 6 <= candidates.sum(1)[:, None])
    share = np.bincount(number[whole] % 6, minlength=6) / whole.sum()
    assert whole.sum() > 50_000
    assert share == pytest.approx(1 / 6, abs=5 * np.sqrt(5 / 36 / whole.sum()))
