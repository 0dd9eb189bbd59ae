"""The face that a task shows to recipes: its data as examples, its objective, and how its answers are scored."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bertvariants_jax.data.pipeline import Corrupt, Examples
from bertvariants_jax.objectives.objective import Objective

TRAIN, VALIDATION = "train", "validation"


class Task(Protocol):
    """A frozen dataclass of typed options with these members.

    heads: the network's heads that it trains. best: the evaluation metric that a checkpoint is kept by ("" is none).
    """

    @property
    def heads(self) -> tuple[str, ...]: ...

    @property
    def best(self) -> str: ...

    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of their ids, None where the task has no classes."""
        ...

    def texts(self) -> Iterable[str]:
        """Training text, for a tokenizer to be trained on."""
        ...

    def examples(self, split: str, tokenizer: Any, cache: Path) -> Examples:
        """The examples of a split ("train", "validation"); tokenised corpora are kept under `cache`."""
        ...

    def corrupt(self, tokenizer: Any, seed: int) -> Corrupt | None:
        """The masking of a batch, None where there is none."""
        ...

    def objective(self, network: Any) -> Objective: ...

    def score(self, examples: Examples, outputs: Mapping[str, np.ndarray]) -> dict[str, float] | None:
        """Metrics (0 to 1) of the objective's predictions for all examples in order; None: the losses say it all."""
        ...


Build = Callable[..., Task]
