"""SuperGLUE (arXiv:1905.00537) as a table: a row a task, from TFDS or from the benchmark's original JSONL files.

All of them are classification here, of a text or a pair. MultiRC and ReCoRD are one example for each answer and each
candidate entity, scored by question. WiC's word and WSC's two spans are marked in the text, as T5 does
(arXiv:1910.10683, appendix D); the originals' heads over spans are in no published checkpoint. COPA is multiple choice
(tasks/choice.py).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertvariants_jax.data.source import read_lines
from bertvariants_jax.files import replacing
from bertvariants_jax.tasks.classify import PLACE, Classify, Rows
from bertvariants_jax.tasks.labels import whole
from bertvariants_jax.tasks.metrics import METRICS
from bertvariants_jax.tasks.squad_score import exact, normalize, overlap
from bertvariants_jax.tasks.task import TRAIN

Answers = dict[Any, Any]


@dataclass(frozen=True)
class SuperGlue(Classify):
    """A task of SUPERGLUE; `name` says which."""

    name: str = "boolq"

    known_metrics = (*METRICS, "f1a", "em")
    is_multi_label = False

    def flat(self, row: Mapping, where: str) -> Iterator[dict]:
        try:
            yield from SUPERGLUE[self.name].flat(row)
        except KeyError as error:
            raise ValueError(f"{where} has no field {error}; it has: {', '.join(row)}") from None
        except (TypeError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(f"{where} is no row of {self.name} ({error})") from None

    def picked(self, split: str) -> list[dict]:
        examples = super().picked(split)
        places: dict[Any, str] = {}
        for example in examples if split != TRAIN else ():      # what is scored is known by its idx
            key, place = example["key"], example[PLACE]
            entity = example.get("entity")                      # a query of ReCoRD is an example a candidate
            if (key, entity) in places or places.setdefault((key, None), place) != place:
                raise ValueError(f"{place} has the idx {key}, as {places[key, None]} has: answers are known by it")
            places[key, entity] = place
        return examples

    def answers(self, records: Sequence[Mapping], predicted: np.ndarray, margin: np.ndarray) -> Answers:
        """predicted: class names [n]; margin: how much more likely class 1 is than class 0 [n]."""
        return SUPERGLUE[self.name].answers(records, predicted, margin)

    def score(self, examples: Rows, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        if examples.labels is None:
            return {}
        return self.compare(examples.records, self.answered(examples, outputs))

    def baseline(self, examples: Rows) -> dict[str, float]:
        if examples.labels is None:
            return {}
        logits = np.zeros((len(examples), len(self.values)))
        logits[:, np.bincount(examples.labels).argmax()] = 1
        return self.score(examples, {"logits": logits})

    def answered(self, examples: Rows, outputs: Mapping[str, np.ndarray]) -> Answers:
        logits = np.asarray(outputs["logits"], np.float64)
        zero, one = (self.values.index(value) for value in SUPERGLUE[self.name].names[:2])
        return self.answers(examples.records, np.array(self.values)[logits.argmax(-1)], logits[:, one] - logits[:, zero])

    def compare(self, records: Sequence[Mapping], answers: Answers) -> dict[str, float]:
        return SUPERGLUE[self.name].score(records, answers)

    def write(self, examples: Rows, outputs: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
        """<official>.jsonl as SuperGLUE's leaderboard takes it."""
        row, path = SUPERGLUE[self.name], Path(folder) / f"{self.official}.jsonl"
        with replacing(path) as file:
            for line in row.lines(self.answered(examples, outputs), row.spelled):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        return [path]

    def score_file(self, path: Path, split: str) -> dict[str, float]:
        row, records = SUPERGLUE[self.name], self.picked(split)
        if self.gold(records, split) is None:
            raise ValueError(f"{self.source(split).address} has no labels to score against")
        found: Answers = {}
        for number, line in read_lines(str(path)):
            if not line.strip():
                continue
            try:
                listed = list(row.parsed(json.loads(line), row.spelled))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}, line {number}: not an answer to {self.name} ({error}): {line[:80]}") from None
            for key, answer in listed:
                if key in found:
                    raise ValueError(f"{path}, line {number}: {key} is answered twice")
                found[key] = answer
        wanted = {record["key"] for record in records}
        for missing, what in ((wanted - set(found), "has no answer to"), (set(found) - wanted, "answers what is not asked,")):
            if missing:
                raise ValueError(f"{path} {what} {len(missing)} of {len(wanted)}, the first is {min(missing)}")
        return self.compare(records, found)


