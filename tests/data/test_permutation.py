"""XLNet's targets and orders: against restatements in plain loops, and by their statistics on real text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import Corpus
from bertvariants_jax.data.permutation import permute_tokens, ranks, span_targets, starts_span
from bertvariants_jax.data.streams import streams
from bertvariants_jax.text import train

SHARES = 1 / np.arange(1, 6) / (1 / np.arange(1, 6)).sum()        # .438 .219 .146 .110 .088
LENGTH, REUSE, P = 128, 64, 21


def literal_targets(starts, goal, draw_size, draw_place, singles, alpha=6, beta=1):
    """`_sample_mask` on one part, in loops: bool [n], and the sizes of the spans that were not cut to the goal."""
    n = len(starts)
    mask, found, at, sizes = [False] * n, 0, 0, []
    while at < n and found < goal:
        drawn = draw_size()
        size = min(drawn, goal - found)
        context = size * alpha // beta
        left = int(draw_place() * context)
        begin = at + left
        while begin < n and not starts[begin]:
            begin += 1
        if begin >= n or begin + size >= n:
            break
        mask[begin : begin + size] = [True] * size
        found += size
        at = begin + size + context - left
        if drawn == size:
            sizes.append(size)
    while found < goal:
        i = singles()
        if not mask[i]:
            mask[i] = True
            found += 1
    return mask, sizes


@pytest.fixture(scope="module")
def xlnet(sentences):
    return train(sentences, "xlnet", 8000)


@pytest.fixture(scope="module")
def rows(manual, xlnet):
    """More than 4 thousand rows of real text, half of them backwards; and their masks."""
    examples = streams(Corpus.build(manual, xlnet), LENGTH, reuse_len=REUSE, batch_size=20, seed=1, bi_data=True,
                       sep_token_id=xlnet.sep_token_id, cls_token_id=xlnet.cls_token_id,
                       eod_token_id=xlnet.token_to_id("<eod>"))
    assert len(examples) >= 10_000
    return examples.rows(np.arange(len(examples)))


def options(tokenizer, **changed):
    return {"seed": 7, "starts_word": starts_span(tokenizer), "reuse_len": REUSE, "perm_size": 32, "num_predict": P,
            "functional": (tokenizer.sep_token_id, tokenizer.cls_token_id), **changed}


@pytest.fixture(scope="module")
def masked(rows, xlnet):
    n = len(rows["input_ids"])
    return permute_tokens(rows, np.arange(n), np.zeros(n, int), **options(xlnet))


def test_targets_equal_the_restatement_and_its_statistics(rows, masked, xlnet):
    """With the same draws the same targets, on every row; with NumPy's own, the same statistics."""
    ids, backwards, starts = rows["input_ids"], rows["backwards"], starts_span(xlnet)
    index, rng = np.arange(len(ids)), np.random.default_rng(0)
    fixed = (ids == xlnet.sep_token_id) | (ids == xlnet.cls_token_id)
    got, want, other = (np.zeros(ids.shape, bool) for _ in range(3))
    row, slot = np.nonzero(masked["masked_weights"])
    got[row, masked["masked_positions"][row, slot]] = True
    spans = []
    for name, part, goal in (("first", slice(0, REUSE), 11), ("second", slice(REUSE, LENGTH), 10)):
        turns = 64 // 7 + 1
        draws = noise.uniform(7, f"plm/{name}", 0, index, 2 * turns)
        sizes = np.searchsorted(np.cumsum(SHARES), draws[:, :turns]) + 1
        order = np.argsort(noise.bits(7, f"plm/{name} single", 0, index, 64) & ~np.uint64(63), axis=1)
        for i in range(len(ids)):
            turned = starts[ids[i, part]][:: -1 if backwards[i] else 1]
            mask, more = literal_targets(turned, goal, iter(sizes[i].tolist()).__next__,
                                         iter(draws[i, turns:].tolist()).__next__, iter(order[i].tolist()).__next__)
            want[i, part] = mask[:: -1 if backwards[i] else 1]
            spans += more
            if i < 4000:
                mask, _ = literal_targets(turned, goal, lambda: 1 + int(np.searchsorted(np.cumsum(SHARES), rng.random())),
                                          rng.random, lambda: rng.integers(64))
                other[i, part] = mask[:: -1 if backwards[i] else 1]
    np.testing.assert_array_equal(got, want & ~fixed)
    assert (want[:, :REUSE].sum(1) == 11).all() and (want[:, REUSE:].sum(1) == 10).all()
    share = np.bincount(spans, minlength=6)[1:] / len(spans)
    assert share[0] > share[1] > share[2] > share[3] > share[4] > 0.03      # near the end, long ones do not fit
    for side in (0, 1):                              # how often each place is a target, in both directions
        one, two = want[backwards == side].mean(0), other[:4000][backwards[:4000] == side].mean(0)
        sigma = np.sqrt(0.17 * 0.83 * (1 / (backwards == side).sum() + 1 / 2000))
        assert np.abs(one - two).max() < 4.5 * sigma
        assert abs((one - two).mean()) < 1e-12       # quotas are met to the last
    at_start = starts[ids] & want
    assert 0.6 < at_start.sum() / want.sum() < 0.95  # spans begin words; the rest of a span need not


