"""Tasks over documents: where their text comes from, and which of it is kept aside."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertvariants_jax.data.corpus import Corpus
from bertvariants_jax.data.source import open_source
from bertvariants_jax.tasks.task import TRAIN, Task


@dataclass(frozen=True)
class Documents(Task):
    """What all pre-training has in common.

    data: addresses of the training text ("text:GLOB", "docs:", ...). evaluation: addresses to evaluate on; without
    them the share `held_out` of the documents is kept aside.
    max_length: tokens of a row, special ones included.
    """

    data: tuple[str, ...] = ("docs:",)
    evaluation: tuple[str, ...] = ()
    held_out: float = 0.02
    max_length: int = 128

    def __post_init__(self):
        if not self.evaluation and not 0 < self.held_out < 1:
            raise ValueError(f"task.held_out must lie between 0 and 1, got {self.held_out}")
        if not self.data:
            raise ValueError("task.data names no address")
        if self.max_length < 5:
            raise ValueError(f"task.max_length must be at least 5, got {self.max_length}")

    def texts(self) -> Iterator[str]:
        return (sentence for document in Addresses(self.data) for sentence in document.sentences)

    def corpus(self, split: str, tokenizer, cache: Path | None) -> Corpus:
        """The tokenised documents of a split."""
        if self.evaluation:
            return Corpus.build(Addresses(self.data if split == TRAIN else self.evaluation), tokenizer, cache)
        return Corpus.build(Addresses(self.data), tokenizer, cache).split(self.held_out)[0 if split == TRAIN else 1]


def special(tokenizer) -> dict[str, int]:
    """The ids that builders of examples put around text, by their arguments' names."""
    return {name: getattr(tokenizer, name) for name in ("cls_token_id", "sep_token_id", "pad_token_id")}


def check_rate(name: str, rate: float) -> None:
    if not 0 < rate < 1:
        raise ValueError(f"task.{name} must lie between 0 and 1, got {rate}")


@dataclass(frozen=True)
class Addresses:
    """The documents of several addresses, one after the other; its fingerprint is all of theirs."""

    addresses: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        said = [open_source(address).documents().fingerprint for address in self.addresses]
        return hashlib.blake2b(repr(said).encode(), digest_size=16).hexdigest()

    def __iter__(self):
        for address in self.addresses:
            yield from open_source(address).documents()
