"""One training step as a pure function, run under jit over a device mesh or under pmap.

`update(state, batch, rng)` sees the global batch under jit, and one device's rows under pmap, where it
adds up over the named axis. Either way the loss of a step is sum_k scales[k] * sums[k] / weights[k] with
sums and weights over all devices and accumulation steps, so the number of devices and of micro-batches
changes nothing but rounding, and which units dropout drops: what else is drawn on the device is drawn with the keys
`row_keys` of the global batch's rows, and rows that are compared with each other are all embedded first.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bertvariants_jax.objectives.objective import Objective, Phase, row_keys
from bertvariants_jax.training import sharding
from bertvariants_jax.training.flops import count_flops
from bertvariants_jax.training.paths import merged, path_name, without

State = dict[str, Any]
ROWS = 2 ** 31 - 1  # the rows' own stream of a step's key: numbers of devices and micro-batches stay below


class Program(NamedTuple):
    """A compiled training step and what belongs to it.

    start(rng, params=None) -> state: drawn from rng, or starting from the parameters given (a host tree).
    step(state, batch, rng) -> (state, metrics): the state is donated. metrics: name -> float32 [2], a sum
        and its weight.
    place(*batches) -> the batch on the devices, from this process's rows in numpy (sharding.local_rows); several
        data batches become one, one behind the other.
    share: how many rows this process gives to it.
    abstract: the state's shapes, with shardings: what a checkpoint is restored into.
    """

    start: Callable[..., State]
    step: Callable[..., tuple[State, dict[str, jax.Array]]]
    place: Callable[..., Any]
    share: int
    abstract: State


def trainable(params: dict, frozen: tuple[str, ...]) -> dict:
    """The top-level parts of params that are trained."""
    return {key: value for key, value in params.items() if key not in frozen}


def trained_by(phase: Phase, objective: Objective, params: dict) -> dict:
    """What a phase updates of params."""
    return without({key: params[key] for key in phase.trains}, objective.frozen)


def phases_of(objective: Objective, params: dict) -> tuple[Phase, ...]:
    """The updates of a step: the objective's phases, or one of everything that is not frozen.

    ValueError where phases do not train each part, and minimise each term, exactly once.
    """
    if objective.compare is not None and (objective.phases or objective.memory is not None):
        raise ValueError("an objective that compares rows can have neither phases nor a memory")
    trained, terms = tuple(trainable(params, objective.frozen)), tuple(objective.scales)
    if not objective.phases:
        return (Phase(terms, trained, objective.loss),)
    if objective.memory is not None:
        raise ValueError("an objective of several phases cannot have a memory")
    for wanted, field in ((trained, "trains"), (terms, "terms")):
        found = [key for phase in objective.phases for key in getattr(phase, field)]
        if sorted(found) != sorted(wanted):
            raise ValueError(f"the objective's phases have {field} {found}, expected each of {list(wanted)} once")
    return objective.phases


def init_state(objective: Objective, optimizer: optax.GradientTransformation, rng: jax.Array,
               batch_size: int = 0, params: dict | None = None) -> State:
    """A fresh state {"params", "opt", "step"} and, where the objective has it, "memory" for batch_size rows.

    "opt" is the optimizer's state, or a tuple of one for each of the objective's phases.
    """
    params = objective.init(rng) if params is None else params
    opts = tuple(optimizer.init(trained_by(phase, objective, params)) for phase in phases_of(objective, params))
    state = {"params": params, "opt": opts if objective.phases else opts[0], "step": jnp.zeros((), jnp.int32)}
    if objective.memory is not None:
        state["memory"] = objective.memory(batch_size)
    return state


def make_update(objective: Objective, optimizer: optax.GradientTransformation,
                rate: Callable[[Any], jax.Array] | None = None, accumulate: int = 1,
                axis: str | None = None) -> Callable:
    """Build update(state, batch, rng) -> (state, metrics).

    rng is the run's key, the step is folded in here. accumulate: micro-batches, one at a time in memory.
    rate: learning rate by step, logged. axis: the name of pmap's axis, None under jit.
    metrics: name -> float32 [2] (sum, weight): "loss", "<term>/loss", the objective's own,
    "learning_rate", "grad_norm", and "finite" (1 where loss and gradients are).
    """

    def total_over(tree):
        return jax.lax.psum(tree, axis) if axis else tree

    def gradients(phase, params, batch, rng, carried, factors):
        """(gradients of what the phase trains, the loss, its sums, metrics, what is carried on) of the whole batch.

        carried: the memory, or what the phase before has handed on, or None.
        """

        def share(trained, rows, rng, carried):
            """What these rows add to the step's loss."""
            out = phase.loss(merged(params, trained), rows, rng, carried)
            sums = {key: out.sums[key].astype(jnp.float32) for key in phase.terms}
            loss = sum(factors[key] * sums[key] for key in phase.terms)
            metrics = {key: jnp.stack([jnp.asarray(x, jnp.float32) for x in pair]) for key, pair in out.metrics.items()}
            return loss, (sums, metrics, out.memory if out.handed is None else jax.lax.stop_gradient(out.handed))

        gradient = jax.value_and_grad(share, has_aux=True)
        trained = trained_by(phase, objective, params)
        if accumulate == 1:
            (loss, (sums, metrics, carried)), grads = gradient(trained, batch, rng, carried)
            return *total_over((grads, loss, sums, metrics)), carried

        def turn(grads, xs):
            index, rows, carried = xs
            (loss, (sums, metrics, carried)), more = gradient(trained, rows, jax.random.fold_in(rng, index), carried)
            return jax.tree.map(jnp.add, grads, more), (loss, sums, metrics, carried)

        grads, (*added, carried) = jax.lax.scan(
            turn, jax.tree.map(jnp.zeros_like, trained),
            (jnp.arange(accumulate), deal(batch, accumulate), deal(carried, accumulate)))
        return *total_over((grads, *jax.tree.map(lambda x: x.sum(0), tuple(added)))), gather(carried)

    def compared(phase, params, batch, rng, factors):
        """`gradients` where rows are compared: all are embedded, the loss of all is differentiated by what they are
        embedded as, and this goes back through one micro-batch at a time (GradCache, arXiv:2101.06983)."""
        trained = trained_by(phase, objective, params)
        arrays = {key: value for key, value in batch.items() if key != "row_keys"}

        def embed(trained, rows, rng):
            return objective.embed(merged(params, trained), rows, rng)

        def everyone(tree):
            return jax.lax.all_gather(tree, axis, tiled=True) if axis else tree

        def compare(embedded, rows):
            out = objective.compare(embedded, rows)
            loss = sum(factors[key] * out.sums[key].astype(jnp.float32) for key in phase.terms)
            return loss, (out.sums, {key: jnp.stack(pair) for key, pair in out.metrics.items()})

        def differentiated(embedded):
            """(slopes at these rows, (loss, sums, metrics) of all devices' rows)."""
            count = len(jax.tree.leaves(embedded)[0])
            (loss, rest), slopes = jax.value_and_grad(compare, has_aux=True)(everyone(embedded), everyone(arrays))
            if axis:
                first = jax.lax.axis_index(axis) * count
                slopes = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, count), slopes)
            return slopes, (loss, *rest)

        if accumulate == 1:
            embedded, pull = jax.vjp(lambda trained: embed(trained, batch, rng), trained)
            slopes, found = differentiated(embedded)
            return total_over(pull(slopes)[0]), *found

        indices, rows = jnp.arange(accumulate), deal(batch, accumulate)
        embedded = jax.lax.map(lambda xs: embed(trained, xs[1], jax.random.fold_in(rng, xs[0])), (indices, rows))
        slopes, found = differentiated(gather(embedded))

        def turn(grads, xs):
            index, rows, slopes = xs
            _, pull = jax.vjp(lambda trained: embed(trained, rows, jax.random.fold_in(rng, index)), trained)
            return jax.tree.map(jnp.add, grads, pull(slopes)[0]), None

        grads, _ = jax.lax.scan(turn, jax.tree.map(jnp.zeros_like, trained), (indices, rows, deal(slopes, accumulate)))
        return total_over(grads), *found

    def update(state, batch, rng):
        params = state["params"]
        weights = total_over({key: jnp.asarray(w, jnp.float32) for key, w in objective.weights(batch).items()})
        factors = {key: jnp.where(weights[key] > 0, scale / jnp.where(weights[key] > 0, weights[key], 1), 0.0)
                   for key, scale in objective.scales.items()}
        rng = jax.random.fold_in(rng, state["step"])
        count, place = len(jax.tree.leaves(batch)[0]), jax.lax.axis_index(axis) if axis else 0
        batch = {**batch, "row_keys": row_keys(jax.random.fold_in(rng, ROWS), place * count + jnp.arange(count))}
        if axis:
            rng = jax.random.fold_in(rng, place)

        opts = state["opt"] if objective.phases else (state["opt"],)
        carried, loss, squares, after, terms, metrics = state.get("memory"), 0.0, 0.0, [], {}, {}
        for number, (phase, opt) in enumerate(zip(phases_of(objective, params), opts, strict=True)):
            key = jax.random.fold_in(rng, accumulate + number) if number else rng
            if objective.compare is None:
                grads, part, sums, more, carried = gradients(phase, params, batch, key, carried, factors)
            else:
                grads, part, sums, more = compared(phase, params, batch, key, factors)
            trained = trained_by(phase, objective, params)
            updates, opt = optimizer.update(grads, opt, trained)
            params = merged(params, optax.apply_updates(trained, updates))
            after.append(opt)
            loss, squares = loss + part, squares + optax.tree.norm(grads, squared=True)
            terms |= {f"{key}/loss": jnp.stack([sums[key], weights[key]]) for key in sums}
            metrics |= more
        new = {"params": params, "opt": tuple(after) if objective.phases else after[0], "step": state["step"] + 1}
        if "memory" in state:
            new["memory"] = carried
        norm = jnp.sqrt(squares)
        single = {"loss": loss, "grad_norm": norm, "finite": jnp.isfinite(loss) & jnp.isfinite(norm)}
        if rate is not None:
            single["learning_rate"] = rate(state["step"])
        ones = {key: jnp.stack([jnp.asarray(x, jnp.float32), jnp.ones(())]) for key, x in single.items()}
        return new, {**ones, **terms, **metrics}

    return update


