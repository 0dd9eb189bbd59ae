"""XLNet beyond the generic loops: distances, two streams without leaks, memory, and the original's checkpoints."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.models.variant import Encoded
from bertvariants_jax.models.xlnet import DUMMY, HEADS, XLNET, Targets, XLNetConfig, shift
from bertvariants_jax.objectives.finetune import beam_extraction


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def network_of(heads=(), **options):
    network = XLNET.network(dataclasses.replace(DUMMY, **options), heads)
    leaves, tree = jax.tree.flatten(network.shapes())
    rng = np.random.default_rng(0)
    return network, jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=leaf.shape) * 0.3, leaf.dtype)
                                              for leaf in leaves])


def encode(network, params, **batch):
    """Jitted: (last hidden state, memory)."""
    encoded = jax.jit(lambda p, b: network.encode(p, b, remember=True))(params, batch)
    return encoded.last_hidden_state, encoded.mems


def ids_of(rows=2, length=7, seed=0):
    return np.random.default_rng(seed).integers(9, DUMMY.vocab_size, (rows, length)).astype(np.int32)


# The paper's formulas in float64 numpy, with no shift: every distance by itself


def restated(cfg, params, ids, segments=None, real=None, perm=None, mems=None, places=None):
    """Last state of the content stream, or of the query stream at `places` int [B, P], and the layers' inputs."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["encoder"])
    (rows, length), width, size = ids.shape, cfg.d_model, cfg.head_size
    past = 0 if mems is None else mems.shape[2]
    out, inputs = [], []
    for b in range(rows):
        i, j = np.arange(length)[:, None] + past, np.arange(past + length)[None]
        blocked = np.zeros((length, past + length), bool)
        if real is not None:
            blocked[:, past:] |= ~real[b][None]
        if perm is not None:
            blocked[:, past:] |= perm[b] > 0
        if cfg.attn_type == "uni":
            blocked |= j > i
            if cfg.same_length:
                blocked |= j < i - past
        distance = (i - j) * 1.0
        if cfg.clamp_len > 0:
            distance = distance.clip(-cfg.clamp_len, cfg.clamp_len)
        if cfg.bi_data and b >= rows // 2:
            distance = -distance
        angle = distance[..., None] / 10000 ** (np.arange(0, width, 2) / width)
        table = np.concatenate([np.sin(angle), np.cos(angle)], -1)                           # L K D
        differs = np.zeros((length, past + length), int)
        if segments is not None:
            differs = (segments[b][:, None] != np.concatenate([np.zeros(past, int), segments[b]])[None]).astype(int)
        streams = [p["word_embeddings"]["embedding"][ids[b]]]
        if places is not None:
            streams.append(np.tile(p["mask_emb"], (places.shape[1], 1)))
        of_layers = []
        for layer in range(cfg.n_layer):
            w = jax.tree.map(lambda x, layer=layer: x[layer], p["layers"])
            a = w["attention"]
            of_layers.append(streams[0])
            seen = streams[0] if mems is None else np.concatenate([mems[layer, b], streams[0]])
            k, v = (np.einsum("kd,dnh->knh", seen, a[name]["kernel"]) for name in ("key", "value"))
            r_w, r_r, r_s = ((a if cfg.untie_r else p)[name] for name in ("r_w_bias", "r_r_bias", "r_s_bias"))
            after = []
            for stream, x in enumerate(streams):
                at = np.arange(length) if stream == 0 else places[b]
                hidden = blocked[at] & ~((at[:, None] + past == j) & (stream == 0))
                q = np.einsum("qd,dnh->qnh", x, a["query"]["kernel"])
                score = np.einsum("qnh,knh->nqk", q + r_w, k)
                score += np.einsum("qnh,qknh->nqk", q + r_r, np.einsum("qkd,dnh->qknh", table[at], a["position"]["kernel"]))
                score += np.einsum("qnh,qknh->nqk", q + r_s, a["seg_embed"][differs[at]])
                score = np.where(hidden, -1e30, score / np.sqrt(size))
                probs = np.exp(score - score.max(-1, keepdims=True))
                probs /= probs.sum(-1, keepdims=True)
                y = np.einsum("nqk,knh,nhd->qd", probs, v, a["out"]["kernel"])
                x = normed(x + y, w["attention_norm"], cfg)
                y = gelu(x @ w["ffn"]["up"]["kernel"] + w["ffn"]["up"]["bias"])
                after.append(normed(x + y @ w["ffn"]["down"]["kernel"] + w["ffn"]["down"]["bias"], w["ffn_norm"], cfg))
            streams = after
        out.append(streams[-1])
        inputs.append(of_layers)
    return np.array(out), np.swapaxes(np.array(inputs), 0, 1)


