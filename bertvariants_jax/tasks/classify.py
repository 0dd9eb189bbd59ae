"""Classification (or regression) of single texts and pairs, from any source with named fields."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.batch import pad
from bertvariants_jax.data.pack import Packed, packed
from bertvariants_jax.data.source import Quotes, Source, open_source, read_lines
from bertvariants_jax.files import write_file
from bertvariants_jax.objectives.finetune import classification
from bertvariants_jax.tasks.labels import check_classes, class_name, real
from bertvariants_jax.tasks.metrics import METRICS, MULTI_LABEL
from bertvariants_jax.tasks.task import TEST, TRAIN, VALIDATION, Task

PLACE = "(place)"  # of an example: where its row stands, for errors
PACKED = 128  # tokens of a packed row, where no text is longer


@dataclass(frozen=True)
class Classify(Task):
    """Texts with labels.

    data: address of the training rows. evaluation: of the rows to evaluate on; without it the share `held_out` of the
    training rows, drawn by their number, is kept aside. test: of rows whose labels may be unknown.
    text, pair, label: names of the fields ("" for no pair). header: whether tsv and csv files begin with the names,
    test_header the same of the test file; else `columns` gives them. skip_bad_rows: leave out rows of such files with
    a wrong number of fields, and say how many. encoding: of such files, where it is not UTF-8. quotes: of tsv files,
    "raw" or "quoted" (a spreadsheet's) where their content should not decide.
    classes: the labels as they stand in the data, in the order of their ids; () takes those of the training rows,
    sorted. names: what the model is to call them, where the data's labels are numbers. spelled: how prediction files
    write them; as `names` if not given. regression: numbers, no classes.
    multi_label: texts have any number of classes each, none too; so they have of themselves if the data's labels are
    lists (JSONL, Parquet) or `separator`, which stands between the labels of a cell, is given. Such a model is trained by
    binary cross-entropy, answers with all classes above one half, and is scored by micro_f1, macro_f1 and accuracy (all
    classes of a text are right).
    metrics: of METRICS; the first one says which checkpoint is best. positive: the class of the metric f1, as it stands
    in the data; that of id 1 if not given.
    official: what the prediction file is called, without its ending.
    pack: put several short texts into one row, where that leaves out much padding; a batch still takes as many texts as
    its size says, on average.
    """

    data: str = ""
    evaluation: str = ""
    test: str = ""
    text: str = "text"
    pair: str = ""
    label: str = "label"
    header: bool = True
    test_header: bool = True
    columns: tuple[str, ...] = ()
    skip_bad_rows: bool = False
    encoding: str = "utf-8"
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    spelled: tuple[str, ...] = ()
    regression: bool = False
    metrics: tuple[str, ...] = ("accuracy",)
    positive: str = ""
    official: str = "predictions"
    pack: bool = True
    max_length: int = 128
    held_out: float = 0.1
    rows: int = 0
    quotes: Quotes = "auto"
    multi_label: bool = False
    separator: str = ""

    known_metrics = tuple(METRICS)

    def __post_init__(self):
        if unknown := [name for name in self.metrics if name not in self.known_metrics]:
            raise ValueError(f"task.metrics holds {unknown[0]!r}; known: {', '.join(self.known_metrics)}")
        for name in ("names", "spelled"):
            if (given := getattr(self, name)) and self.classes and len(given) != len(self.classes):
                raise ValueError(f"task.{name} has {len(given)} entries, task.classes {len(self.classes)}")
        for name in ("classes", "names"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"task.{name} holds {next(one for one in given if given.count(one) > 1)!r} twice")
            if len(given) == 1 and not self.regression:
                raise ValueError(f"task.{name} holds one class, {given[0]!r}: two or more are needed to choose from")
        if self.regression and (self.multi_label or self.separator):
            raise ValueError("task.regression is for one number a text: leave out task.multi_label and task.separator")
        if not self.evaluation and not 0 < self.held_out < 1:
            raise ValueError(f"task.held_out must lie between 0 and 1, got {self.held_out}")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("classify",)

    @property
    def best(self) -> str:
        return self.measured[0]

    @cached_property
    def measured(self) -> tuple[str, ...]:
        """The metrics, the one that checkpoints are compared by first."""
        if not self.is_multi_label:
            return self.metrics
        if unfit := [name for name in self.metrics if name not in MULTI_LABEL]:
            raise ValueError(f"task.metrics holds {unfit[0]!r}, which texts with several labels do not have; known: "
                             f"{', '.join(MULTI_LABEL)}")
        return tuple(sorted(MULTI_LABEL, key=lambda name: name != "macro_f1")) if self.metrics[0] == "macro_f1" else MULTI_LABEL

    @property
    def problem_type(self) -> str | None:
        return "regression" if self.regression else "multi_label_classification" if self.is_multi_label else None

    @cached_property
    def is_multi_label(self) -> bool:
        """Whether a text has any number of classes."""
        if self.multi_label or self.separator or self.regression:
            return not self.regression
        for address in (self.data, self.evaluation, self.test):
            if address.partition(":")[0] in ("jsonl", "parquet"):       # whose values have types
                with contextlib.suppress(FileNotFoundError):
                    return isinstance(open_source(address).first().get(self.label), list)
        return False

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The labels as they stand in the data, by id."""
        return self.classes or self.classes_of(self.source(TRAIN))

    def classes_of(self, rows: Source) -> tuple[str, ...]:
        """The classes of labelled rows, sorted; where `names` says what numbers are called, in the order of the numbers.

        Raises ValueError, naming the row, for an empty label, and for rows that have one class alone.
        """
        places: dict[str, str] = {}
        is_bool, rows_seen = None, rows.column(self.label)
        for i, value in enumerate(rows_seen):
            place = rows.place(i)
            for one in self.several(value, place) if self.is_multi_label else [value]:
                places.setdefault(class_name(one, place), place)
                if is_bool not in (None, isinstance(one, bool)):
                    raise ValueError(f"{place} has the label {one!r}, but others are {'true and false' if is_bool else 'not'}: "
                                     "write all in one way")
                is_bool = isinstance(one, bool)
        check_classes(places)
        if self.names:
            numbers = tuple(str(i) for i in range(len(self.names)))
            if set(places) <= set(numbers):
                return numbers
            if set(places) <= set(self.names):
                return self.names
            if len(places) != len(self.names):
                raise ValueError(f"{rows.address} has {len(places)} classes, {', '.join(sorted(places)):.200}, but task.names "
                                 f"has {len(self.names)} entries; task.classes says which is which")
        if len(places) < 2:
            raise ValueError(f"{rows.address}: all {len(rows_seen)} rows have the label {min(places, default='')!r}: two classes "
                             f"or more are needed to choose from; is {self.label!r} the right field?")
        return tuple(sorted(places))

    def several(self, value, place: str) -> list:
        """The labels of one text. Raises ValueError, naming the place, for what is no list of them."""
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, str) and self.separator:
            value = value.split(self.separator) if value.strip() else []
        if not isinstance(value, list):
            raise ValueError(f"{place} has the label {value!r:.60}, but texts have several each: expected a list"
                             + (f", or text with {self.separator!r} between" if self.separator else "; in a table "
                                "task.separator says what stands between them"))
        names = [class_name(one, place, self.classes) for one in value]
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise ValueError(f"{place} has the label {twice!r} twice: are these zeros and ones, a place a class? Write the "
                             "names of those that are one")
        return value

    def labels(self) -> tuple[str, ...]:
        return self.names or (("score",) if self.regression else self.values)

    def answered_by(self, labels: tuple[str, ...]) -> "Classify":
        if self.classes or self.regression:
            return self
        with contextlib.suppress(FileNotFoundError):
            if self.data and self.source(TRAIN).files:
                return self
        names, written = self.names or labels, self.written()
        if self.names and not written & set(names):
            classes = tuple(str(i) for i in range(len(names)))
        else:                                           # the data may have other capitals than the model, see `fitted`
            capitals = {name.lower(): name for name in written}
            classes = tuple(name if name in written else capitals.get(name.lower(), name) for name in names)
        spelled = self.spelled or (() if self.names else classes)
        return dataclasses.replace(self, classes=classes, names=names, spelled=spelled, multi_label=self.is_multi_label)

    def written(self) -> set[str]:
        """The labels of the data to evaluate on and of the test set as they stand there, without those that are none."""
        names: set[str] = set()
        for split in (VALIDATION, TEST) if self.evaluation else (TEST,):
            with contextlib.suppress(FileNotFoundError, ValueError):
                for value in self.source(split).column(self.label):
                    with contextlib.suppress(ValueError):
                        names.update(class_name(one, "") for one in (self.several(value, "") if self.is_multi_label else [value]))
        return names

    def fitted(self, labels: tuple[str, ...], pooling: str | None = None) -> "Classify":
        """With the ids of a model that knows the same classes, in an order and a spelling (capitals) of its own."""
        own = self.labels()
        if labels == own or sorted(map(str.lower, labels)) != sorted(map(str.lower, own)):
            single = self.regression and len(labels) == 1
            return dataclasses.replace(self, names=labels) if single else self
        order = [[name.lower() for name in own].index(name.lower()) for name in labels]

        def ordered(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[i] for i in order) if values else ()

        positive = self.positive or (self.values[1] if "f1" in self.metrics else "")
        return dataclasses.replace(self, names=labels, classes=ordered(self.values), positive=positive,
                                   spelled=ordered(self.spelled or own))

    def unused(self, start: bool) -> dict[str, str]:
        return super().unused(start) | ({"columns": "the file's header names its fields (--task.no-header if it has none)"}
                                        if self.header and self.test_header else {}) | (
            {"positive": "it is the class of the metric f1"} if "f1" not in self.metrics else {}) | (
            {"classes": "a regression has none"} if self.regression else {})

    def source(self, split: str) -> Source:
        known = {TRAIN: self.data, VALIDATION: self.evaluation or self.data, TEST: self.test}
        if split not in known:
            raise ValueError(f"there is no split {split!r}; there are: {', '.join(known)}")
        if not known[split]:
            flag = {TRAIN: "data", VALIDATION: "evaluation", TEST: "test"}[split]
            raise ValueError(f"the task has no {split} data: give --task.{flag} (of evaluate: --data) an address such as tsv:FILE")
        header = self.test_header if split == TEST else self.header
        return open_source(known[split], header=header, columns=None if header else self.columns or None,
                           skip_bad_rows=self.skip_bad_rows, encoding=self.encoding, quotes=self.quotes)

    def flat(self, row: Mapping, where: str) -> Iterator[dict]:
        """The examples that a row of the source holds: itself, for the plain tasks."""
        yield dict(row)

    def picked(self, split: str) -> list[dict]:
        """The examples of a split, with where the source's row stands under PLACE.

        Raises ValueError for a missing field, or a text that is none, naming the row.
        """
        rows = self.source(split)
        number = np.arange(len(rows))
        if not self.evaluation and split != TEST:
            aside = noise.uniform(0, "classify/held out", 0, number, 1)[:, 0] < self.held_out
            number = number[~aside if split == TRAIN else aside]
            if not len(number):
                raise ValueError(f"{rows.address}: none of its {len(rows)} rows is left for {split} with task.held_out "
                                 f"{self.held_out}; task.evaluation names rows to evaluate on")
        if split == TRAIN and self.rows:
            number = number[: self.rows]
        if rows.skipped:
            print(f"{rows.address}: {rows.skipped} rows have a wrong number of fields and are left out", file=sys.stderr)
        examples = [{**example, PLACE: place} for i in number.tolist() for place in (rows.place(i),)
                    for example in self.flat(rows[i], place)]
        for example in examples:
            for name in (self.text, self.pair, self.label if split != TEST else ""):
                if name and example.get(name) is None:
                    known = ", ".join(key for key in example if key != PLACE)
                    fault = f"has null as {name!r}" if name in example else f"has no field {name!r}; it has: {known}"
                    raise ValueError(f"{example[PLACE]} {fault}"
                                     + ("; rows without labels are the split test" if name == self.label else ""))
                if name and name != self.label and not isinstance(example[name], str):
                    raise ValueError(f"{example[PLACE]} has {example[name]!r:.60} as {name!r}, expected text")
        return examples

    def texts(self) -> Iterator[str]:
        for row in self.picked(TRAIN):
            yield from (row[name] for name in (self.text, self.pair) if name)

    def gold(self, examples: Sequence[Mapping], split: str) -> np.ndarray | None:
        """Their labels, ids or numbers [n]; None for a test set without (no label at all, or TFDS's -1).

        Raises ValueError for a label outside the classes, naming the row.
        """
        said = [example.get(self.label) for example in examples]
        if split == TEST and not any(map(self.is_label, said)):
            return None
        return np.array([self.number(label, example[PLACE]) for label, example in zip(said, examples, strict=True)])

    def is_label(self, value) -> bool:
        """Whether a test set's cell says something: it is neither empty nor TFDS's -1."""
        if isinstance(value, list | np.ndarray):
            return True
        return value not in (None, "") and (str(value) not in ("-1", "-1.0") or "-1" in self.values_or(()))

    def values_or(self, otherwise: tuple[str, ...]) -> tuple[str, ...]:
        return otherwise if self.regression else self.values

    def examples(self, split: str, tokenizer, cache: Path | None = None, batch_size: int = 1) -> "Rows":
        """Raises ValueError for a missing field or a label outside the classes, naming the row."""
        picked = self.picked(split)
        labels = self.gold(picked, split)
        if split == TRAIN and self.regression and len(labels) > 1 and np.ptp(labels) == 0:
            raise ValueError(f"{self.data}: all {len(labels)} rows have the number {labels[0]:g}: there is nothing to learn; is "
                             f"{self.label!r} the right field?")
        if labels is not None and labels.ndim == 2 and (bare := int((labels.sum(1) == 0).sum())):
            print(f"{self.source(split).address}: {bare} of {len(labels)} texts of {split} have no label: they count as of no "
                  "class", file=sys.stderr)
        return Rows(picked, [row[self.text] for row in picked], [row[self.pair] for row in picked] if self.pair else None,
                    labels, tokenizer, self.max_length)

    def packed(self, examples: "Rows") -> Packed | None:
        if not self.pack:
            return None
        dense = packed(examples, max(examples.length, min(PACKED, self.max_length)), most=16,
                       pad_token_id=examples.tokenizer.pad_token_id)
        return dense if len(dense) * dense.length < 0.75 * len(examples) * examples.length else None

    def number(self, value, place: str) -> int | float | np.ndarray:
        """The id of a label, the number to regress to, or 1 for each class that the text has, float32 [classes]."""
        if self.regression:
            return real(value, place)
        if self.is_multi_label:
            has = np.zeros(len(self.values), np.float32)
            has[[self.id_of(one, place) for one in self.several(value, place)]] = 1
            return has
        if isinstance(value, list | np.ndarray):
            raise ValueError(f"{place} has the label {value!r:.60}, a list, but others are none: --task.multi-label takes lists")
        return self.id_of(value, place)

    def id_of(self, value, place: str) -> int:
        if (name := class_name(value, place, self.values)) not in self.values:
            raise ValueError(f"{place} has the label {value!r}; the classes are: {', '.join(self.values)}")
        return self.values.index(name)

    def objective(self, network, **companions):
        return classification(network)

    def predicted(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The answers, ids or numbers [n], or of several labels a text 0 and 1 [n, classes]."""
        logits = np.asarray(outputs["logits"], np.float64)
        if self.is_multi_label:
            return (logits > 0).astype(np.float32)                  # a probability above one half
        return logits[:, 0] if self.regression else logits.argmax(-1)

    def measure(self, labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """The metrics of answers."""
        one = self.values.index(self.positive) if self.positive else 1
        return {name: METRICS[name](*((labels == one, predicted == one) if name == "f1" else (labels, predicted)))
                for name in self.measured}

    def score(self, examples: "Rows", outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {} if examples.labels is None else self.measure(examples.labels, self.predicted(outputs))

    def baseline(self, examples: "Rows") -> dict[str, float]:
        """Always the most frequent class, or the mean; of several labels a text the most frequent ones, as many as are
        best."""
        labels = examples.labels
        if labels is None:
            return {}
        if self.is_multi_label:
            rank = np.argsort(np.argsort(-labels.sum(0), kind="stable"))
            answers = [np.broadcast_to((rank < count).astype(np.float32), labels.shape) for count in range(labels.shape[1] + 1)]
            return max((self.measure(labels, answer) for answer in answers), key=lambda scores: scores[self.best])
        often = labels.mean() if self.regression else np.bincount(labels).argmax()
        return self.measure(labels, np.full(len(labels), often))

    def write(self, examples: "Rows", outputs: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
        """<official>.tsv as GLUE's leaderboard takes it: a header, then index and prediction; several labels as a JSON
        list."""
        spelled = self.spelled or self.labels()
        if self.is_multi_label:
            lines = [json.dumps([spelled[i] for i in np.flatnonzero(row)], ensure_ascii=False) for row in self.predicted(outputs)]
        else:
            lines = [np.format_float_positional(value, min_digits=3) if self.regression else spelled[int(value)]
                     for value in self.predicted(outputs)]     # all digits: rounding makes ties, which ranks depend on
        path = Path(folder) / f"{self.official}.tsv"
        write_file(path, "index\tprediction\n" + "".join(f"{i}\t{line}\n" for i, line in enumerate(lines)))
        return [path]

    def score_file(self, path: Path, split: str) -> dict[str, float]:
        picked = self.picked(split)
        labels = self.gold(picked, split)
        if labels is None:
            raise ValueError(f"{self.source(split).address} has no labels to score against")
        return self.measure(labels, self.read_predictions(Path(path), len(labels)))

    def read_predictions(self, path: Path, count: int) -> np.ndarray:
        """The answers of a file as `write` makes it. Raises ValueError, naming the line, for whatever does not fit."""
        found: dict[int, int | float | np.ndarray] = {}
        for number, line in read_lines(str(path)):
            cells = line.split("\t")
            if number == 1 and not cells[0].isdecimal():
                continue
            if len(cells) != 2 or not cells[0].isdecimal():
                raise ValueError(f"{path}, line {number}: expected index and prediction with a tab between, got {line[:60]!r}")
            index, said = int(cells[0]), cells[1].strip()
            if index in found or index >= count:
                raise ValueError(f"{path}, line {number}: index {index} "
                                 + ("comes twice" if index in found else f"is beyond the {count} examples"))
            found[index] = self.read_prediction(said, f"{path}, line {number}")
        if missing := [i for i in range(count) if i not in found]:
            raise ValueError(f"{path} has no prediction for {len(missing)} of the {count} examples, the first is {missing[0]}")
        return np.array([found[i] for i in range(count)])

    def read_prediction(self, text: str, place: str) -> int | float | np.ndarray:
        """One answer as `write` spells it. Raises ValueError, naming the place, for another."""
        if self.regression:
            return real(text, place, "prediction")
        spelled = self.spelled or self.labels()
        try:
            names = json.loads(text) if self.is_multi_label else [text]
            ids = [spelled.index(name) for name in names]
        except (ValueError, TypeError):
            kind = "no JSON list of" if self.is_multi_label else "none of"
            raise ValueError(f"{place}: the prediction {text!r} is {kind} {', '.join(spelled)}") from None
        if not self.is_multi_label:
            return ids[0]
        has = np.zeros(len(spelled), np.float32)
        has[ids] = 1
        return has


class Rows:
    """Tokenised texts, with labels where they are known; rows are padded to the longest of all, at most `max_length`.

    records: the examples as the task read them.
    """

    def __init__(self, records: Sequence[Mapping], texts: list[str], pairs: list[str] | None, labels: np.ndarray | None,
                 tokenizer, max_length: int):
        if not texts:
            raise ValueError("there are no examples")
        self.records, self.texts, self.labels, self.tokenizer = records, texts, labels, tokenizer
        whole = tokenizer(texts, pairs, max_length=max_length, padding=True)
        real = whole["attention_mask"] > 0
        self.encoded = [{key: array[i][real[i]] for key, array in whole.items()} for i in range(len(texts))]
        self.lengths = real.sum(1)
        # Lengths are few, so that shapes are few: the next multiple of 16.
        self.length = min(-(-int(self.lengths.max()) // 16) * 16, max_length)

    def __len__(self) -> int:
        return len(self.encoded)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> dict[str, np.ndarray]:
        batch = pad([self.encoded[i] for i in indices], self.length, pad_token_id=self.tokenizer.pad_token_id,
                    side=self.tokenizer.padding_side)
        if self.labels is None:
            return batch
        labels = self.labels[indices]
        return {**batch, "labels": labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32)}
