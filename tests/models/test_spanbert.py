"""SpanBERT's span-boundary head beside its formula in float64 numpy, and how files with and without it load."""

import json
import math

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax import names
from bertvariants_jax.hf.tensors import read_tensors
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.models.spanbert import DUMMY
from bertvariants_jax.models.variant import Encoded

NETWORK = VARIANTS["spanbert"].network(DUMMY, ("mlm", "sbo"))
SMALL = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40,
         "max_position_embeddings": 40}


def random_params(seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) * 0.3).astype(np.float32), NETWORK.shapes())


def formula(head, hidden, words, boundaries, offsets):
    """h0 = [x_{s-1}; x_{e+1}; p_o], h1 = LN(gelu(W1 h0 + b1)), h2 = LN(gelu(W2 h1 + b2)), logits = h2 E^T + b; float64."""
    leaves = {path: np.asarray(leaf, np.float64) for path, leaf in names.flatten(head).items()}
    gelu = np.vectorize(lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))))

    def layer(x, i):
        x = gelu(x @ leaves[f"dense{i}/kernel"] + leaves[f"dense{i}/bias"])
        x = (x - x.mean()) / np.sqrt(x.var() + DUMMY.layer_norm_eps)
        return x * leaves[f"norm{i}/scale"] + leaves[f"norm{i}/bias"]

    scores = np.empty((*offsets.shape, len(words)))
    for row in range(offsets.shape[0]):
        for slot in range(offsets.shape[1]):
            left, right = boundaries[row, slot]
            h0 = np.concatenate([hidden[row, left], hidden[row, right],
                                 leaves["position_embeddings/embedding"][offsets[row, slot]]])
            scores[row, slot] = layer(layer(h0, 1), 2) @ words.T + leaves["bias"]
    return scores


def test_head_is_the_formula():
    rng, params = np.random.default_rng(1), random_params()
    hidden = rng.normal(size=(3, 11, 24)).astype(np.float32)
    words = params["encoder"]["embeddings"]["word_embeddings"]["embedding"]
    batch = {"span_boundaries": rng.integers(0, 11, (3, 7, 2)), "span_offsets": rng.integers(0, 5, (3, 7))}
    with jax.default_matmul_precision("highest"):
        mine = NETWORK.logits(params, "sbo", Encoded(hidden, None, words), batch=batch)
    want = formula(params["sbo"], hidden.astype(np.float64), words.astype(np.float64), batch["span_boundaries"],
                   batch["span_offsets"])
    np.testing.assert_allclose(mine, want, atol=2e-5)


def test_gradients_are_those_of_the_formula():
    """Along random directions, beside central differences of the float64 formula."""
    rng, params = np.random.default_rng(2), random_params(3)
    hidden = rng.normal(size=(1, 5, 24)).astype(np.float32)
    words = params["encoder"]["embeddings"]["word_embeddings"]["embedding"]
    batch = {"span_boundaries": rng.integers(0, 5, (1, 3, 2)), "span_offsets": rng.integers(0, 5, (1, 3))}
    weights = rng.normal(size=(1, 3, 61))

    def loss(head):
        return (NETWORK.logits({"sbo": head}, "sbo", Encoded(hidden, None, words), batch=batch) * weights).sum()

    with jax.default_matmul_precision("highest"):
        gradients = names.flatten(jax.grad(loss)(params["sbo"]))
    leaves = {path: leaf.astype(np.float64) for path, leaf in names.flatten(params["sbo"]).items()}
    for path, leaf in leaves.items():
        direction = rng.normal(size=leaf.shape)
        ends = [(formula(names.unflatten(leaves | {path: leaf + step * direction}), hidden.astype(np.float64),
                         words.astype(np.float64), batch["span_boundaries"], batch["span_offsets"]) * weights).sum()
                for step in (1e-5, -1e-5)]
        want = (ends[0] - ends[1]) / 2e-5
        assert np.sum(gradients[path] * direction) == pytest.approx(want, rel=1e-4, abs=1e-3), path


def test_without_boundaries_each_token_is_told_from_its_neighbours():
    params = random_params()
    batch = {"input_ids": np.arange(5, 14, dtype=np.int32)[None]}
    place = np.arange(9)
    said = {**batch, "span_offsets": np.zeros((1, 9), np.int32),
            "span_boundaries": np.stack([np.maximum(place - 1, 0), np.minimum(place + 1, 8)], -1)[None]}
    np.testing.assert_array_equal(NETWORK.scores(params, "sbo", batch), NETWORK.scores(params, "sbo", said))


def test_a_file_without_the_head_is_bert_and_one_with_it_is_spanbert(tmp_path):
    checkpoint = bv.new("spanbert", heads=("mlm", "sbo"), max_span_targets=5, span_position_size=7, **SMALL)
    bv.save(checkpoint, tmp_path / "whole")
    bv.save(checkpoint.with_heads("mlm"), tmp_path / "plain")
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["model_type"] == "bert" and config["architectures"] == ["BertForMaskedLM"]
    plain, whole = bv.load(tmp_path / "plain"), bv.load(tmp_path / "whole")
    assert plain.variant == "bert" and plain.heads.keys() == {"mlm"}
    assert whole.variant == "spanbert" and whole.heads.keys() == {"mlm", "sbo"} and whole.config == checkpoint.config
    assert not whole.report.ignored and not whole.report.fresh
    ids = np.arange(5, 14)[None]
    np.testing.assert_array_equal(plain.logits("mlm", input_ids=ids), whole.logits("mlm", input_ids=ids))
    bv.save(whole, tmp_path / "again")
    before, after = (read_tensors(tmp_path / name) for name in ("whole", "again"))
    assert set(before) == set(after) and sum(name.startswith("sbo.") for name in before) == 10
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_a_published_file_gets_a_fresh_head_on_request(tmp_path):
    bv.save(bv.new("bert", heads=("mlm",), **SMALL), tmp_path)
    assert bv.load(tmp_path).variant == "bert"
    checkpoint = bv.load(tmp_path, heads=("sbo",))
    assert checkpoint.variant == "spanbert" and checkpoint.report.fresh == ("sbo",)
