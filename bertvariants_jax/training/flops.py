"""How much of the hardware a step uses: model FLOPs (arXiv:2204.02311, appendix B) over the peak of the devices.

Convention: 1 multiply-add is 2 FLOPs; matrix products and attention products count, embedding look-ups,
LayerNorm, softmax and recomputation do not; the prediction head counts at the predicted positions only. A
training step is counted from its own gradients (`step.step_flops`): three forwards of what is trained, one of what is
frozen.
"""

import math
import re

import jax
from jax.extend.core import jaxprs_in_params

# words of a `device_kind` -> dense bfloat16 FLOP/s of one chip by its vendor's figures (float16 where a chip has no
# bfloat16), and how many devices JAX makes of a chip. TPU v4 and v5p join their two cores into one device.
# The first row whose words stand in the kind counts.
PEAKS = {
    "TPU v2": (45e12, 2), "TPU v3": (123e12, 2), "TPU v4 lite": (138e12, 1), "TPU v4": (275e12, 1),
    "TPU v5 lite": (197e12, 1), "TPU v5e": (197e12, 1), "TPU v5p": (459e12, 1), "TPU v5": (459e12, 1),
    "TPU v6 lite": (918e12, 1), "TPU v6e": (918e12, 1), "TPU7x": (2307e12, 2), "TPU v7x": (2307e12, 2),
    "TPU v7": (2307e12, 2),
    "GB200": (2500e12, 1), "B200": (2250e12, 1), "GH200": (989e12, 1), "H200": (989e12, 1), "H100 PCIe": (756e12, 1),
    "H100 NVL": (835e12, 1), "H100": (989e12, 1), "H800": (989e12, 1), "H20": (148e12, 1), "A100": (312e12, 1),
    "A800": (312e12, 1), "A40": (150e12, 1), "A30": (165e12, 1), "A10G": (70e12, 1), "A10": (125e12, 1),
    "L40S": (362e12, 1), "L40": (181e12, 1), "L4": (121e12, 1), "V100": (125e12, 1), "T4": (65e12, 1),
    "RTX 4090": (165e12, 1), "RTX 3090": (71e12, 1),
    "MI300X": (1307e12, 1), "MI250X": (383e12, 2), "MI250": (362e12, 2), "MI210": (181e12, 1),
}


def peak_flops(device: jax.Device | None = None) -> float | None:
    """Peak FLOP/s of a device (the first one, if not given), which may be a half of a chip.

    None where it is unknown, as on a CPU or a MIG slice of a GPU.
    """
    kind = (jax.devices()[0] if device is None else device).device_kind
    row = next((row for words, row in PEAKS.items()
                if re.search(rf"(?<![A-Za-z0-9]){re.escape(words)}(?![A-Za-z0-9])", kind, re.IGNORECASE)), None)
    return None if row is None or re.search(r"\bMIG\b", kind) else row[0] / row[1]


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
