"""Which attention runs: cuDNN's where it can, else XLA's, and then the reader is told why."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertvariants_jax.layers import attention
from bertvariants_jax.layers.dense import Compute


class Attends(nn.Module):
    rate: float = 0.0
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x, deterministic=True):
        mask = jnp.ones((1, 1, 1, 1), bool)
        return attention.attend(self, x, x, x, mask, dropout_rate=self.rate, deterministic=deterministic, compute=self.compute)


def run(x, rate=0.0, kind="cudnn", rngs=None):
    module = Attends(rate, Compute(dtype=x.dtype.name, attention=kind))
    return module.apply({}, x, rngs is None, rngs=rngs)


def inputs(length=6, size=8, dtype=jnp.bfloat16):
    return jax.random.normal(jax.random.key(0), (2, length, 3, size)).astype(dtype)


@pytest.fixture(autouse=True)
def unsaid():
    attention.say.cache_clear()


def test_a_machine_without_a_gpu_says_so_once(capsys):
    x = inputs(dtype=jnp.float32)
    outputs = [run(x) for _ in range(2)]
    np.testing.assert_array_equal(outputs[0], run(x, kind="xla"))
    assert capsys.readouterr().err == "compute.attention is cudnn, but XLA's runs: it needs a GPU, and JAX runs on CPU\n"
    run(x, kind="xla")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("x, rate, why", [
    (inputs(dtype=jnp.float32), 0.0, "compute.dtype is float32"), (inputs(size=12), 0.0, "these have 12"),
    (inputs(size=136), 0.0, "these have 136"), (inputs(length=5), 0.0, "these are 5 and 5"),
    (inputs(), 0.1, "attention drops 0.1 of its probabilities"), (inputs(), 0.0, "")])
def test_a_gpu_says_what_its_kernel_cannot_take(x, rate, why, capsys, monkeypatch):
    fused = []
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda q, k, v, **options: fused.append(options) or q)
    for _ in range(2):
        run(x, rate, rngs={"dropout": jax.random.key(1)})
    said = capsys.readouterr().err
    assert said.count("\n") == bool(why) and why in said
    assert [options["implementation"] for options in fused] == ([] if why else ["cudnn"] * 2)
    run(inputs(), rate)                                       # evaluation drops nothing
    assert fused
