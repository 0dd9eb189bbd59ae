"""Classification (or regression) of single texts and pairs, from any source with named fields."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.batch import pad
from bertvariants_jax.data.pack import Packed, packed
from bertvariants_jax.data.source import Source, open_source, read_lines
from bertvariants_jax.files import write_file
from bertvariants_jax.objectives.finetune import classification
from bertvariants_jax.tasks.metrics import METRICS
from bertvariants_jax.tasks.task import TEST, TRAIN, VALIDATION, Task

PACKED = 128  # tokens of a packed row, where no text is longer


@dataclass(frozen=True)
class Classify(Task):
    """Texts with labels.

    data: address of the training rows. evaluation: of the rows to evaluate on; without it the share `held_out` of the
    training rows, drawn by their number, is kept aside. test: of rows whose labels may be unknown.
    text, pair, label: names of the fields ("" for no pair). header: whether tsv and csv files begin with the names,
    test_header the same of the test file; else `columns` gives them. skip_bad_rows: leave out rows of such files with
    a wrong number of fields, and say how many. encoding: of such files, where it is not UTF-8.
    classes: the labels as they stand in the data, in the order of their ids; () takes those of the training rows,
    sorted. names: what the model is to call them, where the data's labels are numbers. spelled: how prediction files
    write them; as `names` if not given. regression: numbers, no classes.
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

    known_metrics = tuple(METRICS)

    def __post_init__(self):
        if unknown := [name for name in self.metrics if name not in self.known_metrics]:
            raise ValueError(f"task.metrics holds {unknown[0]!r}; known: {', '.join(self.known_metrics)}")
        for name in ("names", "spelled"):
            if (given := getattr(self, name)) and self.classes and len(given) != len(self.classes):
                raise ValueError(f"task.{name} has {len(given)} entries, task.classes {len(self.classes)}")
        if not self.evaluation and not 0 < self.held_out < 1:
            raise ValueError(f"task.held_out must lie between 0 and 1, got {self.held_out}")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("classify",)

    @property
    def best(self) -> str:
        return self.metrics[0]

    @property
    def problem_type(self) -> str | None:
        return "regression" if self.regression else None

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The labels as they stand in the data, by id."""
        return self.classes or tuple(sorted({str(value) for value in self.source(TRAIN).column(self.label)}))

    def labels(self) -> tuple[str, ...]:
        return self.names or (("score",) if self.regression else self.values)

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

    def source(self, split: str) -> Source:
        known = {TRAIN: self.data, VALIDATION: self.evaluation or self.data, TEST: self.test}
        if split not in known:
            raise ValueError(f"there is no split {split!r}; there are: {', '.join(known)}")
        if not known[split]:
            raise ValueError(f"the task has no {split} data: give --task.{'data' if split == TRAIN else split} an address "
                             "such as tsv:FILE")
        header = self.test_header if split == TEST else self.header
        return open_source(known[split], header=header, columns=None if header else self.columns or None,
                           skip_bad_rows=self.skip_bad_rows, encoding=self.encoding)

    def flat(self, row: Mapping, where: str) -> Iterator[dict]:
        """The examples that a row of the source holds: itself, for the plain tasks."""
        yield dict(row)

    def picked(self, split: str) -> list[dict]:
        """The examples of a split, with the number of the source's row under "row".

        Raises ValueError for a missing field, naming the row.
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
        examples = [{**example, "row": i} for i in number.tolist()
                    for example in self.flat(rows[i], f"{rows.address}: row {i}")]
        for example in examples:
            for name in (self.text, self.pair, self.label if split != TEST else ""):
                if name and example.get(name) is None:
                    known = ", ".join(key for key in example if key != "row")
                    raise ValueError(f"{rows.address}: row {example['row']} has no field {name!r}; it has: {known}"
                                     + ("; rows without labels are the split test" if name == self.label else ""))
        return examples

    def texts(self) -> Iterator[str]:
        for row in self.picked(TRAIN):
            yield from (row[name] for name in (self.text, self.pair) if name)

    def gold(self, examples: Sequence[Mapping], split: str) -> np.ndarray | None:
        """Their labels, ids or numbers [n]; None for a test set without (no label at all, or TFDS's -1).

        Raises ValueError for a label outside the classes, naming the row.
        """
        said = [example.get(self.label) for example in examples]
        if split == TEST and all(label is None or (str(label) in ("-1", "-1.0") and "-1" not in self.values_or(()))
                                 for label in said):
            return None
        where = self.source(split).address
        return np.array([self.number(label, where, example["row"]) for label, example in zip(said, examples, strict=True)])

    def values_or(self, otherwise: tuple[str, ...]) -> tuple[str, ...]:
        return otherwise if self.regression else self.values

    def examples(self, split: str, tokenizer, cache: Path | None = None, batch_size: int = 1) -> "Rows":
        """Raises ValueError for a missing field or a label outside the classes, naming the row."""
        picked = self.picked(split)
        return Rows(picked, [row[self.text] for row in picked], [row[self.pair] for row in picked] if self.pair else None,
                    self.gold(picked, split), tokenizer, self.max_length)

    def packed(self, examples: "Rows") -> Packed | None:
        if not self.pack:
            return None
        dense = packed(examples, max(examples.length, min(PACKED, self.max_length)), most=16,
                       pad_token_id=examples.tokenizer.pad_token_id)
        return dense if len(dense) * dense.length < 0.75 * len(examples) * examples.length else None

    def number(self, value, where: str, row: int) -> int | float:
        """The id of a label, or the number to regress to."""
        if self.regression:
            try:
                return float(value)
            except (TypeError, ValueError):
                raise ValueError(f"{where}: row {row} has the label {value!r}, expected a number") from None
        if str(value) not in self.values:
            raise ValueError(f"{where}: row {row} has the label {value!r}; the classes are: {', '.join(self.values)}")
        return self.values.index(str(value))

    def objective(self, network, **companions):
        return classification(network)

    def predicted(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The answers, ids or numbers [n]."""
        logits = np.asarray(outputs["logits"], np.float64)
        return logits[:, 0] if self.regression else logits.argmax(-1)

    def measure(self, labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """The metrics of answers."""
        one = self.values.index(self.positive) if self.positive else 1
        return {name: METRICS[name](*((labels == one, predicted == one) if name == "f1" else (labels, predicted)))
                for name in self.metrics}

    def score(self, examples: "Rows", outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {} if examples.labels is None else self.measure(examples.labels, self.predicted(outputs))

    def baseline(self, examples: "Rows") -> dict[str, float]:
        """Always the most frequent class, or the mean."""
        labels = examples.labels
        if labels is None:
            return {}
        often = labels.mean() if self.regression else np.bincount(labels).argmax()
        return self.measure(labels, np.full(len(labels), often))

    def write(self, examples: "Rows", outputs: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
        """<official>.tsv as GLUE's leaderboard takes it: a header, then index and prediction."""
        spelled = self.spelled or self.labels()
        lines = [f"{value:.3f}" if self.regression else spelled[int(value)] for value in self.predicted(outputs)]
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
        spelled = self.spelled or self.labels()
        found: dict[int, int | float] = {}
        for number, line in read_lines(str(path)):
            cells = line.split("\t")
            if number == 1 and not cells[0].isdigit():
                continue
            if len(cells) != 2 or not cells[0].isdigit():
                raise ValueError(f"{path}, line {number}: expected index and prediction with a tab between, got {line[:60]!r}")
            index, said = int(cells[0]), cells[1].strip()
            if index in found or index >= count:
                raise ValueError(f"{path}, line {number}: index {index} "
                                 + ("comes twice" if index in found else f"is beyond the {count} examples"))
            try:
                found[index] = float(said) if self.regression else spelled.index(said)
            except ValueError:
                raise ValueError(f"{path}, line {number}: the prediction {said!r} is none of "
                                 f"{'the numbers' if self.regression else ', '.join(spelled)}") from None
        if missing := [i for i in range(count) if i not in found]:
            raise ValueError(f"{path} has no prediction for {len(missing)} of the {count} examples, the first is {missing[0]}")
        return np.array([found[i] for i in range(count)])


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
