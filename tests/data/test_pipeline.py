"""The stream of batches: fixed by the seed; the same with any workers, hosts and restarts;
evaluation loses no example.
"""

import functools
import json
import multiprocessing
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from corpora import SPECIALS, make_corpus

from bertvariants_jax.data import noise
from bertvariants_jax.data.corpus import nsp_pairs
from bertvariants_jax.data.corrupt import mask_tokens
from bertvariants_jax.data.frequency import mask_rare
from bertvariants_jax.data.pipeline import pipeline

mask = functools.partial(
    mask_tokens, seed=3, vocab_size=1000, mask_token_id=4, never=(2, 3), max_predictions=5
)


@pytest.fixture(scope="module")
def pairs():
    return nsp_pairs(make_corpus([[4, 6, 9, 3, 7]] * 30), 32, seed=0, **SPECIALS)


class Numbers:
    """Example i is its own number."""

    def __init__(self, n, fault=None, wait=0.0):
        self.n, self.fault, self.wait, self.calls = n, fault, wait, []

    def __len__(self):
        return self.n

    def rows(self, indices, epoch):
        time.sleep(self.wait)
        self.calls.append(threading.get_ident())
        if self.fault in indices:
            raise ValueError(f"example {self.fault} is broken")
        ids = np.stack([indices, epoch], 1).astype(np.int32)
        return {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "masked_weights": np.ones((len(ids), 1), np.float32),
            "labels": ids.copy(),
        }


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            assert type(y[name]) is np.ndarray and x[name].dtype == y[name].dtype
            assert np.array_equal(x[name], y[name]), name


