"""GLUE (arXiv:1804.07461) as a table: a row a task, from TFDS or from the benchmark's original TSV files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bertvariants_jax.tasks.classify import Classify


@dataclass(frozen=True)
class Row:
    """folder: of the TSV files. files: their fields text, pair and label ("" is no pair). tfds: text and pair there.

    train, dev, test: the files, "" where there is none. tfds_splits: TFDS's names of those.
    names: what the classes are called, in TFDS's (and HF's) order of ids; () is a regression. spelled: as the files
    write them, where that is not the name.
    columns: the names of fields, where train and dev have no header. official: the leaderboard's file.
    otherwise: the row where this one's files are not there.
    """

    folder: str
    files: tuple[str, str, str]
    tfds: tuple[str, str]
    names: tuple[str, ...]
    official: str
    spelled: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    train: str = "train"
    dev: str = "dev"
    test: str = "test"
    tfds_splits: tuple[str, str, str] = ("train", "validation", "test")
    columns: tuple[str, ...] = ()
    skip_bad_rows: bool = False
    config: str = ""
    otherwise: "Row | None" = None


SENTENCES = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
BITS = ("0", "1")

GLUE = {
    "cola": Row("CoLA", ("sentence", "", "label"), ("sentence", ""), ("unacceptable", "acceptable"), "CoLA", BITS,
                ("matthews",), columns=("source", "label", "star", "sentence")),
    "sst2": Row("SST-2", ("sentence", "", "label"), ("sentence", ""), ("negative", "positive"), "SST-2", BITS),
    "mrpc": Row("MRPC", ("#1 String", "#2 String", "Quality"), SENTENCES, ("not_equivalent", "equivalent"), "MRPC", BITS,
                ("accuracy", "f1")),
    "stsb": Row("STS-B", (*SENTENCES, "score"), SENTENCES, (), "STS-B", metrics=("pearson", "spearman")),
    "qqp": Row("QQP", ("question1", "question2", "is_duplicate"), ("question1", "question2"),
               ("not_duplicate", "duplicate"), "QQP", BITS, ("accuracy", "f1"), skip_bad_rows=True),
    "mnli": Row("MNLI", (*SENTENCES, "gold_label"), ("premise", "hypothesis"), NLI, "MNLI-m", dev="dev_matched",
                test="test_matched", tfds_splits=("train", "validation_matched", "test_matched")),
    "mnli_mm": Row("MNLI", (*SENTENCES, "gold_label"), ("premise", "hypothesis"), NLI, "MNLI-mm", dev="dev_mismatched",
                   test="test_mismatched", tfds_splits=("train", "validation_mismatched", "test_mismatched"),
                   config="mnli"),
    "qnli": Row("QNLI", ("question", "sentence", "label"), ("question", "sentence"), ENTAILMENT, "QNLI"),
    "rte": Row("RTE", (*SENTENCES, "label"), SENTENCES, ENTAILMENT, "RTE"),
    "wnli": Row("WNLI", (*SENTENCES, "label"), SENTENCES, ("not_entailment", "entailment"), "WNLI", BITS),
    # the diagnostic set, which a model of MNLI answers; of its two files one has labels
    "ax": Row("diagnostic", ("Premise", "Hypothesis", "Label"), ("premise", "hypothesis"), NLI, "AX",
              metrics=("matthews",), train="", dev="diagnostic-full", test="diagnostic-full",
              tfds_splits=("", "test", "test"),
              otherwise=Row("diagnostic", (*SENTENCES, "label"), ("premise", "hypothesis"), NLI, "AX",
                            metrics=("matthews",), train="", dev="diagnostic", test="diagnostic")),
}

# what the average is over, the parts of each with equal weight; papers leave out wnli
AVERAGED = {**{name: (name,) for name in GLUE if name not in ("mnli_mm", "ax")}, "mnli": ("mnli", "mnli_mm")}


def glue(task: str = "sst2", data: str = "", **options) -> Classify:
    """The task as TFDS has it, or with `data` from the TSV files of that folder (or of its parent, GLUE's).

    Raises ValueError for an unknown task, FileNotFoundError where the folder has none of the task's files (gz too).
    """
    if task not in GLUE:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(GLUE)}")
    row = GLUE[task]
    if data and row.otherwise and not any(path and path.is_file() for path in files(Path(data), row, quiet=True)):
        row = row.otherwise
    spelled = row.spelled or row.names
    common = {"names": row.names, "spelled": spelled, "metrics": row.metrics, "official": row.official,
              "regression": not row.names, **options}
    if not data:
        addresses = [f"tfds:glue/{row.config or task}:{split}" if split else "" for split in row.tfds_splits]
        return Classify(*addresses, text=row.tfds[0], pair=row.tfds[1],
                        classes=tuple(str(i) for i in range(len(row.names))), **common)
    addresses = [f"tsv:{path}" if path else "" for path in files(Path(data), row)]
    text, pair, label = row.files
    return Classify(*addresses, text=text, pair=pair, label=label, header=not row.columns, columns=row.columns,
                    skip_bad_rows=row.skip_bad_rows, classes=spelled, **{"quotes": "raw", **common})


def files(folder: Path, row: Row, quiet: bool = False) -> list[Path | None]:
    """train, dev and test file; one that is not there by the name that it should have, None where the row has none."""
    stems, places = (row.train, row.dev, row.test), (folder, folder / row.folder)
    found = [next((path for place in places for end in (".tsv", ".tsv.gz") if (path := place / f"{stem}{end}").is_file()),
                  None) for stem in stems]
    if not any(found) and not quiet:
        wanted = ", ".join(f"{stem}.tsv" for stem in dict.fromkeys(stems) if stem)
        raise FileNotFoundError(f"{folder}: no {wanted} there (.gz neither), nor in {row.folder}/")
    place = next((path.parent for path in found if path), folder)
    return [path or (place / f"{stem}.tsv" if stem else None) for path, stem in zip(found, stems, strict=True)]


def average(scores: Mapping[str, Mapping[str, float]]) -> tuple[float, tuple[str, ...]]:
    """GLUE's average of {task: {metric: value}} and the tasks that it is over, of those that are there.

    A task's metrics are averaged first, and MNLI's two halves.
    """
    found = {task: [np.mean([scores[part][metric] for metric in GLUE[part].metrics]) for part in parts if part in scores]
             for task, parts in AVERAGED.items()}
    means = {task: float(np.mean(values)) for task, values in found.items() if values}
    return float(np.mean(list(means.values()))) if means else 0.0, tuple(means)
