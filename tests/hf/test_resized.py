"""Tables grow and shrink, and everything else of a checkpoint stays as it is."""

import jax
import numpy as np
import pytest

import bertvariants_jax as bv
from bertvariants_jax.models import VARIANTS
from bertvariants_jax.names import flatten

IDS = np.array([[2, 5, 7, 3, 9]], np.int32)
FIELDS = ("vocab_size", "max_position_embeddings", "type_vocab_size", "task_type_vocab_size", "max_span_targets")


def drawn(name, *heads, **fields):
    """A checkpoint of random numbers."""
    network = VARIANTS[name].network(VARIANTS[name].dummy.replaced(**fields), heads)
    rng = np.random.default_rng(0)
    return bv.Checkpoint(network, jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), network.shapes()))


def assert_same_rows(before, after):
    """Each table has the rows that it had, or the first of them, and all other parameters are equal."""
    old, new, resized = flatten(before.params), flatten(after.params), []
    assert set(old) == set(new)
    for path, leaf in old.items():
        rows = min(len(leaf), len(new[path]))
        np.testing.assert_array_equal(new[path][:rows], leaf[:rows], err_msg=path)
        resized += [path] if len(leaf) != len(new[path]) else []
    return resized


def largest_head(name):
    return next(head for head in ("sbo", "mlm") if head in VARIANTS[name].heads)


@pytest.mark.parametrize("name", VARIANTS)
def test_shrinking_cuts_tables_and_nothing_else(name):
    before = drawn(name, largest_head(name))
    sizes = {field: getattr(before.config, field, None) or 0 for field in FIELDS}
    sizes = {field: size - 1 for field, size in sizes.items() if size > 1}
    after = before.with_heads(largest_head(name), **sizes)
    resized = assert_same_rows(before, after)
    assert not after.report.fresh and all(getattr(after.config, field) == size for field, size in sizes.items())
    assert all(f"{path}[" in after.report.notes[-1] for path in resized)
    assert sum("word_embeddings" in path or path.endswith("/bias") for path in resized) == 2   # the word table, the scores' bias


@pytest.mark.parametrize(("name", "fields"), [
    ("bert", {"vocab_size": 64, "max_position_embeddings": 43, "type_vocab_size": 3}), ("deberta", {"max_position_embeddings": 50}),
    ("deberta-v2", {"max_position_embeddings": 50, "vocab_size": 70}), ("xlnet", {"vocab_size": 63})])
def test_growing_keeps_what_the_network_computes(name, fields):
    unset = {"max_relative_positions": -1} if "deberta" in name else {}
    before = drawn(name, "mlm", **unset)
    after = before.with_heads("mlm", **fields)
    resized = assert_same_rows(before, after)
    assert len(resized) == len(fields) + ("vocab_size" in fields) and len(after.report.fresh) == len(resized)
    for path in resized:
        old, new = len(flatten(before.params)[path]), flatten(after.params)[path]
        assert f"{path}[{old}:{len(new)}]" in after.report.fresh
        rows = np.asarray(new[old:])
        assert not rows.any() if path.endswith("bias") else 0 < np.abs(rows).max() <= 0.1       # drawn as fresh weights are
    if name in ("deberta", "xlnet"):
        return                                         # the rows say it all; the others are run
    want = np.asarray(before.logits("mlm", input_ids=IDS))
    np.testing.assert_allclose(np.asarray(after.logits("mlm", input_ids=IDS))[..., : want.shape[-1]], want, atol=1e-5)


def test_both_at_once_and_a_head_of_other_classes():
    before = drawn("bert", "mlm", "classify")
    after = before.with_heads("classify", vocab_size=50, num_labels=5, hidden_dropout_prob=0.0)
    assert after.report.fresh == ("classify",) and after.config.hidden_dropout_prob == 0.0
    np.testing.assert_array_equal(after.params["encoder"]["embeddings"]["word_embeddings"]["embedding"],
                                  before.params["encoder"]["embeddings"]["word_embeddings"]["embedding"][:50])
    jax.tree.map(np.testing.assert_array_equal, after.params["encoder"]["layers"], before.params["encoder"]["layers"])


def test_a_new_table_is_fresh_and_the_rest_stays():
    before = drawn("ernie", use_task_id=False)
    after = before.with_heads(use_task_id=True, seed=1)
    assert after.report.fresh == ("encoder/embeddings/task_type_embeddings/embedding",)
    jax.tree.map(np.testing.assert_array_equal, after.params["encoder"]["layers"], before.params["encoder"]["layers"])
    back = after.with_heads(use_task_id=False)
    assert "not carried over: encoder/embeddings/task_type_embeddings/embedding" in back.report.notes


@pytest.mark.parametrize("fields", [{"hidden_size": 48}, {"num_hidden_layers": 2}, {"intermediate_size": 44}])
def test_other_shapes_are_refused_and_not_drawn_anew(fields):
    [(name, value)] = fields.items()
    with pytest.raises(ValueError, match=rf"these weights do not fit {name}={value}: encoder/"):
        drawn("bert", "mlm").with_heads("mlm", **fields)
