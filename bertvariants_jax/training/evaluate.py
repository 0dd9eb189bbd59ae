"""Predictions and losses over evaluation data: every example once, whatever the batch and the devices."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertvariants_jax.objectives.objective import Objective
from bertvariants_jax.training import sharding


def predictions(objective: Objective, params, batches: Iterable, mesh: jax.sharding.Mesh | None = None
                ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Yield (batch, outputs) on the host, rows with example_weight 0 dropped.

    batches: finite, of this process's rows (sharding.local_rows). A last batch that is short is filled up and the
    filling dropped again, so one program is compiled per shape. Every process gets everybody's rows: batch and
    outputs are gathered by the same program, so each example meets its own prediction however the mesh lies.
    outputs: objective.predict's arrays, [rows, ...]. mesh: if not given, the one on which params lie.
    """
    mesh = sharding.mesh_of(params) if mesh is None else mesh
    run, rows = predictor(objective.predict, mesh), sharding.batch_sharding(mesh)
    for batch in filled(batches, mesh):
        pair = jax.device_get(run(params, sharding.place(batch, rows, left_out=())))
        real = pair[0]["example_weight"] > 0
        yield jax.tree.map(lambda x, real=real: x[real], pair)


def evaluate_loss(objective: Objective, params, batches: Iterable, mesh: jax.sharding.Mesh | None = None
                  ) -> dict[str, float]:
    """{"loss", "<term>/loss", metrics} over all batches, without dropout: sums over sums of weights, divided once."""
    mesh = sharding.mesh_of(params) if mesh is None else mesh
    run = summer(objective.loss, objective.weights, tuple(objective.scales), mesh)
    totals: dict[str, np.ndarray] = {}
    for batch in filled(batches, mesh):
        found = jax.device_get(run(params, sharding.place(batch, sharding.batch_sharding(mesh))))
        totals = {key: totals.get(key, 0.0) + pair.astype(np.float64) for key, pair in found.items()}
    if not totals:
        raise ValueError("the evaluation data gave no batch")
    values = {key: float(total / weight) for key, (total, weight) in totals.items() if weight}
    loss = sum(scale * values.get(f"{key}/loss", 0.0) for key, scale in objective.scales.items())
    return {"loss": float(loss), **values}


@functools.lru_cache(maxsize=8)
def predictor(predict, mesh: jax.sharding.Mesh):
    """(params, batch) -> (batch, outputs) on every host, one program for all evaluations of a run."""

    def both(params, batch):
        return batch, dict(predict(params, {key: x for key, x in batch.items() if key not in sharding.HOST_KEYS}))

    return jax.jit(both, out_shardings=sharding.replicated(mesh))


@functools.lru_cache(maxsize=8)
def summer(loss, weights, terms: tuple[str, ...], mesh: jax.sharding.Mesh):
    """(params, batch) -> {metric: float32 [2], sum and weight}, likewise."""

    def sums(params, batch):
        out, weight = loss(params, batch, None), weights(batch)
        found = {f"{key}/loss": (out.sums[key], weight[key]) for key in terms} | dict(out.metrics)
        return {key: jnp.stack([jnp.asarray(x, jnp.float32) for x in pair]) for key, pair in found.items()}

    return jax.jit(sums, out_shardings=sharding.replicated(mesh))


def filled(batches: Iterable, mesh: jax.sharding.Mesh) -> Iterator[dict[str, Any]]:
    """Batches with as many rows as the first one, rounded up to what this process's devices share, and with example_weight.

    The rows added repeat the first one, with all weights 0 and token labels -100.
    """
    parts = len(sharding.local_parts(sharding.batch_sharding(mesh)))
    most = 0
    for batch in batches:
        rows = len(next(iter(batch.values())))
        most = max(most, -(-rows // parts) * parts)
        batch = {**batch, "example_weight": np.asarray(batch.get("example_weight", np.ones(rows)), np.float32)}
        if rows < most:
            batch = {key: np.concatenate([value, np.repeat(filler(key, value[:1]), most - rows, axis=0)])
                     for key, value in batch.items()}
        yield batch


def filler(key: str, row: np.ndarray) -> np.ndarray:
    """A row that counts for nothing."""
    if key in ("example_weight", "masked_weights"):
        return np.zeros_like(row)
    if key == "labels" and row.ndim == 2 and row.dtype.kind == "i":
        return np.full_like(row, -100)
    return row
