"""Permutation LM: masks against a restatement, no leak, the loss by hand and by transformers, memory from step to step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertvariants_jax.data.corpus import Corpus
from bertvariants_jax.data.permutation import permute_tokens
from bertvariants_jax.data.pipeline import pipeline
from bertvariants_jax.data.streams import streams
from bertvariants_jax.hf.checkpoint import Checkpoint, save
from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.objectives.plm import hidden, permutation_lm
from bertvariants_jax.training.checkpoints import Checkpoints
from bertvariants_jax.training.optimizer import Optim, build
from bertvariants_jax.training.sharding import Mesh, make_mesh
from bertvariants_jax.training.step import under_jit, under_pmap

XLNET = VARIANTS["xlnet"]
SEP, CLS, VOCAB = 3, 4, 61
LENGTH, REUSE, PERM, P, MEM = 16, 8, 4, 6, 5


@pytest.fixture(scope="module", autouse=True)
def exact():
    with jax.default_matmul_precision("highest"):
        yield


def network_of(**options):
    return XLNET.network(dataclasses.replace(XLNET.dummy, dropout=0.0, **options), ("mlm",), Compute())


@functools.cache
def fresh(layers):
    """A network, with every parameter drawn wide, so that nothing is nearly 0."""
    network = network_of(n_layer=layers)
    leaves, tree = jax.tree.flatten(network.shapes())
    rng = np.random.default_rng(0)
    return network, jax.tree.unflatten(tree, [jnp.asarray(rng.normal(size=x.shape) * 0.3, x.dtype) for x in leaves])


def masked(ids, backwards=None, seed=0, reuse=REUSE, perm=PERM, p=P):
    """The real procedure over rows of ids."""
    rows = len(ids)
    types = np.where(np.arange(ids.shape[1]) < ids.shape[1] - 4, 0, 1) * np.ones((rows, 1), int)
    batch = {"input_ids": ids.astype(np.int32), "attention_mask": np.ones_like(ids, np.int32),
             "token_type_ids": types.astype(np.int32),
             "backwards": np.zeros(rows, np.int32) if backwards is None else backwards}
    return permute_tokens(batch, np.arange(rows), np.zeros(rows, int), seed=seed, functional=(SEP, CLS), reuse_len=reuse,
                          starts_word=np.arange(VOCAB) % 4 != 1, perm_size=perm, num_predict=p)


def batch_of(rows=4, seed=0, **options):
    ids = np.random.default_rng(seed).integers(5, VOCAB, (rows, LENGTH))
    ids[:, [11, 14]], ids[:, 15] = SEP, CLS
    return masked(ids, (np.arange(rows) >= rows // 2).astype(np.int32), seed, **options)


def literal_mask(length, index, is_target, functional):
    """`_local_perm` of one part: 1 where the token (row) must not see the other (column)."""
    normal = [not is_target[i] and not functional[i] for i in range(length)]
    order = [-1 if normal[i] else index[i] for i in range(length)]
    predicted = [is_target[i] and not functional[i] for i in range(length)]
    own = [order[i] if predicted[i] else order[i] + 1 for i in range(length)]
    return [[int(own[i] <= order[j] and not normal[j]) for j in range(length)] for i in range(length)]


def test_a_mask_written_out():
    """E16: length 8, runs of 4. First part: a, B, c, D with D before B; second: E, f, <sep>, <cls> in the order <cls>,
    E, <sep>. Capitals are targets."""
    order = np.array([[0, 2, 0, 1, 9 + 2, 9, 9 + 3, 9 + 1]])
    got = hidden(order, jnp.array([[1, 3, 4, 0]]), jnp.array([[True, True, True, False]]))[0].astype(int)
    np.testing.assert_array_equal(got, [
        # a  B  c  D  E  f sep cls
        [0, 1, 0, 1, 1, 1, 1, 1],
        [0, 1, 0, 0, 1, 1, 1, 1],
        [0, 1, 0, 1, 1, 1, 1, 1],
        [0, 1, 0, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [0, 0, 0, 0, 1, 0, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0]])
    first = literal_mask(4, [0, 1, 2, 0], [0, 1, 0, 1], [0, 0, 0, 0])
    second = literal_mask(4, [2, 0, 3, 1], [1, 0, 0, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(got[:4, :4], first)
    np.testing.assert_array_equal(got[4:, 4:], second)


@pytest.mark.parametrize("length,reuse,perm", [(16, 8, 4), (16, 8, 8), (15, 6, 3), (17, 9, 0)])
def test_masks_equal_the_restatement(length, reuse, perm):
    """Each part for itself; the first sees nothing of the second, the second all of the first."""
    from bertvariants_jax.data.permutation import ranks

    rows, rng = 60, np.random.default_rng(0)
    ids = rng.integers(5, VOCAB, (rows, length))
    ids[np.arange(rows), rng.integers(reuse, length - 2, rows)], ids[:, -2], ids[:, -1] = SEP, SEP, CLS
    batch = masked(ids, reuse=reuse, perm=perm, p=5)
    got = np.asarray(hidden(batch["perm_order"], batch["masked_positions"], batch["masked_weights"] > 0))
    some = {"seed": 0, "epoch": np.zeros(rows, int), "index": np.arange(rows)}
    index = [ranks(n, perm, stream=f"plm/{name} order", **some) for n, name in ((reuse, "first"), (length - reuse, "second"))]
    for row in range(rows):
        target = np.zeros(length, bool)
        target[batch["masked_positions"][row, batch["masked_weights"][row] > 0]] = True
        fixed = np.isin(ids[row], (SEP, CLS))
        want = np.zeros((length, length), int)
        want[:reuse, reuse:] = 1
        for part, which in ((slice(0, reuse), 0), (slice(reuse, length), 1)):
            n = part.stop - part.start
            want[part, part] = literal_mask(n, index[which][row], target[part], fixed[part])
        np.testing.assert_array_equal(got[row], want)


def test_no_target_leaks():
    """The gradient of a target's logits with respect to the embedding of each token that its order hides, its own
    among them, is exactly 0; that of all it sees, the memory included, is not."""
    network, params = fresh(3)
    rng = np.random.default_rng(2)
    ids = np.stack([rng.permutation(np.arange(5, VOCAB))[:LENGTH] for _ in range(2)])    # a row of the table is a place
    ids[:, 14], ids[:, 15] = SEP, CLS
    batch = masked(ids, np.array([0, 1], np.int32))
    mask = np.asarray(hidden(batch["perm_order"], batch["masked_positions"], batch["masked_weights"] > 0))
    mems = rng.normal(size=(3, 2, MEM, 24)).astype(np.float32)
    inputs = {**batch, "perm_mask": mask, "target_mapping": batch["masked_positions"]}

    def logit(table, mems, row, slot):
        encoder = {**params["encoder"], "word_embeddings": {"embedding": table}}
        encoded = network.encode({**params, "encoder": encoder}, {**inputs, "mems": mems})
        encoded = encoded._replace(word_embeddings=params["encoder"]["word_embeddings"]["embedding"])
        return jnp.sum(jnp.sin(network.logits(params, "mlm", encoded)[row, slot]))

    slots = [(row, slot) for row in range(2) for slot in range(P) if batch["masked_weights"][row, slot]]
    rows, columns = (np.array(x) for x in zip(*slots, strict=True))
    by_table, by_memory = jax.jit(jax.vmap(jax.grad(logit, (0, 1)), (None, None, 0, 0)))(
        params["encoder"]["word_embeddings"]["embedding"], mems, rows, columns)
    assert len(slots) >= 10
    for k, (row, slot) in enumerate(slots):
        place = batch["masked_positions"][row, slot]
        reached = np.abs(np.asarray(by_table[k]))[ids[row]].max(-1)
        assert mask[row, place, place] and (reached[mask[row, place]] == 0).all(), (row, place)
        assert (reached[~mask[row, place]] > 1e-5).all(), (row, place)
        assert (np.abs(by_memory[k][:, row]).max(-1) > 0).all() and (by_memory[k][:, 1 - row] == 0).all()


def test_the_loss_by_hand_and_unused_slots():
    """Float64 cross-entropy of the query stream at one-hot places; slots that weigh nothing change nothing."""
    network, params = fresh(2)
    batch = batch_of(6)
    batch["masked_weights"][1, 3:] = 0                        # these become tokens that all see
    objective = permutation_lm(network)
    assert objective.memory is None and set(objective.scales) == {"plm"}
    loss = jax.jit(lambda p, b: (objective.loss(p, b, None), objective.weights(b)))
    out, weights = loss(params, batch)
    one_hot = np.tile(np.eye(LENGTH, dtype=np.float32), (6, 1, 1))
    mask = hidden(batch["perm_order"], batch["masked_positions"], batch["masked_weights"] > 0)
    every = {**batch, "perm_mask": mask.astype(np.float32), "target_mapping": one_hot}
    dense = np.asarray(jax.jit(network.scores, static_argnums=1)(params, "mlm", every), np.float64)
    want = right = 0.0
    for row, slot in zip(*np.nonzero(batch["masked_weights"]), strict=True):
        place = batch["masked_positions"][row, slot]
        scores, label = dense[row, place], batch["input_ids"][row, place]     # the token itself, not the next
        want += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label]
        right += scores.argmax() == label
    assert float(out.sums["plm"]) == pytest.approx(want, rel=1e-5)
    assert float(out.metrics["plm/accuracy"][0]) == right and float(weights["plm"]) == batch["masked_weights"].sum()

    junk = {"masked_positions": 7, "masked_labels": 9, "masked_weights": 0.0}
    more = {**batch, **{k: np.concatenate([batch[k], np.full((6, 2), v, batch[k].dtype)], 1) for k, v in junk.items()}}
    wider, _ = loss(params, more)
    assert float(wider.sums["plm"]) == pytest.approx(float(out.sums["plm"]), rel=1e-6)
    half = {**batch, "example_weight": np.array([1, 0, 1, 0, 0, 1], np.float32)}
    part, weight = loss(params, half)
    rows = np.array([0, 2, 5])
    alone, _ = loss(params, {k: v[np.resize(rows, 6)] for k, v in batch.items()})          # each twice
    assert float(part.sums["plm"]) == pytest.approx(float(alone.sums["plm"]) / 2, rel=1e-5)
    assert float(weight["plm"]) == batch["masked_weights"][rows].sum()
    assert jax.eval_shape(objective.predict, params, batch)["masked_predictions"].shape == (6, P)


def test_only_the_targets_meet_the_vocabulary():
    """No array of the step, forward or backward, has both all places and the vocabulary."""
    network = network_of(n_layer=2, vocab_size=997)
    batch = batch_of(2)
    objective = permutation_lm(network, MEM, REUSE)
    params = network.shapes()

    def scores(params, batch, memory):
        return objective.loss(params, batch, jax.random.key(0), memory).sums["plm"]

    jaxpr = jax.make_jaxpr(jax.grad(scores))(params, batch, objective.memory(2))

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.shape for v in equation.outvars)
            for sub in jax.extend.core.jaxprs_in_params(equation.params):
                yield from sizes(sub)

    found = {shape for shape in sizes(jaxpr.jaxpr) if 997 in shape}
    assert (2, P, 997) in found
    assert all(np.prod(shape) <= max(2 * P, 24) * 997 for shape in found), found


def test_memory_is_the_network_called_twice():
    """The second step sees the layer inputs of the first one's reused tokens behind what is left of the zeros."""
    network, params = fresh(2)
    first, second = batch_of(4), batch_of(4, seed=1)
    objective = permutation_lm(network, 11, REUSE)
    empty = objective.memory(4)
    assert empty.shape == (4, 2, 11, 24) and empty.dtype == jnp.float32 and not empty.any()
    step = jax.jit(lambda p, b, m: objective.loss(p, b, None, m))
    one = step(params, first, empty)
    two = step(params, second, one.memory)
    assert one.memory.shape == two.memory.shape == empty.shape

    @jax.jit
    def traced(batch, mems):
        mask = hidden(batch["perm_order"], batch["masked_positions"], batch["masked_weights"] > 0)
        inputs = {**batch, "perm_mask": mask, "mems": mems,
                  "target_mapping": jnp.where(batch["masked_weights"] > 0, batch["masked_positions"], -1)}
        encoded, states, _ = network.trace(params, inputs)
        log = jax.nn.log_softmax(network.logits(params, "mlm", encoded))
        picked = jnp.take_along_axis(log, batch["masked_labels"][..., None], 2)[..., 0]
        return -jnp.sum(picked * batch["masked_weights"]), jnp.stack(states[0:4:2])      # of h0, g0, h1, g1, ...

    def by_hand(batch, mems):
        loss, inputs_of_layers = traced(batch, mems)
        return loss, np.concatenate([mems, inputs_of_layers[:, :, :REUSE]], 2)[:, :, -11:]

    loss, mems = by_hand(first, np.zeros((2, 4, 11, 24), np.float32))
    assert float(one.sums["plm"]) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(np.swapaxes(one.memory, 0, 1), mems, atol=1e-5)
    assert (mems[:, :, :3] == 0).all()                        # 11 places, 8 of them new
    loss, mems = by_hand(second, mems)
    assert float(two.sums["plm"]) == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(np.swapaxes(two.memory, 0, 1), mems, atol=1e-5)
    other = step(params, second, empty)
    assert abs(float(other.sums["plm"]) - float(two.sums["plm"])) > 1e-3     # it is used

    def through(params):
        return jnp.sum(objective.loss(params, first, None, empty).memory ** 2)

    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(through))(params)))


