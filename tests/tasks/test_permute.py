"""XLNet's task: its streams, targets and orders as batches of real shape, and options that do not fit."""

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.data.batch import check
from bertvariants_jax.data.pipeline import pipeline
from bertvariants_jax.tasks.permute import Permute
from bertvariants_jax.text import train

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
TEXT = "\n\n".join("\n".join(f"{' '.join(WORDS[k:k + 4])} {i}, {WORDS[i % 10]}." for i in range(12)) for k in range(6))
SMALL = {"max_length": 24, "reuse_len": 12, "mem_len": 15, "perm_size": 6, "num_predict": 5}


@pytest.fixture(scope="module")
def tokenizer():
    return train([TEXT] * 4, "xlnet", 70)


@pytest.fixture
def task(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT + "\n")
    return Permute(data=(f"text:{tmp_path / 'text.txt'}",), held_out=0.3, **SMALL)


def test_batches(task, tokenizer):
    assert task.heads == ("mlm",) and not task.shuffle and tokenizer.padding_side == "left"
    examples = task.examples("train", tokenizer, None, batch_size=4)
    data = pipeline(examples, batch_size=4, shuffle=task.shuffle, corrupt=task.corrupt(examples, tokenizer, 0))
    whole = []
    for number in range(examples.segments):
        batch = data.batch(number)
        check(batch, tokenizer.vocab_size)
        whole.append(batch["input_ids"][0, :12])
        assert batch["masked_positions"].shape == (4, 5) and batch["backwards"].tolist() == [0, 0, 1, 1]
        assert (batch["input_ids"][:, [22, 23]] == [tokenizer.sep_token_id, tokenizer.cls_token_id]).all()
        assert batch["token_type_ids"][:, [0, 22, 23]].tolist() == [[0, 1, 2]] * 4
    text = tokenizer.decode(np.concatenate(whole).tolist(), skip_special_tokens=False)   # the reused tokens, one after the other, are the text
    assert text.startswith("alpha beta gamma delta 0, alpha. alpha beta gamma delta 1, beta.") and "<eod>" in text
    held = task.examples("validation", tokenizer, None, batch_size=2)
    assert len(pipeline(held, batch_size=2, shuffle=False, epochs=1)) == held.segments


@pytest.mark.parametrize("options,message", [
    ({"reuse_len": 0}, r"task\.reuse_len must lie between 1 and max_length - 5 = 19.*got 0"),
    ({"reuse_len": 20}, r"task\.reuse_len must lie between"),
    ({"reuse_len": 11}, r"task\.perm_size must divide reuse_len 11 and the 13 tokens behind it.*got 6"),
    ({"perm_size": 5}, r"task\.perm_size must divide reuse_len 12 and the 12 tokens behind it"),
    ({"perm_size": 24}, r"task\.perm_size must divide"),
    ({"perm_size": -1}, r"task\.perm_size must divide"),
    ({"num_predict": 0}, r"task\.num_predict must lie between 1 and 22.*got 0"),
    ({"num_predict": 23}, r"task\.num_predict must lie between 1 and 22.*got 23"),
    ({"mem_len": -1}, r"task\.mem_len must be 0 \(no memory\) or more, got -1"),
    ({"alpha": 0}, r"task\.alpha and task\.beta must be whole numbers with alpha >= beta >= 1"),
    ({"longest": 0}, r"task\.longest must be at least 1"),
])
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        Permute(**{**SMALL, **options})


def test_what_does_not_fit_the_task(task, tokenizer):
    Permute(**{**SMALL, "max_length": 25, "reuse_len": 11, "perm_size": 0, "mem_len": 0})       # any length goes
    with pytest.raises(ValueError, match=r"needs a network with two streams \(xlnet\), not bert"):
        task.objective(bv.new("bert", ("mlm",)).network)
    with pytest.raises(ValueError, match="has no piece '<eod>' to end documents with"):
        task.examples("train", train([TEXT] * 4, "unigram", 70), None, batch_size=2)
    with pytest.raises(ValueError, match="batch_size 3 must be a positive even number"):
        task.examples("train", tokenizer, None, batch_size=3)
    with pytest.raises(ValueError, match=r"the corpus has \d+ tokens, \d+ for each of 200 streams"):
        task.examples("train", tokenizer, None, batch_size=400)
