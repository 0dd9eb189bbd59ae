"""SQuAD's official scores, restated: `evaluate-v1.1.py` and `evaluate-v2.0.py` to the digit, and CMRC 2018's.

All take `golds`, {question id: its answers' texts, () for a question without answer} in the order of the file, and
`predictions`, {question id: text}; scores are percents, with the scripts' own names.
"""

import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

Golds = Mapping[str, Sequence[str]]

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


def normalize(text: str) -> str:
    """Lower case, then without ASCII punctuation, then without articles, with single blanks: in this order, so that
    "a.m." keeps its letters and "U.S. a" is "us"."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact(gold: str, predicted: str) -> int:
    return int(normalize(gold) == normalize(predicted))


def overlap(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """F1 of two bags of words; 0 where they share none, two empty ones included (as in version 1.1)."""
    same = sum((Counter(gold) & Counter(predicted)).values())
    if same == 0:
        return 0
    precision, recall = same / len(predicted), same / len(gold)
    return (2 * precision * recall) / (precision + recall)


def f1(gold: str, predicted: str) -> float:
    """Version 2.0's: 1 where both texts are without words, 0 where one of them is."""
    words = normalize(gold).split(), normalize(predicted).split()
    return overlap(*words) if all(words) else int(words[0] == words[1])


def score_v1(golds: Golds, predictions: Mapping[str, str]) -> dict[str, float]:
    """{"exact_match", "f1"} over all questions; one without prediction scores 0, as one without answers does."""
    said = {id: predictions[id] for id in golds if id in predictions}
    warn_missing(len(golds) - len(said), "they score 0")
    matches = sum(max((exact(gold, text) for gold in golds[id]), default=0) for id, text in said.items())
    shared = sum(max((overlap(normalize(gold).split(), normalize(text).split()) for gold in golds[id]), default=0)
                 for id, text in said.items())
    return {"exact_match": 100.0 * matches / len(golds), "f1": 100.0 * shared / len(golds)}


def score_v2(golds: Golds, predictions: Mapping[str, str], no_answer: Mapping[str, float] | None = None,
             threshold: float = 1.0) -> dict[str, float]:
    """"exact", "f1", "total"; the same of questions with and without answer as "HasAns_..." and "NoAns_...".

    no_answer: {question id: how likely there is none}, on any scale: above the threshold the prediction counts as "".
    With it come "best_exact", "best_f1" and their thresholds. Questions without prediction are left out and counted
    as "missing" (the official script leaves them out of the total, and then ends with a KeyError).
    Raises ValueError where nothing is predicted, or where a predicted question has no value in `no_answer`.
    """
    said = [id for id in golds if id in predictions]
    if not said:
        raise ValueError(f"none of the {len(golds)} questions is in the predictions: are they of another file?")
    warn_missing(len(golds) - len(said), "they are left out")
    odds = no_answer if no_answer is not None else dict.fromkeys(predictions, 0.0)
    if unknown := [id for id in said if id not in odds]:
        raise ValueError(f"{len(unknown)} predicted questions have no no-answer score, the first is {unknown[0]!r}")
    raw = {}
    for name, measure in (("exact", exact), ("f1", f1)):
        raw[name] = {id: max(measure(gold, predictions[id]) for gold in real_golds(golds[id])) for id in said}
    cut = {name: {id: float(not golds[id]) if odds[id] > threshold else value for id, value in values.items()}
           for name, values in raw.items()}
    result = averages(cut, said)
    for prefix, kept in (("HasAns", [id for id in said if golds[id]]), ("NoAns", [id for id in said if not golds[id]])):
        if kept:
            result |= {f"{prefix}_{name}": value for name, value in averages(cut, kept).items()}
    if no_answer is not None:
        for name, values in raw.items():
            result[f"best_{name}"], result[f"best_{name}_thresh"] = best_threshold(golds, predictions, values, odds)
    if len(said) < len(golds):
        result["missing"] = len(golds) - len(said)
    return result


def best_threshold(golds: Golds, predictions: Mapping[str, str], values: Mapping[str, float],
                   odds: Mapping[str, float]) -> tuple[float, float]:
    """(best score, the threshold that gives it): everything counts as unanswerable first, then questions are answered
    in ascending order of `odds`, equal ones one by one in the order of `odds` as the script does it."""
    current = best = sum(not answers for answers in golds.values())
    threshold = 0.0
    for id in sorted(odds, key=odds.__getitem__):
        if id not in values:
            continue
        current += values[id] if golds[id] else -1 if predictions[id] else 0
        if current > best:
            best, threshold = current, odds[id]
    return 100.0 * best / len(values), threshold


def real_golds(answers: Sequence[str]) -> Sequence[str]:
    """Answers that are more than articles and punctuation; "" where there is none."""
    return [text for text in answers if normalize(text)] or [""]


def averages(values: Mapping[str, Mapping[str, float]], ids: Sequence[str]) -> dict[str, float]:
    means = {name: 100.0 * sum(scores[id] for id in ids) / len(ids) for name, scores in values.items()}
    return {**means, "total": len(ids)}


def warn_missing(count: int, consequence: str) -> None:
    if count:
        warnings.warn(f"{count} questions have no prediction: {consequence}", stacklevel=3)


# What CMRC 2018's script takes for punctuation.
MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")


def score_cmrc(golds: Golds, predictions: Mapping[str, str]) -> dict[str, float]:
    """{"average", "f1", "exact_match"} as CMRC 2018's script: F1 over the longest common run of pieces, where each
    Chinese character is a piece, and other text is cut at blanks (the script cuts it by NLTK's English rules)."""
    said = {id: predictions[id] for id in golds if id in predictions}
    warn_missing(len(golds) - len(said), "they score 0")

    def mean(measure: Callable[[str, str], float]) -> float:
        return 100.0 * sum(max((measure(bare(gold), bare(text)) for gold in golds[id]), default=0)
                           for id, text in said.items()) / len(golds)

    shared, matches = mean(run_f1), mean(lambda gold, text: int(gold == text))
    return {"average": (shared + matches) / 2, "f1": shared, "exact_match": matches}


def bare(text: str) -> str:
    return text.lower().strip().translate(MARKS)


def run_f1(gold: str, predicted: str) -> float:
    """F1 of the longest run of pieces that both have."""
    first, second = (re.findall(r"[\u4e00-\u9fa5]|[^\s\u4e00-\u9fa5]+", text) for text in (gold, predicted))
    longest, before = 0, [0] * (len(second) + 1)
    for piece in first:
        row = [0, *(before[j] + 1 if piece == other else 0 for j, other in enumerate(second))]
        longest, before = max(longest, *row), row
    if not longest:
        return 0
    precision, recall = longest / len(second), longest / len(first)
    return (2 * precision * recall) / (precision + recall)
