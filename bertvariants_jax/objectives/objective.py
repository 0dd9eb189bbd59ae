"""What a training run minimises: pure functions from parameters and a batch to sums, weights and metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

Params = dict[str, Any]
Batch = Mapping[str, jax.Array]


class Loss(NamedTuple):
    """What one (micro-)batch adds to the objective.

    sums: one float32 scalar a term, summed over the batch (not averaged).
    metrics: name -> (sum, weight), both scalars; reported as sum over weight.
    memory: the next value of the objective's memory, where it has one.
    handed: a pytree with leading axis B for the next phase, where there is one.
    """

    sums: dict[str, jax.Array]
    metrics: dict[str, tuple[jax.Array, jax.Array]]
    memory: Any = None
    handed: Any = None


class Phase(NamedTuple):
    """One of several updates in a step, with its own optimizer state and its own clipping.

    terms: keys of the objective's scales that it minimises. trains: the top-level keys of params that it updates.
    loss(params, batch, rng, handed) -> Loss with the sums of its terms; params as the phases before have left them,
    `handed` is what the phase before has given, without a gradient, and None in the first.
    """

    terms: tuple[str, ...]
    trains: tuple[str, ...]
    loss: Callable[..., Loss]


@dataclass(frozen=True)
class Objective:
    """An objective as pure functions; pre-training, distillation and fine-tuning are all of this kind.

    The loss of a step is  sum over terms k of  scales[k] * sums[k] / weights[k],  with the sums and
    the weights added over all devices and accumulation steps first and divided once. Weights depend
    on the batch alone, so the step knows the global ones before it differentiates.

    init(rng) -> params: a plain nested dict {"encoder": ..., "<head>": ...}.
    weights(batch) -> {term: scalar}.
    loss(params, batch, rng, memory=None) -> Loss; `rng` None means deterministic (no dropout).
    predict(params, batch) -> dict of arrays with leading axis B.
    scales: {term: float}; its keys are the terms.
    frozen: what of params gets no gradient and no optimizer state: top-level keys (a teacher), and places inside them
      ("encoder/embeddings/position_embeddings").
    memory(batch_size) -> pytree with leading axis B, carried from step to step (XLNet), or None.
    phases: the updates of a step, in order (DeBERTa-v3's generator, then its discriminator); () is one update of
      everything by `loss`, which says the whole loss either way.
    embed(params, batch, rng) -> pytree with leading axis B, and compare(embedded, batch) -> Loss: the two halves of a
      loss that compares the rows of a batch with each other (contrastive), so that a step can hand `compare` all
      rows, whatever devices and micro-batches embedded them; None where each row's loss is its own.
    exports(params) -> {folder: (network, its params)}: what a run leaves as model folders; None is all as "model".
    """

    init: Callable[[jax.Array], Params]
    weights: Callable[[Batch], dict[str, jax.Array]]
    loss: Callable[..., Loss]
    predict: Callable[[Params, Batch], dict[str, jax.Array]]
    scales: Mapping[str, float] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    memory: Callable[[int], Any] | None = None
    phases: tuple[Phase, ...] = ()
    embed: Callable[[Params, Batch, Any], Any] | None = None
    compare: Callable[[Any, Batch], Loss] | None = None
    exports: Callable[[Params], dict[str, tuple[Any, Params]]] | None = None


def row_keys(rng: jax.Array, rows: jax.Array) -> jax.Array:
    """A key for each row of a batch, [B], from the rows' numbers int32 or uint32 [B].

    What must not depend on the devices or micro-batches that share a batch is drawn from these. The step gives them,
    by a row's place in the global batch, as the batch's key `row_keys`.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)