def test_rows_read_backwards_by_their_own_key():
    """A row's numbers do not depend on where in the batch it stands, whatever bi_data says; both directions differ."""
    network, params = fresh(2)
    batch = batch_of(4)
    turned = {k: v[::-1] for k, v in batch.items()}
    for bi_data in (False, True):
        objective = permutation_lm(XLNET.network(dataclasses.replace(network.config, bi_data=bi_data), ("mlm",)))
        predict = jax.jit(lambda p, b, o=objective: o.loss(p, b, None).sums["plm"])
        assert float(predict(params, turned)) == pytest.approx(float(predict(params, batch)), rel=1e-5)
        same = {**batch, "backwards": 1 - batch["backwards"]}
        assert abs(float(predict(params, same)) - float(predict(params, batch))) > 1e-2


def corpus_of(sentences=900):
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 9, sentences)
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    return Corpus(rng.integers(5, VOCAB, bounds[-1]).astype(np.uint16), bounds, np.arange(0, sentences + 1, 30))


def data_of(batch_size):
    examples = streams(corpus_of(), LENGTH, reuse_len=REUSE, batch_size=batch_size, seed=0, sep_token_id=SEP,
                       cls_token_id=CLS, bi_data=True)
    corrupt = functools.partial(permute_tokens, seed=0, functional=(SEP, CLS), reuse_len=REUSE, perm_size=PERM,
                                starts_word=np.arange(VOCAB) % 4 != 1, num_predict=P)
    return pipeline(examples, batch_size=batch_size, shuffle=False, corrupt=corrupt)


