"""Matrix products, layer normalisation and activations with their numerics said in one place.

Products accumulate in float32 whatever the compute dtype (on a CPU with bf16 units that is also three
times faster than a bf16 result), normalisation statistics are float32, GELU is exact unless named.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Compute:
    """How a network is run; none of it changes the parameters' names or shapes.

    dtype: of activations and products' inputs. param_dtype: of the stored parameters.
    remat: what the backward pass recomputes: nothing, whole layers, or all but the products' results.
    unroll: layers unrolled per turn of the stack's loop; 0 is all of them, which compiles longer and
        runs faster on a CPU.
    attention: "xla" or "cudnn" (fused, GPU, bf16/f16, without attention dropout; where it cannot run, XLA's does, which is
        said once).
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    param_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    remat: Literal["none", "full", "dots"] = "none"
    unroll: int = 1
    attention: Literal["xla", "cudnn"] = "xla"


FLOAT32 = Compute()

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: (0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))).astype(x.dtype),   # jax.nn's erfc is slower
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "swish": nn.silu,
    "tanh": jnp.tanh,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation that HF's config calls `name`; ValueError lists the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def initializer(stddev: float) -> Callable[..., jax.Array]:
    """Truncated normal cut at two sigma and not rescaled, as the TensorFlow originals draw it."""
    return nn.initializers.truncated_normal(stddev)


class Dense(nn.Module):
    """Affine map over the last `axes` axes of x onto `features` (one size or several).

    kernel: [*contracted, *features], bias: [*features]. The product accumulates in float32 and is
    rounded to the compute dtype after the bias.
    """

    features: int | tuple[int, ...]
    axes: int = 1
    use_bias: bool = True
    stddev: float = 0.02
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x):
        features = (self.features,) if isinstance(self.features, int) else tuple(self.features)
        contracted = x.shape[-self.axes:]

        def flat_init(rng, shape, dtype):  # the initialiser sees the matrix that this kernel is
            matrix = (math.prod(contracted), math.prod(features))
            return initializer(self.stddev)(rng, matrix, dtype).reshape(shape)

        dtype, param_dtype = self.compute.dtype, jnp.dtype(self.compute.param_dtype)
        kernel = self.param("kernel", flat_init, (*contracted, *features), param_dtype)
        y = product(x.astype(dtype), kernel.astype(dtype), self.axes)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, features, param_dtype).astype(y.dtype)
        return y.astype(dtype)


def product(x: jax.Array, kernel: jax.Array, axes: int = 1) -> jax.Array:
    """x [..., *contracted] times kernel [*contracted, *features], float32 result."""
    dims = (tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes)))
    return jax.lax.dot_general(x, kernel, (dims, ((), ())), preferred_element_type=jnp.float32)


def einsum(letters: str, *operands: jax.Array) -> jax.Array:
    """`jnp.einsum` with a float32 result."""
    return jnp.einsum(letters, *operands, preferred_element_type=jnp.float32)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias; biased variance, statistics in float32."""

    eps: float
    use_bias: bool = True
    compute: Compute = FLOAT32

    @nn.compact
    def __call__(self, x):
        param_dtype = jnp.dtype(self.compute.param_dtype)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], param_dtype)
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        y = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + self.eps) * scale.astype(jnp.float32)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, x.shape[-1:], param_dtype).astype(jnp.float32)
        return y.astype(self.compute.dtype)


def dropout(rate: float, deterministic: bool) -> Callable[[Any], Any]:
    """Inverted dropout drawing from the "dropout" stream; the identity where nothing is dropped."""
    return nn.Dropout(rate, deterministic=deterministic or rate == 0.0)
