"""What one device computes in one piece, every mesh, pmap and number of micro-batches computes too: objectives that draw
words on the device, and one whose rows are compared with each other. Dropout is the one thing that may differ."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertvariants_jax.models.variant import Encoded
from bertvariants_jax.names import flatten
from bertvariants_jax.objectives.embeddings import contrastive
from bertvariants_jax.objectives.objective import Loss, Objective, Phase
from bertvariants_jax.objectives.rtd import replaced_tokens
from bertvariants_jax.training import optimizer, sharding, step

BATCH, LENGTH, PLACES, STEPS, VOCAB, WIDTH = 16, 8, 3, 3, 60, 12
OPTIM = optimizer.Optim(rate=1e-2, warmup=0, schedule="constant", clip=0.5, eps=1e-3)

ALONE, MESH, PIECES = {}, {"sizes": (2, 2, 2), "devices": 8, "accumulate": 2}, {"accumulate": 4}
PMAP, BOTH = {"kind": "pmap", "devices": 8}, {"kind": "pmap", "devices": 2, "accumulate": 4}


class Words:
    """The least that these objectives take for a network, quick to compile: words' vectors beside the mean of the row's."""

    variant = types.SimpleNamespace(call_arguments=("input_ids", "attention_mask"), padding_side="right")
    config = types.SimpleNamespace(vocab_size=VOCAB)

    def init(self, rng):
        keys = jax.random.split(rng, 2)
        return {"encoder": {"embeddings": {"word_embeddings": jax.random.normal(keys[0], (VOCAB, WIDTH))}},
                "out": jax.random.normal(keys[1], (WIDTH,))}

    def encode(self, params, batch, rng=None, pool=True):
        x = params["encoder"]["embeddings"]["word_embeddings"][batch["input_ids"]]
        return Encoded(jnp.tanh(x + x.mean(1, keepdims=True)), batch["attention_mask"])

    def logits(self, params, head, encoded, rng=None):
        x = encoded.last_hidden_state
        return x @ (params["out"] if head == "rtd" else params["encoder"]["embeddings"]["word_embeddings"].T)


@functools.cache
def objective(name):
    if name == "contrastive":
        return contrastive(Words(), temperature=0.1)
    return replaced_tokens(Words(), Words(), decoupled=name == "in two updates", sharing="none")


def batch_of(name, seed, rows=BATCH):
    rng = np.random.default_rng(seed)
    if name == "contrastive":
        ids = rng.integers(5, VOCAB, (rows, 2, LENGTH)).astype(np.int32)
        ids[1, 1], ids[5, 0] = ids[0, 1], ids[4, 0]           # texts that two pairs share
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    ids = rng.integers(5, VOCAB, (rows, LENGTH)).astype(np.int32)
    places = np.sort(rng.permuted(np.tile(np.arange(LENGTH), (rows, 1)), axis=1)[:, :PLACES], axis=1).astype(np.int32)
    used = rng.integers(1, PLACES + 1, rows)
    labels = np.take_along_axis(ids, places, 1)
    np.put_along_axis(ids, places, 4, 1)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "masked_positions": places, "masked_labels": labels,
            "masked_weights": (np.arange(PLACES) < used[:, None]).astype(np.float32)}


def program_of(made, kind="mesh", sizes=(1, 1, 1), devices=1, accumulate=1):
    devices, build = jax.devices()[:devices], optimizer.build(OPTIM, STEPS)
    options = {"batch_size": BATCH, "accumulate": accumulate}
    return step.under_pmap(made, build, devices=devices, **options) if kind == "pmap" else (
        step.under_jit(made, build, sharding.make_mesh(sharding.Mesh(*sizes), devices), **options))


@functools.cache
def run(name, **layout):
    return steps(objective(name), lambda at: batch_of(name, at), **layout)


def steps(made, batch_at, **layout):
    """-> (each step's metrics as sum over weight, the parameters after them)."""
    program = program_of(made, **layout)
    state, curve = program.start(jax.random.key(0)), []
    for at in range(STEPS):
        state, metrics = program.step(state, program.place(batch_at(at)), jax.random.key(1))
        curve.append({key: float(pair[0] / max(float(pair[1]), 1e-9)) for key, pair in metrics.items()})
    return curve, flatten(jax.device_get(state["params"]))


@pytest.mark.parametrize("name, layout", [
    ("words", MESH), ("words", BOTH), ("in two updates", BOTH),
    ("contrastive", MESH), ("contrastive", PMAP), ("contrastive", BOTH)])
def test_every_layout_takes_the_steps_of_one_device(name, layout):
    """Losses, metrics and gradient norms of each step to 1e-5, and the parameters after the last."""
    sizes = {"sizes": (1, 1, 1)}                              # so that one run alone serves all
    (reference, wanted), (curve, params) = run(name, **sizes), run(name, **layout)
    for at, (expected, found) in enumerate(zip(reference, curve, strict=True)):
        for key, value in expected.items():
            assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-6), (at, key)
    for path, value in wanted.items():
        np.testing.assert_allclose(params[path], value, atol=2e-5, err_msg=path)