def normed(x, norm, cfg):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + cfg.layer_norm_eps) * norm["scale"] + norm["bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


@pytest.mark.parametrize("options", [
    {"n_layer": 2}, {"attn_type": "uni", "n_layer": 2, "untie_r": False},
    {"attn_type": "uni", "same_length": True, "clamp_len": 4, "n_layer": 1}, {"bi_data": True, "clamp_len": 3, "n_layer": 2},
], ids=str)
@pytest.mark.parametrize("past", [0, 5])
def test_the_formulas_restated(options, past):
    """Both streams, with padding, segments, memory and an order of factorisation, all at once."""
    network, params = network_of(**options)
    rng = np.random.default_rng(1)
    ids, segments = ids_of(2, 7), rng.integers(0, 3, (2, 7)).astype(np.int32)
    real = np.array([[1] * 7, [0, 0] + [1] * 5], bool)
    perm, places = orders(rng, 2, 7), np.array([[6, 3, 4], [5, 6, 2]], np.int32)
    mems = rng.normal(size=(network.config.n_layer, 2, past, 24)) if past else None
    batch = {"input_ids": ids, "token_type_ids": segments, "attention_mask": real.astype(np.int32), "perm_mask": perm}
    if past:
        batch["mems"] = mems.astype(np.float32)
    want, inputs = restated(network.config, params, ids, segments, real, perm, mems)
    got, after = encode(network, params, **batch)
    np.testing.assert_allclose(got, want, atol=5e-6)
    np.testing.assert_allclose(after, inputs if mems is None else np.concatenate([mems, inputs], 2), atol=5e-6)
    want, _ = restated(network.config, params, ids, segments, real, perm, mems, places)
    for mapping in (np.eye(7, dtype=np.float32)[places], places):
        got, after = encode(network, params, **batch, target_mapping=mapping)
        np.testing.assert_allclose(got, want, atol=5e-6)
        np.testing.assert_allclose(after[:, :, past:], inputs, atol=5e-6)   # the memory is of the content stream


def orders(rng, rows, length):
    """perm_mask of a random order per row: 1 where the key does not come before the query."""
    rank = np.argsort(rng.normal(size=(rows, length)), axis=1)
    return (rank[:, None, :] >= rank[:, :, None]).astype(np.float32)


def test_shift_is_the_closed_form():
    """D13: the query at place i and the key j (of M + L) get the column of distance M + i - j."""
    rng = np.random.default_rng(0)
    length, past = 5, 3
    keys = length + past
    raw = rng.normal(size=(2, 2, length + 2, keys + length)).astype(np.float32)
    place = np.array([[4, 0], [2, 2]])
    got = np.asarray(shift(jnp.asarray(raw), keys, Targets(jnp.asarray(place), jnp.ones((2, 2), bool))))
    for b in range(2):
        for q, i in enumerate([*range(length), *place[b]]):
            for j in range(keys):
                np.testing.assert_array_equal(got[b, :, q, j], raw[b, :, q, keys - (past + i - j)])
    np.testing.assert_array_equal(shift(jnp.asarray(raw[:, :, :length]), keys, None), got[:, :, :length])


def test_the_content_stream_always_sees_itself_and_the_query_stream_never():
    """D16: with everything blocked h attends to itself alone; g attends to nobody in particular."""
    network, params = network_of(n_layer=1)
    ids = ids_of(1, 5)
    batch = {"input_ids": ids, "perm_mask": np.ones((1, 5, 5), np.float32), "target_mapping": np.array([[2, 4]], np.int32)}
    _, states, attentions = jax.jit(network.trace)(params, batch)
    content, query = attentions[0]
    np.testing.assert_array_equal(content[0], np.broadcast_to(np.eye(5), (3, 5, 5)))
    np.testing.assert_allclose(query, 0.2, atol=1e-7)
    assert all(np.isfinite(state).all() for state in states)


def test_only_same_or_different_segment_counts():
    """D17: renaming the segments changes nothing; the memory is of segment 0; no ids is one segment."""
    network, params = network_of()
    ids, segments = ids_of(), np.array([[0, 0, 0, 1, 1, 1, 2]] * 2, np.int32)
    base, mems = encode(network, params, input_ids=ids, token_type_ids=segments)
    renamed, _ = encode(network, params, input_ids=ids, token_type_ids=np.array([1, 0, 3], np.int32)[segments])
    np.testing.assert_array_equal(base, renamed)
    assert not np.allclose(base, encode(network, params, input_ids=ids)[0], atol=1e-3)
    np.testing.assert_allclose(encode(network, params, input_ids=ids)[0],
                               encode(network, params, input_ids=ids, token_type_ids=np.zeros_like(ids))[0], atol=3e-6)
    zeros, ones = (encode(network, params, input_ids=ids, token_type_ids=np.full_like(ids, n), mems=mems)[0] for n in (0, 1))
    assert not np.allclose(zeros, ones, atol=1e-3)


def test_no_leak_of_targets():
    """D18: the gradient of the state at the t-th place of the order, with respect to the embeddings of that
    place and of all after it, is exactly 0; that of all before it is not. (The first sees nobody, so it is
    no target: a query that sees nobody averages over all, here as in the original.)"""
    network, params = network_of()
    length, rng = 9, np.random.default_rng(2)
    ids = np.arange(9, 9 + length, dtype=np.int32)[None]                      # each token once: a row of the table is a place
    order = rng.permutation(length)
    rank = np.argsort(order)
    batch = {"input_ids": ids, "perm_mask": (rank[None, None, :] >= rank[None, :, None]).astype(np.float32),
             "target_mapping": np.arange(length, dtype=np.int32)[None]}

    def state(table, place):
        encoder = {**params["encoder"], "word_embeddings": {"embedding": table}}
        return jnp.sum(jnp.sin(network.encode({"encoder": encoder}, batch).last_hidden_state[0, place]))

    gradient = jax.jit(jax.vmap(jax.grad(state), (None, 0)))(
        params["encoder"]["word_embeddings"]["embedding"], np.arange(length))[:, 9:9 + length]
    reached = np.abs(np.asarray(gradient)).max(-1)                            # target place, embedding's place
    sees, reached = (rank[None, :] < rank[:, None])[rank > 0], reached[rank > 0]
    assert (reached[~sees] == 0).all() and (reached[sees] > 1e-4).all()


def test_memory_is_the_last_inputs_without_gradient():
    """D19: each layer's input before the layer, reuse_len first places of each call, the last mem_len of all."""
    network, params = network_of(mem_len=5, reuse_len=4)
    first, second = ids_of(2, 7), ids_of(2, 7, 1)
    _, mems = encode(network, params, input_ids=first)
    assert mems.shape == (3, 2, 4, 24)
    np.testing.assert_array_equal(mems[0], np.asarray(params["encoder"]["word_embeddings"]["embedding"])[first[:, :4]])
    _, states, _ = network.trace(params, {"input_ids": first})
    np.testing.assert_allclose(mems, np.stack(states[:3])[:, :, :4], atol=1e-6)
    _, again = encode(network, params, input_ids=second, mems=mems)
    assert again.shape == (3, 2, 5, 24)
    np.testing.assert_array_equal(again[:, :, 0], mems[:, :, 3])
    np.testing.assert_array_equal(again[0, :, 1:], np.asarray(params["encoder"]["word_embeddings"]["embedding"])[second[:, :4]])

    def through_memory(p):
        return jnp.sum(network.encode(p, {"input_ids": first}, remember=True).mems ** 2)

    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(through_memory))(params)))


