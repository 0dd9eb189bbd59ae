"""Tasks: data of the task's own files, labels, splits, scores, and errors that name the row."""

import numpy as np
import pytest

from bertvariants_jax.tasks.classify import Classify
from bertvariants_jax.tasks.glue import glue
from bertvariants_jax.tasks.metrics import METRICS
from bertvariants_jax.tasks.pretrain import Pretrain
from bertvariants_jax.text import Tokenizer, train

ROWS = "review\tstars\n" + "".join(f"{'good' if i % 3 else 'bad'} film number {i}\t{'up' if i % 3 else 'down'}\n"
                                   for i in range(60))


@pytest.fixture(scope="module")
def tokenizer():
    return train([ROWS] * 3, "wordpiece", 80)


@pytest.fixture
def table(tmp_path):
    (tmp_path / "mine.tsv").write_text(ROWS)
    return f"tsv:{tmp_path / 'mine.tsv'}"


def test_classify_splits_without_overlap(table, tokenizer, tmp_path):
    task = Classify(table, text="review", label="stars", held_out=0.3, pack=False)
    assert task.labels() == ("down", "up") and task.best == "accuracy"
    both = [task.examples(split, tokenizer, tmp_path) for split in ("train", "validation")]
    assert len(both[0]) + len(both[1]) == 60 and 8 <= len(both[1]) <= 28
    assert not set(both[0].texts) & set(both[1].texts)
    batch = both[0].rows(np.arange(4), np.zeros(4, int))
    assert batch["input_ids"].shape == (4, 16) and batch["labels"].dtype == np.int32
    want = [0 if text.startswith("bad") else 1 for text in both[0].texts[:4]]
    assert batch["labels"].tolist() == want


def test_scores(table, tokenizer, tmp_path):
    task = Classify(table, text="review", label="stars", metrics=("accuracy", "matthews"))
    examples = task.examples("validation", tokenizer, tmp_path)
    assert task.score(examples, {"logits": np.eye(2)[examples.labels]}) == {"accuracy": 1.0, "matthews": 1.0}
    assert task.score(examples, {"logits": np.eye(2)[1 - examples.labels]})["accuracy"] == 0


@pytest.mark.parametrize("options,message", [
    ({"text": "text"}, r"row \d+ has no field 'text'; it has: review, stars"),
    ({"label": "grade"}, r"no field 'grade'"),
    ({"classes": ("up", "sideways")}, r"row 0 has the label 'down'; the classes are: up, sideways"),
    ({"regression": True}, r"row \d+ has the label '\w+', expected a number"),
])
def test_bad_rows_are_named(table, tokenizer, tmp_path, options, message):
    task = Classify(**{"data": table, "text": "review", "label": "stars", **options})
    with pytest.raises(ValueError, match=message):
        task.examples("train", tokenizer, tmp_path)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"task\.metrics holds 'bleu'"):
        Classify(metrics=("bleu",))
    with pytest.raises(ValueError, match=r"task\.mask_rate must lie between 0 and 1"):
        Pretrain(mask_rate=1.5)
    with pytest.raises(ValueError, match="unknown task 'sst3'"):
        glue("sst3")


def test_sst2_from_the_original_files(shared_data):
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "bert-base-uncased")
    task = glue("sst2", str(shared_data / "glue"), max_length=64)
    dev = task.examples("validation", tokenizer)
    assert len(dev) == 872 and dev.labels.sum() == 444 and dev.length == 64
    assert task.labels() == ("negative", "positive")
    assert len(task.picked("train")) == 67_349
    with pytest.raises(FileNotFoundError, match=r"no train\.tsv"):
        glue("sst2", str(shared_data / "glue" / "CoLA" / "nowhere"))


def test_metrics_by_hand():
    labels, predictions = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1])
    assert METRICS["accuracy"](labels, predictions) == pytest.approx(3 / 5)
    assert METRICS["f1"](labels, predictions) == pytest.approx(2 / 3)
    assert METRICS["matthews"](labels, predictions) == pytest.approx((2 * 1 - 1 * 1) / 6)
    assert METRICS["f1"](np.zeros(3), np.zeros(3)) == 0
    assert METRICS["spearman"](np.array([1.0, 2, 2, 3]), np.array([1.0, 4, 4, 9])) == pytest.approx(1)
    assert METRICS["pearson"](np.ones(3), np.arange(3.0)) == 0