def test_sizes_are_drawn_by_one_over_n():
    """On a part far longer than its goal no span is cut or dropped: .438 .219 .146 .110 .088, one token in seven."""
    n = 2500
    some = {"alpha": 6, "beta": 1, "longest": 5, "seed": 3, "stream": "s", "epoch": np.zeros(n), "index": np.arange(n)}
    chosen = span_targets(np.ones((n, 2000), bool), 100, **some)
    edge = np.diff(np.pad(chosen, ((0, 0), (1, 1))).astype(int), axis=1)
    begin, end = np.nonzero(edge == 1), np.nonzero(edge == -1)
    inner = begin[0][1:] == begin[0][:-1]                                     # all but each row's last span, which may be cut
    sizes = (end[1] - begin[1])[:-1][inner]
    share = np.bincount(sizes, minlength=6)[1:] / len(sizes)
    assert len(sizes) > 100_000 and np.abs(share - SHARES).max() < 0.005
    last = np.array([np.flatnonzero(row)[-1] for row in chosen])
    assert abs(100 / (last.mean() + 1 + 6) - 1 / 7) < 0.002


def test_what_a_row_gets(rows, masked, xlnet):
    """E3, E16, E17: the target is the token itself, never functional; P slots, unused ones weigh nothing."""
    n = len(rows["input_ids"])
    positions, labels, weights = (masked[k] for k in ("masked_positions", "masked_labels", "masked_weights"))
    assert positions.shape == labels.shape == weights.shape == (n, P)
    assert (positions.dtype, labels.dtype, weights.dtype) == ("int32", "int32", "float32")
    np.testing.assert_array_equal(masked["input_ids"], rows["input_ids"])     # nothing is replaced
    np.testing.assert_array_equal(np.where(weights > 0, np.take_along_axis(rows["input_ids"], positions, 1), 0), labels)
    assert not np.isin(labels[weights > 0], (xlnet.sep_token_id, xlnet.cls_token_id)).any()
    assert (labels[weights == 0] == 0).all() and (positions[weights == 0] == 0).all()
    used = weights.sum(1)
    assert used.max() == P and used.min() >= P - 3 and 0.02 < (used < P).mean() < 0.5
    assert ((np.diff(positions) > 0) | (weights[:, 1:] == 0)).all()
    order = masked["perm_order"]
    seen = order == np.where(np.arange(LENGTH) < REUSE, 0, order[:, :1] * 0 + order[:, REUSE:].min(1, keepdims=True))
    target = np.zeros_like(seen)
    row, slot = np.nonzero(weights)
    target[row, positions[row, slot]] = True
    fixed = np.isin(rows["input_ids"], (xlnet.sep_token_id, xlnet.cls_token_id))
    np.testing.assert_array_equal(~seen, target | fixed)                      # orders of their own: targets and functional
    assert (order[:, :REUSE].max(1) < order[:, REUSE:].min(1)).all()
    for part in (order[:, :REUSE], order[:, REUSE:]):                         # runs of 32, one after the other
        hidden = part > part.min()
        early, late = (np.where(hidden[:, half], part[:, half], fill) for half, fill in
                       ((slice(0, 32), -1), (slice(32, 64), 10**6)))
        assert (early.max(1) < late.min(1)).all()


