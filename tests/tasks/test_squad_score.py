"""SQuAD's scores to the digit: cases worked out by hand, and a slow restatement of the official scripts."""

import collections
import random
import re
import string

import pytest

from bertvariants_jax.tasks.squad_score import exact, f1, normalize, score_cmrc, score_v1, score_v2

pytestmark = pytest.mark.filterwarnings("ignore:.*no prediction")


@pytest.mark.parametrize("text,want", [
    ("the U.S. a", "us"),                          # points go first, so that "U.S." is one word; then articles
    ("A.m.", "am"), ("a.", ""), ("The", ""), ("", ""), (" \t\n ", ""),
    ("Theatre and another", "theatre and another"),          # articles are whole words
    ("the-end", "theend"),                         # a hyphen leaves no blank behind
    ("An  apple\u00a0a day", "apple day"),         # a no-break space is a blank
    ("«the» cat’s", "« » cat’s"),                  # only ASCII punctuation goes, and « is no letter
    ("ÉCOLE", "école"), ("İ", "i̇"),
    ("the_end", "theend"),                         # _ is punctuation
    ("naïve a naïve", "naïve naïve"),
    ("東京 the 塔", "東京 塔"), ("aの", "aの"),      # no word ends between a and a letter of another script
])
def test_normalization(text, want):
    assert normalize(text) == want


@pytest.mark.parametrize("gold,said,want", [
    ("the cat", "a cat!", (1, 1)),                 # both are "cat"
    ("cat", "cat sat", (0, 2 / 3)),                # P 1/2, R 1
    ("cat cat dog", "cat dog dog", (0, 2 / 3)),    # bags share cat and dog: P 2/3, R 2/3
    ("", "", (1, 1)), ("", "the", (1, 1)), ("", "x", (0, 0)), ("a", "x", (0, 0)), ("x", "", (0, 0)),
    ("1,000", "1000", (1, 1)), ("10 000", "10000", (0, 0)),
    ("b c d e", "e", (0, 2 / 5)),                  # P 1, R 1/4
])
def test_one_answer(gold, said, want):
    assert (exact(gold, said), f1(gold, said)) == want


def test_version_1_by_hand():
    golds = {"a": ("Denver Broncos", "the Broncos"), "b": ("1 and 2",), "c": ("the",), "d": ("x",), "e": ()}
    said = {"a": "Broncos", "b": "1 or 2", "c": "", "e": "", "other": "y"}
    # a: 1 and 1. b: 0 and 2/3. c: both are empty: 1, yet no word is shared: 0. d is missing, e has no answer: 0.
    with pytest.warns(UserWarning, match="1 questions have no prediction"):
        got = score_v1(golds, said)
    assert got == {"exact_match": 100.0 * 2 / 5, "f1": 100.0 * (1 + 2 / 3) / 5}


def test_version_2_by_hand():
    golds = {"a": ("cat",), "b": ("dog", "big dog"), "n": (), "m": (), "p": ("the",)}
    said = {"a": "the cat sat", "b": "a big dog", "n": "", "m": "fish", "p": ""}
    # a: 0 and 2/3. b: 1, 1. n: 1, 1. m: 0, 0. p: its gold is no word, so that "" is right: 1, 1.
    got = score_v2(golds, said)
    third = 2 * (1 / 2) * 1 / (1 / 2 + 1)
    assert got == {"exact": 60.0, "f1": 100.0 * (third + 1 + 1 + 0 + 1) / 5, "total": 5,
                   "HasAns_exact": 100.0 * 2 / 3, "HasAns_f1": 100.0 * (third + 1 + 1) / 3, "HasAns_total": 3,
                   "NoAns_exact": 50.0, "NoAns_f1": 50.0, "NoAns_total": 2}


def test_thresholds_by_hand():
    golds = {"yes": ("x",), "no": ()}
    # nothing answered: 1 of 2; "yes" answered too, at .3: 2 of 2; "no" answered with a text: back to 1
    got = score_v2(golds, {"yes": "x", "no": "y"}, {"yes": 0.3, "no": 0.9}, threshold=0.5)
    assert (got["best_exact"], got["best_exact_thresh"], got["best_f1"], got["best_f1_thresh"]) == (100.0, 0.3, 100.0, 0.3)
    assert (got["exact"], got["HasAns_exact"], got["NoAns_exact"]) == (100.0, 100.0, 100.0)
    strict = score_v2(golds, {"yes": "x", "no": "y"}, {"yes": 0.3, "no": 0.9}, threshold=0.3)      # above, not at it
    assert strict["exact"] == 100.0
    assert score_v2(golds, {"yes": "x", "no": "y"}, {"yes": 0.3, "no": 0.9}, threshold=0.2)["exact"] == 50.0
    # a question that is answered right costs nothing if "" is its answer; nothing better than 0: the threshold stays 0
    got = score_v2({"no": ()}, {"no": ""}, {"no": -5.0})
    assert (got["best_exact"], got["best_exact_thresh"]) == (100.0, 0.0)
    # equal odds are walked one by one, in the order of the odds: the sum is best in their midst
    got = score_v2(golds, {"yes": "x", "no": "y"}, {"yes": 0.5, "no": 0.5})
    assert (got["best_exact"], got["best_exact_thresh"]) == (100.0, 0.5)
    got = score_v2(golds, {"yes": "x", "no": "y"}, {"no": 0.5, "yes": 0.5})
    assert (got["best_exact"], got["best_exact_thresh"]) == (50.0, 0.0)


