"""Streams of segments against a restatement with lists, one token at a time."""

import pickle

import numpy as np
import pytest
from corpora import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data import noise
from bertvariants_jax.data.pipeline import pipeline
from bertvariants_jax.data.streams import streams

SEP, CLS, EOD = 1, 2, 3
IDS = {"sep_token_id": SEP, "cls_token_id": CLS, "eod_token_id": EOD}


def literal(corpus, max_length, reuse_len, batch_size, seed, bi_data, epoch=0, eod=EOD):
    """XLNet's data, token by token: (tokens, segments, is B random, read backwards) of each example in order.

    The draws are the noise at the same places; where a choice is among cuts, these stand in the text's order.
    """
    text, flags, flag = [], [], True
    for d in range(corpus.num_documents):
        for s in range(corpus.documents[d], corpus.documents[d + 1]):
            sentence = corpus.tokens[corpus.sentences[s] : corpus.sentences[s + 1]].tolist()
            if s == corpus.documents[d + 1] - 1 and eod is not None:
                sentence.append(eod)
            text += sentence
            flags += [flag] * len(sentence)
            flag = not flag
    rows = batch_size // 2 if bi_data else batch_size
    size = len(text) // rows
    data = [(text[k * size : (k + 1) * size], flags[k * size : (k + 1) * size], False) for k in range(rows)]
    if bi_data:
        data += [(tokens[::-1], marks[::-1], True) for tokens, marks, _ in data]
    tot, out, i = max_length - reuse_len - 3, [], 0
    while i + max_length <= size:
        for b, (tokens, marks, backwards) in enumerate(data):
            index = len(out)
            coin, choice, place = noise.uniform(seed, "streams/cuts", epoch, [index], 3)[0]
            begin, cuts, end = i + reuse_len, [], i + reuse_len + 1
            while end < size:
                if marks[end] != marks[end - 1]:
                    if end - begin >= tot:
                        break
                    cuts.append(end)
                end += 1
            pick = (cuts[::-1] if backwards else cuts)[int(choice * len(cuts))] if cuts else end
            random = not cuts or coin < 0.5
            a_end = pick
            if random:
                b_len = max(1, tot - (a_end - begin))
                b_begin = int(place * (size - b_len))
                b_end = b_begin + b_len
                while b_begin > 0 and marks[b_begin - 1] == marks[b_begin]:
                    b_begin -= 1
                while b_end < size - 1 and marks[b_end - 1] == marks[b_end]:
                    b_end += 1
            else:
                b_begin, b_end = a_end, end
            while a_end - begin + b_end - b_begin > tot:
                if a_end - begin > b_end - b_begin:
                    a_end -= 1
                else:
                    b_end -= 1
            a, b_tokens = tokens[begin:a_end], tokens[b_begin:b_end]
            assert b == index % batch_size and len(a) + len(b_tokens) == tot
            out.append((tokens[i:begin] + a + [SEP] + b_tokens + [SEP, CLS],
                        [0] * (reuse_len + len(a) + 1) + [1] * (len(b_tokens) + 1) + [2], random, backwards))
        i += reuse_len
    return out


def assert_same(examples, expected, epoch=0):
    assert len(examples) == len(expected)
    every = np.arange(len(examples))
    rows = examples.rows(every, np.full(len(every), epoch))
    assert {k: v.dtype.name for k, v in rows.items()} == dict.fromkeys(rows, "int32")
    for name, column in (("input_ids", 0), ("token_type_ids", 1), ("backwards", 3)):
        np.testing.assert_array_equal(rows[name], np.array([e[column] for e in expected]), err_msg=name)
    np.testing.assert_array_equal(
        examples.cuts(every, np.full(len(every), epoch))[3], [e[2] for e in expected]
    )
    assert (rows["attention_mask"] == 1).all()


