"""ERNIE's pre-training: knowledge masking with pairs and dialogues (1.0, arXiv:1904.09223), many tasks in turn (2.0,
arXiv:1907.12412)."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertvariants_jax.data.corpus import Corpus, nsp_pairs
from bertvariants_jax.data.dialogue import Dialogues, Together, Turns, dialogues
from bertvariants_jax.data.documents import Document
from bertvariants_jax.data.paragraphs import TASKS, Paragraphs, capital_labels, paragraphs
from bertvariants_jax.data.source import open_source
from bertvariants_jax.data.units import (
    UnitPairs,
    finder,
    found_units,
    given_units,
    mask_units,
    unit_places,
    word_units,
)
from bertvariants_jax.objectives.continual import continual
from bertvariants_jax.objectives.mlm import masked_lm
from bertvariants_jax.tasks.documents import Addresses, Documents, check_rate, special
from bertvariants_jax.tasks.task import TRAIN

FIELD = "field:"


class Read(NamedTuple):
    """A split's corpus and the unit labels of its tokens; documents is where both come from."""

    corpus: Corpus
    units: np.ndarray
    documents: Any


@dataclass(frozen=True)
class Units(Documents):
    """What ERNIE 1.0 and 2.0 have in common: tokens hidden in units.

    units: where they come from. "" makes each token one (the basic level); "words" whole words of word pieces;
      "field:NAME" that field of the data's rows, a list for each sentence of the text (then a list too): [start, end)
      characters, the units' texts, or 0 and 1 for each token; anything else is module:function, called with a sentence
      for its words or (start, end) spans (jieba:lcut for Chinese words).
    mask_word_prob: share of rows that are masked by units; the others are masked by tokens.
    max_predictions: places to predict in a row; 0 leaves room for all but one row in 10^7, as the data's units are.
    """

    units: str = "words"
    mask_word_prob: float = 1.0
    mask_rate: float = 0.15
    max_predictions: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_rate("mask_rate", self.mask_rate)
        if not 0 <= self.mask_word_prob <= 1:
            raise ValueError(f"task.mask_word_prob must lie between 0 and 1, got {self.mask_word_prob}")
        if self.max_predictions < 0:
            raise ValueError(f"task.max_predictions must not be negative, got {self.max_predictions}")

    def texts(self) -> Iterator[str]:
        return (sentence for document in self.documents(TRAIN) for sentence in document.sentences)

    def documents(self, split: str) -> Any:
        addresses = self.data if split == TRAIN or not self.evaluation else self.evaluation
        return Given(addresses, self.units.removeprefix(FIELD)) if self.units.startswith(FIELD) else Addresses(addresses)

    def read(self, split: str, tokenizer, cache: Path | None) -> Read:
        documents = self.documents(split)
        corpus = Corpus.build(documents, tokenizer, cache)
        labels = self.units_of(corpus, documents, tokenizer)
        if not self.evaluation:
            corpus = corpus.split(self.held_out)[0 if split == TRAIN else 1]
        return Read(corpus, labels, documents)

    def units_of(self, corpus: Corpus, documents: Any, tokenizer) -> np.ndarray:
        """int8 [T]: the unit labels of all tokens of these documents."""
        if not self.units:
            return np.zeros(len(corpus.tokens), np.int8)
        if self.units == "words":
            return word_units(corpus, tokenizer.starts_word)
        if self.units.startswith(FIELD):
            return given_units(corpus, sentences(documents), documents.units(), tokenizer)
        return found_units(corpus, sentences(documents), tokenizer, finder(self.units), self.units)

    def corrupt(self, examples, tokenizer, seed: int):
        most = self.max_predictions or unit_places(examples.unit_labels, self.max_length, self.mask_rate)
        return functools.partial(
            mask_units, seed=seed, vocab_size=tokenizer.vocab_size, mask_token_id=tokenizer.mask_token_id,
            never=(tokenizer.cls_token_id, tokenizer.sep_token_id), rate=self.mask_rate, mask_word_prob=self.mask_word_prob,
            max_predictions=most)


