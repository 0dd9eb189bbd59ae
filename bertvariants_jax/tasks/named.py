"""Tasks by the names that commands know them by: a row a benchmark's task, from TFDS or from a folder of its own files."""

import difflib
import functools
from collections.abc import Callable
from typing import Any

from bertvariants_jax.tasks.choice import CHOICES, choice
from bertvariants_jax.tasks.glue import GLUE, glue
from bertvariants_jax.tasks.similar import stsb_embeddings
from bertvariants_jax.tasks.squad import cmrc2018, squad
from bertvariants_jax.tasks.superglue import SUPERGLUE, superglue
from bertvariants_jax.tasks.tagging import TAGGING, ner
from bertvariants_jax.tasks.task import Task

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
        near = difflib.get_close_matches(name, NAMED, 3)
        raise ValueError(f"unknown task {name!r}; " + (f"did you mean {', '.join(near)}?" if near else
                                                       f"known: {', '.join(NAMED)}"))
    try:
        return NAMED[name](data, **options)
    except TypeError as error:
        raise ValueError(f"task {name}: {error}") from None
