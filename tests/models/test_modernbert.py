"""ModernBERT: window, blocks of local attention, packing, poolings, old and new config files, any depth."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax import names
from bertvariants_jax.layers.stack import shortest_period
from bertvariants_jax.models.modernbert import (
    DUMMY,
    GLOBAL,
    LOCAL,
    MODERNBERT,
    Layer,
    ModernBert,
    ModernBertConfig,
    View,
    local_mask,
    pool,
    rotary,
)

TINY = dataclasses.replace(DUMMY, hidden_size=16, num_attention_heads=2, intermediate_size=12, num_hidden_layers=3)


def random_params(cfg, seed=0):
    """Every leaf random, with norms about one."""
    shapes = MODERNBERT.network(cfg).shapes()["encoder"]
    rng = np.random.default_rng(seed)
    return names.unflatten({path: jnp.asarray(rng.normal(size=leaf.shape) * 0.3 + path.endswith("scale"), jnp.float32)
                            for path, leaf in names.flatten(shapes).items()})


def ids(cfg, rows, length, seed=0):
    return np.random.default_rng(seed).integers(3, cfg.vocab_size, (rows, length)).astype(np.int32)


def test_window_of_128_is_64_places_each_side():
    cfg = dataclasses.replace(TINY, num_hidden_layers=1, layer_types=(LOCAL,), local_attention=128)
    batch = np.repeat(ids(cfg, 1, 300), 7, axis=0)
    for row, place in enumerate((35, 36, 99, 101, 164, 165), start=1):
        batch[row, place] = 3 + (batch[row, place] - 2) % (cfg.vocab_size - 3)
    out = ModernBert(cfg).apply({"params": random_params(cfg)}, batch)[:, 100]
    assert [not np.array_equal(out[0], row) for row in out[1:]] == [False, True, True, True, True, False]


def masks(length):
    """Whole, padded right, padded left, packed with padding."""
    out = np.ones((4, length), np.int32)
    out[1, length - 5:], out[2, :7] = 0, 0
    out[3, length // 3:], out[3, length // 2:], out[3, -2:] = 2, 3, 0
    return out


@pytest.mark.parametrize("length,window", [(41, 6), (40, 7), (64, 16), (13, 1), (26, 0)])
def test_blocks_equal_dense_masks(length, window):
    """Hidden states and gradients; padding places excepted, which see less in blocks where they see nothing at all."""
    cfg = dataclasses.replace(TINY, local_attention=window, num_hidden_layers=4, global_attn_every_n_layers=3)
    params, batch, mask = random_params(cfg), ids(cfg, 4, length), masks(length)
    weights = np.random.default_rng(1).normal(size=(4, length, cfg.hidden_size)) * (mask > 0)[..., None]

    def run(banded):
        def loss(params):
            out = ModernBert(cfg, banded=banded).apply({"params": params}, batch, mask)
            return jnp.sum(out * weights), out
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    ((_, blocks), of_blocks), ((_, dense), of_dense) = run(True), run(False)
    np.testing.assert_allclose(blocks[mask > 0], dense[mask > 0], atol=5e-6)
    for a, b in zip(jax.tree.leaves(of_blocks), jax.tree.leaves(of_dense), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max()))


def test_traces_of_blocks_show_whole_attentions():
    cfg = dataclasses.replace(TINY, local_attention=6)
    params, batch, mask = random_params(cfg), ids(cfg, 4, 23), masks(23)
    traces = [MODERNBERT.traced(ModernBert(cfg, banded=banded).apply(
        {"params": params}, batch, mask, mutable=["intermediates"])[1]["intermediates"]) for banded in (True, False)]
    for blocks, dense in zip(*traces, strict=True):
        assert len(blocks) == len(dense)
        for a, b in zip(blocks, dense, strict=True):
            a, b = (np.moveaxis(x, 1, 2) if x.ndim == 4 else x for x in (a, b))
            np.testing.assert_allclose(a[mask > 0], b[mask > 0], atol=5e-6)


def test_local_layers_make_nothing_of_the_square_of_the_length():
    def lowered(cfg, **options):
        apply = jax.jit(ModernBert(cfg, **options).apply)
        return apply.lower({"params": MODERNBERT.network(cfg).shapes()["encoder"]}, np.ones((1, 1024), np.int32)).as_text()

    cfg = dataclasses.replace(TINY, local_attention=128)
    local = dataclasses.replace(cfg, layer_types=(LOCAL,) * 3)
    assert "1024x1024" not in lowered(local)
    assert "1024x1024" in lowered(cfg) and "1024x1024" in lowered(local, banded=False)


def restated(cfg, params, tokens):
    """The encoder on one unpadded sequence, in float64 numpy, from the formulas of the paper."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in names.flatten(params).items()}
    length, size = len(tokens), cfg.head_size
    erf = np.vectorize(math.erf)

    def norm(x, scale):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + cfg.norm_eps) * scale

    def turn(x, theta):                                                     # L N H as complex numbers
        angle = np.arange(length)[:, None, None] * theta ** (-2 * np.arange(size // 2) / size)
        z = (x[..., : size // 2] + 1j * x[..., size // 2:]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag], -1)

    x = norm(p["embeddings/word_embeddings/embedding"][tokens], p["embeddings/norm/scale"])
    away = np.abs(np.arange(length)[:, None] - np.arange(length))
    for i, kind in enumerate(cfg.kinds):
        get = (lambda path: p[f"first/{path}"]) if i == 0 else lambda path, i=i: p[f"layers/{path}"][i - 1]
        y = x if i == 0 else norm(x, get("attention_norm/scale"))
        q, k, v = np.einsum("ld,dsnh->slnh", y, get("attention/qkv/kernel"))
        scores = np.einsum("qnh,knh->nqk", turn(q, cfg.theta(kind)), turn(k, cfg.theta(kind))) / math.sqrt(size)
        scores[:, (away > cfg.local_attention // 2) & (kind == LOCAL)] = -np.inf
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        x = x + np.einsum("nqk,knh,nhd->qd", probs, v, get("attention/out/kernel"))
        a, g = np.einsum("ld,dsf->slf", norm(x, get("ffn_norm/scale")), get("ffn/up/kernel"))
        x = x + (a * (1 + erf(a / math.sqrt(2))) / 2 * g) @ get("ffn/down/kernel")
    return norm(x, p["final_norm/scale"])


@pytest.mark.parametrize("given", [False, True], ids=["positions by number", "positions given"])
def test_packed_rows_match_the_formulas_of_each_sequence(given):
    """HF pads where the paper unpads: the reference is each sequence on its own, restated."""
    cfg = dataclasses.replace(TINY, local_attention=8, num_hidden_layers=5)
    params, lengths = random_params(cfg), (13, 1, 21, 9)
    tokens = [ids(cfg, 1, n, seed)[0] for seed, n in enumerate(lengths)]
    row, mask = np.zeros((1, 50), np.int32), np.zeros((1, 50), np.int32)
    row[0, :44], mask[0, :44] = np.concatenate(tokens), np.repeat([1, 2, 3, 4], lengths)
    where = {"position_ids": np.pad(np.concatenate([np.arange(n) for n in lengths]), (0, 6))[None]} if given else {}
    out = np.asarray(ModernBert(cfg).apply({"params": params}, row, mask, **where))[0]
    for start, sequence in zip(np.cumsum((0, *lengths)), tokens, strict=False):
        np.testing.assert_allclose(out[start:start + len(sequence)], restated(cfg, params, sequence), atol=2e-5)


@pytest.mark.parametrize("layers,every", [(1, 3), (2, 1), (5, 7), (7, 3), (8, 3), (6, 2), (9, 4)])
def test_any_depth_and_period(layers, every):
    """The scan over periods equals the layers one after another, and the table covers every leaf."""
    cfg = dataclasses.replace(TINY, num_hidden_layers=layers, global_attn_every_n_layers=every)
    assert cfg.kinds == tuple(GLOBAL if i % every == 0 else LOCAL for i in range(layers))
    params, batch = random_params(cfg), ids(cfg, 2, 19)
    out, sown = jax.jit(lambda p: ModernBert(cfg).apply({"params": p}, batch, mutable=["intermediates"]))(params)
    hidden, attentions = MODERNBERT.traced(sown["intermediates"])
    mask, places = np.ones_like(batch), np.broadcast_to(np.arange(19), (2, 19))
    views = {kind: View(local_mask(mask, cfg.reach if kind == LOCAL else 19, None),
                        *rotary(places, cfg.head_size, cfg.theta(kind))) for kind in (GLOBAL, LOCAL)}
    x = hidden[0]
    for i, kind in enumerate(cfg.kinds):
        own = params["first"] if i == 0 else jax.tree.map(lambda leaf, i=i: leaf[i - 1], params["layers"])
        x = Layer(cfg, kind, first=i == 0).apply({"params": own}, x, views)
        if i + 1 < layers:
            np.testing.assert_allclose(hidden[i + 1], x, atol=2e-6 * np.abs(x).max(), err_msg=f"layer {i}")
    assert len(hidden) == layers + 1 and len(attentions) == layers
    np.testing.assert_array_equal(hidden[-1], out)
    tensors = names.write(MODERNBERT.names(cfg), names.flatten(params))
    assert len(tensors) == 3 + 6 * layers - 1 and "layers.0.attn_norm.weight" not in tensors


@pytest.mark.parametrize("kinds,period", [("a", 1), ("aaaa", 1), ("llgllg", 3), ("llgll", 3), ("lglgl", 2), ("llll" + "g", 5)])
def test_shortest_period(kinds, period):
    assert shortest_period(kinds) == period


def test_token_types_change_nothing():
    batch = ids(TINY, 2, 9)
    params = {"params": random_params(TINY)}
    np.testing.assert_array_equal(ModernBert(TINY).apply(params, batch, token_type_ids=np.ones_like(batch)),
                                  ModernBert(TINY).apply(params, batch))


def test_poolings():
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 5)), jnp.float32)
    mask = np.array([[1] * 6, [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0] * 6], np.int32)
    np.testing.assert_array_equal(pool(hidden, mask, "cls")[:3], hidden[np.arange(3), [0, 0, 2]])
    np.testing.assert_array_equal(pool(hidden, None, "cls"), hidden[:, 0])
    want = [hidden[0].mean(0), hidden[1, :3].mean(0), hidden[2, 2:].mean(0), np.zeros(5)]
    np.testing.assert_allclose(pool(hidden, mask, "mean"), want, atol=1e-6)
    np.testing.assert_allclose(pool(hidden, 3 * mask, "mean"), want, atol=1e-6)       # packed numbers are no weights
    np.testing.assert_allclose(pool(hidden, None, "mean"), hidden.mean(1), atol=1e-6)


HUB = {"model_type": "modernbert", "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152,
       "num_hidden_layers": 22, "num_attention_heads": 12, "classifier_pooling": "mean", "pad_token_id": 50283,
       "cls_token_id": 50281, "reference_compile": True, "position_embedding_type": "absolute", "layer_norm_eps": 1e-5}
OLD = {**HUB, "global_attn_every_n_layers": 3, "local_attention": 128, "global_rope_theta": 160000.0,
       "local_rope_theta": 10000.0}


def new_style(kinds, far=160000.0, near=10000.0, **fields):
    return {**HUB, "num_hidden_layers": len(kinds), "layer_types": list(kinds), "rope_parameters": {
        GLOBAL: {"rope_type": "default", "rope_theta": far}, LOCAL: {"rope_type": "default", "rope_theta": near}}, **fields}


def test_old_and_new_files_give_one_config():
    base = MODERNBERT.sizes["ModernBERT-base"]
    assert ModernBertConfig.from_json(OLD) == (base, [])
    assert ModernBertConfig.from_json(new_style(base.kinds)) == (base, [])
    assert ModernBertConfig.from_json(base.to_json()) == (base, [])
    assert ModernBertConfig.from_json({**OLD, "sliding_window": 32})[0].local_attention == 64
    assert ModernBertConfig.from_json({**OLD, "local_rope_theta": None})[0].theta(LOCAL) == 160000.0
    assert ModernBertConfig.from_json({**OLD, "position_embedding_type": "sans_pos"})[0] == base


@pytest.mark.parametrize("kinds", [(LOCAL, GLOBAL, GLOBAL), (LOCAL,), (GLOBAL,), (GLOBAL, GLOBAL), (GLOBAL, LOCAL, LOCAL),
                                   (GLOBAL, LOCAL, LOCAL, GLOBAL, LOCAL), (GLOBAL, LOCAL, GLOBAL, GLOBAL)])
def test_any_pattern_of_layers_comes_back(kinds):
    config, unknown = ModernBertConfig.from_json(new_style(kinds, 5e5, 2e4))
    assert not unknown and config.kinds == kinds and (config.theta(GLOBAL), config.theta(LOCAL)) == (5e5, 2e4)
    written = json.loads(json.dumps(config.to_json()))
    assert ModernBertConfig.from_json(written) == (config, [])
    regular = kinds[0] == GLOBAL and kinds != (GLOBAL, LOCAL, GLOBAL, GLOBAL)
    assert ("global_attn_every_n_layers" in written) == regular


@pytest.mark.peers
@pytest.mark.parametrize("kinds", [(GLOBAL, LOCAL, LOCAL, GLOBAL, LOCAL), (LOCAL, GLOBAL, GLOBAL)])
def test_transformers_reads_the_same_network(kinds, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(TINY, num_hidden_layers=len(kinds), layer_types=kinds, global_rope_theta=5e5,
                                 local_rope_theta=7e3, local_attention=10, classifier_pooling="mean")
    bv.save(bv.new("modernbert", ("classify",), **dataclasses.asdict(config)), tmp_path)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert tuple(theirs.layer_types) == kinds and theirs.sliding_window == 5 and theirs.classifier_pooling == "mean"
    assert [theirs.rope_parameters[kind]["rope_theta"] for kind in (GLOBAL, LOCAL)] == [5e5, 7e3]


@pytest.mark.peers
def test_long_rows_match_transformers(tmp_path):
    """The published window over many blocks, far positions, both thetas."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    cfg = dataclasses.replace(TINY, hidden_size=32, local_attention=128, num_hidden_layers=4, global_attn_every_n_layers=3,
                              max_position_embeddings=1024)
    peer = transformers.ModernBertModel(transformers.ModernBertConfig(
        **{**cfg.to_json(), "layer_types": list(cfg.kinds)}, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1))
    peer.save_pretrained(tmp_path)
    batch, mask = ids(cfg, 2, 700), np.ones((2, 700), np.int32)
    mask[1, 421:] = 0
    with torch.no_grad():
        want = peer(input_ids=torch.tensor(batch).long(), attention_mask=torch.tensor(mask).long())[0].numpy()
    out = bv.load(tmp_path)(input_ids=batch, attention_mask=mask).last_hidden_state
    np.testing.assert_allclose(out[mask > 0], want[mask > 0], atol=5e-5)


@pytest.mark.parametrize("change,said", [
    ({"layer_types": [GLOBAL] * 3}, "layer_types names 3 layers, num_hidden_layers is 22"),
    ({"layer_types": ["chunked_attention"] * 22}, "layer_types holds 'chunked_attention'"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling"),
    ({"rope_parameters": {GLOBAL: {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}}, "rope_scaling"),
    ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0"),
    ({"local_attention": -2}, "local_attention is -2"),
    ({"classifier_pooling": "max"}, "classifier_pooling is 'max'"),
    ({"num_attention_heads": 7}, "hidden_size 768 does not cut into 7"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_not_supported_is_said_by_name(change, said):
    with pytest.raises(ValueError, match=said):
        ModernBertConfig.from_json({**OLD, **change})
