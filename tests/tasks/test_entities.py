"""Entities: the schemes, conlleval's rules on every corner, and its numbers to the digit."""

import itertools
import random

import pytest

from bertvariants_jax.tasks.entities import Entity, entities, fits, labels, scheme_of, scores, split, tagged

CORNERS = [
    ("O B-X I-X O", [("X", 1, 3)]),
    ("I-X I-X O I-X", [("X", 0, 2), ("X", 3, 4)]),                     # IOB1: I- begins
    ("I-X B-X I-X", [("X", 0, 1), ("X", 1, 3)]),                       # IOB1: B- where it touches one of its type
    ("I-X I-Y B-Y", [("X", 0, 1), ("Y", 1, 2), ("Y", 2, 3)]),
    ("B-X I-Y I-Y", [("X", 0, 1), ("Y", 1, 3)]),                       # a wrong sequence: the type changes inside
    ("B-X B-X I-X", [("X", 0, 1), ("X", 1, 3)]),
    ("O I-X O I-Y", [("X", 1, 2), ("Y", 3, 4)]),                       # a wrong sequence in IOB2
    ("S-X S-X B-X E-X", [("X", 0, 1), ("X", 1, 2), ("X", 2, 4)]),
    ("E-X E-X", [("X", 0, 1), ("X", 1, 2)]),                           # ends without a beginning
    ("B-X I-X B-X", [("X", 0, 2), ("X", 2, 3)]),                       # BIOES without an end
    ("S-X I-X E-X", [("X", 0, 1), ("X", 1, 3)]),
    ("B-X E-X I-X", [("X", 0, 2), ("X", 2, 3)]),
    ("B-a-b I-a-b I-a", [("a-b", 0, 2), ("a", 2, 3)]),                 # types with hyphens
    ("B-X M-X L-X U-X", [("X", 0, 3), ("X", 3, 4)]),                   # BMES and BILOU
    ("", []),
    ("O O", []),
]


@pytest.mark.parametrize("tags,want", CORNERS)
def test_corners(tags, want):
    assert entities(tags.split()) == [Entity(*entity) for entity in want]


def test_what_is_no_tag():
    for tag in ("", "X", "B", "B-", "Q-X", "O-X", "b-X", "PER", "-X"):
        with pytest.raises(ValueError, match="is no tag: it must be O"):
            split(tag)


def test_schemes_there_and_back():
    found = [Entity("X", 0, 1), Entity("X", 1, 3), Entity("Y", 3, 4), Entity("X", 6, 9)]
    want = {"iob1": "I-X B-X I-X I-Y O O I-X I-X I-X", "iob2": "B-X B-X I-X B-Y O O B-X I-X I-X",
            "bioes": "S-X B-X E-X S-Y O O B-X I-X E-X"}
    for scheme, tags in want.items():
        assert tagged(found, 9, scheme) == tags.split()
        assert entities(tags.split()) == found
        assert fits(tags.split(), scheme) is None
        assert scheme_of([tags.split()]) == (scheme, None)
    assert fits(want["iob1"].split(), "iob2") == 0 and fits(want["iob2"].split(), "bioes") == 0
    assert scheme_of([["B-X", "O"], ["O", "I-X"], ["B-X"]])[1] == (1, 1)
    assert labels(("P", "Q")) == ("O", "B-P", "I-P", "B-Q", "I-Q")
    assert labels(("P",), "bioes") == ("O", "B-P", "I-P", "E-P", "S-P")


