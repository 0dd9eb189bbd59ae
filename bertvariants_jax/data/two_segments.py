"""ELECTRA's pre-training examples: sentences packed into one or two segments (Clark et al. 2020,
arXiv:2003.10555; google-research/electra build_pretraining_dataset.py).
"""

import math
import random
from array import array
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import Batch, Corpus


@dataclass(frozen=True)
class Segments:
    """Examples `[CLS] A [SEP] B [SEP]`, or `[CLS] A [SEP]` where B is empty, as runs of the corpus.

    offsets: int64 [n + 1], example i is the runs offsets[i] : offsets[i + 1], those of A first.
    starts: int64 [R], where a run begins in corpus.tokens. sizes: int32 [R]. second: int8 [R], 1 in
    B.
    """

    corpus: Corpus
    offsets: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    second: np.ndarray
    max_length: int
    cls_token_id: int
    sep_token_id: int
    pad_token_id: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]: tokens of each example, special ones included."""
        first = self.offsets[:-1]
        both = np.maximum.reduceat(self.second, first) > 0
        return np.add.reduceat(self.sizes, first, dtype=np.int64) + 2 + both

    def rows(self, indices: np.ndarray, epoch: np.ndarray | None = None) -> Batch:
        """input_ids, attention_mask and token_type_ids, int32 [B, max_length]."""
        low, count = self.offsets[indices], np.diff(self.offsets)[indices]
        row = np.repeat(np.arange(len(low)), count)  # of each run
        run = np.arange(len(row)) + np.repeat(low - (np.cumsum(count) - count), count)
        sizes, second = self.sizes[run].astype(np.int64), self.second[run]
        a, b = (np.bincount(row, sizes * (second == k), len(low)).astype(np.int64) for k in (0, 1))
        before = np.cumsum(sizes) - sizes
        place = 1 + second + before - np.repeat(np.cumsum(a + b) - (a + b), count)

        within = np.arange(int(sizes.sum())) - np.repeat(before, sizes)
        ids = np.full((len(low), self.max_length), self.pad_token_id, np.int32)
        ids[np.repeat(row, sizes), np.repeat(place, sizes) + within] = self.corpus.tokens[
            np.repeat(self.starts[run], sizes) + within
        ]
        ids[:, 0] = self.cls_token_id
        rows = np.arange(len(low))
        ids[rows, a + 1] = self.sep_token_id
        ids[rows[b > 0], (a + b + 2)[b > 0]] = self.sep_token_id
        column, end = np.arange(self.max_length)[None], (a + b + 2 + (b > 0))[:, None]
        return {
            "input_ids": ids,
            "attention_mask": (column < end).astype(np.int32),
            "token_type_ids": ((column >= (a + 2)[:, None]) & (column < end)).astype(np.int32),
        }


def two_segments(
    corpus: Corpus,
    max_length: int,
    *,
    seed: int,
    cls_token_id: int,
    sep_token_id: int,
    pad_token_id: int,
    single_prob: float = 0.1,
    short_prob: float = 0.05,
) -> Segments:
    """One pass over each document in chunks of sentences of at least max_length tokens (with
    probability short_prob a number drawn from 5..max_length), or up to the document's end.

    With probability single_prob a chunk is one segment. Else A takes the first sentence and each
    one that leaves it below (target - 3) // 2, and, with probability one half and while B is empty,
    the one that does not; B takes the others. As in the released code, a later sentence that still
    fits joins A though B has begun, so that A and B need not be runs of the text. A is cut to
    max_length - 2 tokens, B to what is left.

    The draws depend on (seed, document) alone. Raises ValueError for max_length below 5.
    """
    if max_length < 5:
        raise ValueError(f"max_length {max_length} leaves no room for two segments: give 5 or more")
    bounds = memoryview(np.ascontiguousarray(corpus.sentences))
    documents = memoryview(np.ascontiguousarray(corpus.documents))
    out = (array("q", [0]), array("q"), array("i"), array("b"))
    seeds = noise.key(seed, "segments", 0, np.arange(corpus.num_documents)).tolist()
    for d, draws in enumerate(seeds):
        sentences = documents[d], documents[d + 1]
        draw = random.Random(draws).random
        _document_segments(bounds, *sentences, max_length, single_prob, short_prob, draw, out)
    offsets, starts, sizes, second = out
    return Segments(
        corpus,
        np.frombuffer(offsets, np.int64),
        np.frombuffer(starts, np.int64),
        np.frombuffer(sizes, np.int32),
        np.frombuffer(second, np.int8),
        max_length,
        cls_token_id,
        sep_token_id,
        pad_token_id,
    )


def _document_segments(bounds, chunk, finish, most, single_prob, short_prob, draw, out) -> None:
    """The sentences chunk..finish. `draw` gives numbers in [0, 1)."""
    offsets, starts, sizes, second = out
    while chunk < finish:
        target = most
        if draw() < short_prob:
            target = 5 + int(draw() * (most - 4))
        end = bisect_left(bounds, bounds[chunk] + target, chunk + 1, finish)
        room = (target - 3) // 2 if draw() >= single_prob else math.inf
        runs = ([], [])  # of A and of B: pairs of places in the tokens
        used = [0, 0]
        for s in range(chunk, end):
            left, right = bounds[s], bounds[s + 1]
            a, b = used
            fits = a == 0 or a + right - left < room
            to_b = not (fits or (b == 0 and a < room and draw() < 0.5))
            used[to_b] += right - left
            if runs[to_b] and runs[to_b][-1][1] == left:
                runs[to_b][-1][1] = right
            else:
                runs[to_b].append([left, right])
        space = most - 2
        for segment in (0, 1):
            for left, right in runs[segment]:
                size = min(right - left, space)
                if size > 0:
                    starts.append(left)
                    sizes.append(size)
                    second.append(segment)
                    space -= size
            space -= 1  # B's separator
        offsets.append(len(starts))
        chunk = end
