"""ERNIE 2.0's tasks: every label against a slow restatement on real text, the classes' balance, corner cases."""

import itertools
import math
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from corpora import SPECIALS, make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data.batch import check
from bertvariants_jax.data.corpus import Corpus
from bertvariants_jax.data.paragraphs import TASKS, capital_labels, occurrences, orders, paragraphs
from bertvariants_jax.data.units import mask_units
from bertvariants_jax.text import train

CLS, SEP, MASK, LENGTH = 101, 102, 103, 64
BERT = {"cls_token_id": CLS, "sep_token_id": SEP, "pad_token_id": 0}
ORDERS = [order for n in (1, 2, 3) for order in itertools.permutations(range(n))]


@pytest.fixture(scope="module")
def examples(books):
    """Every task about every paragraph of three novels."""
    capitals = (np.arange(len(books.tokens)) % 7 == 0).astype(np.int8)
    found = paragraphs(books, LENGTH, tasks=TASKS, units=np.zeros(len(books.tokens), np.int8), capitals=capitals, seed=3,
                       **BERT)
    assert len(found) >= 50_000
    return found


@pytest.fixture(scope="module")
def shown(examples):
    """The batch of all examples; and the segments of each row as (first place, size) in the corpus."""
    index = np.arange(len(examples))
    batch = examples.rows(index, 0 * index)
    placed = replace(examples, corpus=replace(examples.corpus, tokens=np.arange(len(examples.corpus.tokens)) + 1000, folder=""))
    ids, segments = placed.rows(index, 0 * index)["input_ids"], []
    for row, real in zip(ids, batch["attention_mask"].sum(1).tolist(), strict=True):
        assert row[0] == CLS and row[real - 1] == SEP and not row[real:].any()
        parts = np.split(row[:real - 1], np.flatnonzero(row[:real - 1] < 1000))[1:]
        for part in parts:
            assert (np.diff(part[1:]) == 1).all() and len(part) > 1
        segments.append([(int(part[1]) - 1000, len(part) - 1) for part in parts])
    return batch, segments


def rows_of(batch, name):
    return np.flatnonzero(batch["task_type_ids"][:, 0] == TASKS.index(name))


def near(values, p, sigmas=5):
    return abs(np.mean(values) - p) < sigmas * np.sqrt(p * (1 - p) / np.size(values))


def test_rows_are_laid_out(examples, shown):
    batch, segments = shown
    books = examples.corpus
    check(mask_units(batch, np.arange(len(segments)), np.zeros(len(segments), int), seed=0, vocab_size=30522,
                     mask_token_id=MASK, never=(CLS, SEP), max_predictions=LENGTH), 30522, 3, LENGTH)
    assert (batch["task_type_ids"] == np.arange(len(segments))[:, None] % 5).all()           # equal shares
    for i in range(0, len(segments), 17):
        ids = [CLS]
        for start, size in segments[i]:
            ids += [*books.tokens[start:start + size].tolist(), SEP]
        assert batch["input_ids"][i, :len(ids)].tolist() == ids
        types = [0, *itertools.chain.from_iterable([k] * (size + 1) for k, (_, size) in enumerate(segments[i]))]
        assert batch["token_type_ids"][i].tolist() == types + [0] * (LENGTH - len(types))
        special = np.isin(batch["input_ids"][i], (CLS, SEP)) | (batch["attention_mask"][i] == 0)
        assert ((batch["seg_labels"][i] < 0) == special).all()
    bounds = books.sentences[books.documents]
    for name in ("masking", "capital", "relation"):
        for i in rows_of(batch, name):
            ((start, size),) = segments[i]
            document = np.searchsorted(bounds, start, "right") - 1
            assert start + size <= bounds[document + 1]
    for name, task in (("capital_labels", "capital"), ("relation_labels", "relation")):
        answered = (batch[name] >= 0).any(1)
        assert (np.flatnonzero(answered) == rows_of(batch, task)).all()
        assert ((batch[name] >= 0)[answered] == (batch["seg_labels"][answered] >= 0)).all()
    for name, task in (("reorder_label", "reorder"), ("distance_label", "distance")):
        assert (np.flatnonzero(batch[name] >= 0) == rows_of(batch, task)).all()