def test_ranks_are_one_permutation_in_every_run():
    some = {"seed": 1, "stream": "s", "epoch": np.zeros(6000), "index": np.arange(6000)}
    got = ranks(12, 4, **some)
    pi = got[:, :4]
    assert (np.sort(pi) == np.arange(4)).all()
    for run in (1, 2):
        np.testing.assert_array_equal(got[:, 4 * run : 4 * run + 4] - 4 * run, pi)
    counts = np.unique(pi, axis=0, return_counts=True)[1]
    assert len(counts) == 24 and ((counts - 250) ** 2 / 250).sum() < 60       # chi square, 23 degrees of freedom
    assert (np.sort(ranks(7, 0, **some)) == np.arange(7)).all()               # one run, any length
    assert (ranks(7, 3, **some)[:, 6] // 3 == 2).all()


@settings(max_examples=100, deadline=None)
@given(
    length=st.integers(2, 40),
    data=st.data(),
    perm_size=st.integers(0, 12),
    seed=st.integers(0, 99),
    special=st.booleans(),
)
def test_any_length_and_any_tokens(length, data, perm_size, seed, special):
    """Odd lengths, all special, no word start at all, as many targets as tokens."""
    reuse = data.draw(st.integers(1, length - 1))
    p = data.draw(st.integers(1, 2 * min(reuse, length - reuse)))
    ids = np.full((3, length), 2) if special else np.random.default_rng(seed).integers(0, 6, (3, length))
    batch = {"input_ids": ids.astype(np.int32), "backwards": np.array([0, 1, 0], np.int32)}
    starts = np.array([False] * 5 + [seed % 2 == 0])
    out = permute_tokens(batch, np.arange(3), np.zeros(3, int), seed=seed, starts_word=starts, functional=(2, 3),
                         reuse_len=reuse, perm_size=perm_size, num_predict=p)
    fixed = np.isin(ids, (2, 3))
    assert (out["masked_weights"].sum(1) <= np.minimum(p, (~fixed).sum(1))).all()
    if not fixed.any():
        assert (out["masked_weights"].sum(1) == p).all()
    one = permute_tokens({k: v[1:2] for k, v in batch.items()}, np.array([1]), np.array([0]), seed=seed,
                         starts_word=starts, functional=(2, 3), reuse_len=reuse, perm_size=perm_size, num_predict=p)
    for name, value in one.items():                                          # a row is its own, in any batch
        np.testing.assert_array_equal(value, out[name][1:2], err_msg=name)


def test_new_epochs_draw_anew_and_masking_twice_is_refused(rows, masked, xlnet):
    some = {k: v[:50] for k, v in rows.items()}
    index = np.arange(50)
    same, other = (permute_tokens(some, index, np.full(50, e), **options(xlnet)) for e in (0, 1))
    np.testing.assert_array_equal(same["perm_order"], masked["perm_order"][:50])
    for name in ("masked_positions", "perm_order"):
        assert (same[name] != other[name]).any(1).all()
    with pytest.raises(ValueError, match="masked already"):
        permute_tokens(same, index, index, **options(xlnet))
    with pytest.raises(ValueError, match="65 targets do not fit into 64 tokens"):
        permute_tokens(some, index, index, **options(xlnet, num_predict=130))


def test_word_starts_are_the_original_rule(xlnet):
    """E10: a piece that begins with ▁ or <, or is a mark of punctuation."""
    pieces = [xlnet.id_to_token(i) for i in range(xlnet.vocab_size)]
    want = [p.startswith("▁") or p.startswith("<") or p in set("!\"#$%&\"()*+,-./:;?@[\\]^_`{|}~") for p in pieces]
    np.testing.assert_array_equal(starts_span(xlnet), want)
