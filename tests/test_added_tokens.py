"""Tokens that a user adds: ids behind the last, matched as `transformers` does, trained and saved with the model."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.cli import main
from bertvariants_jax.text import Tokenizer

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] good bad film a the is very not plot covid ##19 ent [ ] !".split()
TOKENS = ["[ENT]", "COVID19", "very bad", "good"]
TEXTS = ["goodness", "the [ENT] is COVID19 covid19 [ent]", "very bad film, very  bad", "a[ENT]!covid19s", ""]


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "tokenizer_class": "BertTokenizer"}))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return tmp_path


def test_ids_come_in_order_and_are_kept_by_saving(folder, tmp_path):
    tokenizer = Tokenizer.load(folder)
    _ = tokenizer.vocab_size, tokenizer.special_ids                              # what was computed before is not kept
    assert tokenizer.add_tokens(TOKENS) == 4 and tokenizer.add_tokens("[ENT]") == 0
    size = len(WORDS)
    assert [tokenizer.token_to_id(token) for token in TOKENS] == [size, size + 1, size + 2, WORDS.index("good")]
    assert len(tokenizer) == size + 3 and tokenizer.id_to_token(size + 1) == "COVID19"
    want = [row.tolist() for row in tokenizer.ids(TEXTS)]
    assert size in want[1] and size + 1 in want[1] and WORDS.index("good") in want[0]
    tokenizer.save(tmp_path / "once")
    Tokenizer.load(tmp_path / "once").save(tmp_path / "twice")
    for same in (Tokenizer.load(tmp_path / "once"), Tokenizer.load(tmp_path / "twice"), pickle.loads(pickle.dumps(tokenizer))):
        assert [row.tolist() for row in same.ids(TEXTS)] == want and len(same) == size + 3
        assert same.add_tokens(["[MORE]"]) == 1 and same.token_to_id("[MORE]") == size + 3
    for wrong in ("", "  ", 7):
        with pytest.raises(ValueError, match="must be a text"):
            tokenizer.add_tokens([wrong])


def test_called_as_transformers_calls_its_own(folder):
    tokenizer = Tokenizer.load(folder)
    long = "a very good film " * 20
    call = tokenizer(long, return_tensors="np", truncation=True, padding=True, max_length=8)
    assert call["input_ids"].shape == (1, 8) and call["input_ids"][0, -1] == tokenizer.sep_token_id
    assert tokenizer(long, max_length=8, truncation=False)["input_ids"].shape == (1, 82)
    assert tokenizer(long, truncation=True)["input_ids"].shape == (1, 82)                # it knows no limit of its own
    tokenizer.model_max_length = 16
    assert tokenizer([long, "a"], truncation="longest_first", padding="longest")["input_ids"].shape == (2, 16)
    for options, message in (({"return_tensors": "pt"}, "return_tensors can be"), ({"truncation": "only_first"}, "truncation must be")):
        with pytest.raises(ValueError, match=message):
            tokenizer([long, "a"], **options)


@pytest.mark.peers
def test_matched_as_in_transformers(folder, tmp_path):
    from transformers import AutoTokenizer

    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    assert ours.add_tokens(TOKENS) == theirs.add_tokens(TOKENS)
    assert [row.tolist() for row in ours(TEXTS, padding=True)["input_ids"]] == theirs(TEXTS, padding=True)["input_ids"]
    ours.save(tmp_path / "saved")
    reopened = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert reopened(TEXTS)["input_ids"] == theirs(TEXTS)["input_ids"]


def test_a_run_adds_tokens_and_saves_them(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BERTVARIANTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("bertvariants_jax.training.report.write_report", lambda folders, path: None)
    start = bv.new("bert", seed=1, tokenizer=folder, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                   intermediate_size=16, max_position_embeddings=32)
    bv.save(start, tmp_path / "start")
    lines = [f"the [ENT] film is very {kind}\t{kind}" for kind in ("good", "bad")] * 8
    (tmp_path / "train.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    experiment = Path(__file__).parents[1] / "experiments" / "classify.py"
    command = ["train", str(experiment), "--data", f"tsv:{tmp_path}/train.tsv", "--evaluation", f"tsv:{tmp_path}/train.tsv",
               "--start", str(tmp_path / "start"), "--epochs", "0", "--steps", "2", "--batch-size", "8", "--parallel", "pmap",
               "--task.no-pack", "--task.max-length", "16", "--out", str(tmp_path / "run"), "--model.add-tokens", "[ENT]", "[X]"]
    assert main(command) == 0
    size = len(WORDS)
    assert f"word_embeddings/embedding[{size}:{size + 2}]" in capsys.readouterr().err
    trained = bv.load(tmp_path / "run" / "model")
    assert trained.config.vocab_size == size + 2 == len(trained.tokenizer) and not trained.report.notes
    ids = trained.tokenizer(["the [ENT] film"])["input_ids"][0]
    assert size in ids
    rows = np.asarray(trained.params["encoder"]["embeddings"]["word_embeddings"]["embedding"])
    before = np.asarray(start.params["encoder"]["embeddings"]["word_embeddings"]["embedding"])
    assert np.abs(rows[:size] - before).max() < 0.01
    assert main(command) == 0                                                  # the same tokenizer again: nothing to refuse
