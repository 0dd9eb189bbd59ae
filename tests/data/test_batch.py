"""The batch contract: padding to it and refusing what breaks it."""

import subprocess
import sys

import numpy as np
import pytest

from bertvariants_jax.data.batch import KEYS, check, pad

ROWS = [
    {"input_ids": [5, 6, 7], "token_type_ids": [0, 0, 1], "labels": 1},
    {"input_ids": [8], "token_type_ids": [0], "labels": 0},
]


def test_pad():
    batch = pad(ROWS, pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert {a.dtype.name for a in batch.values()} == {"int32"}
    assert pad(ROWS, 5)["input_ids"].shape == (2, 5) and pad(ROWS, multiple_of=8)[
        "input_ids"
    ].shape == (2, 8)
    check(batch, vocab_size=10, type_vocab_size=2, max_positions=3)


def test_pad_left_tags_and_numbers():
    rows = [
        {"input_ids": [5, 6, 7], "labels": [1, 2, 3], "start_positions": 2},
        {"input_ids": [8], "labels": [4], "start_positions": 0},
    ]
    batch = pad(rows, 4, side="left")
    assert batch["input_ids"].tolist() == [[0, 5, 6, 7], [0, 0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 1, 2, 3], [-100, -100, -100, 4]]
    assert batch["start_positions"].tolist() == [3, 3]
    assert (
        pad([{"input_ids": [1], "labels": 0.5}, {"input_ids": [1], "labels": 2.0}])["labels"].dtype
        == np.float32
    )
    assert pad([{"input_ids": [], "labels": 1}])["attention_mask"].tolist() == [[0]]


@pytest.mark.parametrize(
    "rows, length, message",
    [
        (ROWS, 2, "input_ids of row 0 has 3 tokens, more than the length 2"),
        ([], None, "at least one row"),
        (
            [{"input_ids": [1, 2], "token_type_ids": [0]}],
            None,
            "token_type_ids of row 0 has 1 values, its input_ids has 2",
        ),
        ([{"input_ids": [1]}, {"input_ids": [1], "labels": 0}], None, "row 1 has the keys"),
        (
            [{"input_ids": [1], "lables": 0}],
            None,
            "'lables' is not a key of a batch; the keys are input_ids",
        ),
    ],
)
def test_pad_refuses(rows, length, message):
    with pytest.raises(ValueError, match=message):
        pad(rows, length)


def good(**changes):
    batch = pad([{"input_ids": [5] * n, "token_type_ids": [0] * n} for n in (6, 3)], 8)
    return {**batch, **changes}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"input_ids": np.array([[1] * 8, [1, 2, 30522, 4, 5, 6, 7, 8]], np.int32)},
            "input_ids of row 1, position 2 is 30522, but the vocabulary has 30522 rows",
        ),
        ({"input_ids": np.full((2, 8), -1, np.int32)}, "input_ids of row 0, position 0 is -1"),
        ({"input_ids": np.zeros((2, 8), np.int64)}, "input_ids must be int32, not int64"),
        (
            {"token_type_ids": np.full((2, 8), 2, np.int32)},
            "token_type_ids of row 0, position 0 is 2, but the model has 2 token types",
        ),
        (
            {"position_ids": np.full((2, 8), 7, np.int32)},
            "position_ids of row 0, position 0 is 7, but the model has 7 positions",
        ),
        (
            {"attention_mask": np.ones((2, 8), np.int32)},
            "input_ids of row 0 has 8 tokens, more than the model's 7 positions",
        ),
        (
            {"attention_mask": np.ones((2, 7), np.int32)},
            r"attention_mask has shape \(2, 7\): L is 7, but 8 in input_ids",
        ),
        ({"attention_mask": np.full((2, 8), -1, np.int32)}, "attention_mask of row 0 holds -1"),
        ({"attention_mask": np.ones(8, np.int32)}, "attention_mask"),
        ({"labels": np.zeros(3, np.int32)}, "labels has shape"),
        (
            {"masked_positions": np.full((2, 3), 8, np.int32)},
            "masked_positions of row 0, position 0 is 8, but the batch is 8 long",
        ),
        (
            {"start_positions": np.array([0, 9], np.int32)},
            "start_positions of row 1 is 9, but the batch is 8 long",
        ),
        ({"extra": np.zeros(2)}, "'extra' is not a key"),
        ({"input_ids": [[1]]}, "input_ids must be a numpy array"),
    ],
)
def test_check_names_key_row_and_value(changes, message):
    with pytest.raises(ValueError, match=message):
        check(good(**changes), vocab_size=30522, type_vocab_size=2, max_positions=7)


def test_check_takes_what_is_good():
    check(
        good(), vocab_size=6, type_vocab_size=1, max_positions=6
    )  # padding beyond the positions is no fault
    check(good(labels=np.zeros(2, np.float32)))
    check(
        good(labels=np.zeros((2, 8), np.int32), position_ids=np.zeros((2, 8), np.int32)),
        max_positions=4,
    )
    choices = np.ones((2, 4, 8), np.int32)
    check(
        {"input_ids": choices, "attention_mask": choices, "labels": np.zeros(2, np.int32)},
        vocab_size=2,
        max_positions=8,
    )


def test_every_key_is_described():
    assert all(key.meaning and key.shape[0] == "B" for key in KEYS.values())


def test_data_imports_no_jax():
    names = [
        "batch",
        "noise",
        "corrupt",
        "source",
        "documents",
        "prose",
        "corpus",
        "pack",
        "pipeline",
    ]
    code = (
        "import sys\n"
        + "".join(f"import bertvariants_jax.data.{n}\n" for n in names)
        + "heavy = 'jax grain tensorflow_datasets tensorflow torch transformers pyarrow'\n"
        + "bad = set(heavy.split()) & set(sys.modules)\n"
        + "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
