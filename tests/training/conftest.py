"""The training tests compile many small programs and run each for moments: compile them quickly."""

import os

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    """Half the compile time; child processes follow the environment."""
    before = jax.config.read("jax_disable_most_optimizations")
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    del os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