@pytest.mark.parametrize("untie_r", [True, False])
def test_reading_in_parts_is_reading_at_once(untie_r):
    """With causal attention a text cut in three with memory gives the states of the whole text."""
    network, params = network_of(attn_type="uni", untie_r=untie_r)
    ids = ids_of(2, 12)
    whole, parts, mems = encode(network, params, input_ids=ids)[0], [], None
    for part in np.split(ids, 3, axis=1):
        state, mems = encode(network, params, input_ids=part, **({} if mems is None else {"mems": mems}))
        parts.append(state)
    assert mems.shape[2] == 12
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=5e-6)


def test_memory_belongs_to_the_first_packed_sequence():
    network, params = network_of()
    a, b = ids_of(1, 4), ids_of(1, 5, 1)
    mems = np.random.default_rng(3).normal(size=(3, 1, 6, 24)).astype(np.float32)
    packed, _ = encode(network, params, input_ids=np.concatenate([a, b], 1), mems=mems,
                       attention_mask=np.array([[1] * 4 + [2] * 5], np.int32))
    np.testing.assert_allclose(packed[:, :4], encode(network, params, input_ids=a, mems=mems)[0], atol=3e-6)
    np.testing.assert_allclose(packed[:, 4:], encode(network, params, input_ids=b)[0], atol=3e-6)


