"""DeBERTa v1, v2 and v3 beyond the loops over the registry: attention, mask decoder and replaced-token head by the
formulas in float64, the static shift in place of gathers, and what files leave open."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_variants import randomised

import bertvariants_jax as bv
from bertvariants_jax.models import VARIANTS, deberta
from bertvariants_jax.models.deberta import POSITIONS, DebertaConfig, pick, position_scores, reachable
from bertvariants_jax.models.deberta_v2 import DebertaV2Config, log_bucket
from bertvariants_jax.models.deberta_v3 import SIZES as V3_SIZES
from bertvariants_jax.models.deberta_v3 import DebertaV3Config
from bertvariants_jax.models.variant import Encoded
from bertvariants_jax.text.tokenizer import Tokenizer

FAMILY = ("deberta", "deberta-v2", "deberta-v3")


# ---- the formulas, in float64 and with the indices of the released code ----

def affine(x, p):
    flat = np.asarray(p["kernel"], np.float64).reshape(x.shape[-1], -1)
    return x @ flat + np.asarray(p.get("bias", 0), np.float64).reshape(-1)


def normed(x, p, eps=1e-7):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def bucket(distance, buckets, longest):
    """One distance at a time, as the table in ../shared/specs/variants.md is made."""
    middle = buckets // 2
    if abs(distance) <= middle:
        return distance
    return int(math.copysign(math.ceil(math.log(abs(distance) / middle) / math.log((longest - 1) / middle)
                                       * (middle - 1)) + middle, distance))


def row_of(cfg, i, j):
    if isinstance(cfg, DebertaV2Config) and cfg.position_buckets > 0:
        rows, distance = cfg.position_buckets, bucket(i - j, cfg.position_buckets, cfg.span)
    else:
        rows, distance = cfg.span, i - j
    return min(max(distance + rows, 0), 2 * rows - 1)


def layer64(cfg, p, queries, states, table, sees):
    """One layer of queries [L, D] over states [L, D]; table [2k, D], normalised; sees bool [L, L]."""
    length, heads = len(states), cfg.num_attention_heads
    split = lambda x: x.reshape(len(x), heads, -1)
    attention = p["attention"]
    if "qkv" in attention:
        kernel = np.asarray(attention["qkv"]["kernel"], np.float64)                          # D 3 N H
        q, k, v = (np.einsum("ld,dnh->lnh", x, kernel[:, part]) for part, x in enumerate((queries, states, states)))
        q, v = q + attention["query"]["bias"], v + attention["value"]["bias"]
        keys, positions = attention["pos_key"], attention["pos_query"]
    else:
        q, k, v = (split(affine(x, attention[name])) for name, x in
                   (("query", queries), ("key", states), ("value", states)))
        keys, positions = (attention["key"], attention["query"]) if cfg.share_att_key else (
            attention["pos_key"], attention["pos_query"])
    keys, positions = split(affine(table, keys)), split(affine(table, positions))
    scores = np.zeros((heads, length, length))
    for i in range(length):
        for j in range(length):
            row = row_of(cfg, i, j)
            scores[:, i, j] = np.sum(q[i] * k[j] + q[i] * keys[row] + positions[row] * k[j], -1)
    scores = np.where(sees, scores / math.sqrt(3 * q.shape[-1]), -np.inf)
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    probs = probs / probs.sum(-1, keepdims=True)
    context = np.einsum("nij,jnh->inh", probs, v).reshape(length, -1)
    out = np.asarray(attention["out"]["kernel"], np.float64).reshape(context.shape[-1], -1)
    x = normed(queries + context @ out + attention["out"]["bias"], p["attention_norm"])
    return normed(x + affine(gelu(affine(x, p["ffn"]["up"])), p["ffn"]["down"]), p["ffn_norm"])


def table64(params):
    table = np.asarray(params["encoder"]["rel_embeddings"]["embedding"], np.float64)
    return normed(table, params["encoder"]["rel_norm"]) if "rel_norm" in params["encoder"] else table


def decoder64(cfg, params, previous, sees):
    """Scores of one sequence from the input of the last layer [L, D], by section 3.2 and the released code."""
    last = jax.tree.map(lambda leaf: np.asarray(leaf[-1], np.float64), params["encoder"]["layers"])
    head = params["mlm"]
    x = previous + np.asarray(head["position_embeddings"]["embedding"], np.float64)[: len(previous)]
    for _ in range(2):
        x = layer64(cfg, last, x, previous, table64(params), sees)
    x = normed(gelu(affine(x, head["dense"])), head["norm"])
    return x @ np.asarray(params["encoder"]["embeddings"]["word_embeddings"]["embedding"], np.float64).T + head["bias"]


# ---- tests ----

def network_of(variant, heads=(), **fields):
    record = VARIANTS[variant]
    network = record.network(dataclasses.replace(record.dummy, **fields), heads)
    return network, randomised(network.shapes())


def batch_of(rows=2, length=11, padding=3):
    rng = np.random.default_rng(0)
    mask = np.ones((rows, length), np.int32)
    mask[1:, length - padding :] = 0
    return {"input_ids": rng.integers(5, 61, (rows, length)).astype(np.int32), "attention_mask": mask}


@pytest.mark.parametrize("variant,fields", [
    ("deberta", {}), ("deberta", {"max_relative_positions": 30}), ("deberta-v2", {}), ("deberta-v3", {}),
    ("deberta-v3", {"share_att_key": False, "norm_rel_ebd": "none"}), ("deberta-v3", {"position_buckets": -1}),
])
def test_layers_and_mask_decoder_by_the_formulas(variant, fields):
    network, params = network_of(variant, ("mlm",), **fields)
    cfg, batch = network.config, batch_of()
    _, hidden, _ = network.trace(params, batch)
    scores = network.scores(params, "mlm", batch)
    for row, mask in enumerate(batch["attention_mask"]):
        real, sees = mask > 0, np.broadcast_to(mask > 0, (11, 11))
        before, after = (np.asarray(h[row], np.float64) for h in hidden[-2:])
        last = jax.tree.map(lambda leaf: np.asarray(leaf[-1], np.float64), params["encoder"]["layers"])
        np.testing.assert_allclose(layer64(cfg, last, before, before, table64(params), sees)[real], after[real], atol=2e-5)
        np.testing.assert_allclose(scores[row][real], decoder64(cfg, params, before, sees)[real], atol=2e-5)


@pytest.mark.parametrize("variant", FAMILY)
def test_mask_decoder_at_places_equals_the_whole(variant):
    network, params = network_of(variant, ("mlm",))
    batch, places = batch_of(3), np.array([[0, 7, 3, 3], [5, 1, 0, 0], [2, 6, 7, 4]], np.int32)

    def at(params):
        encoded = network.encode(params, batch)
        return network.logits(params, "mlm", encoded.at(places))

    def whole(params):
        return jnp.take_along_axis(network.scores(params, "mlm", batch), places[..., None], axis=1)

    weight = jax.random.normal(jax.random.key(0), (3, 4, 61))
    (mine, gradient), (want, expected) = (jax.jit(jax.value_and_grad(
        lambda p, f=f: jnp.sum(f(p) * weight)))(params) for f in (at, whole))
    np.testing.assert_allclose(at(params), whole(params), atol=1e-5)
    np.testing.assert_allclose(mine, want, rtol=1e-4)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("variant", FAMILY)
def test_packed_mask_decoder_and_replaced_tokens_equal_unpacked(variant):
    heads = tuple(head for head in ("mlm", "rtd") if head in VARIANTS[variant].heads)
    network, params = network_of(variant, heads)
    ids = batch_of(1)["input_ids"]
    numbers = np.array([[1] * 4 + [2] * 5 + [0] * 2], np.int32)
    for head in heads:
        packed = network.scores(params, head, {"input_ids": ids, "attention_mask": numbers})
        for part in (slice(0, 4), slice(4, 9)):
            alone = network.scores(params, head, {"input_ids": ids[:, part], "attention_mask": numbers[:, part]})
            np.testing.assert_allclose(packed[:, part], alone, atol=1e-5)
    if "rtd" not in heads:
        places = np.array([[1, 6, 4]], np.int32)
        encoded = network.encode(params, {"input_ids": ids, "attention_mask": numbers})
        whole = network.logits(params, "mlm", encoded)
        np.testing.assert_allclose(network.logits(params, "mlm", encoded.at(places)), whole[:, places[0]], atol=1e-5)


def test_mask_decoder_with_dropout_draws_and_stays_finite():
    network, params = network_of("deberta-v2", ("mlm",))
    scores = lambda key: network.scores(params, "mlm", batch_of(), jax.random.key(key))
    assert np.isfinite(scores(0)).all() and not np.allclose(scores(0), scores(1))
    np.testing.assert_array_equal(scores(0), scores(0))


def test_mask_decoder_needs_what_the_encoder_carries():
    network, params = network_of("deberta", ("mlm",))
    with pytest.raises(ValueError, match="call the head with what `encode` returns"):
        network.logits(params, "mlm", Encoded(np.zeros((1, 5, 24), np.float32)))


def test_replaced_token_head_by_the_formula():
    """LN of h_i + h_[CLS] comes before the dense layer (E14)."""
    network, params = network_of("deberta-v3", ("rtd",), enhanced_mask_decoder=False)
    hidden = np.random.default_rng(0).normal(size=(2, 7, 24)).astype(np.float32)
    p, x = params["rtd"], hidden.astype(np.float64)
    expected = affine(gelu(affine(normed(x + x[:, :1], p["norm"]), p["dense"])), p["out"])[..., 0]
    for mask in (None, np.array([[1] * 7, [1] * 5 + [0] * 2], np.int32)):
        np.testing.assert_allclose(network.logits(params, "rtd", Encoded(hidden, mask)), expected, atol=1e-5)


def test_log_buckets_of_the_released_sizes():
    said = {128: 128, 129: 129, 130: 130, 140: 137, 150: 143, 200: 169, 256: 192, 300: 207, 400: 233, 500: 254,
            510: 255, 511: 255}
    distance = np.arange(-511, 512)
    got = log_bucket(distance, 256, 512)
    assert {d: int(got[d + 511]) for d in said} == said
    assert np.array_equal(got, -got[::-1]) and np.abs(got).max() == 255 and (np.diff(got) >= 0).all()
    assert np.array_equal(got, [bucket(d, 256, 512) for d in distance])
    for buckets, longest in ((6, 40), (128, 512), (48, 128), (2, 9)):
        distance = np.arange(1 - longest, longest)
        got = log_bucket(distance, buckets, longest)
        assert np.array_equal(got, [bucket(d, buckets, longest) for d in distance])
        assert np.abs(got).max() <= buckets - 1


def test_a_table_shorter_than_its_buckets_has_no_far_distance():
    assert np.array_equal(log_bucket(np.arange(-20, 21), 256, 40), np.arange(-20, 21))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(length=st.integers(1, 9), seed=st.integers(0, 99))
def test_shift_equals_the_gather_that_it_replaces(length, seed):
    rng = np.random.default_rng(seed)
    q, k = (rng.normal(size=(2, length, 3, 4)).astype(np.float32) for _ in range(2))
    keys, queries = (rng.normal(size=(2 * length, 3, 4)).astype(np.float32) for _ in range(2))
    row = np.arange(length)[:, None] - np.arange(length)[None] + length - 1                  # of the distance i - j
    expected = np.einsum("binh,ijnh->bnij", q, keys[row]) + np.einsum("bjnh,ijnh->bnij", k, queries[row])
    np.testing.assert_allclose(position_scores(q, k, keys, queries), expected, atol=1e-4)
    places = rng.integers(0, length, (2, 5)).astype(np.int32)
    at = np.take_along_axis(q, places[:, :, None, None], axis=1)
    np.testing.assert_allclose(position_scores(at, k, keys, queries, places),
                               np.take_along_axis(expected, places[:, None, :, None], axis=2), atol=1e-4)


def test_only_reachable_rows_are_projected():
    """At 128 tokens 256 of v3's 512 rows and of v1's 1024; at 512 tokens all rows of v3 but one."""
    for cfg, length, rows in ((DebertaConfig(), 128, 256), (DebertaV3Config(), 128, 256), (DebertaV3Config(), 512, 511),
                              (DebertaConfig(max_relative_positions=5), 128, 10)):
        distinct, of_distance = reachable(cfg, length)
        assert len(distinct) == rows and len(of_distance) == 2 * length
        assert np.array_equal(distinct[of_distance], cfg.rows_of(np.arange(1 - length, length + 1)))
    table = jnp.arange(20.0)
    for rows in (np.array([4, 5, 6]), np.array([4, 4, 6])):
        assert np.array_equal(pick(table, rows), rows)


@pytest.mark.parametrize("variant", FAMILY)
def test_attention_gathers_and_scatters_nothing(variant):
    """Forward and backward, within the layers; the word table's is the only gather of a short input."""
    network, _ = network_of(variant, max_relative_positions=-1, enhanced_mask_decoder=False)
    batch = {k: jax.ShapeDtypeStruct((2, 3), jnp.int32) for k in ("input_ids", "attention_mask")}
    program = jax.jit(jax.grad(lambda p, b: jnp.sum(network.encode(p, b).last_hidden_state ** 2))).lower(
        network.shapes(), batch).as_text()
    assert program.count('"stablehlo.gather"') == 1 and program.count('"stablehlo.scatter"') == 1