def test_capital_and_relation_labels(examples, shown):
    batch, segments = shown
    books, bounds = examples.corpus, examples.corpus.sentences[examples.corpus.documents]
    counts = [Counter(books.tokens[a:b].tolist()) for a, b in itertools.pairwise(bounds.tolist())]
    seen = Counter()
    for i in rows_of(batch, "relation").tolist():
        ((start, size),) = segments[i]
        ids = books.tokens[start:start + size].tolist()
        document, own = counts[np.searchsorted(bounds, start, "right") - 1], Counter(ids)
        want = [int(document[token] > own[token]) for token in ids]
        assert batch["relation_labels"][i, 1:size + 1].tolist() == want
        seen.update(want)
    assert 0.5 < seen[1] / seen.total() < 0.95
    for i in rows_of(batch, "capital").tolist():
        ((start, size),) = segments[i]
        assert batch["capital_labels"][i, 1:size + 1].tolist() == examples.capitals[start:start + size].tolist()


def test_reordering(examples, shown):
    batch, segments = shown
    sentences = set(examples.corpus.sentences.tolist())
    borders = np.asarray(examples.corpus.sentences)
    parts, classes = Counter(), Counter()
    for i in rows_of(batch, "reorder").tolist():
        order = np.argsort(np.argsort([start for start, _ in segments[i]])).tolist()
        assert ORDERS[batch["reorder_label"][i]] == tuple(order)
        true = sorted(segments[i])
        assert all(a + n == b for (a, n), (b, _) in itertools.pairwise(true))                 # the whole paragraph, once
        assert all(start in sentences for start, _ in true[1:])
        block = int(i) // len(TASKS)
        assert (true[0][0], sum(size for _, size in true)) == (examples.start[block], examples.size[block])
        inner = np.searchsorted(borders, true[0][0] + examples.size[block], "left") - np.searchsorted(borders, true[0][0], "right")
        assert len(true) <= inner + 1
        if inner >= 2:
            parts[len(true)] += 1
            classes[int(batch["reorder_label"][i])] += 1
    for n in (1, 2, 3):
        assert abs(parts[n] / parts.total() - 1 / 3) < 5 * np.sqrt(2 / 9 / parts.total())
    for label, order in enumerate(ORDERS):                     # all orders of as many segments equally often
        total, p = parts[len(order)], 1 / math.factorial(len(order))
        assert abs(classes[label] - total * p) <= 5 * np.sqrt(total * p * (1 - p))
    assert parts.total() > 1000 and orders(3)[:, :3].tolist() == [[*o, *[-1] * (3 - len(o))] for o in ORDERS]


def test_cuts_are_anywhere(examples, shown):
    """Of the borders between sentences, each is a cut equally often."""
    batch, segments = shown
    borders = np.asarray(examples.corpus.sentences)
    first = []
    for i in rows_of(batch, "reorder").tolist():
        start = min(segments[i])[0]
        size = sum(n for _, n in segments[i])
        inside = borders[np.searchsorted(borders, start, "right"):np.searchsorted(borders, start + size, "left")].tolist()
        if len(inside) == 2 and len(segments[i]) == 2:
            first.append(sorted(segments[i])[1][0] == inside[0])
    assert len(first) > 300 and near(first, 0.5)


