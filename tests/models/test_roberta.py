"""RoBERTa's own traps: positions by the padding id, 512 of 514 rows, the kept model_type, what a file must say."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.models import VARIANTS, find_size
from bertvariants_jax.models.roberta import DUMMY, RobertaConfig, token_positions

PAD = 1


def places(ids, mask=None):
    ids = np.asarray(ids, np.int32)
    return np.asarray(token_positions(ids, np.ones_like(ids) if mask is None else np.asarray(mask, np.int32), PAD))


def test_positions_skip_padding_wherever_it_stands():
    np.testing.assert_array_equal(places([[0, 5, 6, 2, 1, 1]]), [[2, 3, 4, 5, 1, 1]])
    np.testing.assert_array_equal(places([[1, 1, 0, 5, 1, 2]]), [[1, 1, 2, 3, 1, 4]])


def test_positions_begin_again_in_each_packed_sequence():
    np.testing.assert_array_equal(places([[0, 5, 2, 0, 7, 8, 2, 1]], [[1, 1, 1, 2, 2, 2, 2, 0]]),
                                  [[2, 3, 4, 2, 3, 4, 5, 1]])
    np.testing.assert_array_equal(places([[0, 5, 1, 1, 0, 7]], [[1, 1, 0, 0, 2, 2]]), [[2, 3, 1, 1, 2, 3]])


def test_positions_are_those_of_the_rule_on_random_rows():
    ids = np.random.default_rng(0).integers(0, 4, (50, 12))
    real = ids != PAD
    np.testing.assert_array_equal(places(ids), PAD + np.cumsum(real, 1) * real)


def test_the_longest_input_leaves_out_the_rows_that_no_token_has():
    checkpoint = bv.new("roberta", vocab_size=61, hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
                        intermediate_size=40)
    out = checkpoint(input_ids=np.full((1, 512), 5))
    assert np.isfinite(out.last_hidden_state).all()
    with pytest.raises(ValueError, match="512 positions"):
        checkpoint(input_ids=np.full((1, 513), 5))


def test_a_second_segment_is_refused():
    checkpoint = bv.new("roberta", vocab_size=61, hidden_size=24, num_hidden_layers=1, num_attention_heads=3)
    with pytest.raises(ValueError, match="token_type_ids holds 1"):
        checkpoint(input_ids=[[0, 5, 2]], token_type_ids=[[0, 0, 1]])


def test_model_type_of_the_file_is_kept(tmp_path):
    small = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
    for name, architecture in (("roberta-base", "RobertaForMaskedLM"), ("xlm-roberta", "XLMRobertaForMaskedLM"),
                               ("camembert", "CamembertForMaskedLM"), ("xlm-roberta-xl", "XLMRobertaXLForMaskedLM")):
        bv.save(bv.new(name, heads=("mlm",), **small, intermediate_size=40), tmp_path / name)
        data = json.loads((tmp_path / name / "config.json").read_text())
        assert data["model_type"] == name.removesuffix("-base") and data["architectures"] == [architecture]
        again = bv.load(tmp_path / name)
        assert again.heads.keys() == {"mlm"} and again.config.model_type == data["model_type"]


def test_names_of_the_aliases():
    assert find_size("xlm-roberta")[1].vocab_size == 250002
    assert find_size("camembert")[0] is VARIANTS["roberta"]


def test_a_file_must_say_what_hf_has_other_defaults_for():
    data = {"model_type": "roberta", "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 3, "intermediate_size": 40}
    with pytest.raises(ValueError, match=r"max_position_embeddings is missing.*type_vocab_size is missing.*layer_norm_eps"):
        RobertaConfig.from_json(data)
    with pytest.raises(ValueError, match="pad_token_id is null"):
        RobertaConfig.from_json({**DUMMY.to_json(), "pad_token_id": None})
    with pytest.raises(ValueError, match="leaves no position"):
        RobertaConfig(max_position_embeddings=2)


@pytest.mark.peers
def test_padding_ids_inside_a_row_as_in_hf(tmp_path):
    """Padding on the left and in the middle, said by the ids: HF's positions, word row and all."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    options = {k: v for k, v in DUMMY.to_json().items() if k not in ("model_type", "id2label", "label2id")}
    torch.manual_seed(0)
    peer = transformers.RobertaModel(transformers.RobertaConfig(**options), add_pooling_layer=False).eval()
    peer.save_pretrained(tmp_path)
    ids = np.array([[1, 1, 0, 5, 1, 2, 9], [0, 7, 8, 9, 2, 1, 1]])
    mask = np.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]])
    out = bv.load(tmp_path)(input_ids=ids, attention_mask=mask).last_hidden_state
    theirs = peer(torch.tensor(ids), attention_mask=torch.tensor(mask)).last_hidden_state.detach().numpy()
    np.testing.assert_allclose(np.asarray(out)[mask > 0], theirs[mask > 0], atol=2e-5)
    assert jnp.isfinite(out).all()