def test_devices_and_accumulation_change_nothing():
    """Loss and memory of three steps: one device, 8 under jit with 2 micro-batches, 8 under pmap."""
    network, _ = fresh(1)
    objective, optimizer, data = permutation_lm(network, 11, REUSE), build(Optim(rate=1e-2), 10), data_of(16)

    def curve(program):
        state, losses = program.start(jax.random.key(0)), []
        for number in range(3):
            state, metrics = program.step(state, program.place(data.batch(number)), jax.random.key(1))
            losses.append(float(metrics["loss"][0]))
        return np.array(losses), np.asarray(state["memory"])

    whole = curve(under_jit(objective, optimizer, make_mesh(Mesh(1, 1, 1), jax.devices()[:1]), batch_size=16))
    assert len(set(whole[0])) == 3 and whole[1].shape == (16, 1, 11, 24) and whole[1].any()
    for other in (under_jit(objective, optimizer, make_mesh(Mesh(8, 1, 1)), batch_size=16, accumulate=2),
                  under_pmap(objective, optimizer, batch_size=16)):
        losses, memory = curve(other)
        np.testing.assert_allclose(losses, whole[0], rtol=1e-5)
        np.testing.assert_allclose(memory, whole[1], atol=1e-4)


def test_a_run_goes_on_with_its_memory(tmp_path):
    """Saved after 2 of 4 steps and taken up again: parameters and memory are those of the whole run, bit for bit."""
    network, _ = fresh(1)
    network = dataclasses.replace(network, config=dataclasses.replace(network.config, dropout=0.1))
    program = under_jit(permutation_lm(network, 11, REUSE), build(Optim(rate=1e-2), 4),
                        make_mesh(Mesh(1, 1, 1), jax.devices()[:1]), batch_size=8)

    def steps(state, stream, count):
        for _ in range(count):
            state, _ = program.step(state, program.place(next(stream)), jax.random.key(1))
        return state

    with iter(data_of(8)) as stream, Checkpoints(tmp_path) as checkpoints:
        state = steps(program.start(jax.random.key(0)), stream, 2)
        checkpoints.save(2, state, data=stream.get_state())
        whole = steps(state, stream, 2)
    with iter(data_of(8)) as stream, Checkpoints(tmp_path) as checkpoints:
        _, state, position = checkpoints.restore(program.abstract)
        assert np.asarray(state["memory"]).any()
        stream.set_state(position)
        parts = steps(state, stream, 2)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.peers
