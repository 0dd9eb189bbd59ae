"""GLUE (arXiv:1804.07461) as a table: a row a task, from TFDS or from the benchmark's original TSV files."""

from dataclasses import dataclass
from pathlib import Path

from bertvariants_jax.tasks.classify import Classify


@dataclass(frozen=True)
class Row:
    """text, pair: field names in TFDS and in the files. tfds: labels there by id; files: as they stand in the TSV.

    names: what the classes are called, by id. dev: the file of the validation split.
    """

    text: str
    pair: str
    names: tuple[str, ...]
    files: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    dev: str = "dev"


GLUE = {
    "sst2": Row("sentence", "", ("negative", "positive"), ("0", "1")),
}

FOLDERS = {"sst2": "SST-2"}


def glue(task: str = "sst2", data: str = "", **options) -> Classify:
    """The task as TFDS has it, or with `data` from the TSV files of that folder (or of its parent, GLUE's).

    Raises ValueError for an unknown task, FileNotFoundError where the folder has no train.tsv or dev.tsv (gz too).
    """
    if task not in GLUE:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(GLUE)}")
    row = GLUE[task]
    common = {"text": row.text, "pair": row.pair, "names": row.names, "metrics": row.metrics, **options}
    if not data:
        return Classify(f"tfds:glue/{task}:train", f"tfds:glue/{task}:validation",
                        classes=tuple(str(i) for i in range(len(row.names))), **common)
    return Classify(f"tsv:{_file(Path(data), task, 'train')}", f"tsv:{_file(Path(data), task, row.dev)}",
                    classes=row.files, **common)


def _file(folder: Path, task: str, stem: str) -> Path:
    places = [place / f"{stem}.tsv{end}" for place in (folder, folder / FOLDERS[task]) for end in ("", ".gz")]
    for path in places:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder}: no {stem}.tsv or {stem}.tsv.gz there, nor in {FOLDERS[task]}/")
