"""Loading and saving folders: old and new names, prefixes, heads, dtypes, and files that do not fit."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import bertvariants_jax as bv

SMALL = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
         "intermediate_size": 40, "max_position_embeddings": 32}
IDS = np.random.default_rng(0).integers(0, 61, (2, 7)).astype(np.int32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("bert")
    checkpoint = bv.new("bert", heads=("mlm", "pair"), seed=3, **SMALL)
    leaves, tree = jax.tree.flatten(checkpoint.params)
    rng = np.random.default_rng(1)
    params = jax.tree.unflatten(tree, [np.asarray(rng.normal(size=x.shape), np.float32) for x in leaves])
    bv.save(bv.Checkpoint(checkpoint.network, params), place)
    return place


def rewrite(source, target, rename=lambda name: name, change=lambda name, array: array, config=None):
    target.mkdir()
    said = json.loads((source / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not None}))
    tensors = {rename(name): change(name, array) for name, array in load_file(source / "model.safetensors").items()}
    tensors.pop(None, None)
    save_file(tensors, target / "model.safetensors")
    return target


def hidden(checkpoint):
    return np.asarray(checkpoint(input_ids=IDS).last_hidden_state)


def test_what_was_saved_is_loaded(folder, tmp_path):
    first = bv.load(folder)
    assert first.variant == "bert" and list(first.heads) == ["pooler", "mlm", "pair"] and not first.report.fresh
    bv.save(first, tmp_path / "again")
    one, two = load_file(folder / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert set(one) == set(two) and all(np.array_equal(one[name], two[name]) for name in one)


def test_legacy_names(folder, tmp_path):
    def old(name):
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    np.testing.assert_array_equal(hidden(bv.load(rewrite(folder, tmp_path / "old", old))), hidden(bv.load(folder)))


def test_headed_file_into_base_model_and_back(folder, tmp_path):
    def base(name):
        return name.removeprefix("bert.") if name.startswith("bert.") else None

    loaded = bv.load(rewrite(folder, tmp_path / "base", base), heads=("mlm",))
    assert loaded.report.fresh == ("mlm",) and list(loaded.heads) == ["pooler", "mlm"]
    np.testing.assert_array_equal(hidden(loaded), hidden(bv.load(folder)))


def test_float16_file(folder, tmp_path):
    place = rewrite(folder, tmp_path / "half", change=lambda name, x: x.astype(np.float16))
    loaded = bv.load(place)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {np.dtype("float32")}
    np.testing.assert_allclose(hidden(loaded), hidden(bv.load(folder)), atol=0.05)


def test_tied_names_and_buffers_of_old_files(folder, tmp_path):
    place = rewrite(folder, tmp_path / "tied")
    tensors = load_file(place / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].copy()
    tensors["bert.embeddings.position_ids"] = np.arange(32)[None]
    save_file(tensors, place / "model.safetensors")
    report = bv.load(place).report
    assert report.ignored == ("bert.embeddings.position_ids",) and set(report.used) == set(tensors) - set(report.ignored)
    tensors["cls.predictions.decoder.weight"] += 1
    save_file(tensors, place / "model.safetensors")
    with pytest.raises(ValueError, match="one tied tensor"):
        bv.load(place)


def test_all_faults_are_named_at_once(folder, tmp_path):
    def change(name, x):
        return x[:, :-1] if name.endswith("intermediate.dense.weight") else x

    place = rewrite(folder, tmp_path / "bad", lambda n: None if n.endswith("1.output.dense.bias") else n, change)
    with pytest.raises(ValueError) as caught:
        bv.load(place)
    said = str(caught.value)
    assert "bert.encoder.layer.1.output.dense.bias is missing" in said
    for layer in range(2):
        assert f"bert.encoder.layer.{layer}.intermediate.dense.weight has shape (40, 23)" in said


def test_weights_of_a_larger_network_are_refused(folder, tmp_path):
    place = rewrite(folder, tmp_path / "fewer", config={"num_hidden_layers": 1})
    with pytest.raises(ValueError, match=r"bert\.encoder\.layer\.1\.\S+ is not part of a bert"):
        bv.load(place)


@pytest.mark.parametrize("config,message", [
    ({"model_type": "gpt2"}, r"model_type is 'gpt2'; known: bert"),
    ({"hidden_size": None, "vocab_size": None}, r"vocab_size is missing; hidden_size is missing"),
    ({"hidden_size": "wide"}, r"hidden_size is 'wide', expected int"),
    ({"num_attention_heads": 5}, r"hidden_size 24 is not a multiple of num_attention_heads 5"),
    ({"position_embedding_type": "relative_key"}, r"position_embedding_type 'relative_key' is not supported"),
    ({"is_decoder": True}, r"decoders are not supported"),
])
def test_configs_that_do_not_fit(folder, tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        bv.load(rewrite(folder, tmp_path / "config", config=config))


def test_no_config_and_half_a_config(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        bv.load(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert",')
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        bv.load(tmp_path / "empty")


def test_truncated_weights(folder, tmp_path):
    place = rewrite(folder, tmp_path / "cut")
    data = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="truncated"):
        bv.load(place)


def test_inputs_are_checked_on_the_host(folder):
    checkpoint = bv.load(folder)
    with pytest.raises(ValueError, match="input_ids holds 61"):
        checkpoint(input_ids=np.array([[1, 61]]))
    with pytest.raises(ValueError, match="token_type_ids holds 2"):
        checkpoint(input_ids=IDS, token_type_ids=np.full_like(IDS, 2))
    with pytest.raises(ValueError, match="has length 33"):
        checkpoint(input_ids=np.zeros((1, 33), np.int32))
    with pytest.raises(ValueError, match="takes no input 'labels'"):
        checkpoint(input_ids=IDS, labels=IDS)
    with pytest.raises(ValueError, match="no head 'span'"):
        checkpoint.logits("span", input_ids=IDS)


def test_with_heads_says_what_is_fresh(folder):
    checkpoint = bv.load(folder).with_heads("classify", id2label=("a", "b", "c"))
    assert checkpoint.report.fresh == ("classify",) and list(checkpoint.heads) == ["pooler", "classify"]
    assert checkpoint.logits("classify", input_ids=IDS).shape == (2, 3)
    again = checkpoint.with_heads("classify", id2label=("a", "b"))
    assert again.report.fresh == ("classify",) and again.logits("classify", input_ids=IDS).shape == (2, 2)
    kept = checkpoint.with_heads("classify", seed=9)
    assert kept.report.fresh == ()


def test_hidden_states_and_attentions(folder):
    out = bv.load(folder)(input_ids=IDS, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == 3 and len(out.attentions) == 2
    np.testing.assert_array_equal(out.hidden_states[-1], out.last_hidden_state)
    np.testing.assert_allclose(np.asarray(out.attentions[0]).sum(-1), 1, atol=1e-5)
    assert out.pooler_output.shape == (2, 24)


def test_new_is_reproducible_and_checks_its_arguments():
    first, second = (bv.new("bert", heads=("mlm",), seed=1, **SMALL) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    other = bv.new("bert", heads=("tag",), seed=1, **SMALL)              # heads do not change the encoder
    jax.tree.map(np.testing.assert_array_equal, first.params["encoder"], other.params["encoder"])
    with pytest.raises(ValueError, match="no field 'hiden_size'"):
        bv.new("bert", hiden_size=3)
    with pytest.raises(ValueError, match="no head 'nsp'"):
        bv.new("bert", heads=("nsp",), **SMALL)


def test_initialiser_is_truncated_at_two_sigma():
    kernel = np.asarray(bv.new("bert-tiny", vocab_size=100).params["encoder"]["layers"]["ffn"]["up"]["kernel"])
    assert np.abs(kernel).max() <= 0.04 and abs(kernel.std() - 0.0176) < 2e-4


def test_torch_fixture(shared_data):
    loaded = bv.load(shared_data / "ckpt_fixtures" / "hf_bert_xsmall_dummy")
    assert loaded.variant == "bert" and np.isfinite(hidden(loaded)).all()