def step_flops(objective: Objective, batch) -> float:
    """FLOPs of one training step on a batch (a tree of arrays or jax.ShapeDtypeStruct), without dropout and optimizer.

    objective: of networks that recompute nothing and whose attention is plain, else that counts twice, or not at all.
    """
    def without_dropout(loss):
        return lambda params, batch, rng, *carried: loss(params, batch, None, *carried)

    rows, still = jax.tree.leaves(batch)[0].shape[0], optax.set_to_zero()
    objective = dataclasses.replace(
        objective, loss=without_dropout(objective.loss), embed=objective.embed and without_dropout(objective.embed),
        phases=tuple(phase._replace(loss=without_dropout(phase.loss)) for phase in objective.phases))
    state = jax.eval_shape(lambda rng: init_state(objective, still, rng, rows), jax.random.key(0))
    return count_flops(make_update(objective, still), state, batch, jax.random.key(0))


def deal(rows, hands: int):
    """Leaves [B, ...] -> [hands, B/hands, ...], dealt out row by row so that each device keeps its own rows."""
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(x.shape[0] // hands, hands, *x.shape[1:]), 1, 0), rows)


def gather(hands):
    """The inverse of `deal`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), hands)


def place(batches, rows: NamedSharding):
    """This process's rows of several batches of one size as one batch on the devices: batch behind batch."""
    if len(batches) == 1:
        return sharding.place(batches[0], rows)
    # A host has its rows of each batch, which are not its rows of the one that they make: it gives them in turn,
    # and the devices bring them into their order.
    turns = {key: np.stack([batch[key] for batch in batches], 1) for key in batches[0]}
    turns = {key: value.reshape(-1, *value.shape[2:]) for key, value in turns.items()}
    return in_order(sharding.place(turns, rows), len(batches), rows)


@functools.partial(jax.jit, static_argnums=(1, 2))
def in_order(turns, hands: int, rows: NamedSharding):
    joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), deal(turns, hands))
    return jax.lax.with_sharding_constraint(joined, rows)


