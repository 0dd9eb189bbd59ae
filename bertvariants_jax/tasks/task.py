"""The face that a task shows to recipes: its data as examples, its objective, and how its answers are scored."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bertvariants_jax.data.pack import Packed
from bertvariants_jax.data.pipeline import Corrupt, Examples
from bertvariants_jax.objectives.objective import Objective

TRAIN, VALIDATION, TEST = "train", "validation", "test"


class Task:
    """What a recipe trains: a frozen dataclass of typed options, its flags, with these members.

    heads: the network's heads that it trains. best: the evaluation metric that a checkpoint is kept by ("" is none).
    shuffle: whether training draws a new order of the examples in each epoch, or reads them as they stand.
    problem_type: what the model's config.json is to say of its classes' scores, as HF has it.
    pooling: how it makes vectors of texts ("mean", "max", "cls"), which the model's folder then says; "" is not at all.
    """

    best = ""
    shuffle = True
    problem_type: str | None = None
    pooling = ""

    @property
    def heads(self) -> tuple[str, ...]:
        raise NotImplementedError

    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of their ids, None where the task has no classes."""
        return None

    def fitted(self, labels: tuple[str, ...], pooling: str | None) -> "Task":
        """The task as a model wants it that knows `labels` (its id2label) and pools its hidden states so, if it says."""
        return self

    def answered_by(self, labels: tuple[str, ...]) -> "Task":
        """The task for a model that knows `labels` to answer: its classes are taken where only training data, which is
        not there, would tell them."""
        return self

    def unused(self, start: bool) -> dict[str, str]:
        """Options that have no effect beside the others, and why; start: whether the model begins with weights."""
        return {"held_out": "task.evaluation says what to evaluate on"} if getattr(self, "evaluation", "") else {}

    def texts(self) -> Iterable[str]:
        """Training text, for a tokenizer to be trained on."""
        raise NotImplementedError

    def examples(self, split: str, tokenizer: Any, cache: Path | None, batch_size: int = 1) -> Examples:
        """The examples of a split ("train", "validation", "test"); tokenised corpora are kept under `cache`.

        batch_size: rows of a global batch, for examples whose order depends on it.
        """
        raise NotImplementedError

    def packed(self, examples: Examples) -> Packed | None:
        """Rows that hold several of these examples each, where that leaves out much padding; batches still count
        examples. None where each has a row of its own."""
        return None

    def corrupt(self, examples: Examples, tokenizer: Any, seed: int) -> Corrupt | None:
        """The masking of a batch of these examples, None where there is none."""
        return None

    @property
    def masked_together(self) -> int:
        """Neighbouring rows of a batch that `corrupt` masks as one; 0 is the whole batch."""
        return 1

    def companions(self) -> dict[str, str]:
        """Further checkpoints that the objective needs, folders or hub ids by name (a teacher)."""
        return {}

    def initial(self, network: Any, start: dict[str, Any] | None, **companions: Any) -> dict[str, Any] | None:
        """Parameters of the objective to start from, None to draw them.

        start: those of the network, where the recipe's model names weights. companions: the loaded checkpoints, with
        `network`, `params`, `config` and `tokenizer`.
        """
        return start

    def objective(self, network: Any, **companions: Any) -> Objective:
        raise NotImplementedError

    def score(self, examples: Examples, outputs: Mapping[str, np.ndarray]) -> dict[str, float] | None:
        """Metrics (0 to 1) of the objective's predictions for all examples in order, where there is a `best` one.

        {} where the examples have no labels, as test sets have not.
        """
        return None

    def baseline(self, examples: Examples) -> dict[str, float]:
        """Metrics of the best answer that does not look at the input (the most frequent class); {} where there is none."""
        return {}

    def write(self, examples: Examples, outputs: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
        """Write the predictions into `folder` in the task's official format; returns the files, none where it has none."""
        return []

    def score_file(self, path: Path, split: str) -> dict[str, float]:
        """Metrics of a prediction file in the official format, against the labels of a split."""
        raise ValueError(f"{path}: {type(self).__name__} scores no prediction files")
