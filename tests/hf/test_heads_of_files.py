"""Which head a file holds, where config.json does not say it or says something else."""

import json
import warnings

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.hf.checkpoint import load, read_config
from bertvariants_jax.models import VARIANTS

LABELS = ("O", "X", "Y")
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat good bad film was ##s .".split()


def drawn(name, *heads, **fields):
    """A checkpoint of random numbers, without a compiled program."""
    network = VARIANTS[name].network(VARIANTS[name].dummy.replaced(**{"id2label": LABELS} | fields), heads)
    rng = np.random.default_rng(0)
    return bv.Checkpoint(network, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), network.shapes()))


def file_of(folder, name, head, architectures=None, **fields):
    """A folder of a small network with one head, whose config.json names no class, or another."""
    checkpoint = drawn(name, head, **fields)
    bv.save(checkpoint, folder)
    said = json.loads((folder / "config.json").read_text()) | {"architectures": architectures}
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return checkpoint


@pytest.mark.parametrize(("name", "head"), [
    ("bert", "choice"), ("distilbert", "tag"), ("xlnet", "choice"), ("deberta", "tag"), ("modernbert", "tag"), ("albert", "classify")])
def test_the_head_asked_for_is_taken_where_no_class_is_named(tmp_path, name, head):
    saved, loaded = file_of(tmp_path, name, head), load(tmp_path, heads=(head,))
    assert not loaded.report.fresh and list(loaded.heads) == list(saved.heads)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, saved.params)


def test_shapes_and_the_pooler_tell_heads_apart_and_the_report_says_so(tmp_path):
    file_of(tmp_path, "bert", "tag")
    loaded = load(tmp_path)
    assert list(loaded.heads) == ["tag"]
    [guess] = loaded.report.guesses
    assert "names no class for classifier.bias" in guess and "taken as the head 'tag', no other fits" in guess
    assert guess in str(loaded.report)
    asked = load(tmp_path, heads=("classify",))                # a pooled head that the file cannot hold
    assert "tag" in asked.heads and set(asked.report.fresh) == {"pooler", "classify"}


def test_what_is_ambiguous_is_said(tmp_path):
    file_of(tmp_path, "modernbert", "tag")
    loaded = load(tmp_path)
    assert list(loaded.heads) == ["classify"] and "tag would fit too: heads=('tag',)" in loaded.report.guesses[0]
    assert "as asked for, though classify would fit too" in load(tmp_path, heads=("tag",)).report.guesses[0]


@pytest.mark.parametrize(("fields", "head"), [
    ({"id2label": ("O", "B-PER", "I-PER")}, "tag"), ({"problem_type": "single_label_classification"}, "classify")])
def test_the_config_tells_too(tmp_path, fields, head):
    file_of(tmp_path, "modernbert", head, **fields)
    assert list(load(tmp_path).heads) == [head]


@pytest.mark.parametrize("architectures", [[], ["MyTagger"], "BertForTokenClassification", ["BertForTokenClassification"]])
def test_the_class_decides_in_whatever_form_it_is_named(tmp_path, architectures):
    file_of(tmp_path, "bert", "tag", architectures)
    assert list(load(tmp_path).heads) == ["tag"]
    assert bool(load(tmp_path).report.guesses) == ("BertForTokenClassification" not in architectures)


def test_a_named_class_stands_against_what_is_asked_for(tmp_path):
    file_of(tmp_path, "modernbert", "classify", ["ModernBertForSequenceClassification"])
    loaded = load(tmp_path, heads=("tag",), fresh=False)
    assert list(loaded.heads) == ["classify"] and not loaded.report.guesses


@pytest.mark.filterwarnings("ignore:.*names no class")
def test_a_pipeline_takes_the_head_that_it_runs_and_says_it(tmp_path):
    file_of(tmp_path, "bert", "tag", vocab_size=len(WORDS))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = bv.pipeline("ner", str(tmp_path))
    assert "tag" in run.checkpoint.heads and any("names no class" in str(w.message) for w in caught)
    with pytest.raises(ValueError, match="no 'mlm' head; it has: tag"):
        bv.pipeline("fill-mask", str(tmp_path))


def test_heads_that_share_a_name_are_not_saved_over_each_other(tmp_path):
    with pytest.raises(ValueError, match=r"head 'tag' has another classifier\.weight"):
        bv.save(drawn("bert", "classify", "tag"), tmp_path)


def test_gelu_beside_the_originals_config_is_that_of_the_weights(tmp_path):
    """google-research's code computes "gelu" by tanh; a PyTorch file beside its bert_config.json was made by exact ones."""
    file_of(tmp_path, "bert", "mlm", ["BertForMaskedLM"])
    (tmp_path / "config.json").rename(tmp_path / "bert_config.json")
    assert load(tmp_path).config.hidden_act == "gelu"
    (tmp_path / "bert_model.ckpt.index").write_bytes(b"")                      # both: PyTorch's are read
    assert load(tmp_path).config.hidden_act == "gelu"
    (tmp_path / "model.safetensors").unlink()
    assert read_config(tmp_path)[1].hidden_act == "gelu_new"
