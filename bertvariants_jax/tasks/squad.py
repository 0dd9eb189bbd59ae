"""Extractive question answering: SQuAD 1.1 and 2.0 (arXiv:1606.05250, 1806.03822) and files of their form (XQuAD, CMRC 2018).

Windows, labels, n-best lists and the no-answer score are those of BERT's `run_squad.py` and of XLNet's; pieces are
brought back to the text by the characters that they stand for, where the originals align strings.
"""

import gzip
import json
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from bertvariants_jax.data.batch import pad
from bertvariants_jax.data.fingerprint import note_file
from bertvariants_jax.data.source import KINDS, open_source
from bertvariants_jax.data.windows import Frame, best_window, cut
from bertvariants_jax.files import write_file
from bertvariants_jax.objectives.finetune import beam_extraction, extraction
from bertvariants_jax.tasks.labels import flag, real, whole
from bertvariants_jax.tasks.squad_score import score_cmrc, score_v1, score_v2
from bertvariants_jax.tasks.task import TEST, TRAIN, Task

PREDICTIONS, NBEST, ODDS = "predictions.json", "nbest_predictions.json", "null_odds.json"
NOTHING = -1e6          # score of the start and of the end of no candidate at all, as in XLNet's script


class Answer(NamedTuple):
    """A gold answer and its characters in the context, (-1, -1) where it is nowhere in it."""

    text: str
    start: int
    end: int


class Question(NamedTuple):
    """answers: () for a question without answer, None where the file does not tell them (a test set)."""

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...] | None

    @property
    def span(self) -> tuple[int, int] | None:
        """First and behind the last character of the answer to learn: the first one that is in the context."""
        return next(((answer.start, answer.end) for answer in self.answers or () if answer.start >= 0), None)


class Candidate(NamedTuple):
    """An answer and the scores of its start and end: logits, or with "beam" log probabilities."""

    text: str
    start: float
    end: float


class Found(NamedTuple):
    """What a model says to a question: the n-best list, its best answer with words, and where there may be none,
    how likely that is (the original's null odds)."""

    listed: list[Candidate]
    text: str
    odds: float | None