def test_targets_are_computed_alone_and_empty_slots_are_harmless():
    """A slot's state does not depend on the other slots; the query stream costs P queries, not L."""
    network, params = network_of()
    ids, perm = ids_of(2, 9), orders(np.random.default_rng(5), 2, 9)
    few = {"input_ids": ids, "perm_mask": perm, "target_mapping": np.array([[3, -1, 7], [0, 5, -1]], np.int32)}
    every = {**few, "target_mapping": np.tile(np.arange(9, dtype=np.int32), (2, 1))}
    got, want = encode(network, params, **few)[0], encode(network, params, **every)[0]
    assert got.shape == (2, 3, 24) and np.isfinite(got).all()
    np.testing.assert_allclose(got[0, [0, 2]], want[0, [3, 7]], atol=3e-6)
    np.testing.assert_allclose(got[1, [0, 1]], want[1, [0, 5]], atol=3e-6)
    zeros = np.zeros((2, 3, 9), np.float32)
    zeros[0, 0, 3] = zeros[0, 2, 7] = zeros[1, 0, 0] = zeros[1, 1, 5] = 1
    np.testing.assert_allclose(encode(network, params, **{**few, "target_mapping": zeros})[0], got, atol=1e-6)


def test_the_summary_is_the_last_real_token():
    """C7: whichever side the padding stands on."""
    network, params = network_of(("classify",))
    tokens = ids_of(1, 6)[0]
    scores = []
    for before, after in ((0, 0), (3, 0), (0, 3)):
        ids = np.pad(tokens, (before, after), constant_values=5)[None]
        mask = np.pad(np.ones(6, np.int32), (before, after))[None]
        scores.append(network.scores(params, "classify", {"input_ids": ids, "attention_mask": mask}))
    np.testing.assert_allclose(scores[1], scores[0], atol=3e-6)
    np.testing.assert_allclose(scores[2], scores[0], atol=3e-6)