def conlleval(sentences):
    """The counting loop of conlleval (Tjong Kim Sang, version 2004-01-26), restated line by line: a pass over the
    lines with a boundary between sentences, and no entity is ever made. sentences: lists of (true, guessed).
    Returns what it prints: four percentages, and three by type."""
    def end(before, tag, before_type, kind):
        return ((before, tag) in {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O"), ("E", "E"), ("E", "I"), ("E", "O")}
                or (before != "O" and before_type != kind))

    def start(before, tag, before_type, kind):
        return ((before, tag) in {("B", "B"), ("I", "B"), ("O", "B"), ("O", "I"), ("E", "E"), ("E", "I"), ("O", "E")}
                or (tag != "O" and before_type != kind))

    correct_chunks, found_correct, found_guessed = {}, {}, {}
    correct_tags = tokens = 0
    in_correct, last_correct, last_guessed = False, ("O", ""), ("O", "")
    for sentence in sentences:
        for line in [*sentence, None]:
            parts = [tuple(tag.partition("-")[::2]) for tag in line or ("O", "O")]
            correct, guessed = parts
            ends = [end(b[0], t[0], b[1], t[1]) for b, t in ((last_correct, correct), (last_guessed, guessed))]
            starts = [start(b[0], t[0], b[1], t[1]) for b, t in ((last_correct, correct), (last_guessed, guessed))]
            if in_correct:
                if all(ends) and last_guessed[1] == last_correct[1]:
                    in_correct = False
                    correct_chunks[last_correct[1]] = correct_chunks.get(last_correct[1], 0) + 1
                elif ends[0] != ends[1] or guessed[1] != correct[1]:
                    in_correct = False
            if all(starts) and guessed[1] == correct[1]:
                in_correct = True
            for counts, began, tag in ((found_correct, starts[0], correct), (found_guessed, starts[1], guessed)):
                if began:
                    counts[tag[1]] = counts.get(tag[1], 0) + 1
            if line is not None:
                correct_tags += correct == guessed
                tokens += 1
            last_correct, last_guessed = correct, guessed

    def rates(right, found, known):
        precision, recall = 100 * right / found if found else 0.0, 100 * right / known if known else 0.0
        return {"precision": precision, "recall": recall,
                "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0}

    said = {**rates(*(sum(counts.values()) for counts in (correct_chunks, found_guessed, found_correct))),
            "accuracy": 100 * correct_tags / tokens}
    for kind in {*found_correct, *found_guessed}:
        said |= {f"{kind}/{name}": value for name, value in rates(
            *(counts.get(kind, 0) for counts in (correct_chunks, found_guessed, found_correct))).items()}
    return said


def printed(values, scale=1.0):
    return {name: f"{scale * value:6.2f}" for name, value in values.items()}


def test_numbers_by_hand():
    gold = ["B-PER I-PER O B-LOC".split(), "O B-ORG I-ORG O".split()]
    said = ["B-PER I-PER O B-ORG".split(), "O I-ORG I-ORG B-LOC".split()]       # found 4, right 2, known 3
    got = scores(gold, said)
    assert printed(got, 100) == {"f1": " 57.14", "precision": " 50.00", "recall": " 66.67", "accuracy": " 62.50",
                                 "LOC/f1": "  0.00", "LOC/precision": "  0.00", "LOC/recall": "  0.00",
                                 "ORG/f1": " 66.67", "ORG/precision": " 50.00", "ORG/recall": "100.00",
                                 "PER/f1": "100.00", "PER/precision": "100.00", "PER/recall": "100.00"}
    assert scores([["O"]], [["O"]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 1.0}
    assert scores([], [])["accuracy"] == 0
    with pytest.raises(ValueError, match="sentence 1 has 2 words, but 1 tags"):
        scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match="0 tagged sentences, but 1"):
        scores([["O"]], [])


def test_every_short_sequence_is_scored_as_conlleval():
    """All pairs of three tags over IOB with two types: right and wrong sequences alike."""
    tags = ("O", "B-X", "I-X", "B-Y", "I-Y")
    short = list(itertools.product(tags, repeat=3))
    for i, gold in enumerate(short):
        for said in short[i % 7 :: 7]:
            want = conlleval([list(zip(gold, said, strict=True))])
            assert printed(scores([gold], [said]), 100) == printed(want), (gold, said)


def test_corpora_of_wrong_sequences_are_scored_as_conlleval():
    draw = random.Random(0)
    for _ in range(40):
        gold = [[draw.choice(("O", "O", "B-X", "I-X", "B-Y-Z", "I-Y-Z")) for _ in range(draw.randint(1, 12))]
                for _ in range(30)]
        said = [[tag if draw.random() < 0.7 else draw.choice(("O", "B-X", "I-X", "I-Y-Z")) for tag in tags] for tags in gold]
        want = conlleval([list(zip(*pair, strict=True)) for pair in zip(gold, said, strict=True)])
        assert printed(scores(gold, said), 100) == printed(want)


@pytest.mark.peers
def test_bioes_is_scored_as_seqeval():
    seqeval = pytest.importorskip("seqeval.metrics", reason="needs seqeval")
    draw = random.Random(1)
    tags = [f"{p}-{t}" for p in "BIES" for t in ("X", "Y")] + ["O"] * 4
    for _ in range(60):
        gold = [[draw.choice(tags) for _ in range(draw.randint(1, 9))] for _ in range(20)]
        said = [[tag if draw.random() < 0.6 else draw.choice(tags) for tag in row] for row in gold]
        got = scores(gold, said)
        for name, metric in (("f1", seqeval.f1_score), ("precision", seqeval.precision_score),
                             ("recall", seqeval.recall_score), ("accuracy", seqeval.accuracy_score)):
            assert got[name] == pytest.approx(float(metric(gold, said)), abs=1e-12), name
        report = seqeval.classification_report(gold, said, output_dict=True, zero_division=0)
        for kind in ("X", "Y"):
            assert got[f"{kind}/f1"] == pytest.approx(report[kind]["f1-score"])
