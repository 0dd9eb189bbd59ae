"""Packing: several short sequences in one row, told apart by attention_mask 1, 2, 3, ... with
position ids that restart.

Rows are filled by best fit or first fit over the lengths (Krell et al. 2021, arXiv:2107.02027).
Pack first, then mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bertvariants_jax.data.batch import KEYS, PER_TOKEN

Batch = dict[str, np.ndarray]
_PLACES = ("start_positions", "end_positions")  # columns, which move with their sequence


class Examples(Protocol):
    """What can be packed: the pipeline's protocol and `lengths` int64 [n]."""

    lengths: np.ndarray

    def __len__(self) -> int: ...

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> Batch: ...


def fit(
    lengths: Sequence[int], capacity: int, kind: str = "best", most: int | None = None
) -> list[list[int]]:
    """Which sequences go into which row: lists of their numbers, each number once, in the order of
    opening.

    kind: "best" puts each sequence, in the order given, into the fullest row that has room for it;
    "first" into the oldest.
    most: sequences a row at most.
    Raises ValueError for a sequence longer than the capacity.
    """
    if kind not in ("best", "first"):
        raise ValueError(f"kind must be 'best' or 'first', not {kind!r}")
    rows: list[list[int]] = []
    by_room: list[list[int]] = [
        [] for _ in range(capacity + 1)
    ]  # best: open rows by the room left in them
    rooms = 0  # bit r is set where by_room[r] is not empty
    tree: list[int] = [0, 0]  # first: the most room below each node; leaf of row r is at size + r
    size = 1
    for number, length in enumerate(map(int, lengths)):
        if not 0 < length <= capacity:
            raise ValueError(
                f"sequence {number} has {length} tokens, but a row has room for {capacity}"
            )
        if kind == "best":
            fitting = rooms >> length
            if fitting:
                room = length + (fitting & -fitting).bit_length() - 1
                row = by_room[room].pop()
                if not by_room[room]:
                    rooms &= ~(1 << room)
            else:
                row, room = len(rows), capacity
                rows.append([])
            rows[row].append(number)
            room -= length
            if room and (most is None or len(rows[row]) < most):
                by_room[room].append(row)
                rooms |= 1 << room
            continue
        if tree[1] >= length:
            node = 1
            while node < size:
                node = 2 * node if tree[2 * node] >= length else 2 * node + 1
        else:
            if len(rows) == size:  # twice as many leaves
                leaves = tree[size:] + [0] * size
                size *= 2
                tree = [0] * size + leaves
                for i in range(size - 1, 0, -1):
                    tree[i] = max(tree[2 * i], tree[2 * i + 1])
            node = size + len(rows)
            tree[node] = capacity
            rows.append([])
        row = node - size
        rows[row].append(number)
        tree[node] = 0 if most is not None and len(rows[row]) >= most else tree[node] - length
        while node > 1:
            node //= 2
            tree[node] = max(tree[2 * node], tree[2 * node + 1])
    return rows