def test_beam_head():
    """The end is scored given each start; the barred places never answer; the true start gives end_logits."""
    network, params = network_of(("beam",))
    batch = {"input_ids": ids_of(2, 9), "attention_mask": np.array([[1] * 9, [0] * 3 + [1] * 6], np.int32)}
    barred = np.array([[0, 1, 0, 1, 0, 1, 0, 0, 0]] * 2, np.float32)
    out = network.scores(params, "beam", {**batch, "p_mask": barred})
    assert out.start_top_index.shape == (2, 3) and out.end_top_index.shape == (2, 3, 4) and out.end_logits is None
    possible = (barred == 0) & (batch["attention_mask"] > 0)
    chosen = np.take_along_axis(possible, np.asarray(out.start_top_index), 1)
    assert (np.asarray(out.start_top_probs)[~chosen] == 0).all() and (np.asarray(out.start_logits)[~possible] == -1e30).all()
    for start in range(3):
        given = network.scores(params, "beam", {**batch, "p_mask": barred, "start_positions": out.start_top_index[:, start]})
        probs = jax.nn.softmax(given.end_logits)
        np.testing.assert_allclose(np.sort(probs, axis=1)[:, :-5:-1], out.end_top_probs[:, start], atol=1e-6)
        np.testing.assert_allclose(given.cls_logits, out.cls_logits, atol=1e-6)
    moved = network.scores(params, "beam", {**batch, "p_mask": barred, "cls_index": np.array([4, 5], np.int32)})
    assert not np.allclose(moved.cls_logits, out.cls_logits)
    same = network.scores(params, "beam", {**batch, "p_mask": barred, "cls_index": np.array([8, 8], np.int32)})
    np.testing.assert_allclose(same.cls_logits, out.cls_logits, atol=1e-6)


def test_beam_objective():
    """Start and end as HF weighs them, the answer class by half; twenty steps of descent learn four questions."""
    network, _ = network_of(("beam",), n_layer=1)
    objective = beam_extraction(network)
    batch = {"input_ids": ids_of(4, 9), "attention_mask": np.ones((4, 9), np.int32),
             "p_mask": np.array([[1, 1, 0, 0, 0, 0, 0, 1, 0]] * 4, np.int32),
             "start_positions": np.array([2, 4, 8, 3], np.int32), "end_positions": np.array([3, 6, 8, 3], np.int32),
             "is_impossible": np.array([0, 0, 1, 0], np.int32)}

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        sums, weights = objective.loss(params, batch, None).sums, objective.weights(batch)
        return sum(objective.scales[k] * sums[k] / weights[k] for k in sums)

    params = objective.init(jax.random.key(0))
    out = network.scores(params, "beam", batch)
    want = (-np.take_along_axis(np.asarray(jax.nn.log_softmax(out.start_logits)), batch["start_positions"][:, None], 1)
            - np.take_along_axis(np.asarray(jax.nn.log_softmax(out.end_logits)), batch["end_positions"][:, None], 1)).mean() / 2
    impossible = 1 / (1 + np.exp(-np.asarray(out.cls_logits)))
    want += 0.5 * -np.log(np.where(batch["is_impossible"], impossible, 1 - impossible)).mean()
    first = loss(params)[0]
    np.testing.assert_allclose(first, want, rtol=1e-5)
    for _ in range(60):
        value, gradient = loss(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
    assert value < first / 2
    predicted = objective.predict(params, batch)
    assert set(predicted) == {"start_logits", "start_top_probs", "start_top_index", "end_top_probs", "end_top_index",
                              "cls_logits"}


def test_summaries_with_and_without_a_mask():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    head = HEADS["classify"]
    for kind in ("last", "first", "mean", "cls_index"):
        cfg = dataclasses.replace(DUMMY, d_model=4, n_head=1, summary_type=kind, summary_use_proj=False,
                                  summary_activation=None)
        module = head.module(cfg, network_of()[0].compute)
        kernel = {"params": {"dense": {"kernel": jnp.eye(4)[:, :2], "bias": jnp.zeros(2)}}}
        want = {"first": x[:, 0], "mean": x.mean(1)}.get(kind, x[:, 2])[:, :2]
        np.testing.assert_array_equal(module.apply(kernel, Encoded(x)), want)


@pytest.mark.parametrize("options,message", [
    ({"d_head": 7}, "d_head 7 is not d_model / n_head = 8"), ({"n_head": 5}, "not an even multiple of n_head 5"),
    ({"attn_type": "tri"}, "'bi' or 'uni'"), ({"summary_type": "attn"}, "summary_type 'attn' is not supported"),
    ({"summary_proj_to_labels": True}, "summary_proj_to_labels"),
], ids=str)
def test_config_faults_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        XLNetConfig.from_json({**DUMMY.to_json(), **options})


def test_mems_of_another_shape_are_refused():
    network, params = network_of()
    with pytest.raises(ValueError, match=r"expected \[3 layers, batch 2, places, 24\]"):
        network.encode(params, {"input_ids": ids_of(), "mems": np.zeros((3, 5, 2, 24), np.float32)})
    checkpoint = bv.new("bert-tiny", tokenizer=None, vocab_size=61)
    with pytest.raises(ValueError, match="no memory"):
        checkpoint(input_ids=ids_of(), use_mems=True)


# Files: the original's checkpoints, and biases that all layers share


@pytest.mark.parametrize("name", ["empty", "tune"])
def test_tf1_checkpoints_give_the_expected_outputs(shared_data, name, tmp_path):
    """Arrays of another implementation's tests, held there to 1e-6 (causal attention)."""
    folder = shared_data / "ckpt_fixtures" / f"tf1_xlnet_{name}"
    checkpoint = bv.load(folder)
    assert checkpoint.variant == "xlnet" and checkpoint.config.untie_r is (name == "tune")
    assert checkpoint.report.fresh == ("encoder/mask_emb",) and not checkpoint.report.ignored
    assert len(checkpoint.report.used) == 31
    bv.save(checkpoint, tmp_path)
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    inputs = {"input_ids": arrays["input_ids"], "token_type_ids": arrays["seg_ids"]}
    if name == "tune":
        inputs["mems"] = [arrays["mems_0"].astype(np.float32), arrays["mems_1"].astype(np.float32)]
    for loaded in (checkpoint, bv.load(tmp_path)):
        out = loaded.with_heads(attn_type="uni", mem_len=5)(use_mems=True, **inputs)
        np.testing.assert_allclose(out.last_hidden_state, arrays[f"{name}_output"], atol=1e-6)
        for layer in range(2) if name == "tune" else ():
            np.testing.assert_allclose(out.mems[layer], arrays[f"tune_new_mems_{layer}"], atol=1e-6)


def test_shared_biases_are_one_leaf_and_every_layers_tensor(tmp_path):
    from safetensors.numpy import load_file, save_file

    checkpoint = bv.new("xlnet-base-cased", **{f.name: getattr(DUMMY, f.name) for f in dataclasses.fields(DUMMY)
                                               if f.name != "untie_r"}, untie_r=False)
    assert checkpoint.params["encoder"]["r_w_bias"].shape == (3, 8)
    bv.save(checkpoint, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(3):
        np.testing.assert_array_equal(tensors[f"layer.{layer}.rel_attn.r_w_bias"], checkpoint.params["encoder"]["r_w_bias"])
    again = bv.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.params, checkpoint.params)
    tensors["layer.1.rel_attn.r_w_bias"] += 1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layer\.0\.rel_attn\.r_w_bias and its copies .* should be one tensor but differ"):
        bv.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "untie_r": True}))
    assert bv.load(tmp_path).params["encoder"]["layers"]["attention"]["r_w_bias"].shape == (3, 3, 8)