@dataclass(frozen=True)
class Squad(Task):
    """Questions about contexts that hold their answers.

    data, evaluation, test: a SQuAD JSON file (gzipped too), or an address of rows with `id`, `question`, `context` and
      `answers` {"text", "answer_start"} ("tfds:squad/v1.1:train", "jsonl:FILE").
    version: "2.0" has questions without answer, and the scores and files of its script. scorer: "official" for the
      version, or "cmrc" (Chinese text has no blanks between words).
    head: "span" scores starts and ends; "beam" (XLNet, ALBERT, ELECTRA) ends given their starts, and a class for
      questions without answer. A window without the answer counts as a question without answer (in ELECTRA's code its
      places do, but its class does not).
    max_length: tokens of a row; a longer context is read in windows that begin `stride` tokens after each other.
    max_question, max_answer: in tokens. n_best: starts and ends that are tried, and answers in the n-best list.
    null_threshold: "" is the answer where the null odds are above it; these are for "span" the score of `[CLS]` less
      the best answer's, for "beam" the logit of its class. rows: only the first so many questions of training.
    """

    data: str = ""
    evaluation: str = ""
    test: str = ""
    version: Literal["1.1", "2.0"] = "1.1"
    scorer: Literal["official", "cmrc"] = "official"
    head: Literal["span", "beam"] = "span"
    max_length: int = 384
    stride: int = 128
    max_question: int = 64
    max_answer: int = 30
    n_best: int = 20
    null_threshold: float = 0.0
    rows: int = 0

    def __post_init__(self):
        for name in ("max_length", "stride", "max_question", "max_answer", "n_best"):
            if getattr(self, name) < 1:
                raise ValueError(f"task.{name} must be at least 1, got {getattr(self, name)}")
        if self.scorer == "cmrc" and self.unanswerable:
            raise ValueError("task.scorer cmrc knows no unanswerable questions: give --task.version 1.1")

    @property
    def heads(self) -> tuple[str, ...]:
        return (self.head,)

    @property
    def best(self) -> str:
        return "best_f1" if self.unanswerable else "f1"

    @property
    def unanswerable(self) -> bool:
        return self.version == "2.0"

    def address(self, split: str) -> str:
        flag = {TRAIN: "data", TEST: "test"}.get(split, "evaluation")
        if not getattr(self, flag):
            raise ValueError(f"the task has no {split} data: give --task.{flag} a SQuAD JSON file or an address")
        return getattr(self, flag)

    def questions(self, split: str) -> list[Question]:
        found = read_questions(self.address(split))
        return found[: self.rows] if split == TRAIN and self.rows else found

    def texts(self) -> Iterator[str]:
        for question in self.questions(TRAIN):
            yield from (question.text, question.context)

    def examples(self, split: str, tokenizer, cache: Path | None = None, batch_size: int = 1) -> "Windows":
        """Training leaves out questions from which nothing can be learnt, with a warning that counts them."""
        questions = self.questions(split)
        if split == TRAIN:
            kept = [q for q in questions if q.span or (self.unanswerable and q.answers == ())]
            if not kept:
                raise ValueError(f"{self.data}: none of the {len(questions)} questions has an answer in its context")
            if len(kept) < len(questions):
                warnings.warn(f"{self.data}: {len(questions) - len(kept)} of {len(questions)} questions are left out of "
                              f"training, without an answer in their context", stacklevel=2)
            questions = kept
        else:
            self.golds(questions, split)
        return Windows(questions, tokenizer, self)

    def golds(self, questions: Sequence[Question], split: str) -> dict[str, tuple[str, ...]] | None:
        """Answers' texts by question, None where the file tells none at all (in version 1.1 empty lists do not either).

        Raises ValueError where it tells those of a part of the questions, and in version 1.1 for a question that has none.
        """
        untold, bare = [q.id for q in questions if q.answers is None], [q.id for q in questions if q.answers == ()]
        if len(untold) == len(questions) or (len(bare) == len(questions) and not self.unanswerable):
            return None
        if untold:
            raise ValueError(f"{self.address(split)}: {len(untold)} of {len(questions)} questions have no answers (not even an "
                             f"empty list), the first is {untold[0]!r}: they cannot be scored")
        if bare and not self.unanswerable:
            raise ValueError(f"{self.address(split)}: {len(bare)} of {len(questions)} questions are without answer, the first is "
                             f"{bare[0]!r}: version 1.1 has no such questions, --task squad2 (--task.version 2.0) has")
        if len(bare) == len(questions):
            warnings.warn(f"{self.address(split)}: none of the {len(questions)} questions has an answer: they are scored as "
                          "unanswerable, which a test set's hidden answers are not", stacklevel=2)
        return golds_of(questions)

    def objective(self, network, **companions):
        return extraction(network) if self.head == "span" else beam_extraction(network, self.unanswerable)

    def found(self, examples: "Windows", outputs: Mapping[str, np.ndarray]) -> dict[str, Found]:
        """What the outputs of all windows say to each question, by its id."""
        return {question.id: self.answer(examples, number, outputs) for number, question in enumerate(examples.questions)}

    def answer(self, examples: "Windows", number: int, outputs) -> Found:
        """The originals' `write_predictions` for one question."""
        read, best = examples.pairs if self.head == "span" else examples.beams, examples.best(number)
        parts = [read(i, outputs, best) for i in range(*examples.bounds[number : number + 2])]
        spans, scores = (np.concatenate([part[i] for part in parts]) for i in range(2))      # K 2 and K 2
        null = min((part[2] for part in parts), key=np.sum)                                  # start and end, or one logit
        with_null = self.unanswerable and self.head == "span"
        if with_null:
            spans, scores = np.append(spans, [[-1, -1]], axis=0), np.append(scores, [null], axis=0)
        context, offsets = examples.questions[number].context, examples.offsets[examples.context[number]]
        listed: dict[str, Candidate] = {}
        for i in np.argsort(-scores.sum(1), kind="stable"):
            if len(listed) == self.n_best:
                break
            first, last = spans[i]
            text = "" if first < 0 else context[offsets[first, 0] : offsets[last, 1]]
            listed.setdefault(text, Candidate(text, *map(float, scores[i])))
        if with_null:
            listed.setdefault("", Candidate("", *map(float, null)))
        top = next((one for one in listed.values() if one.text), Candidate("", NOTHING, NOTHING))
        odds = float(np.sum(null)) - (top.start + top.end if with_null else 0.0) if self.unanswerable else None
        return Found(list(listed.values()) or [top], top.text, odds)

    def score(self, examples: "Windows", outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The official script's numbers, in percent; {} where the questions have no answers to compare with."""
        golds = golds_of(examples.questions)
        if golds is None:
            return {}
        found = self.found(examples, outputs)
        odds = {id: one.odds for id, one in found.items()} if self.unanswerable else None
        return self.measure(golds, {id: one.text for id, one in found.items()}, odds, self.null_threshold)

    def measure(self, golds, predictions: Mapping[str, str], odds: Mapping[str, float] | None = None,
                threshold: float = 1.0) -> dict[str, float]:
        if self.unanswerable:
            return score_v2(golds, predictions, odds, threshold)
        return (score_cmrc if self.scorer == "cmrc" else score_v1)(golds, predictions)

    def baseline(self, examples: "Windows") -> dict[str, float]:
        """Without looking at the question: no answer at all in 2.0, else the whole context."""
        golds = golds_of(examples.questions)
        said = {q.id: "" if self.unanswerable else q.context for q in examples.questions}
        return {} if golds is None else self.measure(golds, said)

    def write(self, examples: "Windows", outputs: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
        """predictions.json, nbest_predictions.json and in 2.0 null_odds.json, as the originals write them."""
        kind = "logit" if self.head == "span" else "log_prob"
        found, folder = self.found(examples, outputs), Path(folder)
        files = {PREDICTIONS: {id: "" if self.unanswerable and one.odds > self.null_threshold else one.text
                               for id, one in found.items()},
                 NBEST: {id: nbest(one.listed, kind) for id, one in found.items()}}
        if self.unanswerable:
            files[ODDS] = {id: one.odds for id, one in found.items()}
        for name, content in files.items():
            write_file(folder / name, json.dumps(content, indent=4) + "\n")
        return [folder / name for name in files]

    def score_file(self, path: Path, split: str) -> dict[str, float]:
        """Of a JSON file {id: text}. In 2.0 a null_odds.json beside it gives the best thresholds too; what counts as
        unanswerable is what the file answers with ""."""
        golds = self.golds(self.questions(split), split)
        if golds is None:
            raise ValueError(f"{self.address(split)} tells no answers: nothing to score {path} by")
        predictions, odds = read_values(Path(path), str, "text"), None
        if not set(golds) & set(predictions):
            raise ValueError(f"{path} answers none of the {len(golds)} questions of {self.address(split)}: is it of another file?")
        if unasked := [id for id in predictions if id not in golds]:
            warnings.warn(f"{path}: {len(unasked)} of {len(predictions)} predictions are of questions that are not in "
                          f"{self.address(split)} and count for nothing, the first is {unasked[0]!r}", stacklevel=2)
        if self.unanswerable and (Path(path).parent / ODDS).is_file():
            odds = read_values(Path(path).parent / ODDS, (int, float), "number")
        return self.measure(golds, predictions, odds, np.inf)


class Windows:
    """Rows of a question and a window of its context, one question's after the other's.

    number int64 [W]: the question of each row. context [Q]: which of the distinct contexts is a question's.
    offsets: of a context the characters of each token, int64 [T, 2]. Rows are padded to the longest of all, at most
    `max_length`.
    """

    def __init__(self, questions: Sequence[Question], tokenizer, task: Squad):
        if not questions:
            raise ValueError("there are no questions")
        self.questions, self.tokenizer, self.task, self.frame = questions, tokenizer, task, Frame(tokenizer)
        known: dict[str, int] = {}
        self.context = [known.setdefault(question.context, len(known)) for question in questions]
        self.pieces, self.offsets = [], []
        texts = list(known)
        for first in range(0, len(texts), 1024):
            for encoded in tokenizer.encode_batch(texts[first : first + 1024], specials=False):
                self.pieces.append(np.array(encoded.ids, np.int32))
                self.offsets.append(np.array(encoded.offsets, np.int64).reshape(-1, 2))
        self.asked = [ids[: task.max_question] for ids in tokenizer.ids([question.text.strip() for question in questions])]
        rows = []
        for number, question in enumerate(questions):
            room = task.max_length - self.frame.specials - len(self.asked[number])
            if room < 1:
                raise ValueError(f"task.max_length {task.max_length} leaves no room for a context beside the "
                                 f"{len(self.asked[number])} tokens of question {question.id!r}: give less for max_question")
            first, last = self.tokens(number, question.span)
            for start, size in cut(len(self.pieces[self.context[number]]), room, task.stride):
                inside = start <= first and last < start + size
                rows.append((number, start, size, *((first - start, last - start) if inside else (-1, -1))))
        self.number, self.start, self.size, self.first, self.last = np.array(rows, np.int64).T
        self.bounds = np.searchsorted(self.number, np.arange(len(questions) + 1))
        self.lengths = self.size + [len(self.asked[n]) + self.frame.specials for n in self.number]
        self.length = min(-(-int(self.lengths.max()) // 16) * 16, task.max_length)

    def __len__(self) -> int:
        return len(self.number)

    def tokens(self, number: int, span: tuple[int, int] | None) -> tuple[int, int]:
        """First and last token of a context that hold a part of these characters, (-1, -1) where none does."""
        if span is None:
            return -1, -1
        begins, ends = self.offsets[self.context[number]].T
        held = np.flatnonzero((ends > span[0]) & (begins < span[1]))
        return (int(held[0]), int(held[-1])) if len(held) else (-1, -1)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> dict[str, np.ndarray]:
        return pad([self.row(i) for i in indices], self.length, pad_token_id=self.tokenizer.pad_token_id,
                   side=self.tokenizer.padding_side)

    def row(self, i: int) -> dict[str, Any]:
        asked, pieces = self.asked[self.number[i]], self.pieces[self.context[self.number[i]]]
        row = self.frame.row(asked, pieces[self.start[i] : self.start[i] + self.size[i]])
        column, null, answered = self.frame.column(len(asked)), self.frame.null(self.lengths[i]), self.first[i] >= 0
        row["start_positions"] = int(column + self.first[i] if answered else null)
        row["end_positions"] = int(column + self.last[i] if answered else null)
        if self.task.head == "beam":
            row["p_mask"] = np.ones(self.lengths[i], np.int32)
            row["p_mask"][column : column + self.size[i]] = 0
            row["p_mask"][null] = 0
            row["is_impossible"] = int(not answered)
        return row

    def best(self, number: int) -> np.ndarray:
        """For each token of a question's context the row that sees most around it: int64 [T]."""
        first, last = self.bounds[number : number + 2]
        windows = np.stack([self.start[first:last], self.size[first:last]], axis=1)
        return first + best_window(windows, len(self.pieces[self.context[number]]))

    def shift(self, i: int) -> int:
        """From the columns of a padded row to the tokens of its context: what to add."""
        padding = self.length - self.lengths[i] if self.tokenizer.padding_side == "left" else 0
        return int(self.start[i] - self.frame.column(len(self.asked[self.number[i]])) - padding)

    def pairs(self, i: int, outputs, best: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best starts with the best ends of a row: context tokens int64 [K, 2], their logits [K, 2], and the null
        ones [2]."""
        length = self.lengths[i]
        begin = self.length - length if self.tokenizer.padding_side == "left" else 0
        logits = np.stack([outputs["start_logits"][i], outputs["end_logits"][i]])[:, begin : begin + length].astype(np.float64)
        starts, ends = np.argsort(-logits, axis=1, kind="stable")[:, : self.task.n_best]
        columns = np.stack([np.repeat(starts, len(ends)), np.tile(ends, len(starts))], axis=1)
        scores = np.stack([logits[0, columns[:, 0]], logits[1, columns[:, 1]]], axis=1)
        spans, scores = self.allowed(i, columns + begin, scores, best)
        return spans, scores, logits[:, self.frame.null(length)]

    def beams(self, i: int, outputs, best: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of a beam head, with log probabilities [K, 2] and the logit of no answer [1]."""
        starts, ends = outputs["start_top_index"][i], outputs["end_top_index"][i]            # S and S E
        columns = np.stack([np.repeat(starts, ends.shape[1]), ends.ravel()], axis=1).astype(np.int64)
        with np.errstate(divide="ignore"):
            probs = np.stack([np.repeat(outputs["start_top_probs"][i], ends.shape[1]), outputs["end_top_probs"][i].ravel()], axis=1)
            scores = np.maximum(np.log(probs.astype(np.float64)), NOTHING)
        return *self.allowed(i, columns, scores, best), np.atleast_1d(outputs["cls_logits"][i]).astype(np.float64)

    def allowed(self, i: int, columns: np.ndarray, scores: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those that stand in the context in order, are not too long, and begin where no other row sees more."""
        spans = columns + self.shift(i)
        start, end = spans.T
        inside = ((spans >= self.start[i]) & (spans < self.start[i] + self.size[i])).all(1)
        kept = inside & (end >= start) & (end - start < self.task.max_answer)
        kept[kept] = best[start[kept]] == i
        return spans[kept], scores[kept]


def golds_of(questions: Sequence[Question]) -> dict[str, tuple[str, ...]] | None:
    """Answers' texts by question, None where the file does not tell them."""
    if any(question.answers is None for question in questions):
        return None
    return {question.id: tuple(answer.text for answer in question.answers) for question in questions}


def nbest(listed: Sequence[Candidate], kind: str) -> list[dict[str, Any]]:
    """An n-best list as the originals write it, with the softmax of the scores."""
    scores = np.array([one.start + one.end for one in listed])
    shares = np.exp(scores - scores.max())
    return [{"text": one.text, "probability": float(share), f"start_{kind}": one.start, f"end_{kind}": one.end}
            for one, share in zip(listed, shares / shares.sum(), strict=True)]


def read_questions(address: str) -> list[Question]:
    """The questions of a SQuAD JSON file, or of flat rows at a data address.

    Answers that do not stand at their answer_start are moved to the nearest place where they do, whatever their case
    and blanks, and those that are nowhere in the context keep no place; a warning counts and lists them.
    Raises ValueError naming the file and the place in it of whatever is missing or of another kind.
    """
    rows = read_rows(address) if address.partition(":")[0] in KINDS else read_file(Path(address))
    questions, moved, lost, bare, seen = [], [], [], [], set()
    for where, row in rows:
        question, starts = question_of(row, where)
        if question.id in seen:
            raise ValueError(f"{where}: the id {question.id!r} stands there a second time")
        seen.add(question.id)
        for answer, start in zip(question.answers or (), starts, strict=True):
            if answer.start < 0 or start not in (None, answer.start):
                (lost if answer.start < 0 else moved).append(question.id)
        if question.answers == () and not flag(row.get("is_impossible", True), where, "is_impossible"):
            bare.append(question.id)
        questions.append(question)
    if not questions:
        raise ValueError(f"{address} holds no question")
    for ids, what in ((moved, "answers are not at their answer_start and were moved to where they are: of"),
                      (lost, "answers are nowhere in their context and cannot be learnt: of"),
                      (bare, "questions have no answer, though is_impossible is false; they count as without answer:")):
        if ids:
            listed = ", ".join(dict.fromkeys(ids[:5]))
            warnings.warn(f"{address}: {len(ids)} {what} {listed}{' ...' if len(ids) > 5 else ''}", stacklevel=2)
    return questions


def read_rows(address: str) -> Iterator[tuple[str, dict]]:
    rows = open_source(address)
    for number, row in enumerate(rows):
        yield rows.place(number), row


def read_file(path: Path) -> Iterator[tuple[str, dict]]:
    for a, article in enumerate(member(read_json(path), "data", str(path), list)):
        for p, paragraph in enumerate(member(article, "paragraphs", f"{path}: data[{a}]", list)):
            place = f"{path}: data[{a}].paragraphs[{p}]"
            context = member(paragraph, "context", place, str)
            for q, asked in enumerate(member(paragraph, "qas", place, list)):
                if not isinstance(asked, Mapping):
                    raise ValueError(f"{place}.qas[{q}] should be an object, not {asked!r:.40}")
                yield f"{place}.qas[{q}]", {**asked, "context": context}


def question_of(row: Mapping[str, Any], where: str) -> tuple[Question, list[int | None]]:
    """A question, and the answer_start of each of its answers, None where the file has none."""
    id, text, context = (member(row, key, where, str) for key in ("id", "question", "context"))
    listed, starts, answers = listed_answers(row, where), [], None
    impossible = flag(row.get("is_impossible"), where, "is_impossible")
    if listed is not None:
        starts = [given_start(one, f"{where}.answers[{n}]") for n, one in enumerate(listed)]
        answers = tuple(placed(member(one, "text", f"{where}.answers[{n}]", str), start, context)
                        for n, (one, start) in enumerate(zip(listed, starts, strict=True)))
        if impossible and answers:
            raise ValueError(f"{where}: is_impossible is true, yet there are {len(answers)} answers")
    elif impossible:
        answers = ()
    return Question(id, text, context, answers), starts


def listed_answers(row: Mapping[str, Any], where: str) -> list[Any] | None:
    """The answers of a question as a list of objects, None where there are none to tell. Columns {"text": [...],
    "answer_start": [...]}, as TFDS and HF's data sets have them, are brought into that form."""
    answers = row.get("answers")
    if not isinstance(answers, Mapping):
        return None if answers is None else member(row, "answers", where, list)
    texts, starts = (list(column) if isinstance(column, list | tuple | np.ndarray) else column
                     for column in (member(answers, "text", where), answers.get("answer_start")))
    if not isinstance(texts, list) or not isinstance(starts, list | None):
        raise ValueError(f"{where}: text and answer_start of its answers should be lists, not {answers!r:.80}")
    if starts is None:
        return [{"text": text} for text in texts]
    if len(starts) != len(texts):
        raise ValueError(f"{where} has {len(texts)} texts of answers, but {len(starts)} of their answer_start")
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def given_start(answer: Any, where: str) -> int | None:
    """answer_start of an answer, None where it has none. Raises ValueError for what is no whole number (null, 13.5)."""
    if not isinstance(answer, Mapping) or "answer_start" not in answer:
        return None
    return whole(answer["answer_start"], where, "answer_start")


def placed(text: str, start: int | None, context: str) -> Answer:
    """The answer where it stands in the context nearest to `start`, the first time without that; if need be
    in another case."""
    start = start or 0
    if text and start >= 0 and context[start : start + len(text)] == text:
        return Answer(text, start, start + len(text))
    words = r"\s+".join(map(re.escape, text.split()))
    for flags in (0, re.IGNORECASE) if words else ():
        if found := [match.span() for match in re.finditer(words, context, flags)]:
            return Answer(text, *min(found, key=lambda span: abs(span[0] - start)))
    return Answer(text, -1, -1)


def member(holder: Any, key: str, where: str, kind: type | None = None) -> Any:
    if not isinstance(holder, Mapping):
        raise ValueError(f"{where} should be an object, not {holder!r:.40}")
    if holder.get(key) is None:
        known = ", ".join(map(str, holder)) or "nothing"
        raise ValueError(f"{where} has no {key!r}; it has: {known:.200}")
    if kind and not isinstance(holder[key], kind):
        raise ValueError(f"{where}: {key} should be a {kind.__name__}, not {holder[key]!r:.40}")
    return holder[key]


def read_values(path: Path, kind: type | tuple[type, ...], name: str) -> dict[str, Any]:
    """A JSON object from question ids to values of one kind."""
    values = read_json(path, unique=True)
    if not isinstance(values, dict):
        raise ValueError(f"{path} should hold one JSON object, from question ids to a {name} each")
    for id, value in values.items():
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{path}: the value of {id!r} should be a {name}, not {value!r:.40}")
        if name == "number":
            real(value, f"{path}: {id!r}", "value")
    return values


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError for a key that stands there twice, of which JSON's reader keeps the last one."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"{key!r} stands there twice")
        values[key] = value
    return values


def read_json(path: Path, unique: bool = False) -> Any:
    """unique: no key of an object may stand there twice. Raises FileNotFoundError, or ValueError naming the line of what is
    no JSON."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    note_file(path)
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=unique_keys if unique else None)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno}: no whole JSON value ({error.msg}); "
                         f"is the file half-written?") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); is it half-written?") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def squad(version: Literal["1.1", "2.0"], data: str = "", **options: Any) -> Squad:
    """SQuAD as TFDS has it; with `data` from the train, dev and test JSON files of a folder (gz too; those named after
    the version where others lie there); a single file is for evaluation.

    Raises FileNotFoundError where the folder has neither, ValueError where several files could be meant.
    """
    options = {"version": version, **options}
    if not data:
        return Squad(f"tfds:squad/v{version}:train", f"tfds:squad/v{version}:validation", **options)
    return Squad(*split_files(Path(data), f"v{version}"), **options)


def cmrc2018(data: str = "", **options: Any) -> Squad:
    """CMRC 2018 (arXiv:1810.07366) in SQuAD's form, from the folder or the file `data`."""
    if not data:
        raise ValueError("cmrc2018 needs data: the folder of cmrc2018_train.json and cmrc2018_dev.json, or one file")
    return Squad(*split_files(Path(data), "cmrc2018"), **{"scorer": "cmrc", **options})


def split_files(place: Path, mark: str) -> tuple[str, str, str]:
    """Files of training, evaluation and test in a folder, "" where there is none; those with the mark go first."""
    if place.is_file():
        return "", str(place), ""
    files = sorted(path for path in place.glob("*") if path.name.removesuffix(".gz").endswith(".json"))
    if not files:
        raise FileNotFoundError(f"{place} is no SQuAD JSON file, and no folder with a train or dev one")
    marked = [path for path in files if mark in path.name]
    found = []
    for split in ("train", "dev", "test"):
        named = [path for path in marked or files if split in path.name]
        if len(named) > 1:
            raise ValueError(f"{place}: {', '.join(path.name for path in named)} could all be the {split} file: name one")
        found.append(str(named[0]) if named else "")
    return tuple(found)
