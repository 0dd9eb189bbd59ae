"""What all pipelines share: texts sorted into a few lengths and batch sizes, so that the number of compilations is
bounded and known."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.hf.checkpoint import Checkpoint

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
SIZES = (1, 8)         # rows of batches that are not full
WINDOW = 1024          # texts of a stream that are sorted by length together
CPU_TOKENS = 1024      # of a batch on a CPU, which runs larger ones slower, as they leave its caches


@dataclass
class Pipeline:
    """What all pipelines share: batches by length, one compilation a shape, results in the order of the texts.

    batch_size: rows of a full batch; on a CPU fewer where rows are long. max_length: longer texts are cut; the model's
    own limit if not given.
    shapes: (rows, tokens) of the programs compiled so far; `most_shapes` bounds their number. given: further inputs of
    all batches, whose sizes then stand in the shapes too.
    """

    checkpoint: Checkpoint
    batch_size: int = 32
    max_length: int | None = None
    shapes: set[tuple[int, ...]] = field(default_factory=set, init=False)
    given: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)
    others: dict[tuple, "Pipeline"] = field(default_factory=dict, init=False, repr=False)

    head = ""
    compiled: ClassVar[tuple[str, ...] | None] = None      # options that forward depends on; None: maybe on all

    def __post_init__(self):
        for name, value in (("batch_size", self.batch_size), ("max_length", 1 if self.max_length is None else self.max_length)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.head and self.head not in self.checkpoint.heads:
            raise ValueError(f"this {self.checkpoint.variant} has no {self.head!r} head; it has: "
                             f"{', '.join(self.checkpoint.heads) or 'none'}")
        if self.checkpoint.tokenizer is None:
            raise self.checkpoint.no_tokenizer()
        limit = self.checkpoint.network.variant.longest(self.checkpoint.config)
        told = [n for n in (self.max_length, limit, self.checkpoint.tokenizer.model_max_length) if n]
        self.max_length = min(told) if told else LENGTHS[-1]

    def __call__(self, texts: str | Iterable[str], **options: Any) -> Any:
        """One text gives one result, a list a list, and any other iterable a generator, which reads up to WINDOW texts
        before it gives the first result.

        options: of the class, for this call (`targets=`, `top_k=`); programs compiled for them are kept too.
        Raises TypeError for what is no text, once the results of those before it are given.
        """
        if options:
            return self.having(options)(texts)
        if isinstance(texts, str | Mapping):
            return next(self.stream([texts]))
        if isinstance(texts, list | tuple):
            return list(self.stream(texts))
        if isinstance(texts, bytes) or not isinstance(texts, Iterable):
            raise TypeError(f"expected a text, a list or an iterable of texts, not {texts!r:.60}")
        return self.stream(texts)

    @classmethod
    def check_options(cls, options: Iterable[str]) -> None:
        """Raises ValueError for one that the class has not."""
        known = [f.name for f in fields(cls) if f.init and f.name != "checkpoint"]
        if unknown := [name for name in options if name not in known]:
            raise ValueError(f"{cls.__name__} has no option {unknown[0]!r}; it has: {', '.join(known)}")

    def having(self, options: Mapping[str, Any]) -> "Pipeline":
        """The same pipeline with other options. Raises ValueError for one that it has not."""
        self.check_options(options)
        options = {name: tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
                   for name, value in options.items()}
        key = tuple(sorted(options.items(), key=lambda item: item[0]))
        if key not in self.others:
            other = self.others[key] = replace(self, **options)
            if self.compiled is not None and not set(options) & set(self.compiled):
                other.run, other.shapes = self.run, self.shapes
        return self.others[key]

    @property
    def most_shapes(self) -> int:
        """How many programs are compiled at most, whatever the texts."""
        lengths = (*(n for n in LENGTHS if n < self.max_length), self.max_length)
        return sum(1 + sum(n < self.most_rows(length) for n in SIZES) for length in lengths)

    def most_rows(self, length: int) -> int:
        """Rows of a full batch of so many tokens each."""
        cpu = jax.default_backend() == "cpu"
        return min(self.batch_size, max(CPU_TOKENS // length, 1)) if cpu else self.batch_size

    def stream(self, texts: Iterable[str]) -> Iterator[Any]:
        numbered, failure = enumerate(texts), None
        while failure is None:
            window = []
            try:
                for number, text in itertools.islice(numbered, WINDOW):
                    self.check(number, text)
                    window.append(text)
            except Exception as error:                 # the results of what came before it are not lost
                failure = error
            if not window:
                break
            yield from self.window(window)
        if failure is not None:
            raise failure

    def check(self, number: int, text: Any) -> None:
        """Raises TypeError or ValueError for what is no input of this pipeline."""
        if not isinstance(text, str):
            raise TypeError(f"input {number} is {text!r:.60}, expected a text")

    def window(self, texts: list[str]) -> list[Any]:
        """Results of up to WINDOW texts, run in batches of like lengths."""
        whole = self.tokenized(texts)
        real = whole["attention_mask"] > 0
        results: list[Any] = [None] * len(texts)
        for row, out, _ in self.outputs(whole, real.sum(1)):
            results[row] = self.decode(texts[row], whole["input_ids"][row][real[row]], out)
        return results

    def tokenized(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Padded rows of ids, one a text, at most max_length long."""
        return self.checkpoint.tokenizer(texts, max_length=self.max_length, padding=True)

    def outputs(self, whole: dict[str, np.ndarray], lengths: np.ndarray) -> Iterator[tuple[int, dict[str, np.ndarray], int]]:
        """Run all rows of a padded batch, the longest first: (row, its outputs, the column of its first token).

        lengths: int [B], tokens of each row.
        """
        order, ready, first = np.argsort(-lengths, kind="stable"), None, 0
        while first < len(order):
            longest = int(lengths[order[first]])
            length = min((n for n in (*LENGTHS, self.max_length) if longest <= n <= self.max_length), default=longest)
            rows = order[first : first + self.most_rows(length)]
            batch = self.cut(whole, rows, length)
            self.checkpoint.check_ids(batch)
            running = rows, length, self.run(self.checkpoint.params, batch | self.given)
            if ready:                              # read only while the next batch is computed
                yield from self.rows_of(*ready, lengths)
            ready, first = running, first + len(rows)
        if ready:
            yield from self.rows_of(*ready, lengths)

    def rows_of(self, rows: np.ndarray, length: int, out: dict[str, jax.Array], lengths: np.ndarray) -> Iterator[tuple]:
        out, left = jax.device_get(out), self.checkpoint.tokenizer.padding_side == "left"
        if any(np.isnan(value).any() for value in out.values() if jnp.issubdtype(value.dtype, jnp.floating)):
            raise ValueError(f"this {self.checkpoint.variant} gives no numbers (NaN): its weights hold NaN, or overflow in "
                             f"{self.checkpoint.network.compute.dtype}")
        for place, row in enumerate(rows.tolist()):
            yield row, {key: value[place] for key, value in out.items()}, length - int(lengths[row]) if left else 0

    def cut(self, whole: dict[str, np.ndarray], rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The rows at this length and at the next of SIZES or the full batch, filled with copies of the first."""
        full = self.most_rows(length)
        size = next((n for n in SIZES if len(rows) <= n < full), full)
        rows = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
        tokenizer, batch = self.checkpoint.tokenizer, {}
        fills = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        left = tokenizer.padding_side == "left"
        for key, array in whole.items():
            picked = array[rows, -length:] if left else array[rows, :length]
            missing = length - picked.shape[1]
            batch[key] = np.pad(picked, ((0, 0), (missing, 0) if left else (0, missing)),
                                constant_values=fills.get(key, 0)).astype(np.int32)
        self.shapes.add((size, length, *map(len, self.given.values())))
        return batch

    @functools.cached_property
    def run(self) -> Callable:
        """The jitted forward: (params, batch) -> dict of arrays with leading axis B."""
        return jax.jit(self.forward)

    def forward(self, params, batch):
        raise NotImplementedError

    def decode(self, text: str, ids: np.ndarray, out: dict[str, np.ndarray]) -> Any:
        raise NotImplementedError
