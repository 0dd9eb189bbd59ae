"""Two processes on meshes that do not go host by host give what one process gives."""

import pods
import pytest

RUN = "2 x 2 x 2"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return pods.cases(tmp_path_factory.mktemp("pods"), RUN)


@pytest.mark.parametrize("order", pods.ORDERS)
def test_every_example_meets_its_own_prediction(found, order):
    assert_same(*found[f"evaluation, {order}"])


@pytest.mark.parametrize("name", pods.CROSSED)
def test_the_global_batch_is_the_one_asked_for(found, name):
    assert_same(*found[f"the global batch is the one asked for, {name}"])


def test_a_growing_batch_has_its_rows_in_their_order(found):
    assert_same(*found["a growing batch"])


def test_a_memory_meets_its_rows_on_every_layout(found):
    """Two steps on two processes host by host, two on alternating devices, two on one process."""
    assert_same(*found["a memory on other layouts"])


def test_hosts_that_were_not_started_alike_are_refused(found):
    assert_same(*found["hosts that were not started alike"])


def test_both_hosts_say_that_the_folder_is_in_use(found):
    assert_same(*found["a folder that another run holds"])


def test_an_axis_across_hosts_gives_the_losses_and_scores_of_one_process(found):
    assert_same(*found[f"one process's losses and scores, {RUN}"])
    assert_same(*found[f"one process's predictions, {RUN}"])


@pytest.mark.long
def test_all_cases(tmp_path):
    for got, wanted in pods.cases(tmp_path, *pods.CROSSED).values():
        assert_same(got, wanted)


def assert_same(got, wanted):
    assert pods.same(got, wanted), f"{got}, not {wanted}"