def under_jit(objective: Objective, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, *,
              batch_size: int, rate=None, accumulate: int = 1) -> Program:
    """The step over a mesh: parameters and optimizer state cut by the rules table, rows over data and fsdp.

    batch_size: global. The state is created cut and donated to each step. ValueError where the batch does
    not divide.
    """
    check_rows(batch_size, sharding.batch_parts(mesh), accumulate)
    whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    start, abstract = opening(objective, optimizer, batch_size, lambda state: sharding.shardings(mesh, state))
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    step = jax.jit(make_update(objective, optimizer, rate, accumulate), donate_argnums=0,
                   in_shardings=(places, rows, whole), out_shardings=(places, whole))
    return Program(start, step, lambda *batches: place(batches, rows),
                   len(sharding.local_rows(rows, batch_size)), abstract)


def under_pmap(objective: Objective, optimizer: optax.GradientTransformation, *, batch_size: int, rate=None,
               accumulate: int = 1, devices=None) -> Program:
    """The step mapped over devices in the classic way: the state whole on each, gradients added with psum.

    For one host. JAX keeps pmap in maintenance; `under_jit` does the same and more.
    """
    if jax.process_count() > 1:
        raise ValueError("parallel=pmap runs on one host; use parallel=mesh on several")
    devices = jax.devices() if devices is None else list(devices)
    check_rows(batch_size, len(devices), accumulate)
    # the mesh that pmap makes for itself: on another one, its second step would compile again
    mesh = jax.sharding.Mesh(np.array(devices), ("devices",), axis_types=(AxisType.Auto,))
    rows, whole = NamedSharding(mesh, PartitionSpec("devices")), sharding.replicated(mesh)
    start, abstract = opening(objective, optimizer, batch_size, lambda state: {
        key: jax.tree.map(lambda _, key=key: rows if key == "memory" else whole, part) for key, part in state.items()})
    axes = {key: 0 if key == "memory" else None for key in abstract}
    mapped = jax.pmap(make_update(objective, optimizer, rate, accumulate, axis="devices"), axis_name="devices",
                      in_axes=(axes, 0, None), out_axes=(axes, None), donate_argnums=0, devices=devices)

    def split(tree):
        return jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), tree)

    def step(state, batch, rng):
        if "memory" in state:
            state = {**state, "memory": split(state["memory"])}
        state, metrics = mapped(state, split(batch), rng)
        if "memory" in state:
            state["memory"] = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), state["memory"])
        return state, metrics

    return Program(start, step, lambda *batches: place(batches, rows),
                   len(sharding.local_rows(rows, batch_size)), abstract)