@pytest.mark.parametrize("bi_data", [False, True])
@pytest.mark.parametrize("max_length,reuse_len", [(128, 64), (129, 50)])
def test_real_text_equals_the_restatement(books, bi_data, max_length, reuse_len):
    examples = streams(books, max_length, reuse_len=reuse_len, batch_size=12, seed=3, bi_data=bi_data, **IDS)
    assert len(examples) > 6000
    expected = literal(books, max_length, reuse_len, 12, 3, bi_data, epoch=2)
    assert_same(examples, expected, epoch=2)
    share = np.mean([e[2] for e in expected])
    assert 0.5 < share < 0.56                        # a half, and rows without a cut
    ids = examples.rows(np.arange(len(examples)), None)["input_ids"]
    assert ((ids == SEP).sum(1) == 2).all() and ((ids == CLS).sum(1) == 1).all() and (ids[:, -1] == CLS).all()


@settings(max_examples=120, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=8), min_size=1, max_size=6),
    reuse_len=st.integers(1, 20),
    more=st.integers(5, 20),
    batch_size=st.sampled_from([2, 4]),
    bi_data=st.booleans(),
    eod=st.sampled_from([None, EOD]),
    seed=st.integers(0, 10**6),
)
def test_any_corpus_equals_the_restatement(documents, reuse_len, more, batch_size, bi_data, eod, seed):
    corpus = make_corpus(documents)
    options = {**IDS, "eod_token_id": eod, "reuse_len": reuse_len, "batch_size": batch_size, "seed": seed,
               "bi_data": bi_data}
    expected = literal(corpus, reuse_len + more, reuse_len, batch_size, seed, bi_data, eod=eod)
    if not expected:
        with pytest.raises(ValueError, match=r"the corpus has \d+ tokens, \d+ for each of"):
            streams(corpus, reuse_len + more, **options)
        return
    assert_same(streams(corpus, reuse_len + more, **options), expected)


def test_a_row_goes_on_where_it_was():
    """The reused tokens of batch t + 1 are what A begins with in batch t, epoch after epoch; backwards too."""
    corpus = make_corpus([[9] * 40] * 4)
    examples = streams(corpus, 24, reuse_len=6, batch_size=4, seed=0, bi_data=True, **IDS)
    batches = pipeline(examples, batch_size=4, shuffle=False)
    for t in range(examples.segments - 1):
        now, after = batches.batch(t), batches.batch(t + 1)
        a = examples.cuts(np.arange(4) + 4 * t)[0]
        for row in range(4):
            length = min(6, a[row])
            np.testing.assert_array_equal(after["input_ids"][row, :length], now["input_ids"][row, 6 : 6 + length])
        step = np.diff(now["input_ids"][:, :6].astype(int)) * np.where(now["backwards"], -1, 1)[:, None]
        assert ((step == 1) | (now["input_ids"][:, 1:6] == EOD) | (now["input_ids"][:, :5] == EOD)).all()
    again = batches.batch(examples.segments)                                   # the second epoch cuts anew
    first = batches.batch(0)
    np.testing.assert_array_equal(again["input_ids"][:, :6], first["input_ids"][:, :6])
    assert not np.array_equal(again["input_ids"], first["input_ids"])


def test_a_part_of_a_corpus_and_another_process():
    whole = make_corpus([[7, 5, 9]] * 30)
    part = whole.split(0.5)[1]
    examples = streams(part, 20, reuse_len=8, batch_size=2, seed=1, **IDS)
    assert_same(examples, literal(part, 20, 8, 2, 1, False))
    again = pickle.loads(pickle.dumps(examples))
    for name, value in examples.rows(np.arange(4)).items():
        np.testing.assert_array_equal(again.rows(np.arange(4))[name], value)


@pytest.mark.parametrize("options,message", [
    ({"reuse_len": 0}, "reuse_len must lie between 1 and max_length - 5 = 15"),
    ({"reuse_len": 16}, "reuse_len must lie between 1"),
    ({"batch_size": 3, "bi_data": True}, "batch_size 3 must be a positive even number: with bi_data half"),
    ({"batch_size": 200}, "the corpus has 600 tokens, 3 for each of 200 streams, where a segment has 20"),
])
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        streams(make_corpus([[10] * 6] * 10), 20, **{"reuse_len": 8, "batch_size": 2, "seed": 0, **IDS, **options})