def test_the_stream_is_as_documented(pairs):
    n, size = len(pairs), 8
    with iter(pipeline(pairs, batch_size=size, seed=9, corrupt=mask)) as batches:
        for b, batch in enumerate(take(batches, 3 * n // size)):
            position = b * size + np.arange(size)
            epoch, place = np.divmod(position, n)
            index = noise.permute(place, n, seed=9, epoch=epoch)
            assert_equal([mask(pairs.rows(index, epoch), index, epoch)], [batch])
    with iter(pipeline(Numbers(10), batch_size=5, seed=1)) as batches:
        seen = np.concatenate([b["input_ids"] for b in take(batches, 8)])
    for e in range(4):
        assert (seen[10 * e : 10 * e + 10, 1] == e).all() and sorted(
            seen[10 * e : 10 * e + 10, 0]
        ) == list(range(10))
    assert (seen[:10, 0] != seen[10:20, 0]).any()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(pairs, workers):
    make = functools.partial(pipeline, pairs, batch_size=8, seed=2, corrupt=mask)
    with iter(make()) as batches:
        alone = take(batches, 12)
    before = multiprocessing.active_children()
    with iter(make(workers=workers)) as batches:
        first = take(batches, 5)
        state = json.loads(json.dumps(batches.get_state()))
        assert len(multiprocessing.active_children()) == len(before) + workers
    assert multiprocessing.active_children() == before  # closed is closed
    with iter(
        make(workers=2 if workers == 1 else 0)
    ) as batches:  # and goes on with another number of workers
        batches.set_state(state)
        rest = take(batches, 7)
    assert_equal(alone, first + rest)


def test_without_workers_no_process_is_started(pairs, monkeypatch):
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", None)
    with iter(pipeline(pairs, batch_size=8)) as batches:
        take(batches, 3)


@pytest.mark.parametrize("hosts", [[[7, 0, 3]], [range(8)] * 2, [[0, 1, 4, 5], [2, 3, 6, 7]]])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_row_is_the_same_whoever_asks_for_it(pairs, hosts, shuffle):
    make = functools.partial(
        pipeline, pairs, batch_size=8, seed=2, corrupt=mask, shuffle=shuffle, epochs=1
    )
    whole = list(make())
    for rows in hosts:
        part = list(make(rows=np.array(rows)))
        assert len(part) == len(whole) == len(make())
        assert_equal([{key: value[list(rows)] for key, value in batch.items()} for batch in whole], part)


class Ragged:
    """Rows of unlike length, whose masks depend on the rows beside them."""

    def __len__(self):
        return 40

    def rows(self, indices, epoch):
        real = np.arange(24) < 6 + (7 * indices[:, None]) % 18
        return {"input_ids": np.where(real, 5 + (indices[:, None] * 31 + np.arange(24)) % 50, 0).astype(np.int32),
                "attention_mask": real.astype(np.int32)}


@pytest.mark.parametrize("together, batch_size", [(4, 16), (3, 16), (0, 10), (8, 8)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_that_are_masked_together_are_so_on_every_host(together, batch_size, shuffle):
    """DistilBERT's masks are drawn over several rows: whichever of them a host holds, they are the ones of one host."""
    mask = functools.partial(mask_rare, seed=1, odds=np.ones(60), mask_token_id=4, max_predictions=8, together=together)
    options = {"batch_size": batch_size, "shuffle": shuffle, "epochs": 1, "corrupt": mask, "together": together}
    whole = list(pipeline(Ragged(), **options))
    for rows in (np.arange(0, batch_size, 2), np.arange(1, batch_size, 2), np.array([batch_size - 1]), np.arange(5)):
        for all_rows, part in zip(whole, pipeline(Ragged(), **options, rows=rows), strict=True):
            assert all_rows.keys() == part.keys()
            assert all((part[key] == all_rows[key][rows]).all() for key in part)
    assert len({tuple(batch["masked_weights"].sum(1)) for batch in whole}) > 1 or len(whole) == 1


def test_restart_at_every_batch(pairs):
    make = functools.partial(pipeline, pairs, batch_size=16, corrupt=mask, epochs=2)
    batches = iter(make())
    states, seen = [], []
    for batch in batches:
        seen.append(batch)
        states.append(batches.get_state())
    assert len(seen) == 2 * len(pairs) // 16
    for i in (0, 3, len(seen) - 1):
        again = iter(make())
        next(again)  # wherever it stood
        again.set_state(states[i])
        assert_equal(seen[i + 1 :], list(again))
        assert again.get_state() == states[-1]
    assert_equal(seen[4:5], [make().batch(4)])


@pytest.mark.parametrize(
    "change", [{"batch_size": 8}, {"seed": 1}, {"shuffle": False}, {"examples": Numbers(7)}]
)
def test_a_state_of_other_data_is_refused(change):
    options = {"examples": Numbers(20), "batch_size": 4, "seed": 0, "shuffle": True}
    state = iter(pipeline(options.pop("examples"), **options)).get_state()
    options |= change
    other = iter(pipeline(options.pop("examples", Numbers(20)), **options))
    with pytest.raises(ValueError, match=f"cannot resume the data: {next(iter(change))} was"):
        other.set_state(state)


@pytest.mark.parametrize("n, size", [(10, 4), (3, 8), (8, 4), (1, 1)])
def test_evaluation_sees_every_example_once(n, size):
    batches = list(pipeline(Numbers(n), batch_size=size, shuffle=False, epochs=1))
    assert all(b["input_ids"].shape == (size, 2) for b in batches)
    weight = np.concatenate([b["example_weight"] for b in batches])
    number = np.concatenate([b["example_id"] for b in batches])
    assert number[weight == 1].tolist() == list(range(n)) and (number[weight == 0] == -1).all()
    assert weight.dtype == np.float32 and number.dtype == np.int32 and weight.sum() == n
    filling = {
        k: np.concatenate([b[k] for b in batches])[weight == 0]
        for k in ("masked_weights", "labels")
    }
    assert not filling["masked_weights"].any() and (filling["labels"] == -100).all()
    train = next(iter(pipeline(Numbers(n), batch_size=size)))
    assert "example_weight" not in train and "example_id" not in train


def test_small_data_goes_round():
    with iter(pipeline(Numbers(3), batch_size=8)) as batches:
        first = next(batches)["input_ids"]
    assert [sorted(first[e == first[:, 1], 0]) for e in (0, 1)] == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"examples": Numbers(0), "batch_size": 1}, "no examples"),
        ({"batch_size": 8, "rows": [2, 8]}, r"rows \[2 8\] are not rows of a batch of 8"),
        ({"batch_size": 8, "rows": []}, "not rows of a batch of 8"),
        ({"batch_size": 8, "epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch size 0"),
        ({"batch_size": 8, "epochs": 1}, "5 examples in 1 epochs do not fill one batch of 8"),
        ({"batch_size": 2, "workers": -1}, "workers"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**{"examples": Numbers(5), **options})


def test_a_fault_in_the_data_reaches_the_caller():
    with iter(pipeline(Numbers(40, fault=17), batch_size=4, shuffle=False)) as batches:
        take(batches, 4)
        with pytest.raises(ValueError, match="example 17 is broken"):
            next(batches)


def test_batches_are_made_ahead():
    examples = Numbers(10**6, wait=0.05)
    with iter(pipeline(examples, batch_size=4, prefetch=3)) as batches:
        next(batches)
        time.sleep(0.6)  # nobody asks meanwhile
        assert 3 <= len(examples.calls) <= 6  # the first, and three or a few more ahead of it
        assert threading.get_ident() not in examples.calls
    time.sleep(0.2)
    stopped = len(examples.calls)
    time.sleep(0.2)
    assert len(examples.calls) == stopped  # closing stops the thread
    with pytest.raises(ValueError, match="closed"):
        next(batches)
    with pytest.raises(TypeError, match="no end"):
        len(pipeline(examples, batch_size=4))


def test_a_process_that_forgets_to_close_ends_quietly(tmp_path):
    """With and without workers: no hang, no noise on stderr."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, sys\n"
        "from bertvariants_jax.data.corpus import Corpus, nsp_pairs\n"
        "from bertvariants_jax.data.pipeline import pipeline\n"
        "if __name__ == '__main__':\n"
        "    tokens = np.arange(400).astype(np.uint16)\n"
        "    corpus = Corpus(tokens, np.arange(0, 401, 4), np.arange(0, 101, 10))\n"
        "    ids = dict(cls_token_id=2, sep_token_id=3, pad_token_id=0)\n"
        "    pairs = nsp_pairs(corpus, 32, seed=0, **ids)\n"
        "    batches = iter(pipeline(pairs, batch_size=4, workers=int(sys.argv[1])))\n"
        "    print(sum(next(batches)['input_ids'].shape[0] for _ in range(5)))\n"
    )
    for workers in "01":
        run = subprocess.run(
            [sys.executable, script, workers], capture_output=True, text=True, timeout=60
        )
        assert (run.returncode, run.stdout, run.stderr) == (0, "20\n", "")
