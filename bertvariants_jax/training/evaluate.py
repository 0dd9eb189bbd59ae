"""Predictions and losses over evaluation data: every example once, whatever the batch and the devices."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from bertvariants_jax.objectives.objective import Objective
from bertvariants_jax.training import sharding


def predictions(objective: Objective, params, batches: Iterable, mesh: jax.sharding.Mesh | None = None
                ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Yield (batch, outputs) on the host, rows with example_weight 0 dropped.

    batches: finite, of this process's rows. A last batch that is short is filled up and the filling dropped
    again, so one program is compiled per shape. On several processes each gets everybody's rows.
    outputs: objective.predict's arrays, [rows, ...].
    """
    mesh = sharding.make_mesh() if mesh is None else mesh
    whole = sharding.replicated(mesh)
    run = jax.jit(objective.predict, out_shardings=whole)
    for batch in filled(batches, mesh):
        out = jax.device_get(run(params, sharding.place(batch, sharding.batch_sharding(mesh))))
        if jax.process_count() > 1:
            batch = multihost_utils.process_allgather(batch, tiled=True)
        real = np.asarray(batch["example_weight"]) > 0
        yield tuple(jax.tree.map(lambda x, real=real: np.asarray(x)[real], dict(tree)) for tree in (batch, out))


def evaluate_loss(objective: Objective, params, batches: Iterable, mesh: jax.sharding.Mesh | None = None
                  ) -> dict[str, float]:
    """{"loss", "<term>/loss", metrics} over all batches, without dropout: sums over sums of weights, divided once."""
    mesh = sharding.make_mesh() if mesh is None else mesh

    def add(totals, params, batch):
        out = objective.loss(params, batch, None)
        weights = objective.weights(batch)
        found = {f"{key}/loss": (out.sums[key], weights[key]) for key in objective.scales} | dict(out.metrics)
        found = {key: jnp.stack([jnp.asarray(x, jnp.float32) for x in pair]) for key, pair in found.items()}
        return found if totals is None else jax.tree.map(jnp.add, totals, found)

    add = jax.jit(add, out_shardings=sharding.replicated(mesh))
    totals = None
    for batch in filled(batches, mesh):
        totals = add(totals, params, sharding.place(batch, sharding.batch_sharding(mesh)))
        jax.block_until_ready(totals)
    if totals is None:
        raise ValueError("the evaluation data gave no batch")
    values = {key: float(total / weight) for key, (total, weight) in jax.device_get(totals).items() if weight}
    loss = sum(scale * values.get(f"{key}/loss", 0.0) for key, scale in objective.scales.items())
    return {"loss": float(loss), **values}


def filled(batches: Iterable, mesh: jax.sharding.Mesh) -> Iterator[dict[str, Any]]:
    """Batches with as many rows as the first one, rounded up to what the mesh divides, and with example_weight.

    The rows added repeat the first one, with all weights 0 and token labels -100.
    """
    parts = max(sharding.batch_parts(mesh) // jax.process_count(), 1)
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
