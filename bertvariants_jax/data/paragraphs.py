"""ERNIE 2.0's tasks as examples: a paragraph of one document with a question about it (Sun et al. 2019, arXiv:1907.12412).

No code of theirs makes this data; what the paper leaves open is said here. An example belongs to one task, which its
task type tells the network; its tokens are hidden in units besides (data/units.py mask_units).

  masking    nothing more: [CLS] paragraph [SEP]
  capital    does the word of each token begin with a capital letter? (for uncased vocabularies)
  relation   does each token occur in its document outside of this paragraph?
  reorder    the paragraph is cut between sentences into n of 1..m segments, all n equally likely, and shown in a random
             order; the class is which order of which n, one of 1! + 2! + ... + m!
  distance   [CLS] A [SEP] B [SEP]: B is what follows A (0), from elsewhere in its document (1), or from another one (2)
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.batch import IGNORED
from bertvariants_jax.data.corpus import Corpus, full_sentences
from bertvariants_jax.data.corrupt import Batch
from bertvariants_jax.data.segments import arrange
from bertvariants_jax.data.units import annotated, headed, within, words

TASKS = ("masking", "capital", "relation", "reorder", "distance")
"""In the order in which stages add them; a task's type id is its place here."""


def orders(most: int) -> np.ndarray:
    """int64 [classes, most]: the classes of "reorder": which segment is shown first, second, ...; -1 where there is none.

    One segment first, then the orders of two, then those of three, each in lexicographic order.
    """
    table = [[*order, *[-1] * (most - n)] for n in range(1, most + 1) for order in itertools.permutations(range(n))]
    return np.array(table, np.int64)


