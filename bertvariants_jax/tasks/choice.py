"""Multiple choice: RACE, SWAG, DREAM, Cosmos QA and COPA, each a row of one table and a reader of its own files.

A row of the model is [context, question with one option]; the option with the best score is the answer, after a
softmax over all of the question (arXiv:1704.04683 for RACE; the layouts are those of the papers' own code).
"""

import gzip
import json
import re
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertvariants_jax.data.batch import pad
from bertvariants_jax.data.fingerprint import note_file
from bertvariants_jax.data.source import open_source, read_lines
from bertvariants_jax.files import replacing
from bertvariants_jax.objectives.finetune import classification
from bertvariants_jax.tasks.labels import whole
from bertvariants_jax.tasks.task import TEST, TRAIN, VALIDATION, Task


class Question(NamedTuple):
    """One question: `pairs` are (context, question with option), one an option; answer is the right one's number.

    name: what prediction files call it. group: of its own score ("middle", "high"), "" for none. flipped: whether
    the option stands before the context (COPA's causes).
    """

    context: str
    options: tuple[str, ...]
    answer: int | None
    name: str
    group: str = ""
    flipped: bool = False


@dataclass(frozen=True)
class Choice(Task):
    """A multiple-choice task of CHOICES.

    name: of the task. data: the folder of its files; TFDS without it, where TFDS has it.
    max_length: tokens of a row; what is too long loses the end of its context.
    question_length: tokens of question and option together at most: their last ones are kept (first ones for the
    vocabularies that put them first, RoBERTa's), as the papers' code does.
    groups: of the questions, () for all ("middle" alone is RACE-M).
    """

    name: str = "race"
    data: str = ""
    max_length: int = 512
    question_length: int = 128
    groups: tuple[str, ...] = ()
    rows: int = 0

    best = "accuracy"

    def __post_init__(self):
        if self.name not in CHOICES:
            raise ValueError(f"unknown task {self.name!r}; known: {', '.join(CHOICES)}")
        if not 0 < self.question_length < self.max_length - 4:
            raise ValueError(f"task.question_length is {self.question_length}, which leaves no room for the context in "
                             f"rows of {self.max_length}")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("choice",)

    def texts(self) -> Iterator[str]:
        for question in self.questions(TRAIN):
            yield from (question.context, *question.options)

    def questions(self, split: str) -> list[Question]:
        """Raises ValueError, naming file and question, for one without the right number of options or with an answer
        that is none of them; FileNotFoundError where the folder has no file of the split."""
        row = CHOICES[self.name]
        found = list(row.read(Path(self.data), split) if self.data else row.tfds(split) if row.tfds else _no_tfds(self.name))
        if self.groups:
            if unknown := set(self.groups) - {question.group for question in found}:
                raise ValueError(f"the task has no questions of the group {sorted(unknown)[0]!r}")
            found = [question for question in found if question.group in self.groups]
        if not found:
            raise ValueError(f"{self.data or self.name}: there is no {split} question")
        if (untold := [q.name for q in found if q.answer is None]) and len(untold) < len(found):
            raise ValueError(f"{self.data or self.name}: {len(untold)} of {len(found)} {split} questions have no answer, the first "
                             f"is {untold[0]!r}")
        for question in found:
            if len(question.options) != len(found[0].options):
                raise ValueError(f"{question.name} has {len(question.options)} options, {found[0].name} has "
                                 f"{len(found[0].options)}")
        return found[: self.rows] if split == TRAIN and self.rows else found

    def examples(self, split: str, tokenizer, cache: Path | None = None, batch_size: int = 1) -> "Questions":
        return Questions(self.questions(split), tokenizer, self.max_length, self.question_length)

    def objective(self, network, **companions):
        return classification(network, "choice")

    def score(self, examples: "Questions", outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """accuracy over all questions, and <group>/accuracy where there are groups."""
        return {} if examples.labels is None else self.rate(examples.questions, np.asarray(outputs["logits"]).argmax(-1))

    def rate(self, questions: Sequence[Question], chosen: np.ndarray) -> dict[str, float]:
        right = np.array([question.answer for question in questions]) == chosen
        groups = np.array([question.group for question in questions])
        return {"accuracy": float(right.mean()), **{
            f"{group}/accuracy": float(right[groups == group].mean()) for group in sorted(set(groups) - {""})}}

    def baseline(self, examples: "Questions") -> dict[str, float]:
        """Always the place at which the right option stands most often."""
        if examples.labels is None:
            return {}
        often = np.bincount(examples.labels).argmax()
        return self.rate(examples.questions, np.full(len(examples.labels), often))

    def write(self, examples: "Questions", outputs: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
        """predictions.jsonl: {"id", "label"} a question, the label an option's number from 0 (RACE: its letter; COPA:
        {"idx", "label"}, as SuperGLUE's leaderboard wants it)."""
        path, chosen = Path(folder) / "predictions.jsonl", np.asarray(outputs["logits"]).argmax(-1)
        with replacing(path) as file:
            for question, best in zip(examples.questions, chosen.tolist(), strict=True):
                row = {"idx": int(question.name), "label": best} if self.name == "copa" else {
                    "id": question.name, "label": LETTERS[best] if self.name == "race" else best}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return [path]

    def score_file(self, path: str | Path, split: str = VALIDATION) -> dict[str, float]:
        """Accuracy of a predictions.jsonl, whose questions may stand in any order.

        Raises ValueError for a question that is missing or unknown, naming it.
        """
        questions, said = self.questions(split), {}
        for number, line in read_lines(str(path)):
            place = f"{path}, line {number}"
            try:
                row = json.loads(line)
                label, name = row["label"], str(row["idx"] if "idx" in row else row["id"])
            except (ValueError, KeyError, TypeError):
                raise ValueError(f'{place}: expected {{"id": ..., "label": ...}}, got {line[:60]!r}') from None
            if name in said:
                raise ValueError(f"{place}: {name!r} is answered twice")
            said[name] = _letter(label, place) if isinstance(label, str) else whole(label, place)
        if missing := [q.name for q in questions if q.name not in said]:
            raise ValueError(f"{path} has no answer to {len(missing)} questions, the first is {missing[0]!r}")
        if unknown := set(said) - {q.name for q in questions}:
            raise ValueError(f"{path} answers {sorted(unknown)[0]!r}, which is no question of the {split} data")
        if any(q.answer is None for q in questions):
            raise ValueError(f"the {split} data has no answers to score against")
        if beyond := [q.name for q in questions if not 0 <= said[q.name] < len(q.options)]:
            raise ValueError(f"{path} answers {beyond[0]!r} by option {said[beyond[0]]}, of {len(questions[0].options)} that are "
                             "counted from 0")
        return self.rate(questions, np.array([said[q.name] for q in questions]))


class Questions:
    """Tokenised questions; a batch is [B, C, L], L the longest row's length, at most `max_length`."""

    def __init__(self, questions: Sequence[Question], tokenizer, max_length: int, question_length: int):
        self.questions, self.tokenizer = questions, tokenizer
        self.room, self.most = max_length - tokenizer.num_special_tokens(pair=True), question_length
        answers = [question.answer for question in questions]
        self.labels = None if None in answers else np.array(answers, np.int32)
        self.choices = len(questions[0].options)
        contexts = list(dict.fromkeys(question.context for question in questions))
        self.contexts = dict(zip(contexts, tokenizer.ids(contexts), strict=True))
        options = iter(tokenizer.ids([option for question in questions for option in question.options]))
        self.options = [[next(options) for _ in question.options] for question in questions]
        longest = max(len(self.row(i, choice)["input_ids"]) for i in range(len(questions)) for choice in range(self.choices))
        self.length = min(-(-longest // 16) * 16, max_length)

    def __len__(self) -> int:
        return len(self.questions)

    def row(self, number: int, choice: int) -> dict[str, np.ndarray]:
        question = self.questions[number]
        return row(self.tokenizer, self.contexts[question.context], self.options[number][choice], self.room, self.most,
                   question.flipped)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> dict[str, np.ndarray]:
        flat = pad([self.row(int(i), choice) for i in indices for choice in range(self.choices)], self.length,
                   pad_token_id=self.tokenizer.pad_token_id, side=self.tokenizer.padding_side)
        batch = {key: value.reshape(len(indices), self.choices, -1) for key, value in flat.items()}
        return batch if self.labels is None else {**batch, "labels": self.labels[indices]}


def row(tokenizer, context: np.ndarray, asked: np.ndarray, room: int, most: int, flipped: bool = False
        ) -> dict[str, np.ndarray]:
    """Ids of a context and of a question with an option as one row of the model.

    room: tokens of both together; the context loses its end. most: of the question; its last are kept, or its first
    where it stands before the context.
    """
    first = flipped != (tokenizer.family in ASKED_FIRST)
    asked = asked[:most] if first else asked[-most:]
    context = context[: max(room - len(asked), 0)]
    ids, kinds = tokenizer.build(*((asked, context) if first else (context, asked)))
    return {"input_ids": ids, **({"token_type_ids": kinds} if tokenizer.type_ids else {})}


LETTERS = "ABCDEFGH"
ASKED_FIRST = ("roberta", "xlm-roberta")   # fairseq's order: <s> question option </s></s> context </s>


def asked(question: str, option: str, where: str = "the input") -> str:
    """Question and option as one text: the option takes the place of blanks ("_"), else it follows.

    Raises ValueError for what is no text (null), of which there would be the word None."""
    if not (isinstance(question, str) and isinstance(option, str)):
        raise ValueError(f"{where} has the question {question!r:.40} with the option {option!r:.40}, expected two texts")
    return one_line(question.replace("_", option) if "_" in question else f"{question} {option}")


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def race(folder: Path, split: str) -> Iterator[Question]:
    """RACE's own layout: <split>/<middle or high>/<number>.txt, a JSON object each."""
    place = _place(folder, {TRAIN: ("train",), VALIDATION: ("dev",), TEST: ("test",)}[_known(split)])
    paths = sorted(place.glob("*/*.txt"), key=lambda path: (path.parent.name, len(path.stem), path.stem))
    if not paths:
        raise FileNotFoundError(f"{place}: no middle/*.txt or high/*.txt there")
    for path in paths:
        yield from _race(_json(path), path.parent.name, str(path))


def _race(row: Mapping, group: str, where: str) -> Iterator[Question]:
    questions, options, answers = (_list(row, key, where) for key in ("questions", "options", "answers"))
    context, name = one_line(_text(row, "article", where)), row.get("id") or row.get("example_id") or where
    if len({len(questions), len(options), len(answers)}) > 1:
        raise ValueError(f"{where} has {len(questions)} questions, {len(options)} lists of options and {len(answers)} answers")
    for i, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        choices = _list(options, i, f"{where}: options")
        yield Question(context, tuple(asked(question, choice, where) for choice in choices),
                       _answer(_letter(answer, f"{where}, question {i},") if answer else None, choices, where, i),
                       f"{group}/{name}/{i}", group)


def race_tfds(split: str) -> Iterator[Question]:
    for group in ("high", "middle"):
        address = f"tfds:race/{group}:{ {TRAIN: 'train', VALIDATION: 'dev', TEST: 'test'}[_known(split)]}"
        for i, row in enumerate(open_source(address)):
            yield from _race(row, group, f"{address}, row {i}")


def dream(folder: Path, split: str) -> Iterator[Question]:
    """DREAM's JSON: [[turns], [{"question", "choice", "answer"}], id]."""
    path = _place(folder, _stems(split, ("train", "dream_train"), ("dev", "dream_dev"), ("test", "dream_test"), ".json"))
    for number, row in enumerate(_json(path)):
        where = f"{path}: dialogue {number}"
        if not isinstance(row, list) or len(row) != 3:
            raise ValueError(f"{where}: expected [turns, questions, id]")
        turns, questions, name = _list(row, 0, where), _list(row, 1, where), row[2]
        if odd := [turn for turn in turns if not isinstance(turn, str)]:
            raise ValueError(f"{where} has the turn {odd[0]!r:.60}, expected text")
        for i, question in enumerate(questions):
            choices, answer = _list(question, "choice", where), question.get("answer")
            found = None if answer is None else choices.index(answer) if answer in choices else -1
            yield Question(one_line(" ".join(turns)), tuple(asked(_need(question, "question", where), c, where) for c in choices),
                           _answer(found, choices, where, i), f"{name}/{i}")


def swag(folder: Path, split: str) -> Iterator[Question]:
    """SWAG's CSV: sent1 is the context, sent2 begins the sentence that the endings end."""
    path = _place(folder, _stems(split, ("train",), ("val", "dev"), ("test",), ".csv"))
    for i, row in enumerate(open_source(f"csv:{path}")):
        where = f"{path}: row {i}"
        choices = [_need(row, f"ending{k}", where) for k in range(4)]
        yield Question(one_line(_text(row, "sent1", where)),
                       tuple(one_line(f"{_need(row, 'sent2', where)} {choice}") for choice in choices),
                       _answer(_number(row.get("label"), where), choices, where, i), str(i))


def cosmosqa(folder: Path, split: str) -> Iterator[Question]:
    """Cosmos QA's CSV or JSONL: context, question, answer0 .. answer3, label."""
    path = _place(folder, [*_stems(split, ("train",), ("valid", "dev", "cosmosqa_valid*"), ("test",), ".csv"),
                           *_stems(split, ("train",), ("valid", "dev"), ("test",), ".jsonl")])
    kind = "jsonl" if ".jsonl" in path.name else "csv"
    yield from _cosmosqa(open_source(f"{kind}:{path}"), str(path))


def _cosmosqa(rows: Sequence[Mapping], address: str) -> Iterator[Question]:
    for i, row in enumerate(rows):
        where = f"{address}: row {i}"
        choices = [_need(row, f"answer{k}", where) for k in range(4)]
        yield Question(one_line(_text(row, "context", where)),
                       tuple(asked(_need(row, "question", where), choice, where) for choice in choices),
                       _answer(_number(row.get("label"), where), choices, where, i), str(row.get("id", i)))


def cosmosqa_tfds(split: str) -> Iterator[Question]:
    address = f"tfds:cosmos_qa:{_known(split)}"
    yield from _cosmosqa([{**row, "label": None} if split == TEST else row for row in open_source(address)], address)


def copa(folder: Path, split: str) -> Iterator[Question]:
    """COPA as SuperGLUE's JSONL, or its own XML: of copa-dev.xml the first 400 items train and the others validate."""
    name = {TRAIN: ("train.jsonl",), VALIDATION: ("val.jsonl",), TEST: ("test.jsonl",)}[_known(split)]
    own = "copa-test.xml" if split == TEST else "copa-dev.xml"
    path = _place(folder, [*name, own], or_in="COPA")
    if path.name.removesuffix(".gz") in name:
        yield from _copa(open_source(f"jsonl:{path}"), str(path))
        return
    try:
        items = xml.fromstring("\n".join(line for _, line in read_lines(str(path)) if not line.startswith("<?xml")))
    except xml.ParseError as error:
        raise ValueError(f"{path}: not whole XML ({error})") from None
    rows = [{"idx": item.get("id"), "premise": item.findtext("p"), "question": item.get("asks-for"),
             "choice1": item.findtext("a1"), "choice2": item.findtext("a2"),
             "label": whole(item.get("most-plausible-alternative", 0), f"{path}: item {item.get('id')}") - 1} for item in items.iter("item")]
    yield from _copa(rows if split == TEST else rows[:400] if split == TRAIN else rows[400:], str(path))


def _copa(rows: Sequence[Mapping], address: str) -> Iterator[Question]:
    for i, row in enumerate(rows):
        where = f"{address}: item {row.get('idx', i)}"
        choices = tuple(_text(row, key, where) for key in ("choice1", "choice2"))
        if row.get("question") not in ("cause", "effect"):
            raise ValueError(f"{where} asks for {row.get('question')!r}, expected cause or effect")
        label = row.get("label")
        yield Question(_text(row, "premise", where), choices,
                       _answer(_number(label, where), choices, where, 0),
                       str(row.get("idx", i)), flipped=row["question"] == "cause")


def copa_tfds(split: str) -> Iterator[Question]:
    """TFDS numbers the questions (0 is cause) and marks unknown labels by -1."""
    address = f"tfds:super_glue/copa:{_known(split)}"
    rows = [{**row, "question": ("cause", "effect")[int(row["question"])] if not isinstance(row["question"], str)
             else row["question"], "label": None if split == TEST else row["label"]} for row in open_source(address)]
    yield from _copa(rows, address)


@dataclass(frozen=True)
class Row:
    """read(folder, split) and, where TFDS has the task, tfds(split): its questions in order."""

    read: Callable[[Path, str], Iterator[Question]]
    tfds: Callable[[str], Iterator[Question]] | None = None
    max_length: int = 512
    question_length: int = 128


CHOICES = {
    "race": Row(race, race_tfds),
    "swag": Row(swag, None, 128, 64),
    "dream": Row(dream),
    "cosmosqa": Row(cosmosqa, cosmosqa_tfds, 256, 64),
    "copa": Row(copa, copa_tfds, 64, 32),
}


def choice(task: str = "race", data: str = "", **options: Any) -> Choice:
    """A task of CHOICES with its usual lengths. Raises ValueError for an unknown task."""
    row = CHOICES.get(task, CHOICES["race"])
    return Choice(task, data, **{"max_length": row.max_length, "question_length": row.question_length, **options})


def _no_tfds(name: str):
    raise ValueError(f"TFDS has no {name}: give --data the folder of its files")


def _known(split: str) -> str:
    if split not in (TRAIN, VALIDATION, TEST):
        raise ValueError(f"there is no split {split!r}; there are: {TRAIN}, {VALIDATION}, {TEST}")
    return split


def _stems(split: str, train: Sequence[str], validation: Sequence[str], test: Sequence[str], end: str) -> list[str]:
    return [stem + end for stem in {TRAIN: train, VALIDATION: validation, TEST: test}[_known(split)]]


def _place(folder: Path, names: Sequence[str], or_in: str = "") -> Path:
    """The first of these files (gzipped or not) or folders; names may be patterns."""
    for inner in dict.fromkeys((folder, folder / or_in)):
        for name in names:
            if found := sorted(path for end in ("", ".gz") for path in inner.glob(name + end)):
                return found[0]
    raise FileNotFoundError(f"{folder}: none of {', '.join(names)} is there (.gz neither)")


def _json(path: Path) -> Any:
    note_file(path)
    data = path.read_bytes()
    try:
        return json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not whole JSON ({error})") from None


def _need(row: Mapping, key: str, where: str) -> Any:
    if not isinstance(row, Mapping) or row.get(key) is None:
        known = ", ".join(row) if isinstance(row, Mapping) else type(row).__name__
        raise ValueError(f"{where} has no {key!r}; it has: {known}")
    return row[key]


def _list(row: Mapping | list, key: str | int, where: str) -> list:
    value = row[key] if isinstance(key, int) else _need(row, key, where)
    if not isinstance(value, list | tuple | np.ndarray):
        raise ValueError(f"{where} has {value!r:.60} as {key!r}, expected a list")
    return value


def _text(row: Mapping, key: str, where: str) -> str:
    value = _need(row, key, where)
    if not isinstance(value, str):
        raise ValueError(f"{where} has {value!r:.60} as {key!r}, expected text")
    return value


def _number(label: Any, where: str) -> int | None:
    if label is None or label == "":
        return None
    return whole(label, where)


def _letter(answer: Any, where: str) -> int:
    """The number of an option's letter."""
    if not isinstance(answer, str) or len(answer) != 1 or answer not in LETTERS:
        raise ValueError(f"{where} has the answer {answer!r:.40}, expected a letter of {LETTERS}")
    return LETTERS.index(answer)


def _answer(found: int | None, choices: Sequence[str], where: str, question: int) -> int | None:
    if found is not None and not 0 <= found < len(choices):
        raise ValueError(f"{where}, question {question}: the answer is none of the {len(choices)} options")
    return found
