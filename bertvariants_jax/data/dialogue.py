"""ERNIE 1.0's dialogue pairs: two or three turns of a dialogue, real or with one turn of another (arXiv:1904.09223, 4.2)."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import Corpus
from bertvariants_jax.data.corrupt import Batch
from bertvariants_jax.data.documents import Document
from bertvariants_jax.data.segments import arrange, fit
from bertvariants_jax.data.units import headed

QUESTION, RESPONSE = 0, 1
_ROLE = re.compile(r"\s*([QqRrAa])\s*[:：]\s*")


@dataclass(frozen=True)
class Turns:
    """Documents that are dialogues, a sentence a turn, without the roles ("Q:", "R:" or "A:") that turns may begin with."""

    documents: Iterable[Document]

    @property
    def fingerprint(self) -> str:
        return f"turns/{self.documents.fingerprint}"

    def __iter__(self) -> Iterator[Document]:
        for document, _ in self.read():
            yield document

    def read(self) -> Iterator[tuple[Document, list[int]]]:
        """Each dialogue with its turns' roles; where not all turns say theirs, questions and responses alternate."""
        for document in self.documents:
            said = [_ROLE.match(turn) for turn in document.sentences]
            if all(said):
                turns = [turn[role.end():] for turn, role in zip(document.sentences, said, strict=True)]
                roles = [QUESTION if role[1] in "Qq" else RESPONSE for role in said]
            else:
                turns, roles = document.sentences, [i % 2 for i in range(len(document.sentences))]
            yield replace(document, sentences=turns), roles

    def roles(self, corpus: Corpus) -> np.ndarray:
        """uint8 [sentences of the whole corpus]. ValueError where turns hold no token: they are not in the corpus."""
        roles = np.array([role for _, dialogue in self.read() for role in dialogue], np.uint8)
        if len(roles) != len(corpus.sentences) - 1:
            raise ValueError(f"the dialogues have {len(roles)} turns, but {len(corpus.sentences) - 1} of them hold a token: "
                             f"take the empty turns out")
        return roles


@dataclass(frozen=True)
class Dialogues:
    """What `dialogues` gives: examples `[CLS] turn [SEP] turn [SEP] turn [SEP]`, every run of three turns (two, where a
    dialogue has no more).

    With probability one half, one of the turns is a random turn of another dialogue: next_sentence_label 0, else 1.
    Draws are keyed by (seed, epoch, index). first: int64 [n], the run's first sentence; turns: int8 [n]; labels: int8
    [T], the tokens' units; roles: uint8 [S], the token type of each turn.
    """

    corpus: Corpus
    labels: np.ndarray
    roles: np.ndarray
    first: np.ndarray
    turns: np.ndarray
    seed: int
    max_length: int
    cls_token_id: int
    sep_token_id: int
    pad_token_id: int

    @property
    def unit_labels(self) -> tuple[np.ndarray, ...]:
        return (self.labels,)

    def __len__(self) -> int:
        return len(self.first)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> Batch:
        """As data/units.py UnitPairs: token types are the roles, seg_labels the units."""
        documents, sentences = np.asarray(self.corpus.documents), self.corpus.sentences
        first, turns = self.first[indices], self.turns[indices].astype(np.int64)
        fake = noise.uniform(self.seed, "dialogue/fake", epoch, indices, 1)[:, 0] < 0.5
        which = noise.integers(self.seed, "dialogue/which", epoch, indices, 1, turns[:, None])[:, 0]
        count = len(documents) - 1
        own = np.searchsorted(documents, first, "right") - 1
        other = (own + 1 + noise.integers(self.seed, "dialogue/other", epoch, indices, 1, count - 1)[:, 0]) % count
        low, high = documents[other], documents[other + 1]
        drawn = low + noise.integers(self.seed, "dialogue/turn", epoch, indices, 1, (high - low)[:, None])[:, 0]

        number = np.arange(3)[None]
        true = np.where(number < turns[:, None], first[:, None] + number, first[:, None])     # B 3
        shown = np.where(fake[:, None] & (number == which[:, None]), drawn[:, None], true)
        starts, ends = np.asarray(sentences[shown]), np.asarray(sentences[shown + 1])
        sizes = np.where(number < turns[:, None], ends - starts, 0)
        layout = arrange(starts, fit(sizes, self.max_length - 4), self.max_length)
        units = np.where(layout.source >= 0, self.labels[np.maximum(layout.source, 0)].astype(np.int32), -1)
        roles = self.roles[true].astype(np.int32)                                            # a fake turn plays its part
        return {
            "input_ids": layout.ids(self.corpus.tokens, self.cls_token_id, self.sep_token_id, self.pad_token_id),
            "attention_mask": layout.real.astype(np.int32),
            "token_type_ids": np.where(layout.real, np.take_along_axis(roles, layout.segment, 1), 0).astype(np.int32),
            "next_sentence_label": (~fake).astype(np.int32),
            "seg_labels": headed(units),
        }


def dialogues(corpus: Corpus, labels: np.ndarray, roles: np.ndarray, max_length: int, *, seed: int, cls_token_id: int,
              sep_token_id: int, pad_token_id: int) -> Dialogues:
    """The runs of turns of a corpus whose documents are dialogues.

    Raises ValueError for a max_length below 7, fewer than two dialogues, and where none has two turns.
    """
    if max_length < 7:
        raise ValueError(f"max_length {max_length} leaves no room for three turns: it must be 7 or more")
    if corpus.num_documents < 2:
        raise ValueError("dialogue pairs need two dialogues or more: put one turn a line and blank lines between dialogues")
    bounds = np.asarray(corpus.documents)
    long = np.diff(bounds)
    runs = np.where(long > 2, long - 2, long // 2)
    if not runs.sum():
        raise ValueError(f"none of the {corpus.num_documents} dialogues has two turns: put one turn a line")
    first = np.repeat(bounds[:-1] - (np.cumsum(runs) - runs), runs) + np.arange(runs.sum())
    return Dialogues(corpus, labels, roles, first, np.repeat(np.minimum(long, 3), runs).astype(np.int8), seed, max_length,
                     cls_token_id, sep_token_id, pad_token_id)


@dataclass(frozen=True)
class Together:
    """Several sets of examples as one, one after the other; their batches have the same keys and shapes."""

    parts: tuple

    @property
    def unit_labels(self) -> tuple[np.ndarray, ...]:
        return tuple(labels for part in self.parts for labels in part.unit_labels)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> Batch:
        ends = np.cumsum([len(part) for part in self.parts])
        owner = np.searchsorted(ends, indices, "right")
        batch: Batch = {}
        for number, part in enumerate(self.parts):
            mine = np.nonzero(owner == number)[0]
            if not len(mine):
                continue
            for key, values in part.rows(indices[mine] - (ends[number] - len(part)), epoch[mine]).items():
                batch.setdefault(key, np.empty((len(indices), *values.shape[1:]), values.dtype))[mine] = values
        return batch