# Readers: a row of the original JSONL or of TFDS -> flat examples {"text", "pair", "label" (a name or None), "key"}

def label_of(row: Mapping, names: Sequence[str]) -> str | None:
    """The label's name: files write names or true and false, TFDS ids with -1 for none."""
    label = row.get("label")
    if isinstance(label, str) or label is None:
        return label
    number = int(label) if isinstance(label, bool | np.bool_) else whole(label, "the row")
    if number >= len(names):
        raise ValueError(f"the label {label!r} is none of 0 to {len(names) - 1}")
    return None if number < 0 else names[number]


def pair(text: str, other: str, names: tuple[str, ...]) -> Callable[[Mapping], Iterator[dict]]:
    def flat(row: Mapping) -> Iterator[dict]:
        yield {"text": row[text], "pair": row[other], "label": label_of(row, names), "key": whole(row["idx"], "the row", "idx")}

    return flat


def marked(text: str, start: int, end: int, mark: str) -> str:
    return f"{text[:start]}{mark} {text[start:end]} {mark}{text[end:]}"


def wic(row: Mapping) -> Iterator[dict]:
    first, second = (marked(row[f"sentence{i}"], int(row[f"start{i}"]), int(row[f"end{i}"]), "*") for i in (1, 2))
    yield {"text": first, "pair": second, "label": label_of(row, BOOLEAN), "key": whole(row["idx"], "the row", "idx")}


def wsc(row: Mapping) -> Iterator[dict]:
    """Spans count words of the text; the candidate is marked by #, the pronoun by *."""
    said, text = row.get("target", row), row["text"]
    words = [match.span() for match in re.finditer(r"\S+", text)]
    spans = []
    for i, mark in ((1, "#"), (2, "*")):
        first, span = int(said[f"span{i}_index"]), said[f"span{i}_text"]
        start = words[first][0]
        end = words[min(first + len(span.split()), len(words)) - 1][1]
        spans.append((start, start + len(span) if text[start:].lower().startswith(span.lower()) else end, mark))
    for start, end, mark in sorted(spans, reverse=True):
        text = marked(text, start, end, mark)
    yield {"text": text, "label": label_of(row, BOOLEAN), "key": whole(row["idx"], "the row", "idx")}


def multirc(row: Mapping) -> Iterator[dict]:
    """A file's row is a passage with questions, TFDS's one answer."""
    if "passage" not in row:
        said = row["idx"]
        yield _multirc(row["paragraph"], row["question"], row["answer"], label_of(row, BITS),
                       (int(said["paragraph"]), int(said["question"]), int(said["answer"])))
        return
    for question in row["passage"]["questions"]:
        for answer in question["answers"]:
            yield _multirc(row["passage"]["text"], question["question"], answer["text"], label_of(answer, BITS),
                           (int(row["idx"]), int(question["idx"]), int(answer["idx"])))


def _multirc(passage: str, question: str, answer: str, label: str | None, key: tuple[int, int, int]) -> dict:
    if not (isinstance(question, str) and isinstance(answer, str)):
        raise ValueError(f"a question or answer is no text: {question!r:.40}, {answer!r:.40}")
    plain = re.sub(r"</?b>", "", passage.replace("<br>", " "))
    return {"text": plain, "pair": f"{question} {answer}", "label": label, "key": key}


def record(row: Mapping) -> Iterator[dict]:
    """A file's row is a passage with queries, TFDS's one query; each entity of the passage is a candidate once."""
    if not isinstance(row["passage"], Mapping):
        yield from _record(row["passage"], row["query"], row["entities"], row["answers"], int(row["idx"]["query"]))
        return
    text = row["passage"]["text"]
    entities = [text[entity["start"]: entity["end"] + 1] for entity in row["passage"]["entities"]]
    for query in row["qas"]:
        yield from _record(text, query["query"], entities, [a["text"] for a in query.get("answers", ())], int(query["idx"]))


