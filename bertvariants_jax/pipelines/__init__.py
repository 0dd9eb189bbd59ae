"""Text in, answers out: pipelines over a checkpoint, with HF's names, keys and order of results; a file each."""

import warnings
from pathlib import Path

from bertvariants_jax.hf.checkpoint import Checkpoint, load
from bertvariants_jax.pipelines.base import Pipeline
from bertvariants_jax.pipelines.embed import Embed
from bertvariants_jax.pipelines.fill_mask import FillMask
from bertvariants_jax.pipelines.multiple_choice import MultipleChoice
from bertvariants_jax.pipelines.question_answering import QuestionAnswering
from bertvariants_jax.pipelines.replaced_tokens import ReplacedTokens
from bertvariants_jax.pipelines.text_classification import TextClassification
from bertvariants_jax.pipelines.token_classification import TokenClassification

PIPELINES: dict[str, type[Pipeline]] = {
    "fill-mask": FillMask, "text-classification": TextClassification, "sentiment-analysis": TextClassification,
    "embed": Embed, "feature-extraction": Embed, "replaced-tokens": ReplacedTokens,
    "token-classification": TokenClassification, "ner": TokenClassification, "multiple-choice": MultipleChoice,
    "question-answering": QuestionAnswering,
}


def pipeline(task: str, source: str | Path | Checkpoint | None = None, *, model: str | Path | Checkpoint | None = None,
             **options) -> Pipeline:
    """A callable on a text, a list of texts or a generator of them.

    task: "fill-mask", "text-classification" ("sentiment-analysis"), "embed" ("feature-extraction"),
      "token-classification" ("ner"), "multiple-choice" (called with context=, choices= and question=),
      "replaced-tokens", "question-answering" (called with question= and context=).
    source: a checkpoint, folder or hub id; model= is the same. options: those of the pipeline's class, batch_size and max_length.
    Raises ValueError for an unknown task or option, a missing head or tokenizer.
    """
    if task not in PIPELINES:
        raise ValueError(f"unknown pipeline {task!r}; known: {', '.join(PIPELINES)}")
    if (source is None) == (model is None):
        raise ValueError("give a checkpoint, folder or hub id, as the second argument or as model=, and not both")
    source = model if source is None else source
    PIPELINES[task].check_options(options)
    if isinstance(source, Checkpoint):
        return PIPELINES[task](source, **options)
    head = PIPELINES[task].head
    checkpoint = load(source, heads=(head,) if head else (), fresh=False)
    for guess in checkpoint.report.guesses:
        warnings.warn(f"{source}: {guess}", stacklevel=2)
    return PIPELINES[task](checkpoint, **options)


def task_of(checkpoint: Checkpoint) -> str:
    """The pipeline that a checkpoint's heads are for."""
    return next((task for head, task in (("classify", "text-classification"), ("mlm", "fill-mask"),
                                   ("tag", "token-classification"), ("choice", "multiple-choice"),
                                   ("rtd", "replaced-tokens"), ("span", "question-answering"),
                                   ("beam", "question-answering"))
                 if head in checkpoint.heads), "embed")
