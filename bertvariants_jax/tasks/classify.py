"""Classification (or regression) of single texts and pairs, from any source with named fields."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.batch import pad
from bertvariants_jax.data.source import Source, open_source
from bertvariants_jax.objectives.finetune import classification
from bertvariants_jax.tasks.metrics import METRICS
from bertvariants_jax.tasks.task import TRAIN, Task


@dataclass(frozen=True)
class Classify(Task):
    """Texts with labels.

    data: address of the training rows. evaluation: of the rows to evaluate on; without it the share `held_out` of the
    rows, drawn by their number, is kept aside.
    text, pair, label: names of the fields ("" for no pair). header: whether tsv and csv files begin with the names;
    else `columns` gives them.
    classes: the labels as they stand in the data, in the order of their ids; () takes those of the training rows,
    sorted. names: what the model is to call them, where the data's labels are numbers. regression: numbers, no classes.
    metrics: of METRICS; the first one says which checkpoint is best.
    """

    data: str = ""
    evaluation: str = ""
    text: str = "text"
    pair: str = ""
    label: str = "label"
    header: bool = True
    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    regression: bool = False
    metrics: tuple[str, ...] = ("accuracy",)
    max_length: int = 128
    held_out: float = 0.1
    rows: int = 0

    def __post_init__(self):
        if unknown := [name for name in self.metrics if name not in METRICS]:
            raise ValueError(f"task.metrics holds {unknown[0]!r}; known: {', '.join(METRICS)}")
        if self.names and self.classes and len(self.names) != len(self.classes):
            raise ValueError(f"task.names has {len(self.names)} entries, task.classes {len(self.classes)}")
        if not self.evaluation and not 0 < self.held_out < 1:
            raise ValueError(f"task.held_out must lie between 0 and 1, got {self.held_out}")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("classify",)

    @property
    def best(self) -> str:
        return self.metrics[0]

    @cached_property
    def values(self) -> tuple[str, ...]:
        """The labels as they stand in the data, by id."""
        return self.classes or tuple(sorted({str(value) for value in self.source(TRAIN).column(self.label)}))

    def labels(self) -> tuple[str, ...]:
        return ("score",) if self.regression else self.names or self.values

    def source(self, split: str) -> Source:
        address = self.data if split == TRAIN or not self.evaluation else self.evaluation
        if not address:
            raise ValueError(f"the task has no {split} data: give --task.data an address such as tsv:FILE")
        return open_source(address, header=self.header, columns=self.columns or None)

    def picked(self, split: str) -> list[dict]:
        """The rows of a split, with where they came from under "row"."""
        rows = self.source(split)
        number = np.arange(len(rows))
        if not self.evaluation:
            aside = noise.uniform(0, "classify/held out", 0, number, 1)[:, 0] < self.held_out
            number = number[~aside if split == TRAIN else aside]
        if split == TRAIN and self.rows:
            number = number[: self.rows]
        return [{**rows[int(i)], "row": int(i)} for i in number]

    def texts(self) -> Iterator[str]:
        for row in self.source(TRAIN):
            yield from (row[name] for name in (self.text, self.pair) if name)

    def examples(self, split: str, tokenizer, cache: Path | None = None, batch_size: int = 1) -> "Rows":
        """Raises ValueError for a missing field or a label outside the classes, naming the row."""
        picked, where = self.picked(split), self.source(split).address
        for row in picked:
            for name in (self.text, self.pair, self.label):
                if name and row.get(name) is None:
                    known = ", ".join(key for key in row if key != "row")
                    raise ValueError(f"{where}: row {row['row']} has no field {name!r}; it has: {known}")
        return Rows([row[self.text] for row in picked], [row[self.pair] for row in picked] if self.pair else None,
                    np.array([self.number(row[self.label], where, row["row"]) for row in picked]),
                    tokenizer, self.max_length)

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

    def score(self, examples: "Rows", outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        logits = np.asarray(outputs["logits"], np.float64)
        predicted = logits[:, 0] if self.regression else logits.argmax(-1)
        return {name: METRICS[name](examples.labels, predicted) for name in self.metrics}


@dataclass
class Rows:
    """Tokenised texts with labels; rows are padded to the longest of all, at most `max_length`."""

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray
    tokenizer: object
    max_length: int
    length: int = field(init=False)

    def __post_init__(self):
        if not self.texts:
            raise ValueError("there are no examples")
        whole = self.tokenizer(self.texts, self.pairs, max_length=self.max_length, padding=True)
        # Lengths are few, so that shapes are few: the next multiple of 16.
        self.length = min(-(-whole["input_ids"].shape[1] // 16) * 16, self.max_length)
        real = whole["attention_mask"] > 0
        self.encoded = [{key: array[i][real[i]] for key, array in whole.items()} for i in range(len(self.texts))]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> dict[str, np.ndarray]:
        batch = pad([self.encoded[i] for i in indices], self.length, pad_token_id=self.tokenizer.pad_token_id,
                    side=self.tokenizer.padding_side)
        labels = self.labels[indices]
        return {**batch, "labels": labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32)}
