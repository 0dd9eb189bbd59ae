"""Sentence embeddings: pairs of texts with a number that says how alike they are, STS-B's for instance."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bertvariants_jax.data.batch import pad
from bertvariants_jax.objectives.embeddings import contrastive, similarity
from bertvariants_jax.tasks.classify import Classify
from bertvariants_jax.tasks.glue import glue
from bertvariants_jax.tasks.labels import real
from bertvariants_jax.tasks.task import TRAIN


@dataclass(frozen=True)
class Similar(Classify):
    """Vectors of the two texts of a pair, each read by itself; the answer is their cosine. A model without training can
    be evaluated: there is no head.

    loss: "cosine" is squared error of the cosine against the label; "contrastive" finds a pair's second text among
    those of the batch that repeat no text of the pair, of the pairs whose label is at least `least`. temperature: of
    the latter.
    pooling: of the hidden states; what the model's folder says if not given, else mean.
    most: the largest label, which is a cosine of 1.
    lowercase, prompt: whether texts are read in lower case, and what is put before them; the model's folder says so.
    """

    regression: bool = True
    metrics: tuple[str, ...] = ("spearman", "pearson")
    loss: Literal["cosine", "contrastive"] = "cosine"
    pooling: Literal["", "mean", "max", "cls"] = ""
    temperature: float = 0.05
    most: float = 5.0
    least: float = 4.0
    lowercase: bool = False
    prompt: str = ""

    def __post_init__(self):
        super().__post_init__()
        for name in ("temperature", "most"):
            if not getattr(self, name) > 0:
                raise ValueError(f"task.{name} must be above 0, got {getattr(self, name)}")

    @property
    def heads(self) -> tuple[str, ...]:
        return ()

    def labels(self) -> None:
        return None

    def fitted(self, labels: tuple[str, ...], pooling: str | None = None) -> "Similar":
        return dataclasses.replace(self, pooling=self.pooling or pooling or "mean")

    def examples(self, split: str, tokenizer, cache: Path | None = None, batch_size: int = 1) -> "Pairs":
        picked = self.picked(split)
        labels = self.gold(picked, split)
        if split == TRAIN and self.loss == "contrastive":
            kept = np.flatnonzero(labels >= self.least)
            picked, labels = [picked[i] for i in kept], labels[kept]
        pairs = [(self.read(row[self.text]), self.read(row[self.pair])) for row in picked]
        return Pairs(pairs, labels, tokenizer, self.max_length, self.most)

    def read(self, text: str) -> str:
        text = f"{self.prompt}{text}"
        return text.lower() if self.lowercase else text

    def number(self, value, place: str) -> float:
        label = real(value, place)
        if abs(label) > self.most:
            raise ValueError(f"{place} has the label {value!r}, beyond {self.most:g}, which is a cosine of 1: "
                             "task.most is the largest label")
        return label

    def packed(self, examples: "Pairs") -> None:
        return None

    def objective(self, network, **companions):
        pooling = self.pooling or "mean"
        return similarity(network, pooling) if self.loss == "cosine" else contrastive(network, pooling, self.temperature)

    def predicted(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(outputs["similarity"], np.float64) * self.most


class Pairs:
    """Both texts of each pair tokenised by themselves; a batch is [B, 2, L]."""

    def __init__(self, texts: list[tuple[str, str]], labels: np.ndarray | None, tokenizer, max_length: int, most: float):
        if not texts:
            raise ValueError("there are no examples")
        self.labels, self.most, self.tokenizer = labels, most, tokenizer
        whole = tokenizer([text for pair in texts for text in pair], max_length=max_length, padding=True)
        real = whole["attention_mask"] > 0
        self.encoded = [{key: array[i][real[i]] for key, array in whole.items()} for i in range(2 * len(texts))]
        self.length = min(-(-int(real.sum(1).max()) // 16) * 16, max_length)

    def __len__(self) -> int:
        return len(self.encoded) // 2

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> dict[str, np.ndarray]:
        flat = pad([self.encoded[2 * i + side] for i in indices for side in (0, 1)], self.length,
                   pad_token_id=self.tokenizer.pad_token_id, side=self.tokenizer.padding_side)
        batch = {key: value.reshape(len(indices), 2, -1) for key, value in flat.items()}
        return batch if self.labels is None else {**batch, "labels": (self.labels[indices] / self.most).astype(np.float32)}


def stsb_embeddings(data: str = "", **options) -> Similar:
    """STS-B, as `glue` finds it."""
    row = glue("stsb", data)
    taken = {field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "metrics"}
    return Similar(**{**taken, **options})
