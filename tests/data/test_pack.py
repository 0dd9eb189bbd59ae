"""Packing loses nothing, overlaps nothing, and numbers what it packs."""

import numpy as np
import pytest
from corpora import SPECIALS, make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data.batch import check, pad
from bertvariants_jax.data.corpus import full_sentences, nsp_pairs
from bertvariants_jax.data.corrupt import mask_tokens
from bertvariants_jax.data.pack import fit, pack, packed


def literal_fit(lengths, capacity, kind, most):
    rows = []
    for number, length in enumerate(lengths):
        rooms = [
            (capacity - sum(lengths[i] for i in row), r)
            for r, row in enumerate(rows)
            if most is None or len(row) < most
        ]
        rooms = [(room, r) for room, r in rooms if room >= length]
        if not rooms:
            rows.append([number])
        elif kind == "first":
            rows[min(r for _, r in rooms)].append(number)
        else:
            least = min(rooms)[0]
            yield_rows = [r for room, r in rooms if room == least]
            rows[yield_rows[0]].append(number)
    return rows


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), max_size=60),
    kind=st.sampled_from(["best", "first"]),
    most=st.sampled_from([None, 1, 2, 5]),
)
def test_fit(lengths, kind, most):
    rows = fit(lengths, 20, kind, most)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    used = [sum(lengths[i] for i in row) for row in rows]
    assert all(u <= 20 for u in used) and all(most is None or len(row) <= most for row in rows)
    expected = literal_fit(lengths, 20, kind, most)
    if kind == "first":
        assert rows == expected
    else:  # among equally full rows either will do: the fill of the rows is the same
        assert (
            sorted(used) == sorted(sum(lengths[i] for i in row) for row in expected)
            or most is not None
        )


def test_fit_is_good_and_fast():
    lengths = np.random.default_rng(0).integers(5, 129, 100_000)
    for kind in ("best", "first"):
        rows = fit(lengths, 512, kind)
        assert lengths.sum() / (512 * len(rows)) > 0.98
    with pytest.raises(ValueError, match="sequence 1 has 9 tokens, but a row has room for 8"):
        fit([3, 9], 8)
    with pytest.raises(ValueError, match="'best' or 'first'"):
        fit([3], 8, "worst")


@settings(max_examples=100, deadline=None)
@given(data=st.data(), lengths=st.lists(st.integers(1, 12), min_size=1, max_size=15))
def test_pack_puts_every_token_in_its_place(data, lengths):
    rows = [
        {
            "input_ids": np.arange(n) + 100 * (i + 1),
            "token_type_ids": [i % 2] * n,
            "labels": i,
            "start_positions": n - 1,
        }
        for i, n in enumerate(lengths)
    ]
    tags = data.draw(st.booleans())
    if tags:
        for row, n in zip(rows, lengths, strict=True):
            row["labels"] = list(range(n))
    batch = pad(rows, 13)
    groups = fit(lengths, 20)
    out = pack(batch, groups, 20, pad_token_id=1)
    check(out, max_positions=12)
    for r, group in enumerate(groups):
        offset = 0
        for k, i in enumerate(group):
            n = lengths[i]
            place = slice(offset, offset + n)
            assert out["input_ids"][r, place].tolist() == batch["input_ids"][i, :n].tolist()
            assert (out["attention_mask"][r, place] == k + 1).all()
            assert (out["token_type_ids"][r, place] == i % 2).all()
            assert out["sequence_positions"][r, k] == offset and out["sequence_weights"][r, k] == 1
            assert out["start_positions"][r, k] == offset + n - 1
            assert (
                (out["labels"][r, place].tolist() == list(range(n)))
                if tags
                else out["labels"][r, k] == i
            )
            offset += n
        assert (out["attention_mask"][r, offset:] == 0).all() and (
            out["input_ids"][r, offset:] == 1
        ).all()
        if not tags:
            assert (out["labels"][r, len(group) :] == -100).all()
        assert not out["sequence_weights"][r, len(group) :].any()


def test_packed_examples():
    corpus = make_corpus([[3, 4, 5]] * 40)
    pairs = nsp_pairs(corpus, 32, seed=0, **SPECIALS)
    rows = packed(pairs, 64)
    assert len(rows) < len(pairs) and rows.fill > 0.85
    every = np.arange(len(rows))
    batch = rows.rows(every, 0 * every)
    check(batch, max_positions=32)
    assert (batch["attention_mask"] > 0).sum() == pairs.lengths.sum()
    assert (
        batch["sequence_weights"].sum() == len(pairs)
        and batch["next_sentence_label"].shape == batch["sequence_positions"].shape
    )
    assert (batch["input_ids"][batch["attention_mask"] > 0] == 2).sum() == len(pairs)
    part = rows.rows(every[3:5], 0 * every[3:5])
    assert all((part[k] == batch[k][3:5]).all() for k in part)
    done = mask_tokens(
        batch,
        every,
        0 * every,
        seed=0,
        vocab_size=1000,
        mask_token_id=4,
        never=(2, 3),
        max_predictions=10,
    )
    assert (
        done["masked_weights"].sum(1)
        == np.minimum(10, np.rint(0.15 * (batch["attention_mask"] > 0).sum(1)))
    ).all()
    blocks = packed(
        full_sentences(corpus, 20, cross_documents=False, **SPECIALS), 64, kind="first", most=3
    )
    assert (
        blocks.rows(np.arange(2), np.zeros(2, int))["attention_mask"].max() == 3 == blocks.sequences
    )


def test_pack_refuses():
    batch = pad([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5]}])
    with pytest.raises(ValueError, match="row 0 would hold 5 tokens, more than its length 4"):
        pack(batch, [[0, 1]], 4)
    with pytest.raises(ValueError, match="2 sequences, more than the 1"):
        pack(batch, [[0, 1]], 8, sequences=1)
    with pytest.raises(ValueError, match="packed already"):
        pack(pack(batch, [[0, 1]], 8), [[0]], 8)
    with pytest.raises(ValueError, match="pack first, then mask"):
        pack({**batch, "masked_positions": np.zeros((2, 1), np.int32)}, [[0]], 8)
