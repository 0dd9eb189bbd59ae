"""The name table reads and writes as inverses and reports every fault at once."""

import numpy as np
import pytest

from bertvariants_jax import names


def test_linear_is_transposed_and_split():
    weight = np.arange(24, dtype=np.float32).reshape(4, 6)             # torch: [out, in]
    rows = names.linear("q", "query")
    leaves, used, faults = names.read(rows, {"q.weight": weight, "q.bias": np.arange(4.0)},
                                      {"query/kernel": (6, 2, 2), "query/bias": (2, 2)})
    assert not faults and used == {"q.weight", "q.bias"}
    np.testing.assert_array_equal(leaves["query/kernel"].reshape(6, 4), weight.T)
    back = names.write(rows, leaves)
    np.testing.assert_array_equal(back["q.weight"], weight)


def test_two_input_axes():
    weight = np.arange(24, dtype=np.float32).reshape(4, 6)
    rows = names.linear("o", "out", axes=2, bias=False)
    leaves, _, faults = names.read(rows, {"o.weight": weight}, {"out/kernel": (2, 3, 4)})
    assert not faults
    np.testing.assert_array_equal(leaves["out/kernel"].reshape(6, 4), weight.T)
    np.testing.assert_array_equal(names.write(rows, leaves)["o.weight"], weight)


def test_layers_are_stacked():
    rows = names.under("layer.{}", "layers", names.norm("ln", "norm"), range(3))
    tensors = {f"layer.{i}.ln.{k}": np.full(2, i + j) for i in range(3) for j, k in enumerate(("weight", "bias"))}
    leaves, used, faults = names.read(rows, tensors, {"layers/norm/scale": (3, 2), "layers/norm/bias": (3, 2)})
    assert not faults and used == set(tensors)
    np.testing.assert_array_equal(leaves["layers/norm/scale"][:, 0], [0, 1, 2])
    assert set(names.write(rows, leaves)) == set(tensors)


def test_all_faults_at_once():
    rows = [*names.linear("a", "a"), *names.linear("b", "b")]
    shapes = {"a/kernel": (3, 2), "a/bias": (2,), "b/kernel": (3, 2), "b/bias": (2,)}
    _, _, faults = names.read(rows, {"a.weight": np.zeros((3, 2)), "a.bias": np.zeros(2), "b.bias": np.zeros(5)}, shapes)
    assert len(faults) == 3
    assert any("a.weight has shape (3, 2), the config asks for (2, 3)" in fault for fault in faults)
    assert "b.weight is missing" in faults


def test_tied_names_must_agree():
    row = names.Row("bias", "bias", aliases=("decoder.bias",))
    shapes = {"bias": (2,)}
    leaves, used, faults = names.read([row], {"decoder.bias": np.ones(2)}, shapes)
    assert not faults and leaves["bias"].tolist() == [1, 1] and used == {"decoder.bias"}
    _, _, faults = names.read([row], {"bias": np.zeros(2), "decoder.bias": np.ones(2)}, shapes)
    assert "tied" in faults[0]


def test_write_refuses_an_incomplete_tree():
    with pytest.raises(KeyError, match="a/bias"):
        names.write(names.linear("a", "a"), {"a/kernel": np.zeros((2, 2))})


def test_flatten_and_unflatten():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert names.flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert names.unflatten(names.flatten(tree)) == tree