def folder_of(tmp_path, variant, heads, drop=(), rename=(), **config):
    """A saved checkpoint whose files are then edited: config.json's fields (None deletes one) and tensor names."""
    from safetensors.numpy import load_file, save_file

    network, params = network_of(variant, heads)
    checkpoint = bv.Checkpoint(network, params)
    bv.save(checkpoint, tmp_path)
    tensors = {n: t for n, t in load_file(tmp_path / "model.safetensors").items() if n not in drop}
    for old, new in rename:
        tensors = {n.replace(old, new): t for n, t in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    data = {k: v for k, v in {**json.loads((tmp_path / "config.json").read_text()), **config}.items() if v is not None}
    (tmp_path / "config.json").write_text(json.dumps(data))
    return checkpoint


@pytest.mark.parametrize("variant", FAMILY)
def test_a_released_file_says_nothing_of_its_heads_and_decodes(variant, tmp_path):
    """Microsoft's config.json has no `legacy` and no architectures; its tensors tell the head and the decoder."""
    heads = tuple(head for head in ("mlm", "rtd") if head in VARIANTS[variant].heads)
    saved = folder_of(tmp_path, variant, heads, legacy=None, enhanced_mask_decoder=None, architectures=None,
                      pos_att_type="p2c|c2p", padding_idx=0, pooler_hidden_size=24)
    loaded = bv.load(tmp_path)
    assert loaded.variant == variant and loaded.network.heads == heads
    assert loaded.config.enhanced_mask_decoder and not loaded.config.legacy and not loaded.report.unknown_config
    for head in heads:
        np.testing.assert_array_equal(loaded.logits(head, **batch_of()), saved.logits(head, **batch_of()))


def test_a_file_without_the_table_of_positions_decodes_nothing(tmp_path):
    """transformers drops the table and keeps the flag."""
    folder_of(tmp_path, "deberta-v3", ("mlm",), drop=(f"{POSITIONS}.weight",))
    loaded = bv.load(tmp_path)
    assert loaded.heads and not loaded.config.enhanced_mask_decoder
    encoded = loaded.network.encode(loaded.params, batch_of())
    assert encoded.carried is None


def test_a_classifier_ignores_the_table_of_positions(tmp_path):
    folder_of(tmp_path, "deberta", ("mlm", "classify"), drop=[
        f"lm_predictions.lm_head.{name}" for name in ("bias", "dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias")])
    loaded = bv.load(tmp_path)
    assert loaded.network.heads == ("classify",) and not loaded.config.enhanced_mask_decoder
    assert loaded.report.ignored == (f"{POSITIONS}.weight",)
    assert deberta.longest(loaded.config) is None


def test_the_original_spelling_of_the_replaced_token_head(tmp_path):
    saved = folder_of(tmp_path, "deberta-v3", ("rtd",), rename=(("predictions.classifier", "predictions.classifer"),))
    np.testing.assert_array_equal(bv.load(tmp_path).logits("rtd", **batch_of()), saved.logits("rtd", **batch_of()))


@pytest.mark.parametrize("size,variant", [(3, "deberta-v2"), (0, "deberta-v3"), (None, "deberta-v3")])
def test_a_convolution_is_what_tells_v2_from_v3(size, variant, tmp_path):
    folder_of(tmp_path, "deberta-v2" if size else "deberta-v3", (), conv_kernel_size=size)
    assert bv.load(tmp_path).variant == variant


def test_absent_fields_mean_what_transformers_makes_of_them():
    sizes = {name: 24 for name in ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size")}
    for config in (DebertaConfig, DebertaV2Config, DebertaV3Config):
        read, _ = config.from_json({**sizes, "num_attention_heads": 3})
        assert (read.relative_attention, read.position_biased_input, read.pos_att_type, read.legacy) == (False, True, (), True)
        if config is not DebertaConfig:
            assert (read.position_buckets, read.share_att_key, read.normed, read.conv_kernel_size, read.conv_act) == (
                -1, False, False, 0, "tanh")
        again, unknown = config.from_json(read.to_json())
        assert again == read and not unknown


@pytest.mark.parametrize("fields,fault", [
    ({"talking_head": True}, "talking_head is true"),
    ({"pos_att_type": "c2p|p2q"}, "pos_att_type 'p2q' is not supported; known: c2p, p2c, p2p"),
    ({"pooler_hidden_size": 7}, "pooler_hidden_size is 7"),
    ({"attention_head_size": 7}, "attention_head_size 7"),
    ({"conv_kernel_size": 4}, "conv_kernel_size 4 is even"),
    ({"conv_groups": 7}, "conv_groups 7"),
    ({"position_buckets": 1}, "position_buckets is 1"),
    ({"num_attention_heads": 5}, "num_attention_heads"),
    ({"enhanced_mask_decoder": True, "position_biased_input": True}, "position_biased_input"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings"),
])
def test_unsupported_options_are_named_before_weights_are_read(fields, fault, tmp_path):
    folder_of(tmp_path, "deberta-v2", (), **fields)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=fault):
        bv.load(tmp_path)


def test_generators_are_half_as_deep():
    for name in ("xsmall", "small", "base", "large"):
        whole, half = V3_SIZES[f"deberta-v3-{name}"], V3_SIZES[f"deberta-v3-{name}-generator"]
        assert half == dataclasses.replace(whole, num_hidden_layers=whole.num_hidden_layers // 2)


def test_sentencepiece_files_feed_the_network(shared_data, tmp_path):
    tokenizer = Tokenizer.load(shared_data / "tokenizers" / "deberta-v3")
    fresh = bv.new("deberta-v3", ("mlm",), tokenizer=tokenizer, hidden_size=24, num_hidden_layers=1, num_attention_heads=3,
                   intermediate_size=40)
    bv.save(fresh, tmp_path)
    loaded = bv.load(tmp_path)
    inputs = loaded.tokenizer(["Hello, my dog is cute", "Hi"], pairs=["Is it?", "No"])
    assert inputs["input_ids"][0, 0] == tokenizer.cls_token_id
    assert loaded(**inputs).last_hidden_state.shape == (*inputs["input_ids"].shape, 24)


# ---- beside transformers, where the loops do not reach ----

@pytest.mark.peers
@pytest.mark.parametrize("name,options", [
    ("Deberta", {}), ("DebertaV2", {"position_buckets": 6, "share_att_key": True, "norm_rel_ebd": "layer_norm"})])
def test_sequences_longer_than_the_positions(name, options, tmp_path):
    """Far distances share the last row: HF's clamp (the original first clamps the distance itself)."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        vocab_size=61, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=12, relative_attention=True, position_biased_input=False, pos_att_type="c2p|p2c", **options)
    peer = getattr(transformers, f"{name}Model")(config).eval()
    peer.save_pretrained(tmp_path)
    batch = batch_of(2, 29, 9)
    with torch.no_grad():
        want = peer(**{k: torch.tensor(v).long() for k, v in batch.items()})[0].numpy()
    got = bv.load(tmp_path)(**batch).last_hidden_state
    real = batch["attention_mask"] > 0
    np.testing.assert_allclose(np.asarray(got)[real], want[real], atol=2e-5)


@pytest.mark.peers
def test_mask_decoder_is_the_peers_last_layer_run_twice(tmp_path):
    """transformers has the layer with its own queries, and nothing that calls it so."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    mine = folder_of(tmp_path, "deberta-v3", ("mlm",))
    peer = transformers.DebertaV2ForMaskedLM.from_pretrained(tmp_path).eval()
    batch = batch_of()
    inputs = {k: torch.tensor(v).long() for k, v in batch.items()}
    with torch.no_grad():
        encoder, states = peer.deberta.encoder, peer.deberta(**inputs, output_hidden_states=True).hidden_states[-2]
        mask = encoder.get_attention_mask(inputs["attention_mask"])
        table = mine.params["mlm"]["position_embeddings"]["embedding"]
        x = states + torch.tensor(np.asarray(table)[: states.shape[1]])
        for _ in range(2):
            x = encoder.layer[-1](states, mask, query_states=x, relative_pos=encoder.get_rel_pos(states),
                                  rel_embeddings=encoder.get_rel_embedding())[0]
        want = peer.lm_predictions(x, peer.deberta.embeddings.word_embeddings).numpy()
    real = batch["attention_mask"] > 0
    np.testing.assert_allclose(np.asarray(mine.logits("mlm", **batch))[real], want[real], atol=2e-5)
