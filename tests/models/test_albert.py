"""ALBERT beyond the loops over the registry: sharing, groups, factorised widths, v1 and v2, where it drops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_variants import randomised

import bertvariants_jax as bv
from bertvariants_jax.layers.attention import visible
from bertvariants_jax.layers.block import Block
from bertvariants_jax.layers.dense import LayerNorm
from bertvariants_jax.models.albert import ALBERT, DUMMY, SIZES, AlbertConfig
from bertvariants_jax.models.variant import count

IDS = np.random.default_rng(0).integers(5, 61, (2, 7)).astype(np.int32)


def with_groups(layers, groups, inner):
    return dataclasses.replace(DUMMY, num_hidden_layers=layers, num_hidden_groups=groups, inner_group_num=inner)


def test_depth_costs_no_parameters():
    shapes = [ALBERT.network(with_groups(layers, 1, 1)).shapes() for layers in (1, 7)]
    assert count(shapes[0]) == count(shapes[1])
    assert shapes[1]["encoder"]["layers"]["ffn"]["up"]["kernel"].shape == (24, 40)


@pytest.mark.parametrize("layers,groups,inner,turns", [
    (3, 1, 1, (0, 0, 0)), (4, 2, 1, (0, 0, 1, 1)), (5, 2, 1, (0, 0, 0, 1, 1)), (2, 1, 3, (0, 1, 2, 0, 1, 2)),
    (3, 2, 2, (0, 1, 0, 1, 2, 3)), (3, 3, 1, (0, 1, 2)), (2, 5, 1, (0, 2))])
def test_groups_share_the_depth(layers, groups, inner, turns):
    """The scan over gathered sets is the loop written out, whatever the sizes."""
    cfg = with_groups(layers, groups, inner)
    assert cfg.turns == turns
    network = ALBERT.network(cfg)
    params = randomised(network.shapes())
    _, hidden, attentions = network.trace(params, {"input_ids": IDS})
    assert len(hidden) == len(attentions) + 1 == layers * inner + 1
    x, layer = hidden[0], params["encoder"]["layers"]
    for turn, got in zip(turns, hidden[1:], strict=True):
        one = jax.tree.map(lambda leaf, turn=turn: leaf[turn], layer) if cfg.sets > 1 else layer
        x = Block(cfg).apply({"params": one}, x, visible(jnp.ones_like(IDS)))
        np.testing.assert_allclose(got, x, atol=2e-6)


def test_sets_start_different():
    params = ALBERT.network(with_groups(4, 2, 2)).init(jax.random.key(0))
    kernels = params["encoder"]["layers"]["ffn"]["up"]["kernel"]
    assert kernels.shape == (4, 24, 40)
    assert len({float(kernel[0, 0]) for kernel in kernels}) == 4


def test_embedding_and_masked_lm_have_the_small_width():
    shapes = ALBERT.network(DUMMY, ("mlm",)).shapes()
    embeddings, mlm = shapes["encoder"]["embeddings"], shapes["mlm"]
    assert embeddings["word_embeddings"]["embedding"].shape == (61, 16)
    assert embeddings["position_embeddings"]["embedding"].shape == (40, 16)
    assert embeddings["norm"]["scale"].shape == (16,)
    assert shapes["encoder"]["project"]["kernel"].shape == (16, 24)
    assert (mlm["dense"]["kernel"].shape, mlm["norm"]["scale"].shape, mlm["bias"].shape) == ((24, 16), (16,), (61,))


def test_versions_differ_in_activation_and_dropout():
    for size in ("base", "large", "xlarge", "xxlarge"):
        first, second = SIZES[f"albert-{size}-v1"], SIZES[f"albert-{size}-v2"]
        assert (first.hidden_act, second.hidden_act) == ("gelu", "gelu_new")
        assert first.hidden_dropout_prob == (0.0 if size == "xxlarge" else 0.1) and second.hidden_dropout_prob == 0
        assert dataclasses.replace(first, hidden_act="gelu_new", hidden_dropout_prob=0.0,
                                   attention_probs_dropout_prob=0.0) == second
    networks = [ALBERT.network(dataclasses.replace(DUMMY, hidden_act=act)) for act in ("gelu", "gelu_new")]
    params = randomised(networks[0].shapes())
    exact, tanh = (n.encode(params, {"input_ids": IDS}).last_hidden_state for n in networks)
    assert 1e-6 < np.abs(exact - tanh).max() < 1e-2


def test_feed_forward_is_dropped_out_as_in_the_original():
    """With everything dropped, a layer is its two LayerNorms alone; HF keeps the feed-forward."""
    cfg = dataclasses.replace(DUMMY, num_hidden_layers=1, hidden_dropout_prob=1 - 1e-7)
    network = ALBERT.network(cfg)
    params = randomised(network.shapes())
    got = network.encode(params, {"input_ids": IDS}, jax.random.key(0)).last_hidden_state
    x, layer = params["encoder"]["project"]["bias"], params["encoder"]["layers"]
    for norm in ("attention_norm", "ffn_norm"):
        x = LayerNorm(cfg.layer_norm_eps).apply({"params": layer[norm]}, x)
    np.testing.assert_allclose(got, np.broadcast_to(x, got.shape), atol=1e-5)


@pytest.mark.parametrize("fields,message", [
    ({"num_hidden_groups": 0}, "num_hidden_groups is 0"), ({"inner_group_num": 0}, "inner_group_num is 0"),
    ({"num_attention_heads": 5}, "not a multiple")])
def test_contradictory_config(fields, message):
    with pytest.raises(ValueError, match=message):
        AlbertConfig(**fields)


def test_old_file_with_the_tied_decoder_and_legacy_config(tmp_path):
    """Early `.bin` files repeat the word table and both biases; their configs hold fields of no meaning."""
    import json

    from safetensors.numpy import load_file, save_file

    bv.save(bv.new("albert", heads=("mlm", "pair"), **{f.name: getattr(DUMMY, f.name)
                                                       for f in dataclasses.fields(DUMMY)}), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["predictions.decoder.weight"] = tensors["albert.embeddings.word_embeddings.weight"].copy()
    tensors["predictions.decoder.bias"] = tensors["predictions.bias"].copy()
    tensors["albert.embeddings.position_ids"] = np.arange(40)[None]
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "gap_size": 0, "down_scale_factor": 1}))
    checkpoint = bv.load(tmp_path)
    assert set(checkpoint.heads) == {"pooler", "mlm", "pair"} and not checkpoint.report.fresh
    assert checkpoint.report.ignored == ("albert.embeddings.position_ids",)
    assert checkpoint.report.unknown_config == ("down_scale_factor", "gap_size")
