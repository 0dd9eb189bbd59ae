"""One device, eight, pmap and accumulation take the same steps; the step compiles once; frozen parts stay."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from bertvariants_jax.objectives.objective import Loss, Phase
from bertvariants_jax.training import optimizer, sharding, step

OPTIM = optimizer.Optim(rate=1e-2, warmup=2, schedule="shifted", clip=0.5)
STEPS, BATCH = 20, 32
DATA = sharding.Mesh()


def run(kind="mesh", mesh=DATA, devices=8, accumulate=1, steps=STEPS, params=None, optim=OPTIM, **net):
    """-> (loss curve, gradient norms, final parameters on the host)."""
    objective, devices = toy.objective(**net), jax.devices()[:devices]
    options = {"batch_size": BATCH, "rate": optimizer.schedule(optim, steps), "accumulate": accumulate}
    build = optimizer.build(optim, steps)
    program = (step.under_pmap(objective, build, devices=devices, **options) if kind == "pmap" else
               step.under_jit(objective, build, sharding.make_mesh(mesh, devices), **options))
    state, curve, norms = program.start(jax.random.key(0), params), [], []
    for at in range(steps):
        state, metrics = program.step(state, program.place(toy.rows(BATCH, seed=at)), jax.random.key(1))
        curve.append(float(metrics["loss"][0]))
        norms.append(float(metrics["grad_norm"][0]))
    return np.array(curve), np.array(norms), jax.device_get(state["params"])


@functools.cache
def alone(**options):
    """`run` on one device."""
    return run(devices=1, **options)


WAYS = {
    "data 8": {}, "fsdp 8": {"mesh": sharding.Mesh(1, 8)}, "2 x 2 x 2": {"mesh": sharding.Mesh(2, 2, 2)},
    "model 8": {"mesh": sharding.Mesh(1, 1, 8)}, "accumulate 4": {"devices": 1, "accumulate": 4},
    "fsdp 8 accumulate 4": {"mesh": sharding.Mesh(1, 8), "accumulate": 4},
    "pmap 8": {"kind": "pmap"}, "pmap 8 accumulate 4": {"kind": "pmap", "accumulate": 4},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_takes_the_same_steps(way):
    reference = alone(dropout=0.0)
    curve, norms, params = run(dropout=0.0, **WAYS[way])
    print(way, "loss", np.max(np.abs(curve / reference[0] - 1)), "norm", np.max(np.abs(norms / reference[1] - 1)))
    np.testing.assert_allclose(curve, reference[0], rtol=1e-5)
    np.testing.assert_allclose(norms, reference[1], rtol=1e-4)
    assert curve[-1] < curve[0] - 0.2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), params, reference[2])


@pytest.mark.parametrize("mesh", [sharding.Mesh(), sharding.Mesh(1, 8), sharding.Mesh(2, 2, 2)])
def test_dropout_does_not_depend_on_the_mesh(mesh):
    np.testing.assert_allclose(run(mesh=mesh, steps=6)[0], alone(steps=6)[0], rtol=1e-5)


def test_pmap_drops_differently_on_each_device():
    """Eight devices with equal rows lose what one of them loses, unless they drop different units."""
    rows, found = toy.rows(4), {}
    for dropout in (0.0, 0.1):
        for devices in (1, 8):
            batch = {key: np.concatenate([value] * devices) for key, value in rows.items()}
            program = step.under_pmap(toy.objective(dropout=dropout), optimizer.build(OPTIM, 4), batch_size=4 * devices,
                                      devices=jax.devices()[:devices])
            metrics = program.step(program.start(jax.random.key(0)), program.place(batch), jax.random.key(1))[1]
            found[dropout, devices] = float(metrics["loss"][0])
    assert found[0.0, 1] == pytest.approx(found[0.0, 8], rel=1e-6)
    assert found[0.1, 1] != pytest.approx(found[0.1, 8], rel=1e-4)


@pytest.mark.parametrize("way", [{}, {"accumulate": 4}, {"kind": "pmap"}])
def test_memory_goes_from_step_to_step_row_by_row(way):
    reference = alone(dropout=0.0, memory=True, steps=5)[0]
    np.testing.assert_allclose(run(dropout=0.0, memory=True, steps=5, **way)[0], reference, rtol=1e-5)
    assert abs(reference[1] - alone(dropout=0.0)[0][1]) > 1e-6  # it does something


def test_frozen_parts_keep_their_values_and_have_no_optimizer_state():
    objective = toy.objective(frozen=("teacher",))
    state = step.init_state(objective, optimizer.build(OPTIM, STEPS), jax.random.key(0))
    assert not [name for name in map(str, jax.tree_util.tree_flatten_with_path(state["opt"])[0]) if "teacher" in name]
    before = objective.init(jax.random.key(0))
    after = run(frozen=("teacher",), steps=3, params=before)[2]
    np.testing.assert_array_equal(after["teacher"]["kernel"], before["teacher"]["kernel"])
    assert np.abs(after["pair"]["kernel"] - before["pair"]["kernel"]).max() > 0


@pytest.mark.parametrize("kind, devices, host", [("mesh", 1, True), ("mesh", 1, False), ("mesh", 8, True),
                                                 ("pmap", 2, True)])
def test_given_parameters_are_the_start_and_are_not_touched(kind, devices, host):
    params = jax.tree.map(lambda x: x + 0.01, toy.objective().init(jax.random.key(5)))
    given = jax.tree.map(np.array, params) if host else params
    before = jax.tree.map(np.array, given)
    still = optimizer.Optim(rate=0.0)
    after = run(kind, devices=devices, steps=2, params=given, optim=still)[2]
    jax.tree.map(np.testing.assert_array_equal, after, before)
    jax.tree.map(np.testing.assert_array_equal, given, before)


def test_wrong_initial_parameters_are_named():
    params = toy.objective().init(jax.random.key(0))
    params["extra"] = {"kernel": np.zeros(3)}
    params["pair"] = {"kernel": np.zeros((16, 3))}
    with pytest.raises(ValueError, match=r"pair/bias is missing.*extra/kernel is not.*pair/kernel has shape"):
        run(params=params)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size 32 must be a multiple"):
        run(accumulate=3)


def test_terms_are_weighted_once_over_everything():
    objective, batch = toy.objective(dropout=0.0), toy.rows(BATCH)
    params = objective.init(jax.random.key(0))
    out, weights = objective.loss(params, batch, None), objective.weights(batch)
    expected = sum(objective.scales[k] * out.sums[k] / weights[k] for k in weights)
    np.testing.assert_allclose(run(kind="pmap", dropout=0.0, steps=1)[0][0], expected, rtol=1e-6)


def test_a_term_without_weight_is_zero_and_not_nan():
    batch = toy.rows(BATCH)
    batch["masked_weights"][:] = 0
    program = step.under_jit(toy.objective(), optimizer.build(OPTIM, 4), sharding.make_mesh(), batch_size=BATCH)
    _, metrics = program.step(program.start(jax.random.key(0)), program.place(batch), jax.random.key(1))
    assert metrics["finite"][0] == 1 and metrics["mlm/loss"].tolist() == [0, 0]


@pytest.mark.parametrize("mesh", [sharding.Mesh(), sharding.Mesh(1, 4, 2), None])
def test_the_step_compiles_once(mesh, caplog):
    objective, build, options = toy.objective(), optimizer.build(OPTIM, 4), {"batch_size": BATCH, "accumulate": 2}
    program = step.under_pmap(objective, build, **options) if mesh is None else (
        step.under_jit(objective, build, sharding.make_mesh(mesh), **options))
    state = program.start(jax.random.key(0))
    with jax.log_compiles():
        for at in range(4):
            caplog.clear()
            state, _ = program.step(state, program.place(toy.rows(BATCH, seed=at)), jax.random.key(1))
            compiled = [record for record in caplog.records if "Finished XLA compilation" in record.getMessage()]
            assert bool(compiled) == (at == 0)


def in_phases(dropout=0.0):
    """`toy.objective`'s two terms, the pair's head updated after the encoder and told the encoder's hidden rows."""
    whole = toy.objective(dropout=dropout)

    def first(params, batch, rng, handed):
        assert handed is None
        out = whole.loss(params, batch, rng)
        return Loss(out.sums, out.metrics, handed=batch["input_ids"].astype(jnp.float32))

    def second(params, batch, rng, handed):
        out = whole.loss(params, batch, rng)
        agree = (handed == batch["input_ids"]).sum(dtype=jnp.float32)
        return Loss(out.sums, {"agree": (agree, jnp.float32(handed.size))})

    return dataclasses.replace(whole, phases=(Phase(("mlm",), ("encoder",), first), Phase(("pair",), ("pair",), second)))


