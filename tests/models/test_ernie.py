"""ERNIE's own parts: task types, 513 positions, the activation from the file."""

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.models.ernie import ErnieConfig

SMALL = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}


def test_task_types_are_added_where_the_config_has_them_and_ignored_elsewhere():
    ids = np.arange(5, 14)[None]
    for used in (True, False):
        checkpoint = bv.new("ernie", use_task_id=used, **SMALL)
        plain = checkpoint(input_ids=ids).last_hidden_state
        np.testing.assert_array_equal(checkpoint(input_ids=ids, task_type_ids=np.zeros_like(ids)).last_hidden_state, plain)
        other = checkpoint(input_ids=ids, task_type_ids=np.full_like(ids, 2)).last_hidden_state
        assert np.allclose(other, plain, atol=1e-6) != used
    with pytest.raises(ValueError, match="task_type_ids holds 3"):
        bv.new("ernie", use_task_id=True, **SMALL)(input_ids=ids, task_type_ids=np.full_like(ids, 3))


def test_513_positions():
    checkpoint = bv.new("ernie-1.0-base-zh", **SMALL)
    assert np.isfinite(checkpoint(input_ids=np.full((1, 513), 5)).last_hidden_state).all()
    with pytest.raises(ValueError, match="513 positions"):
        checkpoint(input_ids=np.full((1, 514), 5))


def test_the_file_says_activation_and_epsilon():
    data = {"model_type": "ernie", **SMALL}
    with pytest.raises(ValueError, match=r"hidden_act is missing.*layer_norm_eps is missing"):
        ErnieConfig.from_json(data)
    config, unknown = ErnieConfig.from_json({**data, "hidden_act": "gelu", "layer_norm_eps": 1e-12})
    assert (config.hidden_act, config.layer_norm_eps, config.use_task_id, unknown) == ("gelu", 1e-12, False, [])