def test_distance(examples, shown):
    batch, segments = shown
    books = examples.corpus
    borders, bounds = np.asarray(books.sentences), books.sentences[books.documents]
    sentence = lambda place: int(np.searchsorted(borders, place, "right")) - 1
    document = lambda place: int(np.searchsorted(bounds, place, "right")) - 1
    classes, sizes = Counter(), [[], [], []]
    for i in rows_of(batch, "distance").tolist():
        (a, na), (b, nb) = segments[i]
        label, block = int(batch["distance_label"][i]), int(i) // len(TASKS)
        assert examples.start[block] <= a and a + na <= examples.start[block] + examples.size[block]
        assert na <= (LENGTH - 3) // 2 and document(b + nb - 1) == document(b)
        if document(a) != document(b):
            want = 2
        elif b == a + na:
            want = 0
        else:
            want = 1
            gap = sentence(b) - sentence(a + na - 1) if b > a else sentence(a) - sentence(b + nb - 1)
            assert gap > 1
        assert label == want
        if label:
            assert b == borders[sentence(b)]
        fits = na + nb + 3 == LENGTH or b + nb in borders
        assert fits
        classes[label] += 1
        sizes[label].append(na)
    for label in range(3):
        assert abs(classes[label] / classes.total() - 1 / 3) < 5 * np.sqrt(2 / 9 / classes.total()) + 0.01
    assert max(map(np.mean, sizes)) - min(map(np.mean, sizes)) < 1                            # A tells nothing


def test_draws_depend_on_example_and_epoch_alone(examples):
    index = np.array([3, 8, 13, 14, 9, 104, 4])
    batch = examples.rows(index, 0 * index)
    for row in range(len(index)):
        alone = examples.rows(index[row:row + 1], np.zeros(1, int))
        assert all((alone[key][0] == batch[key][row]).all() for key in batch)
    again = pickle.loads(pickle.dumps(examples)).rows(index, 0 * index)
    assert all((again[key] == batch[key]).all() for key in batch)
    many = np.arange(4, 2000, 5)
    assert (examples.rows(many, 0 * many)["distance_label"] != examples.rows(many, 0 * many + 1)["distance_label"]).any()


def test_a_stage_holds_its_own_tasks(books):
    units = np.zeros(len(books.tokens), np.int8)
    for tasks in (("masking",), ("masking", "relation", "distance")):
        found = paragraphs(books, LENGTH, tasks=tasks, units=units, seed=0, **BERT)
        batch = found.rows(np.arange(60), np.zeros(60, int))
        assert {key for key in batch if "label" in key} - {"seg_labels"} == \
            {f"{task}_label{'s' * (task == 'relation')}" for task in tasks[1:]}
        assert set(batch["task_type_ids"][:, 0].tolist()) == {TASKS.index(task) for task in tasks}


def capital(text, start):
    """Whether the word of the token at this character begins with a capital."""
    inside = lambda char: char.isalnum() or char == "_"
    if inside(text[start]):
        while start and inside(text[start - 1]):
            start -= 1
    return int(text[start].isupper())


def test_capitals_of_words(sentences, bert):
    texts = ["Python is not NumPy, The Paris or London, mcDonald or McDonald.", "I and iPhone, Élan élan U.S. 3D x1", "北京 Beijing"]
    labels = capital_labels(Corpus.build([texts], bert), texts, bert)
    at = 0
    for text in texts:
        for (start, _), index in zip(bert.encode(text).offsets[1:-1], bert.encode(text).ids[1:-1], strict=True):
            assert labels[at] == capital(text, start), (text, bert.id_to_token(index))
            at += 1
    assert labels[:3].tolist() == [1, 0, 0] and at == len(labels)
    cased = train(sentences[:200], "wordpiece", 1000, lowercase=False)
    with pytest.raises(ValueError, match="it is cased"):
        capital_labels(Corpus.build([texts], cased), texts, cased)


def test_capitals_of_real_text(manual, bert):
    documents = manual[:20]
    texts = [s for d in documents for s in d.sentences]
    labels = capital_labels(Corpus.build(documents, bert), texts, bert)
    assert 0.05 < labels.mean() < 0.3
    want = []
    for text in texts[:400]:
        want += [capital(text, start) for start, _ in bert.encode(text).offsets[1:-1]]
    assert labels[:len(want)].tolist() == want


