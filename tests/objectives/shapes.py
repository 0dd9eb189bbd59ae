"""Which arrays a program makes, for claims about what it never holds."""

import jax
import numpy as np


def shapes_in(jaxpr):
    """The shapes of all values of a jaxpr, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars if hasattr(v.aval, "shape"))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from shapes_in(inner)


def sizes_in(function, *arguments) -> set[int]:
    """The numbers of elements of all values that function(*arguments) makes."""
    return {int(np.prod(shape)) for shape in shapes_in(jax.make_jaxpr(function)(*arguments).jaxpr)}
