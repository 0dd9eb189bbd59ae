"""Counter-based noise: uniform, a function of its key alone, equal on every machine."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertvariants_jax.data import noise

GOLDEN_BITS = [
    [846721416785483297, 15497132567457414684],
    [15625395523248225453, 10081492967362830760],
]
GOLDEN_ORDER = [0, 2, 5, 1, 4, 7, 3, 8, 9, 6]


def test_values_do_not_change_between_versions_and_machines():
    assert noise.bits(1, "test", 2, np.array([3, 2**40]), 2).tolist() == GOLDEN_BITS
    assert noise.permute(np.arange(10), 10, seed=7, epoch=3).tolist() == GOLDEN_ORDER


def test_a_row_depends_on_its_own_index_alone():
    index = np.array([5, 900, 17])
    together = noise.uniform(0, "a", 4, index, 50)
    for row, i in enumerate(index):
        assert (noise.uniform(0, "a", np.array([4]), np.array([i]), 50)[0] == together[row]).all()
    places = np.array([[7, 3], [0, 49], [1, 1]])
    assert (
        noise.uniform(0, "a", 4, index, places) == np.take_along_axis(together, places, 1)
    ).all()
    for other in (
        noise.uniform(1, "a", 4, index, 50),
        noise.uniform(0, "b", 4, index, 50),
        noise.uniform(0, "a", 5, index, 50),
    ):
        assert (other != together).all()


def test_uniform_over_positions_examples_and_epochs():
    by_index = noise.uniform(0, "u", 0, np.arange(2000), 100)
    by_epoch = noise.uniform(0, "u", np.arange(2000), 5, 100)
    for u in (by_index, by_epoch, by_index.T, by_epoch.T):
        counts = np.histogram(u, 20, (0, 1))[0]
        assert ((counts - 10_000) ** 2 / 10_000).sum() < 60  # chi-square, 19 degrees: p about 4e-6
        neighbours = np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]
        assert abs(neighbours) < 0.012
    assert len(np.unique(by_index)) == by_index.size
    drawn = noise.integers(0, "i", 0, np.arange(2000), 50, 7)
    assert (
        np.abs(np.bincount(drawn.ravel(), minlength=7) - 100_000 / 7).max() < 600
        and drawn.max() == 6
    )


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 10**6))
def test_permute_is_a_permutation(n, seed, epoch):
    order = noise.permute(np.arange(n), n, seed=seed, epoch=epoch)
    assert (np.sort(order) == np.arange(n)).all()
    some = np.arange(0, n, 7)
    assert (noise.permute(some, n, seed=seed, epoch=epoch) == order[some]).all()


def test_permute_mixes():
    n = 1000
    orders = np.stack([noise.permute(np.arange(n), n, seed=0, epoch=e) for e in range(200)])
    first = np.histogram(orders[:, 0], 10, (0, n))[0]
    assert first.min() > 5 and len(np.unique(orders[:, 0])) > 150
    assert abs(np.corrcoef(orders[0], np.arange(n))[0, 1]) < 0.12
    assert np.abs(np.diff(orders, axis=1)).mean() == pytest.approx(
        n / 3, rel=0.02
    )  # neighbours do not stay neighbours
    fixed = (orders == np.arange(n)).sum(1)
    assert 0.5 < fixed.mean() < 1.7  # one fixed point on average
    epochs = np.arange(200)
    assert (noise.permute(np.full(200, 3), n, seed=0, epoch=epochs) == orders[:, 3]).all()
    huge = noise.permute(np.arange(1000), 3 * 10**11, seed=0, epoch=0)
    assert len(np.unique(huge)) == 1000 and huge.max() < 3 * 10**11


def test_permute_says_what_is_out_of_range():
    with pytest.raises(ValueError, match=r"0\.\.4"):
        noise.permute([5], 5, seed=0, epoch=0)
    with pytest.raises(ValueError, match="0 examples"):
        noise.permute([], 0, seed=0, epoch=0)
