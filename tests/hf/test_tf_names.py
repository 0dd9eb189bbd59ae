"""TensorFlow checkpoints as networks: every variable of the original's lands where it should."""

import json
import shutil

import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.hf.tf_bundle import read_tf_checkpoint


@pytest.fixture
def folder(shared_data):
    return shared_data / "ckpt_fixtures" / "tf1_bert_tiny"


def test_bert_lands_where_it_should(folder):
    checkpoint, tensors = bv.load(folder), read_tf_checkpoint(folder)
    params = checkpoint.params
    assert checkpoint.variant == "bert" and set(checkpoint.heads) == {"pooler", "mlm", "pair"}
    assert checkpoint.config.hidden_act == "gelu_new"          # what google-research/bert calls "gelu"
    assert not checkpoint.report.fresh
    rest = set(tensors) - set(checkpoint.report.used)
    assert rest == set(checkpoint.report.ignored) == {name for name in tensors if "/adam_" in name or name == "global_step"}
    assert "optimizer" in str(checkpoint.report) and "adam_m" not in str(checkpoint.report)
    assert checkpoint.tokenizer.vocab_size == 15
    layer = params["encoder"]["layers"]
    for i in range(2):
        tf = f"bert/encoder/layer_{i}"
        query, out = tensors[f"{tf}/attention/self/query/kernel"], tensors[f"{tf}/attention/output/dense/kernel"]
        np.testing.assert_array_equal(layer["attention"]["query"]["kernel"][i].reshape(4, 4), query)
        np.testing.assert_array_equal(layer["attention"]["out"]["kernel"][i].reshape(4, 4), out)
        np.testing.assert_array_equal(layer["ffn"]["up"]["kernel"][i], tensors[f"{tf}/intermediate/dense/kernel"])
        np.testing.assert_array_equal(layer["ffn_norm"]["scale"][i], tensors[f"{tf}/output/LayerNorm/gamma"])
    np.testing.assert_array_equal(params["pair"]["dense"]["kernel"], tensors["cls/seq_relationship/output_weights"].T)
    np.testing.assert_array_equal(params["mlm"]["bias"], tensors["cls/predictions/output_bias"])


def test_a_faulty_checkpoint_is_named_at_once(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "bert")
    config = json.loads((folder / "bert_config.json").read_text())
    (copy / "bert_config.json").write_text(json.dumps({**config, "vocab_size": 16, "num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"bert/embeddings/word_embeddings has shape \(15, 4\).*"
                                         r"bert/encoder/layer_2/attention/self/key/kernel is missing"):
        bv.load(copy)
    (copy / "bert_config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"bert/encoder/layer_1/.* is not part of a bert of this config"):
        bv.load(copy)
    (copy / "bert_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        bv.load(copy)


@pytest.mark.peers
def test_transformers_reads_what_a_bert_became(folder, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    checkpoint = bv.load(folder)
    bv.save(checkpoint, tmp_path)
    peer, report = transformers.BertForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    ids = np.random.default_rng(0).integers(0, 15, (2, 9))
    with torch.no_grad():
        out = peer.eval()(torch.tensor(ids))
    np.testing.assert_allclose(checkpoint.logits("mlm", input_ids=ids), out.prediction_logits, atol=2e-5)
    np.testing.assert_allclose(checkpoint.logits("pair", input_ids=ids), out.seq_relationship_logits, atol=2e-5)