def test_missing_predictions():
    golds = {"a": ("x",), "b": ("y",), "n": ()}
    with pytest.warns(UserWarning, match="1 questions have no prediction: they are left out"):
        got = score_v2(golds, {"a": "x", "n": ""})
    assert (got["exact"], got["total"], got["HasAns_total"], got["missing"]) == (100.0, 2, 1, 1)
    with pytest.raises(ValueError, match="none of the 3 questions is in the predictions"):
        score_v2(golds, {"z": "x"})
    with pytest.raises(ValueError, match="2 predicted questions have no no-answer score, the first is 'a'"):
        score_v2(golds, {"a": "x", "b": "y", "n": ""}, {"n": 0.0})


def test_cmrc_by_hand():
    golds = {"a": ("泡泡战士",), "b": ("1998年10月", "10月"), "c": ("《春》的作者",)}
    said = {"a": "战士", "b": "在10月", "c": "春的作者"}
    # a: run of 2; P 2/2, R 2/4: 2/3. b: "10","月" of "在","10","月": P 2/3, R 1: 4/5. c: marks do not count: 1.
    got = score_cmrc(golds, said)
    assert got["exact_match"] == pytest.approx(100 / 3) and got["f1"] == pytest.approx(100 * (2 / 3 + 4 / 5 + 1) / 3)
    assert got["average"] == pytest.approx((got["f1"] + got["exact_match"]) / 2)


# The official scripts said again in the plainest way, slowly.

def plain(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def plain_f1(gold, said, version):
    golds, saids = plain(gold).split(), plain(said).split()
    if version == 2 and (not golds or not saids):
        return int(golds == saids)
    left, same = list(golds), 0
    for word in saids:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(saids), 1.0 * same / len(golds)
    return (2 * precision * recall) / (precision + recall)


def plain_v2(golds, said, odds, threshold):
    result, has = collections.OrderedDict(), {id: bool(answers) for id, answers in golds.items()}
    for name in ("exact", "f1"):
        raw = {}
        for id, answers in golds.items():
            kept = [a for a in answers if plain(a)] or [""]
            raw[id] = max(int(plain(a) == plain(said[id])) if name == "exact" else plain_f1(a, said[id], 2) for a in kept)
        cut = {id: float(not has[id]) if odds[id] > threshold else raw[id] for id in raw}
        result[name] = 100.0 * sum(cut.values()) / len(cut)
        for prefix, wanted in (("HasAns", True), ("NoAns", False)):
            ids = [id for id in golds if has[id] == wanted]
            if ids:
                result[f"{prefix}_{name}"] = 100.0 * sum(cut[id] for id in ids) / len(ids)
        now = best = sum(1 for id in has if not has[id])
        at = 0.0
        for id in sorted(odds, key=lambda k: odds[k]):
            now += raw[id] if has[id] else (-1 if said[id] else 0)
            if now > best:
                best, at = now, odds[id]
        result[f"best_{name}"], result[f"best_{name}_thresh"] = 100.0 * best / len(raw), at
    return result


def test_all_digits_against_the_restatement():
    draw = random.Random(7)
    words = ["the", "a", "An", "cat", "Cat,", "dog", "U.S.", "1,000", "naïve", "«x»", "\u00a0", "-", "東京", "b-c", "'s", ""]
    for trial in range(60):
        some = lambda n: " ".join(draw.choice(words) for _ in range(draw.randrange(n)))
        golds = {f"q{i}": tuple(some(6) for _ in range(draw.randrange(4))) for i in range(draw.randrange(1, 40))}
        said = {id: draw.choice([*golds[id], some(6), ""]) for id in golds}
        odds = {id: draw.choice([0.0, 0.5, draw.uniform(-9, 9)]) for id in draw.sample(list(golds), len(golds))}
        threshold = draw.uniform(-9, 9)
        got, want = score_v2(golds, said, odds, threshold), plain_v2(golds, said, odds, threshold)
        assert {key: got[key] for key in want} == want, trial
        assert score_v1(golds, said) == {
            "exact_match": 100.0 * sum(max((int(plain(g) == plain(said[id])) for g in golds[id]), default=0) for id in golds) / len(golds),
            "f1": 100.0 * sum(max((plain_f1(g, said[id], 1) for g in golds[id]), default=0) for id in golds) / len(golds)}, trial
