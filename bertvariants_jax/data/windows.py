"""Windows over long contexts: rows of a question and a piece of its context, and which window sees a token best
(BERT's `run_squad.py`; XLNet puts the context first)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


def cut(length: int, room: int, step: int) -> np.ndarray:
    """Windows of at most `room` tokens over `length` of them, each `step` after the last: int64 [W, 2], starts and sizes.

    No window begins after one that reaches the end; an empty text has one empty window.
    Raises ValueError for a room or step below 1.
    """
    if room < 1 or step < 1:
        raise ValueError(f"a window needs room for a token and a step of at least 1, not {room} and {step}")
    step = min(step, room)
    starts = np.arange(0, max(length - room, 0) + step, step)
    starts = starts[: 1 + int(np.argmax(starts + room >= length))]
    return np.stack([starts, np.minimum(room, length - starts)], axis=1)


def best_window(windows: np.ndarray, length: int) -> np.ndarray:
    """For each token the window in which it has the most context on its poorer side: int64 [length].

    windows: starts and sizes [W, 2]. Longer windows win by a hundredth of their size, then earlier ones.
    """
    start, size = windows[:, :1], windows[:, 1:]                                             # W 1
    token = np.arange(length)
    poorer = np.minimum(token - start, start + size - 1 - token)                             # W T
    return np.argmax(np.where(poorer >= 0, poorer + 0.01 * size, -1.0), axis=0)


@dataclass(frozen=True)
class Frame:
    """How a tokenizer sets a question and a piece of context in a row: question first, or last where it pads on the left."""

    tokenizer: object
    context_first: bool = field(init=False)
    layout: list[int] = field(init=False)     # special ids, -1 for the first text and -2 for the second

    def __post_init__(self):
        object.__setattr__(self, "context_first", self.tokenizer.padding_side == "left")
        object.__setattr__(self, "layout", self.tokenizer.build([-1], [-2])[0].tolist())

    @property
    def specials(self) -> int:
        return len(self.layout) - 2

    def row(self, question: Sequence[int], context: Sequence[int]) -> dict[str, np.ndarray]:
        """input_ids and, where the family has them, token_type_ids: int32 [n]."""
        texts = (context, question) if self.context_first else (question, context)
        ids, types = self.tokenizer.build(*texts)
        return {"input_ids": ids} | ({"token_type_ids": types} if self.tokenizer.type_ids else {})

    def column(self, question: int) -> int:
        """Where the context begins in a row with a question of so many tokens."""
        if self.context_first:
            return self.layout.index(-1)
        return self.layout.index(-2) - 1 + question

    def null(self, length: int) -> int:
        """Where `[CLS]` stands in a row of so many tokens, which says that there is no answer."""
        place = self.layout.index(self.tokenizer.cls_token_id)
        return place if place < self.layout.index(-1) else length - len(self.layout) + place
