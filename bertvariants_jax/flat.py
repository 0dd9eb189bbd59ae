"""A traced function as one flat run of plain operations, which converters to other formats take: calls inlined, loops
unrolled, what depends on no input computed, and a few operations written with others that every converter has right."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal


def trace(function: Callable, *shapes) -> tuple[ClosedJaxpr, Any]:
    """Function -> its program, to be given to `evaluate`, and the shapes of its outputs; loops become their turns."""
    with jax.disable_jit():
        return jax.make_jaxpr(function, return_shape=True)(*shapes)


def evaluate(closed: ClosedJaxpr, *arguments) -> list[Any]:
    """The outputs of a traced function; traced again, it leaves the flat program."""
    values = dict(zip((*closed.jaxpr.constvars, *closed.jaxpr.invars), (*closed.consts, *arguments), strict=True))
    read = lambda var: var.val if isinstance(var, Literal) else values[var]
    for equation in closed.jaxpr.eqns:
        values |= zip(equation.outvars, results(equation, [read(var) for var in equation.invars]), strict=True)
    return [read(var) for var in closed.jaxpr.outvars]


def results(equation: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    """What one operation gives, by its name and whether its operands are known."""
    name, params = equation.primitive.name, equation.params
    if name == "cond" and known(operands[0]):
        return evaluate(params["branches"][int(operands[0])], *operands[1:])
    if (inner := params.get("jaxpr", params.get("call_jaxpr"))) is not None:                 # jit, custom_jvp, remat
        return evaluate(inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ()), *operands)
    if name in REWRITTEN:
        return [REWRITTEN[name](*operands, **params)]
    sized = all(isinstance(size, int) for var in equation.outvars for size in var.aval.shape)
    with jax.ensure_compile_time_eval() if sized and known(*operands) else contextlib.nullcontext():
        given = equation.primitive.bind(*operands, **params)
    return given if equation.primitive.multiple_results else [given]


def known(*values) -> bool:
    """Whether none of them depends on an input."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def stacked(*arrays, axis=0) -> jax.Array:
    return jax.lax.concatenate([jax.lax.expand_dims(array, (axis,)) for array in arrays], axis)


def padded(x, value, *, padding_config) -> jax.Array:
    """`pad` as a concatenation, which takes rows of any number."""
    if any(low < 0 or high < 0 or between for low, high, between in padding_config):
        return jax.lax.pad(x, value, padding_config)
    for axis, (low, high, _) in enumerate(padding_config):
        side = [jax.lax.broadcast(value, (*x.shape[:axis], int(size), *x.shape[axis + 1:])) for size in (low, high)]
        if low or high:
            x = jax.lax.concatenate([*side[:bool(low)], x, *(side[1:] if high else [])], axis)
    return x


def running_max(x, *, axis, reverse) -> jax.Array:
    """`cummax` in float32, which has whole numbers below 2**24, places in a row among them."""
    return jax.lax.cummax(x.astype(jnp.float32), axis, reverse).astype(x.dtype)


REWRITTEN = {"pad": padded, "cummax": running_max, "stack": stacked, "stop_gradient": lambda x: x}