@dataclass(frozen=True)
class Paragraphs:
    """Examples by paragraph and task: example i asks task i % k about paragraph i // k, so that all have equal shares.

    start: int64 [n], size: int32 [n]: the paragraphs, runs of whole sentences of one document (a sentence that is too
    long is cut). units: int8 [T]. capitals: int8 [T] or None. first, last: uint32 [T] or None, where the token occurs
    first and last in its document, counted from the document's beginning. segments: m.
    """

    corpus: Corpus
    start: np.ndarray
    size: np.ndarray
    units: np.ndarray
    capitals: np.ndarray | None
    first: np.ndarray | None
    last: np.ndarray | None
    tasks: tuple[str, ...]
    segments: int
    seed: int
    max_length: int
    cls_token_id: int
    sep_token_id: int
    pad_token_id: int

    @property
    def unit_labels(self) -> tuple[np.ndarray, ...]:
        return (self.units,)

    def __len__(self) -> int:
        return len(self.start) * len(self.tasks)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> Batch:
        """input_ids, attention_mask, token_type_ids (the segment), task_type_ids, seg_labels int32 [B, max_length], and of
        the tasks that there are capital_labels, relation_labels [B, max_length], reorder_label, distance_label [B], -100
        in rows of other tasks."""
        indices, epoch = np.asarray(indices), np.asarray(epoch)
        task = np.array([TASKS.index(name) for name in self.tasks])[indices % len(self.tasks)]
        block = indices // len(self.tasks)
        start, size = self.start[block], self.size[block].astype(np.int64)
        places = max(self.segments, 2)
        starts, sizes = np.zeros((2, len(indices), places), np.int64)
        starts[:, 0], sizes[:, 0] = start, size
        answers = {}
        for name, build in (("reorder", self._reordered), ("distance", self._apart)):
            if name in self.tasks:
                mine = task == TASKS.index(name)
                answers[f"{name}_label"] = np.full(len(indices), IGNORED, np.int32)
                if mine.any():
                    found = build(start[mine], size[mine], indices[mine], epoch[mine])
                    starts[mine], sizes[mine] = 0, 0
                    for whole, part in zip((starts, sizes), found, strict=False):
                        whole[mine, : part.shape[1]] = part
                    answers[f"{name}_label"][mine] = found[2]
        layout = arrange(starts, sizes, self.max_length)
        there = np.maximum(layout.source, 0)
        text = layout.source >= 0

        def tokens(name: str, labels: np.ndarray) -> None:
            answers[f"{name}_labels"] = np.where(text & (task == TASKS.index(name))[:, None], labels, IGNORED).astype(np.int32)

        if "capital" in self.tasks:
            tokens("capital", self.capitals[there])
        if "relation" in self.tasks:
            begin = (start - self._document(start)[0])[:, None]
            tokens("relation", (self.first[there] < begin) | (self.last[there] >= begin + size[:, None]))
        return {
            "input_ids": layout.ids(self.corpus.tokens, self.cls_token_id, self.sep_token_id, self.pad_token_id),
            "attention_mask": layout.real.astype(np.int32),
            "token_type_ids": layout.segment,
            "task_type_ids": np.broadcast_to(task[:, None], layout.real.shape).astype(np.int32),
            "seg_labels": headed(np.where(text, self.units[there].astype(np.int32), -1)),
            **answers,
        }

    def _document(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The document that a token is of: its first token, and its number; and all documents' bounds in tokens."""
        bounds = np.asarray(self.corpus.sentences)[np.asarray(self.corpus.documents)]
        number = np.searchsorted(bounds, start, "right") - 1
        return bounds[number], number, bounds

    def _reordered(self, start, size, index, epoch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts and sizes [R, m] of the segments as they are shown, and the class [R]."""
        most, table = self.segments, orders(self.segments)
        sentences = np.asarray(self.corpus.sentences)
        inner = np.searchsorted(sentences, start, "right")                                   # the first border inside
        count = np.searchsorted(sentences, start + size, "left") - inner
        n = 1 + noise.integers(self.seed, "reorder/n", epoch, index, 1, np.minimum(most, count + 1)[:, None])[:, 0]
        width = max(int(count.max(initial=0)), most - 1)
        chance = noise.uniform(self.seed, "reorder/cut", epoch, index, width)
        chance = np.where(np.arange(width) < count[:, None], chance, 2.0)
        cut = np.argsort(chance, axis=1)[:, : most - 1]
        cut = sentences[np.minimum(inner[:, None] + cut, len(sentences) - 1)]
        end = (start + size)[:, None]
        cut = np.sort(np.where(np.arange(most - 1) < n[:, None] - 1, cut, end), axis=1)
        borders = np.concatenate([start[:, None], cut, end], axis=1)                         # R m+1
        starts, sizes = borders[:, :-1], np.diff(borders, axis=1)
        before = np.array([sum(math.factorial(k) for k in range(1, i)) for i in range(most + 1)])
        ways = np.array([math.factorial(k) for k in range(most + 1)])
        label = before[n] + noise.integers(self.seed, "reorder/order", epoch, index, 1, ways[n][:, None])[:, 0]
        shown = table[label]
        return (np.take_along_axis(starts, np.maximum(shown, 0), 1),
                np.where(shown >= 0, np.take_along_axis(sizes, np.maximum(shown, 0), 1), 0), label)

    def _apart(self, start, size, index, epoch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts and sizes [R, 2] of A and B, and the class [R].

        A is the paragraph's first sentences, a random number of them but not all (its last tokens, where they are more
        than half of the row). The class is drawn, all three equally likely, and where the documents do not allow it,
        the next one holds. B begins with a sentence (right behind A, or more than one sentence away from it, or any of
        another document) and takes as many whole ones as fit.
        """
        room = self.max_length - 3
        sentences, documents = np.asarray(self.corpus.sentences), np.asarray(self.corpus.documents)
        _, own, bounds = self._document(start)
        low, high = documents[own], documents[own + 1]

        def draw(stream, count):
            return noise.integers(self.seed, f"distance/{stream}", epoch, index, 1, np.maximum(count, 1)[:, None])[:, 0]

        head = np.searchsorted(sentences, start, "right") - 1                                # A's first sentence
        tail = np.searchsorted(sentences, start + size, "left")
        a = np.minimum(sentences[head + 1 + draw("cut", tail - head - 1)], start + size)      # where A ends
        behind = np.searchsorted(sentences, a, "left")                                       # the sentence behind A
        earlier, later = np.maximum(head - 1 - low, 0), np.maximum(high - behind - 1, 0)
        count = len(documents) - 1
        possible = np.stack([a < bounds[own + 1], earlier + later > 0, np.full(len(a), count > 1)], axis=1)
        label = draw("class", np.full(len(a), 3))
        for _ in range(2):
            label = np.where(possible[np.arange(len(label)), label], label, (label + 1) % 3)

        turn = draw("same", earlier + later)
        same = np.where(turn < earlier, low + turn, behind + 1 + turn - earlier)
        other = (own + 1 + draw("document", np.full(len(a), count - 1))) % count
        there = documents[other] + draw("other", documents[other + 1] - documents[other])
        last = len(sentences) - 1
        b = np.choose(label, [a, sentences[np.minimum(same, last)], sentences[there]])
        limit = np.choose(label, [bounds[own + 1], np.where(turn < earlier, sentences[np.maximum(head - 1, 0)], bounds[own + 1]),
                                  bounds[other + 1]])
        size_a = np.minimum(a - start, room // 2)
        most = np.minimum(b + room - size_a, limit)
        whole = sentences[np.searchsorted(sentences, most, "right") - 1]
        end = np.where(whole > b, whole, most)
        return np.stack([a - size_a, b], axis=1), np.stack([size_a, end - b], axis=1), label


def paragraphs(corpus: Corpus, max_length: int, *, tasks: tuple[str, ...], units: np.ndarray, seed: int, cls_token_id: int,
               sep_token_id: int, pad_token_id: int, capitals: np.ndarray | None = None, segments: int = 3) -> Paragraphs:
    """Paragraphs of up to max_length - 1 - max(segments, 2) tokens, each with every task.

    Raises ValueError for unknown tasks, "capital" without its labels, and documents that do not allow "distance" (it
    takes two) or "reorder" (one of two sentences).
    """
    if unknown := [name for name in tasks if name not in TASKS]:
        raise ValueError(f"unknown task {unknown[0]!r}; known: {', '.join(TASKS)}")
    if not tasks or len(set(tasks)) < len(tasks):
        raise ValueError(f"tasks must be some of {', '.join(TASKS)}, each once, got {tasks}")
    if segments < 1:
        raise ValueError(f"a paragraph is cut into 1 segment or more, not {segments}")
    if "capital" in tasks and capitals is None:
        raise ValueError("the task capital needs `capitals`")
    if "distance" in tasks and corpus.num_documents < 2:
        raise ValueError("sentence distance needs two documents or more: put blank lines between documents")
    if {"reorder", "distance"} & set(tasks) and np.diff(corpus.documents).max() < 2:
        raise ValueError(f"sentences cannot be reordered or compared: none of the {corpus.num_documents} documents has two "
                         f"of them; give one sentence a line with blank lines between documents")
    special = {"cls_token_id": cls_token_id, "sep_token_id": sep_token_id, "pad_token_id": pad_token_id}
    blocks = full_sentences(corpus, max_length + 1 - max(segments, 2), cross_documents=False, **special)
    first, last = occurrences(corpus) if "relation" in tasks else (None, None)
    return Paragraphs(corpus, blocks.start, blocks.sizes, units, capitals, first, last, tuple(tasks), segments, seed,
                      max_length, **special)


def occurrences(corpus: Corpus, chunk: int = 1 << 22) -> tuple[np.ndarray, np.ndarray]:
    """uint32 [T] and [T]: where each token of the corpus occurs first and last in its document, from its beginning on."""
    bounds = np.asarray(corpus.sentences)[np.asarray(corpus.documents)]
    first, last = np.zeros((2, len(corpus.tokens)), np.uint32)
    low = 0
    while low < len(bounds) - 1:
        high = max(low + 1, int(np.searchsorted(bounds, bounds[low] + chunk, "right")) - 1)
        place = np.arange(bounds[low], bounds[high])
        document = np.searchsorted(bounds, place, "right") - 1
        key = (document - low) << 32 | corpus.tokens[place].astype(np.int64)
        order = np.argsort(key, kind="stable")
        new = np.flatnonzero(np.diff(key[order], prepend=-1))
        sizes = np.diff(np.append(new, len(order)))
        for out, at in ((first, new), (last, new + sizes - 1)):
            found = place[order[at]]
            out[place[order]] = np.repeat(found - bounds[document[order[at]]], sizes)
        low = high
    return first, last


def capital_labels(corpus: Corpus, sentences: Iterable[str], tokenizer) -> np.ndarray:
    """int8 [T]: 1 for each token of a word that begins with an upper-case letter in the text.

    Raises ValueError where the vocabulary tells upper from lower case, so that there is nothing to predict, and as
    `data.units.annotated`.
    """
    upper, lower = tokenizer.ids(["Paris Berlin", "paris berlin"])
    if not np.array_equal(upper, lower):
        raise ValueError("the task capital asks for what this vocabulary shows: it is cased; take an uncased one, or leave "
                         "the task out")

    def label(text: str, offsets: np.ndarray) -> np.ndarray:
        found = [span for span in words(text) if text[span[0]].isupper()]
        return within(np.asarray(found, np.int64).reshape(-1, 2), offsets[:, 0])[1]

    return annotated(corpus, sentences, tokenizer, label, "capitals")
