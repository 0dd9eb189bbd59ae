"""Configs take values as JSON and plain Python have them, or say in one line why not."""

import dataclasses

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.models.bert import BertConfig
from bertvariants_jax.models.deberta import DebertaConfig
from bertvariants_jax.models.modernbert import ModernBertConfig

NAMES = ("bad", "good", "none")
KINDS = ("full_attention", "sliding_attention", "full_attention")
SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 40}


@pytest.mark.parametrize("labels", [
    dict(enumerate(NAMES)), {"1": "good", "0": "bad", "2": "none"}, list(NAMES), NAMES, np.array(NAMES),
    {np.int64(i): name for i, name in enumerate(NAMES)}], ids=repr)
@pytest.mark.parametrize("name", VARIANTS)
def test_labels_of_any_plain_form(name, labels):
    config = VARIANTS[name].dummy.replaced(id2label=labels)
    assert config.id2label == NAMES and config == dataclasses.replace(VARIANTS[name].dummy, id2label=NAMES)
    assert hash(config) == hash(dataclasses.replace(VARIANTS[name].dummy, id2label=NAMES))
    assert type(config).from_json(config.to_json() | {"id2label": list(NAMES)})[0].id2label == NAMES


@pytest.mark.parametrize("name", VARIANTS)
def test_every_field_takes_lists_and_numpy_numbers(name):
    dummy = VARIANTS[name].dummy
    for field in dataclasses.fields(dummy):
        value = getattr(dummy, field.name)
        other = list(value) if isinstance(value, tuple) else np.asarray(value)[()] if value is not None else None
        config = dummy.replaced(**{field.name: other})
        assert config == dummy and hash(config) == hash(dummy)
        assert type(getattr(config, field.name)) is type(value)


def test_lists_of_layers_and_of_terms():
    modern = ModernBertConfig(layer_types=list(KINDS), num_hidden_layers=3)
    assert modern.kinds == KINDS and hash(modern)
    assert DebertaConfig(pos_att_type=["p2c"]).pos_att_type == ("p2c",)
    assert DebertaConfig(pos_att_type="c2p|p2c").pos_att_type == ("c2p", "p2c")


def test_a_network_is_made_of_plain_values():
    made = bv.new("ModernBERT-base", heads=["classify"], id2label={0: "no", 1: "yes"}, layer_types=list(KINDS), **SMALL)
    scores = made.logits("classify", input_ids=np.ones((1, 4), np.int32))
    assert scores.shape == (1, 2) and made.config.id2label == ("no", "yes")
    assert made.with_heads("classify", id2label={"0": "a", "1": "b"}).report.fresh == ()
    assert made.with_heads("classify", num_labels=3).config.id2label == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(("fields", "message"), [
    ({"id2label": {0: "a", 2: "b"}}, "id2label has the keys 0, 2, expected each of 0 to 1"),
    ({"id2label": {"a": 0}}, "id2label has keys that are no whole numbers"),
    ({"id2label": {0.5: "a", 1.0: "b"}}, "id2label has keys that are no whole numbers"),
    ({"id2label": []}, "id2label names no class"),
    ({"num_labels": 0}, "id2label names no class"),
    ({"id2label": "ab"}, "id2label is 'ab', expected a dict"),
    ({"id2label": ["a", ["b"]]}, r"id2label holds \['b'\], expected the name of a class"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0, expected 1 or more"),
    ({"vocab_size": "40"}, "vocab_size is '40', expected int such as 30522"),
    ({"vocab_size": [40]}, r"vocab_size is \[40\], expected int"),
    ({"hidden_act": len}, "hidden_act is <built-in function len>, expected str"),
    ({"hidden_dropout_prob": {"all": 0.1}}, "hidden_dropout_prob is .*, expected float such as 0.1"),
    ({"problem_type": "regresion"}, "problem_type is 'regresion'; known: regression"),
    ({"hiden_size": 3}, "BertConfig has no field 'hiden_size'"),
    ({"id2label": ["a"], "num_labels": 2}, "num_labels is 2, but id2label names 1 labels"),
])
def test_what_does_not_fit_is_one_clear_line(fields, message):
    with pytest.raises(ValueError, match=message):
        BertConfig().replaced(**fields)


def test_files_with_gaps_in_their_labels_are_refused():
    with pytest.raises(ValueError, match="id2label has the keys 0, 3, expected each of 0 to 1"):
        BertConfig.from_json(BertConfig().to_json() | {"id2label": {"0": "a", "3": "b"}})
