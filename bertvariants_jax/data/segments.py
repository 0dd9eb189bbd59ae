"""Rows of several segments: `[CLS] A [SEP] B [SEP] C [SEP]` from places in a flat array of tokens."""

from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Which token stands where in a batch of rows.

    source: int64 [B, L], the place in the flat array, -1 for special tokens and padding. segment:
    int32 [B, L], the number of the segment, to which [CLS] (the first) and the separator behind
    belong; 0 for padding. separator, real: bool [B, L]; real is not padding.
    """

    source: np.ndarray
    segment: np.ndarray
    separator: np.ndarray
    real: np.ndarray

    def ids(self, tokens: np.ndarray, cls: int, sep: int, pad: int) -> np.ndarray:
        """int32 [B, L]: tokens[source] with the special tokens around and the padding behind."""
        found = np.where(self.source >= 0, tokens[np.maximum(self.source, 0)].astype(np.int32), pad)
        found[self.separator] = sep
        found[:, 0] = cls
        return found.astype(np.int32)


def arrange(starts: np.ndarray, sizes: np.ndarray, max_length: int) -> Layout:
    """Segments one after the other; starts, sizes: int [B, S], a size of 0 is no segment.

    They must fit: 1 + sum(size + 1) <= max_length.
    """
    place = np.arange(max_length)[None]
    source = np.full((len(starts), max_length), -1, np.int64)
    segment = np.zeros((len(starts), max_length), np.int32)
    separator = np.zeros((len(starts), max_length), bool)
    begin, number = np.ones(len(starts), np.int64), np.zeros(len(starts), np.int32)
    for start, size in zip(starts.T.astype(np.int64), sizes.T.astype(np.int64), strict=True):
        end = begin + size
        inside = (place >= begin[:, None]) & (place < end[:, None])
        source = np.where(inside, start[:, None] + place - begin[:, None], source)
        close = (place == end[:, None]) & (size > 0)[:, None]
        separator |= close
        segment = np.where(inside | close, number[:, None], segment)
        begin, number = np.where(size > 0, end + 1, begin), number + (size > 0)
    return Layout(source, segment, separator, place < begin[:, None])


def fit(sizes: np.ndarray, room: int) -> np.ndarray:
    """int64 [B, S]: the longest segments cut until the row holds `room` tokens, the others whole."""
    sizes = sizes.astype(np.int64)
    ordered = np.sort(sizes, axis=1)
    before = np.cumsum(ordered, axis=1) - ordered  # of the shorter ones
    left = np.arange(sizes.shape[1], 0, -1)
    limit = (room - before) // left  # were this one and the longer ones cut to one length
    limit = np.where(ordered <= limit, -1, limit)
    first = np.argmax(limit >= 0, axis=1)
    rows = np.arange(len(sizes))
    short = limit[rows, first]
    return np.where((sizes.sum(1) <= room)[:, None], sizes, np.minimum(sizes, short[:, None]))