def test_occurrences_in_pieces():
    rng = np.random.default_rng(0)
    lengths = [[int(n) for n in rng.integers(1, 9, rng.integers(1, 6))] for _ in range(60)]
    corpus = make_corpus(lengths)
    corpus = replace(corpus, tokens=rng.integers(5, 30, len(corpus.tokens)).astype(np.uint16))
    whole, cut = occurrences(corpus), occurrences(corpus, chunk=20)
    assert (whole[0] == cut[0]).all() and (whole[1] == cut[1]).all()
    bounds = corpus.sentences[corpus.documents]
    for low, high in itertools.pairwise(bounds.tolist()):
        ids = corpus.tokens[low:high].tolist()
        assert whole[0][low:high].tolist() == [ids.index(x) for x in ids]
        assert whole[1][low:high].tolist() == [len(ids) - 1 - ids[::-1].index(x) for x in ids]
    part = replace(corpus, documents=corpus.documents[30:])                       # a split's view
    assert (occurrences(part)[0][bounds[30]:] == whole[0][bounds[30]:]).all()


def test_what_cannot_be_asked_is_refused():
    one, short = make_corpus([[5, 6, 7]]), make_corpus([[5], [6]])
    units = np.zeros(18, np.int8)
    ask = lambda corpus, *tasks, **more: paragraphs(corpus, 16, tasks=tasks, units=units, seed=0, **SPECIALS, **more)
    for arguments, message in (((one, "masking", "distance"), "two documents or more"),
                               ((short, "masking", "reorder"), "none of the 2 documents has two"),
                               ((one, "masking", "capital"), "needs `capitals`"), ((one, "sop"), "unknown task 'sop'"),
                               ((one,), "some of masking"), ((one, "masking", "masking"), "each once")):
        with pytest.raises(ValueError, match=message):
            ask(*arguments)
    with pytest.raises(ValueError, match="1 segment or more, not 0"):
        ask(one, "masking", segments=0)
    assert len(ask(short, "masking", "relation")) == 4
    batch = ask(make_corpus([[5, 6], [4]]), "masking", "distance").rows(np.arange(4), np.zeros(4, int))
    assert set(batch["distance_label"][[1, 3]].tolist()) <= {0, 2}                            # nothing else is there


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), min_size=2, max_size=5), st.integers(6, 20),
       st.integers(1, 4), st.integers(0, 99))
def test_any_documents(lengths, length, segments, seed):
    """Whatever the documents, rows fit, and what a row says of itself is true."""
    if max(map(len, lengths)) < 2 or length <= 2 + max(segments, 2):
        return
    corpus = make_corpus(lengths)
    zeros = np.zeros(len(corpus.tokens), np.int8)
    found = paragraphs(corpus, length, tasks=TASKS, units=zeros, capitals=zeros, segments=segments, seed=seed, **SPECIALS)
    index = np.arange(len(found))
    batch = found.rows(index, 0 * index)
    bounds = corpus.sentences[corpus.documents] + 5
    for i in index.tolist():
        ids = batch["input_ids"][i][batch["attention_mask"][i] > 0]
        parts = np.split(ids[1:-1], np.flatnonzero(ids[1:-1] == 3))
        parts = [part[part > 4] for part in parts]
        assert all(len(part) and (np.diff(part) == 1).all() for part in parts)
        documents = [np.searchsorted(bounds, part[[0, -1]], "right") for part in parts]
        assert all(a == b for a, b in documents)
        if TASKS[i % 5] == "distance":
            a, b = parts
            same = documents[0][0] == documents[1][0]
            assert batch["distance_label"][i] == (2 if not same else 0 if b[0] == a[-1] + 1 else 1)
        elif TASKS[i % 5] == "reorder":
            order = tuple(np.argsort(np.argsort([part[0] for part in parts])).tolist())
            assert orders(segments)[batch["reorder_label"][i], :len(order)].tolist() == list(order)
        else:
            assert len(parts) == 1
