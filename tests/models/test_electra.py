"""ELECTRA beyond the loops over the registry: the two networks' sizes, the projection, and its heads by formula."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from test_variants import randomised

import bertvariants_jax as bv
from bertvariants_jax.models.electra import DUMMY, ELECTRA, SIZES, ElectraConfig, generator_of
from bertvariants_jax.models.variant import Encoded

HIDDEN = np.random.default_rng(0).normal(size=(2, 7, 24)).astype(np.float32)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def affine(x, params):
    return np.asarray(x, np.float64) @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"], np.float64)


def head(name, **fields):
    """A head with random parameters: its output on HIDDEN, and the parameters."""
    network = ELECTRA.network(dataclasses.replace(DUMMY, **fields), (name,))
    params = randomised(network.shapes())
    table = params["encoder"]["embeddings"]["word_embeddings"]["embedding"]
    return network.logits(params, name, Encoded(HIDDEN, None, table)), params


@pytest.mark.parametrize("embedding", [16, 24])
def test_projection_exists_only_where_the_widths_differ(embedding):
    encoder = ELECTRA.network(dataclasses.replace(DUMMY, embedding_size=embedding)).shapes()["encoder"]
    assert ("project" in encoder) == (embedding != 24)
    assert encoder["embeddings"]["norm"]["scale"].shape == (embedding,)


def test_generator_sizes():
    """Widths of the released generators (large and base) and of the paper's small one."""
    for size, width, heads in (("small-generator-paper", 64, 1), ("base-generator", 256, 4), ("large-generator", 256, 4)):
        generator = SIZES[f"electra-{size}"]
        discriminator = SIZES[f"electra-{size.split('-')[0]}-discriminator"]
        assert (generator.hidden_size, generator.num_attention_heads, generator.intermediate_size) == (
            width, heads, 4 * width)
        assert generator.embedding_size == discriminator.embedding_size
        assert generator.num_hidden_layers == discriminator.num_hidden_layers
    assert SIZES["electra-small-generator"] == generator_of(SIZES["electra-small-discriminator"], 1.0)


def test_generator_and_discriminator_share_the_whole_embedding():
    """Tables and LayerNorm have the same shapes, so that both networks can read one set of parameters."""
    big, small = (ELECTRA.network(SIZES[f"electra-base-{part}"]).shapes()["encoder"]["embeddings"]
                  for part in ("discriminator", "generator"))
    assert big == small


def test_replaced_token_head_has_no_layer_norm():
    scores, params = head("rtd")
    expected = affine(gelu(affine(HIDDEN, params["rtd"]["dense"])), params["rtd"]["out"])[..., 0]
    assert scores.shape == (2, 7)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_generator_head_is_exact_gelu_whatever_the_network_uses():
    scores, params = head("mlm", hidden_act="relu")
    x = gelu(affine(HIDDEN, params["mlm"]["dense"]))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * params["mlm"]["norm"]["scale"] + params["mlm"]["norm"]["bias"]
    table = np.asarray(params["encoder"]["embeddings"]["word_embeddings"]["embedding"], np.float64)
    np.testing.assert_allclose(scores, x @ table.T + params["mlm"]["bias"], atol=1e-5)


def test_classification_reads_the_first_token_through_a_hidden_layer():
    scores, params = head("classify", hidden_act="relu", id2label=("a", "b", "c"))
    expected = affine(gelu(affine(HIDDEN[:, 0], params["classify"]["dense"])), params["classify"]["out"])
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("project,act", [(True, "gelu"), (False, "tanh"), (True, None)])
def test_choice_summary_options(project, act):
    scores, params = head("choice", summary_use_proj=project, summary_activation=act)
    assert ("summary" in params["choice"]) == project
    x = affine(HIDDEN[:, 0], params["choice"]["summary"]) if project else HIDDEN[:, 0]
    x = {"gelu": gelu, "tanh": np.tanh, None: lambda x: x}[act](x)
    np.testing.assert_allclose(scores, affine(x, params["choice"]["out"]), atol=1e-5)


@pytest.mark.parametrize("fields,message", [
    ({"summary_type": "mean"}, "summary_type 'mean'"), ({"summary_proj_to_labels": True}, "summary_proj_to_labels"),
    ({"summary_activation": "mish"}, "summary_activation 'mish'"), ({"is_decoder": True}, "is_decoder")])
def test_unsupported_options_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        ElectraConfig.from_json({**DUMMY.to_json(), **fields})


@pytest.fixture
def saved(tmp_path):
    def make(*heads):
        fields = {f.name: getattr(DUMMY, f.name) for f in dataclasses.fields(DUMMY)}
        checkpoint = bv.new("electra", heads=heads, **fields)
        return checkpoint, bv.save(checkpoint, tmp_path)
    return make


def test_multiple_choice_is_known_by_its_summary(saved):
    """`classifier` alone could be token classification; the summary beside it tells, without HF's class name."""
    checkpoint, folder = saved("choice")
    config = json.loads((folder / "config.json").read_text())
    config.pop("architectures")
    (folder / "config.json").write_text(json.dumps(config))
    again = bv.load(folder)
    assert set(again.heads) == {"choice"} and not again.report.fresh
    for a, b in zip(jax.tree.leaves(checkpoint.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_old_generator_file(saved):
    """Early `.bin` files repeat the word table as generator_lm_head.weight; another table there is a fault."""
    from safetensors.numpy import load_file, save_file

    _, folder = saved("mlm")
    tensors = load_file(folder / "model.safetensors")
    assert "generator_lm_head.weight" not in tensors
    tensors["generator_lm_head.weight"] = tensors["electra.embeddings.word_embeddings.weight"].copy()
    tensors["electra.embeddings.position_ids"] = np.arange(40)[None]
    save_file(tensors, folder / "model.safetensors")
    report = bv.load(folder).report
    assert report.ignored == ("electra.embeddings.position_ids",) and "generator_lm_head.weight" in report.used
    tensors["generator_lm_head.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"generator_lm_head\.weight and .* should be one tied tensor"):
        bv.load(folder)


def test_discriminator_opens_for_fine_tuning(saved):
    """The pre-training head is left out and the new one is said to be fresh."""
    _, folder = saved("rtd")
    checkpoint = bv.load(folder).with_heads("classify", id2label=("a", "b", "c"))
    assert checkpoint.report.fresh == ("classify",) and set(checkpoint.params) == {"encoder", "classify"}
    assert checkpoint.logits("classify", input_ids=np.ones((2, 5), np.int32)).shape == (2, 3)
