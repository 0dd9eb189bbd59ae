"""Windows over long contexts, against BERT's loops restated, and the places of question and context in a row."""

import numpy as np
import pytest

from bertvariants_jax.data.windows import Frame, best_window, cut
from bertvariants_jax.text import train


def slow_windows(length, room, stride):
    """run_squad.py's loop."""
    found, start = [], 0
    while start < length:
        size = min(length - start, room)
        found.append((start, size))
        if start + size == length:
            break
        start += min(size, stride)
    return found


def slow_best(windows, token):
    best, score = None, None
    for number, (start, size) in enumerate(windows):
        if start <= token < start + size:
            value = min(token - start, start + size - 1 - token) + 0.01 * size
            if score is None or value > score:
                best, score = number, value
    return best


def test_windows_are_berts():
    draw = np.random.default_rng(0)
    for length, room, step in [(10, 4, 3), (11, 4, 3), (1, 5, 2), (5, 5, 5), (6, 5, 9), *draw.integers(1, 60, (300, 3))]:
        windows = cut(int(length), int(room), int(step))
        assert windows.tolist() == [list(window) for window in slow_windows(length, room, step)]
        assert best_window(windows, int(length)).tolist() == [slow_best(windows, token) for token in range(length)]


def test_corners():
    assert cut(0, 5, 2).tolist() == [[0, 0]] and best_window(cut(0, 5, 2), 0).tolist() == []
    for room, step in ((0, 1), (5, 0), (-3, 2)):
        with pytest.raises(ValueError, match="a window needs room"):
            cut(9, room, step)


@pytest.mark.parametrize("kind,shown,column,null", [
    ("bert", ["[CLS]", "who", "[SEP]", "a", "b", "[SEP]"], 3, 0),
    ("roberta", ["<s>", "who", "</s>", "</s>", "a", "b", "</s>"], 4, 0),
    ("xlnet", ["a", "b", "<sep>", "who", "<sep>", "<cls>"], 0, 5),
])
def test_places(kind, shown, column, null):
    tokenizer = train(["who a b"] * 3, kind, 300 if kind == "roberta" else 60)
    frame, letters = Frame(tokenizer), iter("wab")
    question, first, second = (np.array([tokenizer.vocab_size + ord(c)], np.int32) for c in letters)
    row = frame.row(question, np.concatenate([first, second]))
    names = {int(question[0]): "who", int(first[0]): "a", int(second[0]): "b"}
    assert [names.get(i) or tokenizer.id_to_token(i) for i in row["input_ids"].tolist()] == shown
    assert (frame.column(1), frame.null(len(shown)), frame.specials) == (column, null, len(shown) - 3)
    assert ("token_type_ids" in row) == (kind != "roberta")
