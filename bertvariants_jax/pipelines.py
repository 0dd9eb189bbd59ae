"""Text in, answers out: pipelines over a checkpoint, with HF's names, keys and order of results.

Texts are sorted into a few lengths and batch sizes, so that the number of compilations is bounded and known.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.hf.checkpoint import Checkpoint, Pooling, load

LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
WINDOW = 1024          # texts of a stream that are sorted by length together


def pipeline(task: str, source: str | Path | Checkpoint, **options) -> "Pipeline":
    """A callable on a text, a list of texts or a generator of them.

    task: "fill-mask", "text-classification" ("sentiment-analysis"), "embed" ("feature-extraction").
    source: a checkpoint, folder or hub id. options: those of the pipeline's class, batch_size and max_length.
    Raises ValueError for an unknown task, a missing head or tokenizer.
    """
    if task not in PIPELINES:
        raise ValueError(f"unknown pipeline {task!r}; known: {', '.join(PIPELINES)}")
    checkpoint = source if isinstance(source, Checkpoint) else load(source)
    return PIPELINES[task](checkpoint, **options)


def task_of(checkpoint: Checkpoint) -> str:
    """The pipeline that a checkpoint's heads are for."""
    return next((task for head, task in (("classify", "text-classification"), ("mlm", "fill-mask"))
                 if head in checkpoint.heads), "embed")


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


@dataclass
class TextClassification(Pipeline):
    """[{"label", "score"}]: the best class, or the `top_k` best; scores are softmax (sigmoid for one class)."""

    top_k: int = 1

    head = "classify"

    def forward(self, params, batch):
        scores = self.checkpoint.network.scores(params, "classify", batch)
        one = scores.shape[-1] == 1
        return {"scores": jax.nn.sigmoid(scores) if one else jax.nn.softmax(scores, axis=-1)}

    def decode(self, text, ids, out):
        labels, scores = self.checkpoint.config.id2label, out["scores"]
        best = np.argsort(-scores, kind="stable")[: self.top_k or None]
        found = [{"label": labels[i], "score": float(scores[i])} for i in best]
        return found[0] if self.top_k == 1 else found


@dataclass
class FillMask(Pipeline):
    """The `top_k` best words at each mask: {"score", "token", "token_str", "sequence"}, one list a mask.

    With one mask the list itself is the result. targets: only these words are considered, scores are still of all.
    """

    top_k: int = 5
    targets: tuple[str, ...] | str | None = None

    head = "mlm"

    def __post_init__(self):
        super().__post_init__()
        if self.checkpoint.tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token")
        targets = (self.targets,) if isinstance(self.targets, str) else self.targets
        self.allowed = None
        if targets:
            self.allowed = [self.checkpoint.tokenizer.token_to_id(word) for word in targets]
            if None in self.allowed:
                raise ValueError(f"the target {targets[self.allowed.index(None)]!r} is no single piece of the vocabulary")

    def forward(self, params, batch):
        network = self.checkpoint.network
        hidden = network.encode(params, batch, pool=False)
        masks = batch["input_ids"] == self.checkpoint.tokenizer.mask_token_id
        places = jnp.argsort(~masks, axis=1, stable=True)[:, : self.most]                    # B M, masks first
        probs = jax.nn.softmax(network.logits(params, "mlm", hidden.at(places)), axis=-1)
        if self.allowed is not None:
            kept = jnp.zeros(probs.shape[-1], bool).at[jnp.asarray(self.allowed)].set(True)
            probs = jnp.where(kept, probs, -1.0)
        scores, tokens = jax.lax.top_k(probs, min(self.top_k, len(self.allowed or ()) or self.top_k))
        return {"scores": scores, "tokens": tokens}

    most = 16          # masks of a text

    def decode(self, text, ids, out):
        tokenizer = self.checkpoint.tokenizer
        places = np.flatnonzero(ids == tokenizer.mask_token_id)
        if not len(places):
            raise ValueError(f"no {tokenizer.mask_token} in the text {text[:80]!r}")
        if len(places) > self.most:
            raise ValueError(f"{len(places)} masks in the text {text[:80]!r}; at most {self.most} are filled at once")
        found = []
        for mask, place in enumerate(places):
            row = []
            for score, token in zip(out["scores"][mask], out["tokens"][mask], strict=True):
                filled = ids.copy()
                filled[place] = token
                shown = tokenizer.decode(filled, skip_special_tokens=len(places) == 1)
                row.append({"score": float(score), "token": int(token), "sequence": shown,
                            "token_str": tokenizer.decode([int(token)], skip_special_tokens=False)})
            found.append(row)
        return found[0] if len(found) == 1 else found


@dataclass
class Embed(Pipeline):
    """One float32 vector [D] a text (a list gives them in a list).

    pooling: "mean", "max" over the real tokens, or "cls"; what the folder says if not given, else mean.
    normalize: to length 1; what the folder says if not given.
    """

    pooling: str | None = None
    normalize: bool | None = None

    def __post_init__(self):
        super().__post_init__()
        said = self.checkpoint.pooling or Pooling()
        self.pooling = said.mode if self.pooling is None else self.pooling
        self.normalize = said.normalize if self.normalize is None else self.normalize
        if self.pooling not in ("mean", "max", "cls"):
            raise ValueError(f"pooling must be mean, max or cls, got {self.pooling!r}")

    def forward(self, params, batch):
        encoded = self.checkpoint.network.encode(params, batch, pool=False)
        hidden = encoded.last_hidden_state.astype(jnp.float32)
        real = batch["attention_mask"][..., None] > 0
        if self.pooling == "cls":
            at = self.checkpoint.tokenizer.cls_token_id
            first = jnp.argmax(batch["input_ids"] == at, axis=1)
            vector = jnp.take_along_axis(hidden, first[:, None, None], axis=1)[:, 0]
        elif self.pooling == "max":
            vector = jnp.max(jnp.where(real, hidden, -jnp.inf), axis=1)
        else:
            vector = jnp.sum(jnp.where(real, hidden, 0.0), axis=1) / jnp.maximum(real.sum(1), 1)
        if self.normalize:
            vector = vector / jnp.maximum(jnp.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)
        return {"vector": vector}

    def decode(self, text, ids, out):
        return out["vector"]


PIPELINES: dict[str, type[Pipeline]] = {
    "fill-mask": FillMask, "text-classification": TextClassification, "sentiment-analysis": TextClassification,
    "embed": Embed, "feature-extraction": Embed,
}