def pack(
    batch: Batch,
    groups: Sequence[Sequence[int]],
    length: int,
    sequences: int | None = None,
    pad_token_id: int = 0,
) -> Batch:
    """Put the rows of a padded batch side by side.

    batch: one sequence a row, padding on either side, with attention_mask 0 or 1. Not masked yet.
    groups: for each row of the result the rows of `batch` that it holds, in order (`fit` gives
    them).
    length: L of the result. sequences: S, None for the largest group.
    Returns per-token keys [B, L], with attention_mask 1, 2, ..., by which encoders count positions
    anew; labels that are tags [B, L]; every other key as [B, S] (padded with its fill of KEYS,
    answer positions moved to their columns), and sequence_positions, sequence_weights [B, S].
    Raises ValueError for sequences that do not fit, and for a batch that is masked or packed
    already.
    """
    if "masked_positions" in batch:
        raise ValueError("the batch is masked already: pack first, then mask")
    if (batch["attention_mask"] > 1).any():
        raise ValueError("the batch is packed already: its attention_mask goes above 1")
    most = max((len(group) for group in groups), default=0)
    sequences = most if sequences is None else sequences
    if most > sequences:
        raise ValueError(
            f"a group holds {most} sequences, more than the {sequences} slots of a row"
        )
    lengths = batch["attention_mask"].sum(1)
    member = np.array([m for group in groups for m in group], np.int64)
    row = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    slot = np.array([k for group in groups for k in range(len(group))], np.int64)
    sizes = lengths[member]
    offset = np.zeros(len(member), np.int64)
    for i in range(1, len(member)):
        offset[i] = offset[i - 1] + sizes[i - 1] if row[i] == row[i - 1] else 0
    if len(member) and (offset + sizes).max() > length:
        i = int((offset + sizes).argmax())
        raise ValueError(
            f"row {row[i]} would hold {(offset + sizes)[i]} tokens, more than its length {length}"
        )

    # One entry for each token: where it comes from and where it goes.
    token = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    begin = (batch["attention_mask"] > 0).argmax(1)[member]  # padding on the left stands before it
    source = (np.repeat(member, sizes), np.repeat(begin, sizes) + token)
    target = (np.repeat(row, sizes), np.repeat(offset, sizes) + token)
    width = batch["input_ids"].shape[1]
    out: Batch = {}
    for name, array in batch.items():
        fill = pad_token_id if name == "input_ids" else KEYS[name].fill
        tags = array.dtype.kind == "i" and array.ndim == 2 and array.shape[1] == width
        if name in PER_TOKEN or (name == "labels" and tags):
            out[name] = np.full((len(groups), length), fill, array.dtype)
            out[name][target] = array[source]
        else:
            out[name] = np.full((len(groups), sequences, *array.shape[1:]), fill, array.dtype)
            out[name][row, slot] = array[member] + (offset - begin if name in _PLACES else 0)
    out["attention_mask"][target] = np.repeat(slot + 1, sizes)
    out["sequence_positions"] = np.zeros((len(groups), sequences), np.int32)
    out["sequence_positions"][row, slot] = offset
    out["sequence_weights"] = np.zeros((len(groups), sequences), np.float32)
    out["sequence_weights"][row, slot] = 1
    return out


@dataclass(frozen=True)
class Packed:
    """Examples of which each is a row of several others; itself examples for the pipeline.

    Which sequences share a row is settled once. members: int64, their numbers row by row; bounds:
    int64 [n + 1].
    """

    examples: Examples
    members: np.ndarray
    bounds: np.ndarray
    length: int
    sequences: int
    pad_token_id: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def fill(self) -> float:
        """The share of all places that hold a token."""
        return float(np.sum(self.examples.lengths)) / (len(self) * self.length)

    def rows(self, indices: np.ndarray, epoch: np.ndarray) -> Batch:
        """A packed batch, see `pack`."""
        counts = (self.bounds[indices + 1] - self.bounds[indices]).tolist()
        members = np.concatenate(
            [self.members[self.bounds[i] : self.bounds[i + 1]] for i in indices]
        )
        batch = self.examples.rows(members, np.repeat(np.asarray(epoch), counts))
        ends = np.cumsum(counts)
        groups = [range(end - count, end) for end, count in zip(ends, counts, strict=True)]
        return pack(batch, groups, self.length, self.sequences, self.pad_token_id)


def packed(
    examples: Examples,
    length: int,
    *,
    kind: str = "best",
    most: int | None = None,
    pad_token_id: int = 0,
) -> Packed:
    """Pack examples into rows of `length` tokens (`fit` over examples.lengths). most: sequences a
    row at most.
    """
    groups = fit(examples.lengths, length, kind, most)
    counts = [len(group) for group in groups]
    members = np.array([m for group in groups for m in group], np.int64)
    return Packed(
        examples,
        members,
        np.concatenate([[0], np.cumsum(counts)]),
        length,
        max(counts, default=0),
        pad_token_id,
    )
