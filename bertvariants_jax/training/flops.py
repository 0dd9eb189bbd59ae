"""How much of the hardware a step uses: model FLOPs (arXiv:2204.02311, appendix B) over the peak of the devices.

Convention: 1 multiply-add is 2 FLOPs; matrix products and attention products count, embedding look-ups,
LayerNorm, softmax and recomputation do not; a training step is three forwards; the prediction head counts
at the predicted positions only.
"""

import math

import jax
from jax.extend.core import jaxprs_in_params

# dense bfloat16 FLOP/s of one chip by a part of its `device_kind`, vendors' figures; first match wins
PEAKS = [
    ("TPU v6", 918e12), ("TPU v5p", 459e12), ("TPU v5 lite", 197e12), ("TPU v5e", 197e12), ("TPU v5", 459e12),
    ("TPU v4", 275e12), ("TPU v3", 123e12), ("TPU v2", 45e12), ("TPU7x", 2307e12),
    ("B200", 2250e12), ("H200", 989e12), ("H100 PCIe", 756e12), ("H100", 989e12), ("GH200", 989e12),
    ("A100", 312e12), ("L40S", 362e12), ("L4", 121e12), ("A10", 125e12), ("V100", 125e12), ("RTX 4090", 165e12),
]


def peak_flops(device: jax.Device | None = None) -> float | None:
    """Peak FLOP/s of a device (the first one, if not given); None where it is unknown, as on a CPU."""
    kind = (jax.devices()[0] if device is None else device).device_kind
    return next((peak for part, peak in PEAKS if part.lower() in kind.lower()), None)


def mfu(flops_per_step: float, seconds: float, devices: int | None = None) -> float | None:
    """Model FLOP utilisation of all devices, 0 to 1; None where the peak is unknown."""
    peak = peak_flops()
    return flops_per_step / (seconds * peak * (devices or jax.device_count())) if peak else None


def count_flops(function, *abstract) -> float:
    """FLOPs of the matrix products and convolutions of function(*abstract), loops counted at their full length.

    abstract: trees of arrays or jax.ShapeDtypeStruct. XLA's own cost analysis counts a scan's body once.
    """
    return float(_flops(jax.make_jaxpr(function)(*abstract).jaxpr))


def _flops(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        kind, params = equation.primitive.name, equation.params
        if kind == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        elif kind == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features
        else:
            inner = [_flops(sub) for sub in jaxprs_in_params(params)]
            total += params["length"] * sum(inner) if kind == "scan" else (
                max(inner, default=0) if kind == "cond" else sum(inner))
    return total
