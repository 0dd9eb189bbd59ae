"""Every example is predicted once and its loss counted once, whatever the batch and the devices."""

import dataclasses

import jax
import numpy as np
import pytest
import toy

from bertvariants_jax.training import evaluate, sharding

EXAMPLES = 21


def batches(size, padded=False):
    """The same examples in batches of `size`; padded: the last one is filled up by the pipeline."""
    rows = toy.rows(EXAMPLES, seed=4)
    for start in range(0, EXAMPLES, size):
        batch = {key: value[start:start + size] for key, value in rows.items()}
        short = size - len(batch["labels"])
        if padded:
            batch["example_weight"] = np.repeat(np.float32([1, 0]), [size - short, short])
            batch = {key: value if len(value) == size else np.concatenate([value, np.zeros_like(rows[key][:short])])
                     for key, value in batch.items()}
        yield batch


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: 5 * x, toy.objective().init(jax.random.key(0)))


@pytest.mark.parametrize("size, padded, mesh, devices", [
    (8, False, sharding.Mesh(), 8), (8, True, sharding.Mesh(1, 8), 8), (5, False, sharding.Mesh(2, 2, 2), 8),
    (21, False, sharding.Mesh(), 1), (3, True, sharding.Mesh(), 4)])
def test_each_example_once(size, padded, mesh, devices, params):
    objective, mesh = toy.objective(), sharding.make_mesh(mesh, jax.devices()[:devices])
    whole = toy.rows(EXAMPLES, seed=4)
    found = list(evaluate.predictions(objective, params, batches(size, padded), mesh))
    assert np.concatenate([batch["example_id"] for batch, _ in found]).tolist() == list(range(EXAMPLES))
    logits = np.concatenate([out["logits"] for _, out in found])
    np.testing.assert_allclose(logits, objective.predict(params, whole)["logits"], rtol=1e-4, atol=1e-5)

    losses = evaluate.evaluate_loss(objective, params, batches(size, padded), mesh)
    out, weights = objective.loss(params, whole, None), objective.weights(whole)
    for key in weights:
        np.testing.assert_allclose(losses[f"{key}/loss"], out.sums[key] / weights[key], rtol=1e-5)
    np.testing.assert_allclose(losses["loss"], losses["mlm/loss"] + 0.5 * losses["pair/loss"], rtol=1e-6)
    np.testing.assert_allclose(losses["mlm/accuracy"], out.metrics["mlm/accuracy"][0] / weights["mlm"], rtol=1e-6)


def test_evaluations_of_a_run_share_one_program(params):
    objective, traced = toy.objective(), []

    def seen(name, function):
        def call(*args):
            traced.append(name)
            return function(*args)
        return call

    objective = dataclasses.replace(objective, predict=seen("predict", objective.predict),
                                    loss=seen("loss", objective.loss))
    for _ in range(2):
        list(evaluate.predictions(objective, params, batches(8)))
        evaluate.evaluate_loss(objective, params, batches(8))
    assert sorted(traced) == ["loss", "predict"]


def test_nothing_to_evaluate_is_said(params):
    with pytest.raises(ValueError, match="no batch"):
        evaluate.evaluate_loss(toy.objective(), params, [])
