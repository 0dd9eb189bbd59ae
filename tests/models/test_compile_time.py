"""Depth costs no compile time: the scanned stack is one layer to XLA, however often it is run."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertvariants_jax.layers.dense import Compute
from bertvariants_jax.models import VARIANTS

OPTIMISED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}  # as users compile
DEPTH = ("num_hidden_layers", "n_layers", "n_layer")           # HF's names of it


def lowered(variant, layers, config=None, **compute):
    """Loss and gradients of the encoder at this depth, lowered but not compiled."""
    record = VARIANTS[variant]
    config = config or record.dummy
    name = next(name for name in DEPTH if name in {field.name for field in dataclasses.fields(config)})
    network = record.network(dataclasses.replace(config, **{name: layers}), (), Compute(**compute))
    batch = {key: jax.ShapeDtypeStruct((2, 16), jnp.int32) for key in ("input_ids", "attention_mask")}

    def loss(params, batch):
        return jnp.sum(network.encode(params, batch).last_hidden_state.astype(jnp.float32) ** 2)

    return jax.jit(jax.value_and_grad(loss)).lower(network.shapes(), batch)


@pytest.mark.parametrize("variant", VARIANTS)
def test_program_does_not_grow_with_the_depth(variant):
    """Lines of the program that XLA is given, forward and backward: 24 layers beside 6, without compiling."""
    deep, shallow = (lowered(variant, layers).as_text().count("\n") for layers in (24, 6))
    assert deep <= 1.05 * shallow, f"{variant}: {deep} lines at 24 layers, {shallow} at 6"


def test_unrolling_is_what_grows_it():
    """The measure above sees what it should: unrolled layers are counted one by one."""
    deep, shallow = (lowered("bert", layers, unroll=0).as_text().count("\n") for layers in (24, 6))
    assert deep > 2 * shallow


@pytest.mark.long
@pytest.mark.parametrize("variant", ["bert", "albert", "electra"])
def test_compile_time_of_24_layers_is_within_half_again_of_6(variant):
    """Seconds in XLA, forward and backward, the least of three each; the depths take turns."""
    seconds = {24: [], 6: []}
    lowered(variant, 3).compile(OPTIMISED)                      # warms the compiler up
    for _ in range(3):
        for layers, spent in seconds.items():
            program = lowered(variant, layers)
            jax.clear_caches()
            start = time.process_time()                         # of this process: others share the machine
            program.compile(OPTIMISED)
            spent.append(time.process_time() - start)
    ratio = np.min(seconds[24]) / np.min(seconds[6])
    print(f"{variant}: 24 layers {min(seconds[24]):.2f} s, 6 layers {min(seconds[6]):.2f} s, ratio {ratio:.2f}")
    assert ratio <= 1.5
