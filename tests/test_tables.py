"""Ids that a network has no row for are refused by whatever runs it, and loading says that there may be some."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.data.pipeline import pipeline
from bertvariants_jax.recipe import fits
from bertvariants_jax.text import Tokenizer

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat good bad film was ##s .".split()
SMALL = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 64, "vocab_size": len(WORDS)}
HEADS = ("mlm", "classify", "tag", "choice", "span")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Path:
    """A vocabulary with one word more than the networks' tables."""
    folder = tmp_path_factory.mktemp("vocabulary")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps({"[ENT]": len(WORDS)}))
    return folder


def weightless(variant, heads=(), folder=None, **fields):
    """A checkpoint without parameters: what is refused before it runs needs none."""
    variant = bv.VARIANTS[variant]
    network = variant.network(variant.config(**SMALL | fields), heads)
    return bv.Checkpoint(network, {}, folder and Tokenizer.load(folder))


@pytest.fixture(scope="module")
def bert(vocabulary):
    return weightless("bert", HEADS, vocabulary)


@pytest.mark.parametrize(("task", "inputs"), [
    ("fill-mask", "the [ENT] [MASK]"), ("text-classification", "the [ENT] dog"), ("embed", "the [ENT] dog"),
    ("token-classification", "the [ENT] dog"),
    ("question-answering", {"question": "the [ENT]", "context": "the dog sat"}),
    ("question-answering", {"question": "the dog", "context": "the [ENT] sat"}),
    ("multiple-choice", {"context": "the dog", "choices": ["sat", "the [ENT]"]}),
])
def test_every_pipeline_refuses_what_a_call_refuses(bert, task, inputs):
    with pytest.raises(ValueError, match=r"input_ids holds 18 \('\[ENT\]'\), but this bert has 18 rows"):
        bert(**bert.tokenizer("the [ENT] dog"))
    with pytest.raises(ValueError, match=r"input_ids holds 18 \('\[ENT\]'\), but this bert has 18 rows"):
        bv.pipeline(task, bert)(inputs)


def test_a_discriminator_refuses_it_too(vocabulary):
    electra = weightless("electra", ("rtd",), vocabulary)
    with pytest.raises(ValueError, match="input_ids holds 18"):
        bv.pipeline("replaced-tokens", electra)("the [ENT] dog")


def test_a_target_without_a_row_is_no_target(bert):
    with pytest.raises(ValueError, match=r"target '\[ENT\]' has id 18, but this bert has 18 rows"):
        bv.pipeline("fill-mask", bert, targets=["dog", "[ENT]"])


def test_token_types_without_a_row_are_refused(vocabulary):
    one = weightless("bert", ("classify",), vocabulary, type_vocab_size=1)
    with pytest.raises(ValueError, match="token_type_ids holds 1, but this bert has 1 rows"):
        bv.pipeline("text-classification", one)({"text": "the dog", "text_pair": "a cat"})


def test_padding_without_a_row_is_refused(tmp_path):
    """Its NaN would reach the real tokens of the row."""
    last = [*WORDS[1:], "[PAD]"]
    (tmp_path / "vocab.txt").write_text("\n".join(last) + "\n")
    short = weightless("bert", ("classify",), tmp_path, vocab_size=len(last) - 1)
    with pytest.raises(ValueError, match=r"input_ids holds 17 \('\[PAD\]'\)"):
        bv.pipeline("text-classification", short)(["the dog sat on the mat and the cat sat too", "dog"])


def test_scores_that_are_no_numbers_are_no_result(bert):
    """Question answering would say "", and JSON has no NaN."""
    params = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), bert.network.shapes())
    broken = bv.Checkpoint(bert.network, params, bert.tokenizer)
    with pytest.raises(ValueError, match=r"this bert gives no numbers \(NaN\): its weights hold NaN, or overflow in float32"):
        bv.pipeline("question-answering", broken)(question="the dog", context="the dog sat")


def test_loading_says_that_tokenizer_and_table_differ(bert, tmp_path):
    bv.save(bv.new("bert", tokenizer=bert.tokenizer, **SMALL), tmp_path)
    loaded = bv.load(tmp_path)
    notes = str(loaded.report)
    assert "19 ids" in notes and "18 rows" in notes and "'[ENT]' (18)" in notes
    assert not any("word table" in note for note in loaded.with_heads(vocab_size=19).report.notes)
    assert "the last 5 stand for no piece" in str(loaded.with_heads(vocab_size=24).report)


class Rows:
    """Forty rows of four tokens, of which one is told apart."""

    def __init__(self, key: str, value: int):
        self.key, self.value = key, value

    def __len__(self) -> int:
        return 40

    def rows(self, indices, epoch):
        keys = ("input_ids", "attention_mask", "token_type_ids", "task_type_ids")
        batch = {key: np.ones((len(indices), 4), np.int32) for key in keys}
        batch[self.key][indices == 33, 2] = self.value
        return batch


@pytest.mark.parametrize(("key", "value"), [("input_ids", 18), ("token_type_ids", 2), ("task_type_ids", 5), ("input_ids", -1)])
def test_every_batch_of_a_run_is_checked(key, value):
    ernie = weightless("ernie", use_task_id=True, task_type_vocab_size=5).network
    batches = pipeline(Rows(key, value), batch_size=4, shuffle=False, epochs=1, check=fits(ernie))
    batches.batch(0)
    with pytest.raises(ValueError, match=rf"batch 8: {key} of row 1, position 2 is {value}"):
        list(batches)


def test_batches_are_held_to_a_teacher_as_well():
    student, teacher = (weightless("bert", max_position_embeddings=size).network for size in (64, 3))
    batch = Rows("input_ids", 1).rows(np.arange(2), np.zeros(2))
    fits(student)(batch)
    with pytest.raises(ValueError, match="more than the model's 3 positions"):
        fits(student, teacher)(batch)
