"""SpanBERT's task: rows of one document, its masking and its targets as batches, and options that do not fit."""

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.data.batch import check
from bertvariants_jax.data.pipeline import pipeline
from bertvariants_jax.tasks.spans import Spans
from bertvariants_jax.text import train

WORDS = [["alpha", "beta", "gamma"], ["delta", "epsilon", "zeta"], ["eta", "theta", "iota"]]
TEXT = "\n\n".join("\n".join(f"{' '.join(words)} {i} {words[0]}." for i in range(8)) for words in WORDS)
SMALL = {"num_hidden_layers": 1, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 40}


@pytest.fixture(scope="module")
def tokenizer():
    return train([TEXT], "wordpiece", 120)


@pytest.fixture
def task(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT + "\n")
    return Spans(data=(f"text:{tmp_path / 'text.txt'}",), held_out=0.3, max_length=24)


def test_batches(task, tokenizer):
    examples = task.examples("train", tokenizer, None)
    rows = examples.rows(np.arange(len(examples)))
    for ids in rows["input_ids"]:                              # no row holds words of two documents
        text = tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        assert sum(any(word in text.split() for word in words) for words in WORDS) == 1
    assert (rows["input_ids"] == tokenizer.sep_token_id).sum(1).max() == 1
    batch = pipeline(examples, batch_size=6, corrupt=task.corrupt(examples, tokenizer, 0)).batch(3)
    check(batch, tokenizer.vocab_size, 2, 40)
    assert batch["masked_positions"].shape == (6, 4) and batch["span_boundaries"].shape == (6, 4, 2)
    assert (batch["masked_weights"].sum(1) == np.ceil(0.15 * ((batch["attention_mask"] > 0).sum(1) - 2))).all()
    drawn = task.corrupt(examples, tokenizer, 0).keywords["counts"]
    assert drawn.sum() == examples.corpus.num_tokens and drawn[tokenizer.token_to_id("eta")] == 0    # held out


def test_options_that_do_not_fit(task):
    for options, message in (({"mask_rate": 0.0}, r"task\.mask_rate must lie between"), ({"stop": 1.0}, "0 < stop < 1"),
                             ({"max_targets": 0}, r"task\.max_targets must be at least 1")):
        with pytest.raises(ValueError, match=message):
            Spans(**options)
    network = bv.new("spanbert", ("mlm", "sbo"), vocab_size=61, max_span_targets=5, **SMALL).network
    with pytest.raises(ValueError, match=r"task\.max_targets is 15.*knows 5 offsets"):
        task.objective(network)


@pytest.mark.peers
def test_what_is_saved_opens_in_hf(tokenizer, tmp_path):
    """HF has no class with the boundary head: its tensors are what is left over."""
    transformers = pytest.importorskip("transformers")
    bv.save(bv.new("spanbert", ("mlm", "sbo"), tokenizer=tokenizer, **SMALL), tmp_path)
    _, info = transformers.BertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and info["unexpected_keys"]
    assert all(key.startswith("sbo.") for key in info["unexpected_keys"])
