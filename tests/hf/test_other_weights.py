"""Weights as they come out of torch's wrappers and of HF's Flax models."""

import pickle

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import load_file, save_file

import bertvariants_jax as bv
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.names import unflatten


@pytest.fixture
def folder(tmp_path):
    """A saved BERT of random numbers -> its folder."""
    network = VARIANTS["bert"].network(VARIANTS["bert"].dummy, ("mlm", "pair"))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), network.shapes())
    return bv.save(bv.Checkpoint(network, params), tmp_path / "bert")


def assert_loads_the_same(folder, change):
    """Whether the folder's weights are the same after `change` (tensors) has written them otherwise."""
    before, tensors = bv.load(folder), load_file(folder / "model.safetensors")
    change(tensors)
    after = bv.load(folder)
    assert not after.report.fresh and not after.report.ignored and list(after.heads) == list(before.heads)
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)


@pytest.mark.parametrize("rename", [
    lambda name: f"module.{name}", lambda name: f"module._orig_mod.{name}", lambda name: f"_orig_mod.module.module.{name}",
    lambda name: f"_fsdp_wrapped_module.{name.replace('layer.1.', 'layer.1._checkpoint_wrapped_module.')}"])
def test_names_that_wrappers_have_changed(folder, rename):
    def change(tensors):
        save_file({rename(name): array for name, array in tensors.items()}, folder / "model.safetensors")

    assert_loads_the_same(folder, change)


def test_a_tensor_that_is_there_twice_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    name = "bert.embeddings.LayerNorm.weight"
    save_file({**tensors, f"module.{name}": tensors[name] + 1}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"module.{name}, which are one tensor's names"):
        bv.load(folder)


def as_flax(tensors, cast=lambda array: array):
    """PyTorch's tensors of a BERT as HF's Flax models name and lay them out."""
    leaves = {}
    for name, array in tensors.items():
        *road, leaf = name.split(".")
        if leaf == "weight":
            is_table, is_norm = "embeddings" in road and array.ndim == 2, "LayerNorm" in road
            leaf, array = ("embedding", array) if is_table else ("scale", array) if is_norm else ("kernel", array.T)
        leaves["/".join([*road, leaf])] = np.ascontiguousarray(cast(array))
    return unflatten(leaves)


def test_a_flax_file(folder):
    def change(tensors):
        (folder / "model.safetensors").unlink()
        (folder / "flax_model.msgpack").write_bytes(msgpack_serialize(as_flax(tensors)))

    assert_loads_the_same(folder, change)


def test_a_flax_file_of_bfloat16_in_chunks(folder, monkeypatch):
    def change(tensors):
        monkeypatch.setattr("flax.serialization.MAX_CHUNK_SIZE", 64)
        (folder / "flax_model.msgpack").write_bytes(msgpack_serialize(as_flax(tensors, lambda x: x.astype(ml_dtypes.bfloat16))))
        (folder / "model.safetensors").unlink()

    rounded = {name: array.astype(ml_dtypes.bfloat16).astype(np.float32)
               for name, array in load_file(folder / "model.safetensors").items()}
    save_file(rounded, folder / "model.safetensors")
    assert_loads_the_same(folder, change)


@pytest.mark.parametrize("content", [b"\x93\x01\x02\x03", b"\x81\xa1a\x01", b"\x82\xa1a", b"\x81\xa1a\xc7\x01\x05x"])
def test_a_flax_file_that_is_none_is_named(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(ValueError, match=r"flax_model\.msgpack: damaged, or no map of arrays"):
        bv.load(folder)


def test_a_checkpoint_is_pickled_and_called_by_place(folder):
    checkpoint = bv.load(folder)
    ids, mask = np.array([[2, 5, 7, 3]], np.int32), np.array([[1, 1, 1, 0]], np.int32)
    want = np.asarray(checkpoint(input_ids=ids, attention_mask=mask).last_hidden_state)
    copy = pickle.loads(pickle.dumps(checkpoint))
    assert copy.network == checkpoint.network and copy.network.variant is checkpoint.network.variant
    np.testing.assert_array_equal(copy(ids, mask).last_hidden_state, want)
    for call, message in ((lambda: checkpoint(ids, input_ids=ids), "input_ids is given twice"),
                          (lambda: checkpoint(attention_mask=mask), "input_ids should be ids"),
                          (lambda: checkpoint([2, 5, 3]), r"input_ids should be ids \[B, L\], not of shape \(3,\)"),
                          (lambda: checkpoint(*[ids] * 5), "5 inputs are given without a name")):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="as the second argument or as model=, and not both"):
        bv.pipeline("fill-mask", folder, model=folder)