@dataclass(frozen=True)
class Knowledge(Units):
    """ERNIE 1.0: knowledge masking, with pairs of which 1 says that they belong together.

    dialogues: addresses of dialogues, one turn a line with blank lines between them (or a list of turns a row); turns may
      begin with "Q:" and "R:", else they alternate. They come besides the pairs of `data`.
    dupe_factor, short_seq_prob, pair_seed: of the pairs, as in BERT's.
    """

    dialogues: tuple[str, ...] = ()
    dupe_factor: int = 5
    short_seq_prob: float = 0.1
    pair_seed: int = 12345

    def __post_init__(self):
        super().__post_init__()
        if self.dialogues and self.units.startswith(FIELD):
            raise ValueError(f"task.units is {self.units}, which dialogues have not: name a function, or \"words\"")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm", "pair")

    def examples(self, split: str, tokenizer, cache: Path | None, batch_size: int = 1) -> UnitPairs | Together:
        corpus, labels, _ = self.read(split, tokenizer, cache)
        pairs = UnitPairs(nsp_pairs(corpus, self.max_length, seed=self.pair_seed, short_seq_prob=self.short_seq_prob,
                                    dupe_factor=self.dupe_factor if split == TRAIN else 1, **special(tokenizer)), labels)
        return Together((pairs, self.turns(split, tokenizer, cache))) if self.dialogues else pairs

    def turns(self, split: str, tokenizer, cache: Path | None) -> Dialogues:
        """The dialogues' share `held_out` is kept aside, whatever `evaluation` says."""
        read = Turns(Addresses(self.dialogues))
        corpus = Corpus.build(read, tokenizer, cache)
        labels, roles = self.units_of(corpus, read, tokenizer), read.roles(corpus)
        return dialogues(corpus.split(self.held_out)[0 if split == TRAIN else 1], labels, roles, self.max_length,
                         seed=self.pair_seed, **special(tokenizer))

    def objective(self, network, **companions):
        return masked_lm(network, pair=True)


@dataclass(frozen=True)
class Continual(Units):
    """ERNIE 2.0: a paragraph a row, each row with one of the tasks (data/paragraphs.py), all masked besides.

    tasks: those of this stage. segments: a paragraph is cut into at most so many; the model's reorder_segments.
    question_seed: of what is drawn for the tasks.
    """

    tasks: tuple[str, ...] = TASKS
    segments: int = 3
    question_seed: int = 12345

    def __post_init__(self):
        super().__post_init__()
        if unknown := [task for task in self.tasks if task not in TASKS]:
            raise ValueError(f"task.tasks holds {unknown[0]!r}; known: {', '.join(TASKS)}")
        if "masking" not in self.tasks:
            raise ValueError("task.tasks must hold masking: rows are masked whatever else they are asked")

    @property
    def heads(self) -> tuple[str, ...]:
        return ("mlm", *(task for task in self.tasks if task != "masking"))

    def examples(self, split: str, tokenizer, cache: Path | None, batch_size: int = 1) -> Paragraphs:
        corpus, labels, documents = self.read(split, tokenizer, cache)
        capitals = capital_labels(corpus, sentences(documents), tokenizer) if "capital" in self.tasks else None
        return paragraphs(corpus, self.max_length, tasks=self.tasks, units=labels, capitals=capitals, segments=self.segments,
                          seed=self.question_seed, **special(tokenizer))

    def objective(self, network, **companions):
        """Raises ValueError where the model has too few task types, or another number of segments."""
        config, needed = network.config, 1 + max(TASKS.index(task) for task in self.tasks)
        if config.use_task_id and config.task_type_vocab_size < needed:
            raise ValueError(f"the model has {config.task_type_vocab_size} task types, the tasks need {needed}: give "
                             f"task_type_vocab_size={needed} or more, or use_task_id=False")
        if "reorder" in self.tasks and config.reorder_segments != self.segments:
            raise ValueError(f"task.segments is {self.segments}, but the model orders up to {config.reorder_segments}")
        if config.type_vocab_size < max(self.segments if "reorder" in self.tasks else 1, 2 if "distance" in self.tasks else 1):
            raise ValueError(f"rows have up to {self.segments} segments, but the model {config.type_vocab_size} token types")
        return continual(network, self.tasks)


@dataclass(frozen=True)
class Given:
    """Documents whose rows hold units beside the text: a list of sentences, and in `field` a list for each of them."""

    addresses: tuple[str, ...]
    field: str

    @property
    def fingerprint(self) -> str:
        return f"{Addresses(self.addresses).fingerprint}/given"

    def __iter__(self) -> Iterator[Document]:
        for _, texts, _ in self.read():
            yield Document(list(texts))

    def units(self) -> Iterator[tuple[str, Sequence]]:
        """(where, units) of each sentence."""
        for where, texts, units in self.read():
            yield from ((f"{where}, sentence {i}", said) for i, (_, said) in enumerate(zip(texts, units, strict=True)))

    def read(self) -> Iterator[tuple[str, list[str], list[Sequence]]]:
        for address in self.addresses:
            source = open_source(address)
            name = source.field or "text"
            for i, row in enumerate(source):
                where = f"{address}: row {i}"
                for key in (name, self.field):
                    if key not in row:
                        raise ValueError(f"{where} has no field {key!r}; it has: {', '.join(row)}")
                    if not isinstance(row[key], list):
                        raise ValueError(f"{where}: {key!r} must be a list, with an entry for each sentence")
                if len(row[name]) != len(row[self.field]):
                    raise ValueError(f"{where}: {len(row[name])} sentences in {name!r}, but units for "
                                     f"{len(row[self.field])} of them in {self.field!r}")
                yield where, row[name], row[self.field]


def sentences(documents: Any) -> Iterator[str]:
    return (sentence for document in documents for sentence in document.sentences)