def opening(objective: Objective, optimizer: optax.GradientTransformation, batch_size: int,
            places_of: Callable[[State], State]) -> tuple[Callable[..., State], State]:
    """`start` and `abstract` of a Program whose state lies as places_of(shapes) says, from the first moment."""

    def fresh(rng, params=None):
        return init_state(objective, optimizer, rng, batch_size, params)

    shapes = jax.eval_shape(fresh, jax.random.key(0))
    places = places_of(shapes)
    draw = jax.jit(fresh, out_shardings=places)
    begin = jax.jit(lambda params: fresh(None, params), out_shardings=places)

    def start(rng, params=None):
        return draw(rng) if params is None else begin(put_params(params, shapes["params"], places["params"]))

    return start, jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)


def check_rows(batch_size: int, parts: int, accumulate: int) -> None:
    if accumulate < 1 or batch_size < 1 or batch_size % (parts * accumulate):
        raise ValueError(f"batch_size {batch_size} must be a multiple of devices that share it ({parts}) x "
                         f"accumulate ({accumulate}) = {parts * accumulate}")


def put_params(params, abstract, places):
    """Given parameters on the devices, in the dtypes of the objective's own; ValueError names what does not fit."""
    given = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    wanted = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)}
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} is not a parameter of this objective" for name in given if name not in wanted]
    faults += [f"{name} has shape {tuple(given[name].shape)}, wanted {tuple(leaf.shape)}"
               for name, leaf in wanted.items() if name in given and tuple(given[name].shape) != tuple(leaf.shape)]
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError("the initial parameters do not fit the objective: " + "; ".join(faults[:8]) + more)

    def put(path, leaf, place):
        value = np.array(given[path_name(path)], leaf.dtype)  # a copy: the step donates what it is given
        return jax.make_array_from_callback(value.shape, place, lambda index: value[index])

    return jax.tree_util.tree_map_with_path(put, abstract, places)