# Live transformers, for what the loop over heads does not call


@pytest.mark.peers
@pytest.mark.parametrize("options,past", [
    ({}, 0), ({}, 5), ({"bi_data": True, "clamp_len": 4, "mem_len": 6, "reuse_len": 3}, 4),
    ({"attn_type": "uni", "same_length": True}, 6), ({"untie_r": False}, 3),
], ids=str)
def test_two_streams_and_memory_beside_transformers(options, past, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.XLNetConfig(vocab_size=61, d_model=24, n_layer=3, n_head=3, d_inner=40, **{"mem_len": None, **options})
    torch.manual_seed(0)
    peer = transformers.XLNetModel(config).eval()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        if options.get("untie_r") is False:
            for layer in peer.layer[1:]:
                for bias in ("r_w_bias", "r_r_bias", "r_s_bias"):
                    getattr(layer.rel_attn, bias).copy_(getattr(peer.layer[0].rel_attn, bias))
    peer.save_pretrained(tmp_path)
    checkpoint = bv.load(tmp_path)
    rng = np.random.default_rng(0)
    rows, length = 2, 9
    batch = {"input_ids": ids_of(rows, length), "token_type_ids": rng.integers(0, 3, (rows, length)),
             "perm_mask": orders(rng, rows, length)}
    mapping = np.zeros((rows, 4, length), np.float32)
    mapping[0, [0, 1, 2], [8, 3, 0]] = mapping[1, [0, 1, 2, 3], [1, 7, 2, 8]] = 1                # one slot is empty
    batch["target_mapping"] = mapping
    if options.get("attn_type") != "uni":                # HF adds a mask of several rows to one of one row, in place
        batch["attention_mask"] = np.array([[1] * length, [0, 0] + [1] * 7])
    else:
        rows, batch = 1, {k: v[:1] for k, v in batch.items()}
    mems = rng.normal(size=(3, rows, past, 24)).astype(np.float32)
    inputs = {k: torch.tensor(v) for k, v in batch.items()}
    if past:
        batch["mems"], inputs["mems"] = mems, [torch.tensor(m).transpose(0, 1) for m in mems]
    theirs = peer(**inputs, output_hidden_states=True, output_attentions=True, use_mems=True)
    mine = checkpoint(**batch, output_hidden_states=True, output_attentions=True, use_mems=True)
    seen = np.asarray(batch.get("attention_mask", np.ones((rows, length)))) > 0
    places = mapping[:rows].argmax(-1)
    np.testing.assert_allclose(mine.last_hidden_state, theirs.last_hidden_state.detach(), atol=2e-5)
    np.testing.assert_allclose(checkpoint(**batch).last_hidden_state, mine.last_hidden_state, atol=1e-5)
    for layer in range(3):
        np.testing.assert_allclose(mine.mems[layer], theirs.mems[layer].transpose(0, 1), atol=2e-5)
    assert len(mine.hidden_states) == len(theirs.hidden_states) == 8
    for i, (a, b) in enumerate(zip(mine.hidden_states, theirs.hidden_states, strict=True)):
        keep = seen if i % 2 == 0 else np.ones(a.shape[:2], bool)
        np.testing.assert_allclose(np.asarray(a)[keep], b.detach().numpy()[keep], atol=2e-5)
    for (content, query), (h, g) in zip(mine.attentions, theirs.attentions, strict=True):
        np.testing.assert_allclose(np.swapaxes(content, 1, 2)[seen], h.detach().numpy().swapaxes(1, 2)[seen], atol=2e-5)
        at = np.take_along_axis(g.detach().numpy(), places[:, None, :, None], 2)
        used = mapping[:rows].any(-1)
        np.testing.assert_allclose(np.swapaxes(query, 1, 2)[used], at.swapaxes(1, 2)[used], atol=2e-5)
    weights = rng.normal(size=mine.last_hidden_state.shape).astype(np.float32)
    gradients = jax.jit(jax.grad(lambda p: jnp.sum(checkpoint.network.encode(p, {
        k: jnp.asarray(v) for k, v in batch.items()}).last_hidden_state * weights)))(checkpoint.params)
    (theirs.last_hidden_state * torch.tensor(weights)).sum().backward()
    tied = options.get("untie_r") is False
    for row in checkpoint.network.rows(False)["encoder"]:
        leaf = gradients["encoder"]
        for key in row.path.split("/"):
            leaf = leaf[key]
        own = [peer.get_parameter(name).grad.numpy() for name in row.tensors]
        expected = sum(own) if row.shared and tied else np.stack(own) if not row.whole else own[0]
        got = np.stack([row.transform.write(part) for part in leaf]) if not row.whole else row.transform.write(np.asarray(leaf))
        assert np.linalg.norm(got - expected) <= 1e-4 * np.linalg.norm(expected), row.path


@pytest.mark.peers
def test_transformers_opens_what_a_tf1_checkpoint_became(shared_data, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    bv.save(bv.load(shared_data / "ckpt_fixtures" / "tf1_xlnet_tune"), tmp_path)
    peer, report = transformers.XLNetModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    ids = np.random.default_rng(0).integers(0, 31, (2, 8))
    with torch.no_grad():
        want = peer.eval()(torch.tensor(ids)).last_hidden_state
    np.testing.assert_allclose(bv.load(tmp_path)(input_ids=ids).last_hidden_state, want, atol=2e-5)