def noise(phases=False) -> Objective:
    """Terms that are drawn: `row` a number in (0, 1) for each row from its key, `key` one for each call from its rng."""

    def loss(params, batch, rng, memory=None):
        rows = jax.vmap(jax.random.uniform)(batch["row_keys"])
        call = jax.random.uniform(rng)
        return Loss({"row": rows.sum() * params["a"]["w"], "key": call * params["b"]["w"]},
                    {"rows": (rows.sum(), jnp.float32(len(rows))), "calls": (call, jnp.ones(())),
                     "squares": (call ** 2, jnp.ones(())), "row squares": ((rows ** 2).sum(), jnp.float32(len(rows)))})

    def one(params, batch, rng, handed):
        out = loss(params, batch, rng)
        return Loss(out.sums, {"first": out.metrics["calls"]})

    ways = (Phase(("row",), ("a",), one), Phase(("key",), ("b",), lambda *given: loss(*given))) if phases else ()
    return Objective(lambda rng: {"a": {"w": jnp.ones(())}, "b": {"w": jnp.ones(())}},
                     lambda batch: {"row": jnp.float32(len(batch["input_ids"])), "key": jnp.ones(())}, loss,
                     lambda params, batch: {}, {"row": 1.0, "key": 1.0}, phases=ways)


@functools.cache
def noise_on(**layout):
    return steps(noise(), lambda at: {"input_ids": np.ones((BATCH, LENGTH), np.int32)}, **layout)[0]


@pytest.mark.parametrize("layout", [ALONE, MESH, PIECES, PMAP, BOTH])
def test_a_rows_noise_is_its_own_and_dropouts_is_each_micro_batchs(layout):
    """What is drawn with a row's key is the same on every layout, and another for each row and step; `rng`, dropout's,
    is another for each micro-batch, device of pmap and step."""
    alone, curve = noise_on(), noise_on(**layout)
    assert [found["rows"] for found in curve] == pytest.approx([found["rows"] for found in alone], rel=1e-6)
    assert len({round(found["rows"], 6) for found in curve}) == STEPS
    assert len({round(found["calls"], 6) for found in curve}) == STEPS
    for found in curve:
        assert found["row squares"] - found["rows"] ** 2 > 0.02           # 1/12 for independent numbers, 0 for equal ones
        if layout.get("kind") == "pmap" or layout.get("accumulate", 1) > 1:
            assert found["squares"] - found["calls"] ** 2 > 2e-6


def test_phases_drop_differently():
    curve, _ = steps(noise(phases=True), lambda at: {"input_ids": np.ones((BATCH, LENGTH), np.int32)}, **PIECES)
    assert all(abs(found["first"] - found["calls"]) > 1e-4 for found in curve)


def test_compared_rows_are_embedded_twice_alike():
    """The pass that embeds all rows and the one that goes back through a micro-batch drop the same units, and each
    micro-batch others: the step's gradient is that of all rows at once, dropped so."""

    class Dropped(Words):
        def encode(self, params, batch, rng=None, pool=True):
            encoded = super().encode(params, batch)
            kept = 1.0 if rng is None else jax.random.bernoulli(rng, 0.5, encoded.last_hidden_state.shape) * 2.0
            return encoded._replace(last_hidden_state=encoded.last_hidden_state * kept)

    made, still, rng = contrastive(Dropped(), temperature=0.1), optax.sgd(1.0), jax.random.key(7)
    params, batch = made.init(jax.random.key(0)), batch_of("contrastive", 0)
    state = step.init_state(made, still, rng, params=params)
    new, metrics = jax.jit(step.make_update(made, still, accumulate=4))(state, batch, rng)

    @jax.jit
    @jax.value_and_grad
    def at_once(params):
        keys, parts = jax.random.fold_in(rng, 0), step.deal(batch, 4)
        embedded = [made.embed(params, jax.tree.map(lambda x, i=i: x[i], parts), jax.random.fold_in(keys, i)) for i in range(4)]
        out = made.compare(step.gather(jax.tree.map(lambda *each: jnp.stack(each), *embedded)), batch)
        return out.sums["contrastive"] / BATCH

    loss, slopes = at_once(params)
    assert float(metrics["loss"][0]) == pytest.approx(float(loss), rel=1e-5)
    assert abs(float(loss) - float(made.loss(params, batch, None).sums["contrastive"]) / BATCH) > 1e-3
    for path, slope in flatten(slopes).items():
        np.testing.assert_allclose(flatten(params)[path] - flatten(new["params"])[path], slope, atol=1e-6, err_msg=path)