def test_loss_and_gradient_equal_transformers_and_the_saved_model_opens(tmp_path):
    """Two steps with memory against XLNetLMHeadModel with perm_mask, target_mapping and mems; then a saved folder."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    network, params = fresh(3)
    save(Checkpoint(network, params), tmp_path)
    peer, info = transformers.XLNetLMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    peer = peer.eval()
    peer.transformer.mem_len, peer.transformer.reuse_len = 11, REUSE
    peer.transformer.bi_data = True                           # HF's half-batch rule: batch_of's second half is backwards
    objective = permutation_lm(network, 11, REUSE)
    step = jax.jit(jax.value_and_grad(lambda p, b, m: (lambda out: (out.sums["plm"], out.memory))(
        objective.loss(p, b, None, m)), has_aux=True))
    memory, mems = objective.memory(4), [torch.zeros(11, 4, 24) for _ in range(3)]
    for seed in (0, 1):
        batch = batch_of(4, seed)
        (loss, memory), gradient = step(params, batch, memory)
        mask = np.array(hidden(batch["perm_order"], batch["masked_positions"], batch["masked_weights"] > 0))
        mapping = np.eye(LENGTH)[batch["masked_positions"]] * batch["masked_weights"][..., None]
        peer.zero_grad()
        out = peer(torch.tensor(batch["input_ids"]).long(), token_type_ids=torch.tensor(batch["token_type_ids"]).long(),
                   perm_mask=torch.tensor(mask).float(), target_mapping=torch.tensor(mapping).float(), mems=mems, use_mems=True)
        each = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), torch.tensor(batch["masked_labels"]).long().flatten(),
                                                 reduction="none")
        total = (each.double() * torch.tensor(batch["masked_weights"]).double().flatten()).sum()
        total.backward()
        assert float(loss) == pytest.approx(float(total), rel=1e-5)
        mems = [m.detach() for m in out.mems]
        np.testing.assert_allclose(np.swapaxes(memory, 0, 1), np.stack([m.numpy().swapaxes(0, 1) for m in mems]), atol=1e-4)
        table = peer.transformer.word_embedding.weight.grad.numpy()
        np.testing.assert_allclose(gradient["encoder"]["word_embeddings"]["embedding"], table,
                                   atol=1e-4 * np.abs(table).max())
        np.testing.assert_allclose(gradient["encoder"]["mask_emb"], peer.transformer.mask_emb.grad.numpy().ravel(),
                                   atol=1e-4 * np.abs(peer.transformer.mask_emb.grad.numpy()).max())
