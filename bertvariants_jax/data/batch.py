"""The batch contract: the keys of a batch with their dtype, shape and meaning; padding rows to it
and checking it.

A batch is a plain dict of numpy arrays. Data makes it and models read it; they meet nowhere else.
Letters: B batch, L length, P predicted positions, S sequences in a packed row, C choices.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

IGNORED = -100  # a label of this value takes no part in the loss


class Key(NamedTuple):
    """One row of the contract: the shape's letters, the dtype, the value that pads, and the
    meaning.
    """

    shape: tuple[str, ...]
    dtype: type
    fill: int
    meaning: str


_I, _F = np.int32, np.float32

KEYS: dict[str, Key] = {
    "input_ids": Key(("B", "L"), _I, 0, "token ids; padded with the tokenizer's pad id"),
    "attention_mask": Key(("B", "L"), _I, 0, "0 is padding; equal positive numbers see each other"),
    "token_type_ids": Key(("B", "L"), _I, 0, "segment of each token: 0 first, 1 second"),
    "task_type_ids": Key(("B", "L"), _I, 0, "ERNIE 2.0: the number of the row's task"),
    "position_ids": Key(
        ("B", "L"), _I, 0, "rows of the position table; without them encoders count by the mask"
    ),
    "masked_positions": Key(("B", "P"), _I, 0, "places to predict, ascending; 0 in unused slots"),
    "masked_labels": Key(("B", "P"), _I, 0, "the true ids there; 0 in unused slots"),
    "masked_weights": Key(("B", "P"), _F, 0, "1 for a prediction, 0 for an unused slot"),
    "span_boundaries": Key(("B", "P", "2"), _I, 0, "SBO: places left and right of the slot's span"),
    "span_offsets": Key(("B", "P"), _I, 0, "SBO: how far into its span the slot stands, from 0"),
    "span_weights": Key(("B", "P"), _F, 0, "SBO: 1 where the slot is a target"),
    "perm_order": Key(
        ("B", "L"), _I, 0, "XLNet: a token sees none that is later, a predicted one only earlier ones"
    ),
    "backwards": Key(("B",), _I, 0, "XLNet: 1 for a row that holds its text from right to left"),
    "next_sentence_label": Key(
        ("B",),
        _I,
        0,
        "NSP 0 = true next, 1 = random (ERNIE: 1 = true, 0 = random); SOP 0 = in order, 1 = swapped",
    ),
    "capital_labels": Key(
        ("B", "L"), _I, IGNORED, "1 where a token's word begins with a capital letter; -100 is ignored"
    ),
    "relation_labels": Key(
        ("B", "L"), _I, IGNORED, "1 where a token occurs elsewhere in its document; -100 is ignored"
    ),
    "reorder_label": Key(
        ("B",), _I, IGNORED, "order of a paragraph's segments (data/paragraphs.py orders)"
    ),
    "distance_label": Key(
        ("B",), _I, IGNORED, "0 = B follows A, 1 = same document, 2 = another; -100 is ignored"
    ),
    "labels": Key(
        ("B",),
        _I,
        IGNORED,
        "class [B] (float32 for regression), tag of each token [B, L], or of several classes a text 1 for "
        "each that it has, float32 [B, classes]; -100 is ignored",
    ),
    "start_positions": Key(("B",), _I, 0, "first token of the answer; 0 where there is none"),
    "end_positions": Key(("B",), _I, 0, "last token of the answer"),
    "p_mask": Key(("B", "L"), _I, 1, "1 where no answer can stand: question, separators, padding"),
    "is_impossible": Key(("B",), _I, 0, "1 for a question without answer"),
    "example_weight": Key(("B",), _F, 0, "0 for the filling of the last evaluation batch, else 1"),
    "example_id": Key(("B",), _I, -1, "row of the source, -1 for filling; stays on the host"),
    "sequence_positions": Key(("B", "S"), _I, 0, "packed rows: where each sequence begins"),
    "sequence_weights": Key(
        ("B", "S"), _F, 0, "packed rows: 1 for a sequence, 0 for an unused slot"
    ),
}
"""All keys. In a packed row (data/pack.py) the keys of shape [B] hold [B, S]; multiple choice puts
C after B."""

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def pad(
    rows: Sequence[Mapping[str, object]],
    length: int | None = None,
    *,
    pad_token_id: int = 0,
    multiple_of: int = 1,
    side: str = "right",
) -> dict[str, np.ndarray]:
    """Rows of unequal length to one batch.

    rows: one mapping per example: lists (or arrays) of length n for the per-token keys, scalars for
    the others.
      `attention_mask` is made where it is missing. `labels` may be a list (tags) or a scalar (class
      or, where any of them is a float, a number to regress to).
    length: L; None pads to the longest row, rounded up to `multiple_of`.
    side: "right" or "left" (XLNet).
    Returns [B, L] and [B] arrays with the dtypes of KEYS.
    Raises ValueError for a row longer than `length`, rows with unlike keys, lists of unlike length
    in one row.
    """
    if not rows:
        raise ValueError("a batch needs at least one row")
    if side not in ("right", "left"):
        raise ValueError(f"side must be 'right' or 'left', not {side!r}")
    names = list(rows[0])
    lengths = np.empty(len(rows), np.int64)
    for i, row in enumerate(rows):
        if list(row) != names and set(row) != set(names):
            raise ValueError(f"row {i} has the keys {sorted(row)}, row 0 has {sorted(names)}")
        lengths[i] = len(row["input_ids"])
    if length is None:
        length = int(-(-max(1, int(lengths.max())) // multiple_of) * multiple_of)
    elif lengths.max() > length:
        i = int(lengths.argmax())
        raise ValueError(
            f"input_ids of row {i} has {lengths[i]} tokens, more than the length {length}: "
            f"truncate it first"
        )

    batch = {}
    for name in names:
        key = _key(name)
        if not isinstance(rows[0][name], Sequence | np.ndarray):
            values = np.asarray([row[name] for row in rows])
            batch[name] = values.astype(_F if values.dtype.kind == "f" else key.dtype)
            continue
        out = np.full(
            (len(rows), length), pad_token_id if name == "input_ids" else key.fill, key.dtype
        )
        for i, row in enumerate(rows):
            n = lengths[i]
            if len(row[name]) != n:
                raise ValueError(
                    f"{name} of row {i} has {len(row[name])} values, its input_ids has {n}"
                )
            out[i, :n] = row[name]
        batch[name] = out
    if "attention_mask" not in batch:
        batch["attention_mask"] = (np.arange(length) < lengths[:, None]).astype(_I)
    if side == "left":
        source = (
            np.arange(length) - (length - lengths[:, None])
        ) % length  # B L: each row turned right by its padding
        for name, array in batch.items():
            if array.ndim == 2:
                batch[name] = np.take_along_axis(array, source, axis=1)
        for name in ("start_positions", "end_positions"):
            if name in batch:
                batch[name] = (batch[name] + length - lengths).astype(_I)
    return batch


def check(
    batch: Mapping[str, np.ndarray],
    vocab_size: int | None = None,
    type_vocab_size: int | None = None,
    max_positions: int | None = None,
    task_type_vocab_size: int | None = None,
) -> None:
    """Raise ValueError where a batch breaks the contract, naming the key, the row and the value.

    An id outside a table gives NaN or another row's vector on the device, without an error; so it
    is caught here.
    max_positions: the longest sequence the model takes (for RoBERTa 512, though its table has 514
    rows).
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, array in batch.items():
        key = _key(name)
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} must be a numpy array, not {type(array).__name__}")
        if array.dtype != key.dtype and not (name == "labels" and array.dtype == _F):
            raise ValueError(f"{name} must be {np.dtype(key.dtype).name}, not {array.dtype.name}")
        for letter, size in zip(key.shape, array.shape, strict=False):
            known, where = sizes.setdefault(letter, (size, name))
            if known != size:
                raise ValueError(
                    f"{name} has shape {array.shape}: {letter} is {size}, but {known} in {where}"
                )
        if array.ndim < len(key.shape):
            raise ValueError(f"{name} must have shape [{', '.join(key.shape)}], not {array.shape}")

    mask, ids = batch.get("attention_mask"), batch.get("input_ids")
    length = ids.shape[-1] if ids is not None else 0
    if vocab_size is not None:
        _within(batch, "input_ids", vocab_size, "the vocabulary has {} rows")
        _within(batch, "masked_labels", vocab_size, "the vocabulary has {} rows")
    if type_vocab_size is not None:
        _within(batch, "token_type_ids", type_vocab_size, "the model has {} token types")
    if task_type_vocab_size is not None:
        _within(batch, "task_type_ids", task_type_vocab_size, "the model has {} task types")
    for name in (
        "masked_positions",
        "span_boundaries",
        "start_positions",
        "end_positions",
        "sequence_positions",
    ):
        _within(batch, name, length, "the batch is {} long")
    if mask is not None and mask.size and mask.min() < 0:
        row, *_ = np.argwhere(mask < 0)[0]
        raise ValueError(
            f"attention_mask of row {row} holds {mask.min()}: it must be 0 or positive"
        )
    if max_positions is not None:
        _within(batch, "position_ids", max_positions, "the model has {} positions")
        # Without position ids a sequence is numbered by its columns, padding on the left included;
        # those of a packed row are short enough if they were so alone.
        packed = mask is not None and mask.max(initial=0) > 1
        if "position_ids" not in batch and mask is not None and length > max_positions and not packed:
            used = np.where((mask > 0).any(-1), length - np.argmax((mask > 0)[..., ::-1], -1), 0)
            if used.max() > max_positions:
                row = int(np.argwhere(used > max_positions)[0][0])
                raise ValueError(
                    f"input_ids of row {row} has {used[row].max()} tokens, "
                    f"more than the model's {max_positions} "
                    f"positions: truncate or split it"
                )


def _key(name: str) -> Key:
    if name not in KEYS:
        raise ValueError(
            f"{name!r} is not a key of a batch; the keys are {', '.join(KEYS)} (data/batch.py)"
        )
    return KEYS[name]


def _within(batch: Mapping[str, np.ndarray], name: str, size: int, table: str) -> None:
    array = batch.get(name)
    if array is None or not array.size or (array.min() >= 0 and array.max() < size):
        return
    where = np.argwhere((array < 0) | (array >= size))[0]
    place = f", position {where[-1]}" if len(where) > 1 else ""
    raise ValueError(
        f"{name} of row {where[0]}{place} is {array[tuple(where)]}, but {table.format(size)}"
    )