@pytest.mark.parametrize("way", [{}, {"accumulate": 4}, {"kind": "pmap"}])
def test_phases_update_one_after_the_other(way):
    objective = in_phases()
    optim = optimizer.build(optimizer.Optim(rate=1e-2, warmup=0, schedule="constant", clip=0.5, eps=1e-3), STEPS)
    batch, params = toy.rows(BATCH), objective.init(jax.random.key(0))

    def part(params, term):
        out = objective.loss(params, batch, None)
        return objective.scales[term] * out.sums[term] / objective.weights(batch)[term]

    expected = dict(params)
    for phase in objective.phases:
        trained = {key: expected[key] for key in phase.trains}
        grads = jax.grad(lambda t, phase=phase: part({**expected, **t}, phase.terms[0]))(trained)
        updates, _ = optim.update(grads, optim.init(trained), trained)
        expected |= optax.apply_updates(trained, updates)
    options = {"batch_size": BATCH, "accumulate": way.get("accumulate", 1)}
    program = step.under_pmap(objective, optim, **options) if way.get("kind") == "pmap" else (
        step.under_jit(objective, optim, sharding.make_mesh(), **options))
    state, metrics = program.step(program.start(jax.random.key(0), jax.tree.map(np.array, params)), program.place(batch),
                                  jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), jax.device_get(state["params"]), expected)
    assert metrics["agree"][0] == metrics["agree"][1]                   # each micro-batch was handed its own rows
    assert len(state["opt"]) == 2


def test_phases_must_train_everything_once():
    objective = in_phases()
    for phases, fault in ((objective.phases[:1], "have trains"), (objective.phases * 2, "have trains")):
        with pytest.raises(ValueError, match=fault):
            step.init_state(dataclasses.replace(objective, phases=phases), optimizer.build(OPTIM, 4), jax.random.key(0))
