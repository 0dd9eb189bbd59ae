"""Contiguous streams of a corpus in segments, for models that remember (XLNet, arXiv:1906.08237;
zihangdai/xlnet data_utils.py).

The corpus is one long text, cut into as many streams as a batch has rows. Row b of batch t is
segment t of stream b, so that what a row's memory holds of one batch is the text before the next.
"""

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import Corpus

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Streams:
    """Segments `reused tokens, A <sep> B <sep> <cls>` of a corpus's streams; what `streams` gives.

    Example t * batch_size + b is segment t of stream b; places below count the tokens of a stream.
    Read them in order, without shuffling, in batches of batch_size.
    """

    corpus: Corpus
    max_length: int
    reuse_len: int
    batch_size: int
    seed: int
    bi_data: bool
    sep_token_id: int
    cls_token_id: int
    eod_token_id: int | None

    def __len__(self) -> int:
        return self.segments * self.batch_size

    @property
    def room(self) -> int:
        """Tokens of A and B together."""
        return self.max_length - self.reuse_len - 3

    @property
    def length(self) -> int:
        """Tokens of each stream, <eod>s included; what is left over at the corpus's end is unused."""
        corpus = self.corpus
        ends = 0 if self.eod_token_id is None else corpus.num_documents
        return (corpus.num_tokens + ends) // (self.batch_size // (1 + self.bi_data))

    @property
    def segments(self) -> int:
        """Segments of each stream."""
        return max(0, (self.length - self.max_length) // self.reuse_len + 1)

    @cached_property
    def bounds(self) -> np.ndarray:
        """int64: where each sentence begins in the text with its <eod>s, and at last the text's
        end. An <eod> belongs to the sentence before it.
        """
        documents = np.asarray(self.corpus.documents)
        bounds = np.array(self.corpus.sentences[documents[0] : documents[-1] + 1], np.int64)
        bounds -= bounds[0]
        if self.eod_token_id is not None:
            bounds[:-1] += np.repeat(np.arange(len(documents) - 1), np.diff(documents))
            bounds[-1] += len(documents) - 1
        return bounds

    @cached_property
    def ends(self) -> np.ndarray:
        """int64: where the <eod>s stand in the text."""
        if self.eod_token_id is None:
            return np.zeros(0, np.int64)
        documents = np.asarray(self.corpus.documents)
        return self.bounds[documents[1:] - documents[0]] - 1

    def cuts(
        self, indices: np.ndarray, epoch: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(length of A, where B begins in the stream, length of B, is B random), each [B].

        A begins where the reused tokens end. It ends at a random end of a sentence among those in
        reach. B is with probability one half what follows, else (and where no sentence ends) it
        begins with the sentence of a random place of the stream. The longer of the two is then cut
        at its right end, B where they are equal, until both fit.
        """
        indices = np.asarray(indices, np.int64)
        epoch = np.zeros(len(indices), np.int64) if epoch is None else epoch
        first, backwards = self._where(indices)
        length, room, bounds = self.length, self.room, self.bounds
        begin = indices // self.batch_size * self.reuse_len + self.reuse_len
        near, far = (_text(first, length, backwards, p) for p in (begin, begin + room))
        low = np.searchsorted(bounds, np.minimum(near, far), "right")
        high = np.searchsorted(bounds, np.maximum(near, far), "left")  # ends within reach: low..high
        count = high - low
        beyond = bounds[np.where(backwards, low - 1, np.minimum(high, len(bounds) - 1))]
        beyond = _stream(first, length, backwards, beyond)  # the first end out of reach

        coin, choice, place = noise.uniform(self.seed, "streams/cuts", epoch, indices, 3).T
        chosen = low + (choice * count).astype(np.int64)
        cut = _stream(first, length, backwards, bounds[np.minimum(chosen, len(bounds) - 1)])
        a_end = np.where(count > 0, cut, beyond)
        random = (count == 0) | (coin < 0.5)

        least = np.maximum(1, room - (a_end - begin))
        drawn = (place * (length - least)).astype(np.int64)
        b_begin = np.where(random, self._sentence(first, backwards, drawn, ends=False), a_end)
        b_end = np.where(
            random,
            np.minimum(self._sentence(first, backwards, drawn + least, ends=True), length - 1),
            beyond,
        )
        a, b = a_end - begin, b_end - b_begin
        a = np.minimum(a, np.maximum(room - b, (room + 1) // 2))
        return a, b_begin, room - a, random

    def rows(self, indices: np.ndarray, epoch: np.ndarray | None = None) -> Batch:
        """input_ids, attention_mask (ones), token_type_ids (0 for the reused tokens, A and its
        <sep>, 1 for B and its, 2 for <cls>) [B, max_length], backwards [B]: all int32.
        """
        indices = np.asarray(indices, np.int64)
        first, backwards = self._where(indices)
        a, b_begin = (x[:, None] for x in self.cuts(indices, epoch)[:2])
        place, reused = np.arange(self.max_length)[None], self.reuse_len
        start = indices[:, None] // self.batch_size * reused
        in_b = place > reused + a
        source = np.where(in_b, b_begin + place - reused - a - 1, start + place)
        x = np.where(
            backwards[:, None], first[:, None] + self.length - 1 - source, first[:, None] + source
        )
        real = (place != reused + a) & (place < self.max_length - 2)
        ids = self._tokens(np.where(real, x, 0))
        ids[np.broadcast_to(~real, ids.shape)] = self.sep_token_id
        ids[:, -1] = self.cls_token_id
        types = in_b.astype(np.int32)
        types[:, -1] = 2
        return {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": types,
            "backwards": backwards.astype(np.int32),
        }

    def _where(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each example's stream begins in the text, and whether it is read backwards, [B]."""
        row, each = indices % self.batch_size, self.batch_size // (1 + self.bi_data)
        return row % each * self.length, row >= each

    def _sentence(self, first, backwards, place, ends: bool) -> np.ndarray:
        """The last begin of a sentence at or before each place of the streams, or the first end at
        or after it; at most the whole stream.
        """
        text = _text(first, self.length, backwards, place)
        left = np.searchsorted(self.bounds, text, "right") - 1
        right = np.minimum(np.searchsorted(self.bounds, text, "left"), len(self.bounds) - 1)
        return _stream(
            first, self.length, backwards, self.bounds[np.where(backwards ^ ends, right, left)]
        )

    def _tokens(self, x: np.ndarray) -> np.ndarray:
        """int32: what stands at places of the text."""
        before = np.searchsorted(self.ends, x)
        origin = int(self.corpus.sentences[self.corpus.documents[0]])
        last = len(self.corpus.tokens) - 1
        ids = self.corpus.tokens[np.minimum(x - before + origin, last)].astype(np.int32)
        if len(self.ends):
            ids[self.ends[np.minimum(before, len(self.ends) - 1)] == x] = self.eod_token_id
        return ids

    def __reduce__(self):  # workers find the bounds anew
        return Streams, tuple(getattr(self, field.name) for field in fields(self))


def _text(first, length, backwards, border) -> np.ndarray:
    """A border between tokens of the streams as one between tokens of the text."""
    return np.where(backwards, first + length - border, first + border)


def _stream(first, length, backwards, border) -> np.ndarray:
    """The inverse of `_text`, at most the whole stream."""
    return np.clip(np.where(backwards, first + length - border, border - first), 0, length)


def streams(
    corpus: Corpus,
    max_length: int,
    *,
    reuse_len: int,
    batch_size: int,
    seed: int,
    sep_token_id: int,
    cls_token_id: int,
    eod_token_id: int | None = None,
    bi_data: bool = False,
) -> Streams:
    """Segments of `max_length` tokens, each `reuse_len` further on in its stream than the last.

    eod_token_id: what ends each document, None for nothing. bi_data: the second half of the rows
    are the streams of the first half read backwards.
    The cuts of a segment depend on (seed, epoch, example) alone.
    Raises ValueError where reuse_len leaves no room for A and B, an odd batch is to be halved, or
    the corpus is too short for so many streams.
    """
    if not 1 <= reuse_len <= max_length - 5:
        raise ValueError(
            f"reuse_len must lie between 1 and max_length - 5 = {max_length - 5}, so that A <sep> B "
            f"<sep> <cls> fit behind it, not {reuse_len}"
        )
    if batch_size < 1 or (bi_data and batch_size % 2):
        raise ValueError(
            f"batch_size {batch_size} must be a positive {'even ' if bi_data else ''}number"
            + (": with bi_data half of the rows are read backwards" if bi_data else "")
        )
    out = Streams(
        corpus, max_length, reuse_len, batch_size, seed, bi_data, sep_token_id, cls_token_id,
        eod_token_id,
    )  # fmt: skip
    if not out.segments:
        raise ValueError(
            f"the corpus has {corpus.num_tokens} tokens, {out.length} for each of "
            f"{batch_size // (1 + bi_data)} streams, where a segment has {max_length}: take more "
            f"text, fewer rows or a smaller max_length"
        )
    return out
