"""What all pipelines share: texts sorted into a few lengths and batch sizes, so that the number of compilations is
bounded and known."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from bertvariants_jax.hf.checkpoint import Checkpoint

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
WINDOW = 1024          # texts of a stream that are sorted by length together


@dataclass
class Pipeline:
    """What all pipelines share: batches by length, one compilation a shape, results in the order of the texts.

    batch_size: rows of a full batch. max_length: longer texts are cut; the model's own limit if not given.
    """

    checkpoint: Checkpoint
    batch_size: int = 32
    max_length: int | None = None
    shapes: set[tuple[int, int]] = field(default_factory=set, init=False)

    head = ""

    def __post_init__(self):
        if self.head and self.head not in self.checkpoint.heads:
            raise ValueError(f"this {self.checkpoint.variant} has no {self.head!r} head; it has: "
                             f"{', '.join(self.checkpoint.heads) or 'none'}")
        if self.checkpoint.tokenizer is None:
            raise ValueError("the checkpoint has no tokenizer: load it from a folder with tokenizer files")
        limit = self.checkpoint.network.variant.longest(self.checkpoint.config)
        told = [n for n in (self.max_length, limit, self.checkpoint.tokenizer.model_max_length) if n]
        self.max_length = min(told) if told else None

    def __call__(self, texts: str | Iterable[str]) -> Any:
        """One text gives one result, a list a list, and any other iterable a generator."""
        if isinstance(texts, str):
            return next(self.stream([texts]))
        if isinstance(texts, list | tuple):
            return list(self.stream(texts))
        return self.stream(texts)

    def stream(self, texts: Iterable[str]) -> Iterator[Any]:
        texts = iter(texts)
        while window := list(itertools.islice(texts, WINDOW)):
            yield from self.window(window)

    def window(self, texts: list[str]) -> list[Any]:
        """Results of up to WINDOW texts, run in batches of like lengths."""
        tokenizer = self.checkpoint.tokenizer
        whole = tokenizer(texts, max_length=self.max_length, padding=True)
        real = whole["attention_mask"] > 0
        order = np.argsort(-real.sum(1), kind="stable")
        results: list[Any] = [None] * len(texts)
        for first in range(0, len(texts), self.batch_size):
            rows = order[first : first + self.batch_size]
            batch = self.cut(whole, rows, int(real[rows].sum(1).max()))
            out = jax.device_get(self.run(self.checkpoint.params, batch))
            for place, row in enumerate(rows):
                ids = whole["input_ids"][row][real[row]]
                results[row] = self.decode(texts[row], ids, {key: value[place] for key, value in out.items()})
        return results

    def cut(self, whole: dict[str, np.ndarray], rows: np.ndarray, longest: int) -> dict[str, np.ndarray]:
        """The rows at the next of LENGTHS and a batch size of 1, 8 or the full one, filled with copies of the first."""
        limit = self.max_length or LENGTHS[-1]
        length = min(next((n for n in LENGTHS if n >= longest), longest), max(limit, longest))
        size = next((n for n in (1, 8) if len(rows) <= n < self.batch_size), self.batch_size)
        rows = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
        tokenizer, batch = self.checkpoint.tokenizer, {}
        fills = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        left = tokenizer.padding_side == "left"
        for key, array in whole.items():
            picked = array[rows, -length:] if left else array[rows, :length]
            missing = length - picked.shape[1]
            batch[key] = np.pad(picked, ((0, 0), (missing, 0) if left else (0, missing)),
                                constant_values=fills.get(key, 0)).astype(np.int32)
        self.shapes.add((size, length))
        return batch

    @functools.cached_property
    def run(self) -> Callable:
        """The jitted forward: (params, batch) -> dict of arrays with leading axis B."""
        return jax.jit(self.forward)

    def forward(self, params, batch):
        raise NotImplementedError

    def decode(self, text: str, ids: np.ndarray, out: dict[str, np.ndarray]) -> Any:
        raise NotImplementedError
