"""Tagging and multiple choice end to end on eight devices: train, evaluate, write predictions, score them."""

import json
from pathlib import Path

import pytest

import bertvariants_jax as bv
from bertvariants_jax.cli import main

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] ann bob lives in rome oslo the cat sat ##s who where".split()
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 32, "initializer_range": 0.3}
FLAGS = ["--steps", "60", "--epochs", "0", "--batch-size", "16", "--optim.rate", "3e-2", "--log-every", "30", "--optim.warmup", "0"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    bv.save(bv.new("bert", seed=1, tokenizer=folder, **SMALL), folder / "model")
    return folder / "model"


def said(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_tagging(start, tmp_path, capsys):
    lines = [f"{name} I-PER\nlives O\nin O\n{place} I-LOC\n" for name in ("ann", "bob") for place in ("rome", "oslo")] * 5
    for name in ("eng.train", "eng.testa"):
        (tmp_path / name).write_text("\n".join([*lines, "the O\ncat O\nsat O\n"]))
    task = ["--task", "conll2003", "--data", str(tmp_path)]
    assert main(["train", str(EXPERIMENTS / "ner.py"), *task, "--start", str(start), "--task.max-length", "16", *FLAGS,
                 "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run/model"), *task, "--output", str(tmp_path / "out"), "--batch-size", "5"]) == 0
    metrics = said(capsys)
    assert metrics["f1"] == 1 and metrics["PER/recall"] == 1
    assert main(["evaluate", "--predictions", str(tmp_path / "out/predictions.conll"), *task]) == 0
    again = said(capsys)
    assert {key: again[key] for key in ("f1", "precision", "recall", "accuracy")} == {
        key: metrics[key] for key in ("f1", "precision", "recall", "accuracy")}
    found = bv.pipeline("ner", tmp_path / "run/model", aggregation_strategy="first")("Bob lives in Oslo")
    assert [(one["entity_group"], one["start"], one["end"]) for one in found] == [("PER", 0, 3), ("LOC", 13, 17)]


def test_multiple_choice(start, tmp_path, capsys):
    rows = [[[f"{name} lives in {place}"], [{"question": "who _ ?", "choice": ["cat", name, "the"][:: turn or 1],
                                             "answer": name}], f"{name}{place}{turn}"]
            for name in ("ann", "bob") for place in ("rome", "oslo") for turn in (1, -1)]
    for name in ("train.json", "dev.json"):
        (tmp_path / name).write_text(json.dumps(rows * 4))
    task = ["--task", "dream", "--data", str(tmp_path)]
    assert main(["train", str(EXPERIMENTS / "race.py"), *task, "--start", str(start), "--task.max-length", "32",
                 "--task.question-length", "8", *FLAGS, "--out", str(tmp_path / "run")]) == 0
    assert said(capsys)["eval/accuracy"] == 1