def _record(passage: str, query: str, entities: Iterable[str], golds: Sequence[str], key: int) -> Iterator[dict]:
    if not all(isinstance(text, str) for text in golds):
        raise ValueError(f"an answer is no text: {golds!r:.60}")
    plain = re.sub(r"\n@highlight\n", ". ", re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", passage))
    for entity in dict.fromkeys(entities):
        yield {"text": plain, "pair": query.replace("@placeholder", entity), "entity": entity, "golds": tuple(golds),
               "label": BITS[entity in golds] if golds else None, "key": key}


# Answers by key, from the classifier's answers; lines of the leaderboard's files, and back

def each(records: Sequence[Mapping], predicted: np.ndarray, margin: np.ndarray) -> Answers:
    return {record["key"]: str(name) for record, name in zip(records, predicted, strict=True)}


def likeliest(records: Sequence[Mapping], predicted: np.ndarray, margin: np.ndarray) -> Answers:
    best: dict[Any, tuple[float, str]] = {}
    for example, value in zip(records, margin.tolist(), strict=True):
        if example["key"] not in best or value > best[example["key"]][0]:
            best[example["key"]] = (value, example["entity"])
    return {key: entity for key, (_, entity) in best.items()}


def lines(answers: Answers, spelled: Mapping[str, str]) -> Iterator[dict]:
    for key, answer in answers.items():
        yield {"idx": key, "label": spelled.get(answer, answer)}


def parsed(line: Mapping, spelled: Mapping[str, str]) -> Iterator[tuple[Any, Any]]:
    names = {shown.lower(): name for name, shown in spelled.items()}
    said = line["label"] if isinstance(line["label"], str) else json.dumps(line["label"])
    if names and said.lower() not in names:
        raise ValueError(f"the label {said!r} is none of {', '.join(spelled.values())}")
    if not names and not isinstance(line["label"], str):
        raise ValueError(f"the answer {line['label']!r:.40} is no text")
    yield whole(line["idx"], "the line", "idx"), names.get(said.lower(), said)


def multirc_lines(answers: Answers, spelled: Mapping[str, str]) -> Iterator[dict]:
    passages: dict[int, dict[int, list[dict]]] = {}
    for (passage, question, answer), name in answers.items():
        passages.setdefault(passage, {}).setdefault(question, []).append({"idx": answer, "label": int(name)})
    for passage, questions in passages.items():
        yield {"idx": passage, "passage": {"questions": [{"idx": question, "answers": answers}
                                                         for question, answers in questions.items()]}}


def multirc_parsed(line: Mapping, spelled: Mapping[str, str]) -> Iterator[tuple[Any, Any]]:
    for question in line["passage"]["questions"]:
        for answer in question["answers"]:
            key = tuple(whole(part["idx"], "the line", "idx") for part in (line, question, answer))
            label = answer["label"]
            number = int(label) if isinstance(label, bool) else whole(label, f"the answer {key}")
            if number not in (0, 1):
                raise ValueError(f"the answer {key} has the label {label!r}, expected 0 or 1")
            yield key, BITS[number]


# Scores of answers

def classes(*metrics: str) -> Callable[[Sequence[Mapping], Answers], dict[str, float]]:
    def score(records: Sequence[Mapping], answers: Answers) -> dict[str, float]:
        gold, said = [record["label"] for record in records], [answers[record["key"]] for record in records]
        return {name: METRICS[name](gold, said) for name in metrics}

    return score


def by_question(records: Sequence[Mapping], answers: Answers) -> dict[str, float]:
    """f1a: F1 of the right answers, all questions together; em: questions whose answers are all judged rightly."""
    gold, said = (np.array(values) == "1" for values in zip(*(
        (record["label"], answers[record["key"]]) for record in records), strict=True))
    whole: dict[Any, bool] = {}
    for example, same in zip(records, gold == said, strict=True):
        whole[example["key"][:2]] = whole.get(example["key"][:2], True) and bool(same)
    return {"f1a": METRICS["f1"](gold, said), "em": float(np.mean(list(whole.values())))}


def by_entity(records: Sequence[Mapping], answers: Answers) -> dict[str, float]:
    """Best of the gold answers, as SQuAD compares them."""
    golds = {example["key"]: example["golds"] for example in records}
    return {name: float(np.mean([max(compare(answer, gold) for gold in golds[key]) for key, answer in answers.items()]))
            for name, compare in (("f1", shared_words), ("em", exact))}


def shared_words(gold: str, answer: str) -> float:
    return overlap(normalize(gold).split(), normalize(answer).split())


@dataclass(frozen=True)
class Row:
    """folder: of the JSONL files, and the leaderboard's file; tfds: the name there. names: of the classes, in TFDS's order.
    flat: a source's row -> examples. spelled: how the leaderboard writes the names. pair: whether examples are pairs."""

    folder: str
    tfds: str
    names: tuple[str, ...]
    flat: Callable[[Mapping], Iterator[dict]]
    score: Callable[[Sequence[Mapping], Answers], dict[str, float]] = classes("accuracy")
    metrics: tuple[str, ...] = ("accuracy",)
    spelling: tuple[str, ...] = ()
    pair: bool = True
    answers: Callable[[Sequence[Mapping], np.ndarray, np.ndarray], Answers] = each
    lines: Callable[[Answers, Mapping[str, str]], Iterator[dict]] = lines
    parsed: Callable[[Mapping, Mapping[str, str]], Iterator[tuple[Any, Any]]] = parsed
    max_length: int = 256

    @property
    def spelled(self) -> dict[str, str]:
        return {} if self.answers is likeliest else dict(zip(self.names, self.spelling or self.names, strict=True))


BOOLEAN, BITS = ("false", "true"), ("0", "1")
CB_LABELS, RTE_LABELS = ("entailment", "contradiction", "neutral"), ("entailment", "not_entailment")

SUPERGLUE = {
    "boolq": Row("BoolQ", "boolq", BOOLEAN, pair("passage", "question", BOOLEAN)),
    "cb": Row("CB", "cb", CB_LABELS, pair("premise", "hypothesis", CB_LABELS), classes("accuracy", "macro_f1"),
              ("accuracy", "macro_f1")),
    "multirc": Row("MultiRC", "multirc", BITS, multirc, by_question, ("f1a", "em"), lines=multirc_lines,
                   parsed=multirc_parsed, max_length=512),
    "record": Row("ReCoRD", "record", BITS, record, by_entity, ("f1", "em"), answers=likeliest, max_length=512),
    "superglue_rte": Row("RTE", "rte", RTE_LABELS, pair("premise", "hypothesis", RTE_LABELS)),
    "wic": Row("WiC", "wic", BOOLEAN, wic),
    "wsc": Row("WSC", "wsc.fixed", BOOLEAN, wsc, spelling=("False", "True"), pair=False, max_length=128),
}

# what SuperGLUE's average is over
AVERAGED = ("boolq", "cb", "copa", "multirc", "record", "superglue_rte", "wic", "wsc")


def superglue(task: str, data: str = "", **options) -> SuperGlue:
    """The task as TFDS has it, or with `data` from the JSONL files of that folder (or of its parent, SuperGLUE's).

    Raises FileNotFoundError where the folder has none of train.jsonl, val.jsonl and test.jsonl (gz too).
    """
    row = SUPERGLUE[task]
    splits = ("train", "val", "test") if data else ("train", "validation", "test")
    addresses = [f"tfds:super_glue/{row.tfds}:{split}" for split in splits]
    if data:
        places = [path for path in (Path(data), Path(data) / row.folder)
                  if any((path / f"{split}.jsonl{end}").is_file() for split in splits for end in ("", ".gz"))]
        if not places:
            raise FileNotFoundError(f"{data}: no {', '.join(f'{split}.jsonl' for split in splits)} there (.gz neither), "
                                    f"nor in {row.folder}/")
        found = [places[0] / f"{split}.jsonl" for split in splits]
        addresses = [f"jsonl:{path if path.is_file() or not (gz := Path(f'{path}.gz')).is_file() else gz}" for path in found]
    return SuperGlue(*addresses, name=task, pair="pair" if row.pair else "", classes=row.names, names=row.names,
                     metrics=row.metrics, official=row.folder, **{"max_length": row.max_length, **options})


def average(scores: Mapping[str, Mapping[str, float]]) -> tuple[float, tuple[str, ...]]:
    """SuperGLUE's average of {task: {metric: value}}, a task's metrics averaged first, and the tasks that it is over."""
    whole = tuple(task for task in AVERAGED if task in scores)
    kept = {task: SUPERGLUE[task].metrics if task in SUPERGLUE else ("accuracy",) for task in whole}
    found = [np.mean([scores[task][metric] for metric in kept[task]]) for task in whole]
    return float(np.mean(found)) if found else 0.0, whole
