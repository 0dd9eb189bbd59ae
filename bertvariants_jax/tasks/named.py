"""Tasks by the names that commands know them by: a row a benchmark's task, from TFDS or from a folder of its own files;
and tasks on other data than their own."""

import dataclasses
import difflib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertvariants_jax.data.source import KINDS
from bertvariants_jax.tasks.choice import CHOICES, Choice, choice
from bertvariants_jax.tasks.classify import Classify
from bertvariants_jax.tasks.documents import Documents
from bertvariants_jax.tasks.glue import GLUE, glue
from bertvariants_jax.tasks.similar import stsb_embeddings
from bertvariants_jax.tasks.squad import Squad, cmrc2018, squad
from bertvariants_jax.tasks.superglue import SUPERGLUE, SuperGlue, superglue
from bertvariants_jax.tasks.tagging import TAGGING, Tagging, ner
from bertvariants_jax.tasks.task import TEST, TRAIN, VALIDATION, Task

# (data, **options) -> Task; data: folder of the task's original files, "" is TFDS
NAMED: dict[str, Callable[..., Task]] = {
    **{name: functools.partial(glue, name) for name in GLUE},
    **{name: functools.partial(superglue, name) for name in SUPERGLUE},
    **{name: functools.partial(ner, name) for name in TAGGING},
    **{name: functools.partial(choice, name) for name in CHOICES},
    "stsb_embeddings": stsb_embeddings,
    "squad": functools.partial(squad, "1.1"), "squad2": functools.partial(squad, "2.0"), "cmrc2018": cmrc2018,
}


def task(name: str, data: str = "", **options: Any) -> Task:
    """The task of that name; options: fields of its class.

    Raises ValueError for an unknown name or option, FileNotFoundError where `data` lacks the files.
    """
    if name not in NAMED:
        if "/" in name or Path(name).is_dir():
            raise ValueError(f"{name} is no folder of a training run, for it has no config.json (with several seeds each "
                             "seed-N in it is one), and no task")
        near = difflib.get_close_matches(name, NAMED, 3)
        raise ValueError(f"unknown task {name!r}; " + (f"did you mean {', '.join(near)}?" if near else
                                                       f"known: {', '.join(NAMED)}"))
    try:
        return NAMED[name](data, **options)
    except TypeError as error:
        raise ValueError(f"task {name}: {error}") from None


# fields of a task that say what is read and how
READING = ("data", "evaluation", "test", "text", "pair", "label", "header", "columns", "skip_bad_rows", "quotes", "classes",
           "names", "spelled", "words", "tags")


def task_on(name: str, data: str, split: str, **options: Any) -> Task:
    """The named task, to be evaluated on a split: from TFDS, from the folder `data` of its files, or on `data` alone, where
    that is a file or a data address.

    Raises as `task` and `with_data` do.
    """
    is_file = bool(data) and Path(data).is_file()
    if not is_file and data.partition(":")[0] not in KINDS:
        return task(name, data, **options)
    row_by_row = name in GLUE or name in SUPERGLUE or name == "stsb_embeddings"
    own = str(Path(data).parent) if is_file and row_by_row else data if is_file or name in TAGGING else ""
    chosen = with_data(task(name, own, **options), data, split)
    return chosen if split == TRAIN else dataclasses.replace(chosen, data="")


def with_data(task: Task, data: str, split: str) -> Task:
    """The task with other data: an address or a file for one split, or the folder of a benchmark's files.

    Raises ValueError where the task does not tell how to read it, FileNotFoundError where it is not there.
    """
    names = {TRAIN: ("data", "evaluation"), VALIDATION: ("evaluation",), TEST: ("test",)}[split]
    fields = {field.name for field in dataclasses.fields(task)}
    is_address = data.partition(":")[0] in KINDS
    if not is_address and not Path(data).exists():
        raise FileNotFoundError(f"there is no file or folder {data}, and it is no data address (tsv:FILE, ...)")
    if isinstance(task, Choice):
        if not Path(data).is_dir():
            raise ValueError(f"{data}: the task {task.name} is read from the folder of its files")
        return dataclasses.replace(task, data=data)
    if not is_address and Path(data).is_dir():
        other = benchmark(task, data)
        return dataclasses.replace(task, **{name: getattr(other, name) for name in READING if name in fields})
    if set(names) - fields:
        raise ValueError(f"the task has no {split} data")
    if isinstance(task, Documents):
        return dataclasses.replace(task, **dict.fromkeys(names, (data,)))
    if not is_address and not isinstance(task, Squad):
        kinds = [address.partition(":")[0] for address in (task.evaluation, task.data, task.test) if address]
        if not kinds or kinds[0] == "tfds":
            raise ValueError(f"{data}: give an address that says what it is, such as tsv:{data}")
        data = f"{kinds[0]}:{data}"
    return dataclasses.replace(task, **dict.fromkeys(names, data))


def benchmark(task: Task, folder: str) -> Task:
    """The task as a benchmark's folder has it. Raises ValueError where it is none of a benchmark."""
    if isinstance(task, SuperGlue):
        return superglue(task.name, folder)
    if isinstance(task, Squad):
        return cmrc2018(folder) if task.scorer == "cmrc" else squad(task.version, folder)
    if isinstance(task, Classify):
        name = next((name for name, row in GLUE.items() if row.official == task.official), "")
        if name:
            return glue(name, folder)
    if isinstance(task, Tagging):
        name = next((name for name, row in TAGGING.items() if row.types == task.types), "")
        if name:
            return ner(name, folder)
    raise ValueError(f"{folder} is a folder: give the address of its file, such as tsv:{folder}/FILE")
