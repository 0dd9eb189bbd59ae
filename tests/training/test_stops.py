"""A run that is stopped, at whatever step, ends as one that never was: parameters, export, scores and lines."""

import contextlib
import threading

import jax
import numpy as np
import pytest
import toy

from bertvariants_jax.training import loop, optimizer, report
from bertvariants_jax.training.lock import RunInUse
from bertvariants_jax.training.log import read_metrics

OBJECTIVE, OPTIM = toy.objective(), optimizer.Optim(rate=1e-2, warmup=2)
SPEED = {"time", "steps_per_second", "tokens_per_second", "data/wait", "mfu", "gflops_per_second"}
UNEQUAL = {"steps": 12, "batch_size": 16, "log_every": 3, "eval_every": 2, "save_every": 5, "keep_last": 2,
           "keep_best": "accuracy"}


def score(params, step):
    """Best at step 4, where nothing but the evaluation is due."""
    return {"accuracy": 1.0 - abs(step - 4) / 10, "weights": float(np.abs(np.array(params["pair"]["kernel"])).sum())}


def run(out, data=None, evaluate=score, **fields):
    """What a run leaves: (outcome without speeds, what was exported)."""
    exported = []
    outcome = loop.train(OBJECTIVE, data or toy.Data(16), loop.Settings(**{**UNEQUAL, **fields}), OPTIM, out,
                         evaluate=evaluate,
                         export=lambda params, _: exported.append(jax.tree.map(lambda x: x.tobytes(), params)))
    return (outcome.step, outcome.stopped_by, without_speed(outcome.metrics)), exported


def without_speed(metrics):
    return {key: value for key, value in metrics.items() if key not in SPEED}


def lines(out):
    return [without_speed(line) for line in read_metrics(out / "metrics.jsonl")]


@pytest.fixture(scope="module", autouse=True)
def one_program():
    with toy.one_program(OBJECTIVE, OPTIM, 12), pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda runs, path: path)  # drawn elsewhere
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: (what it leaves, its lines)."""
    out = tmp_path_factory.mktemp("whole")
    return run(out), lines(out)


@pytest.fixture
def stop_at(monkeypatch):
    """stop_at(steps): as if SIGTERM came during each of these steps."""
    def choose(*steps):
        @contextlib.contextmanager
        def signals():
            yield lambda step: "SIGTERM" if step in steps and step != resumed[-1] else None

        resumed, begin = [0], loop.begin

        def begun(*arguments):
            state = begin(*arguments)
            resumed.append(state[2])
            return state

        monkeypatch.setattr(loop, "begin", begun)
        monkeypatch.setattr(loop, "stop_signals", signals)
    return choose


@pytest.mark.parametrize("steps", [
    range(1, 13), range(2, 13, 2), *(pytest.param(range(step, step + 1), marks=[] if step in (4, 9, 10, 12) else pytest.mark.long)
                                     for step in range(1, 13))], ids=str)
def test_a_stop_at_any_step_changes_nothing(steps, whole, stop_at, tmp_path):
    stop_at(*steps)
    for step in steps:
        (done, stopped_by, _), exported = run(tmp_path)
        assert (done, stopped_by, exported) == (step, "SIGTERM", [])
    assert run(tmp_path) == whole[0]
    assert lines(tmp_path) == whole[1]


def test_an_evaluation_that_a_kill_left_without_its_line_gets_it(whole, stop_at, tmp_path):
    stop_at(10)
    run(tmp_path)
    with pytest.MonkeyPatch.context() as patch:   # killed between the score and its line
        patch.setattr(loop.Run, "record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    asked = []
    assert run(tmp_path, evaluate=lambda params, step: asked.append(step) or score(params, step)) == whole[0]
    assert lines(tmp_path) == whole[1] and asked == [12]


def test_a_stop_while_an_evaluation_is_made_up_changes_nothing(whole, stop_at, tmp_path):
    stop_at(4, 5)
    run(tmp_path)
    run(tmp_path)
    assert run(tmp_path) == whole[0] and lines(tmp_path) == whole[1]


def test_an_evaluation_that_fails_is_made_up(whole, tmp_path):
    def fail(params, step):
        if step == 4:
            raise ValueError("row 3 is broken")
        return score(params, step)

    for _ in range(2):
        with pytest.raises(ValueError, match="row 3 is broken"):
            run(tmp_path, evaluate=fail)
    assert run(tmp_path) == whole[0] and lines(tmp_path) == whole[1]


def test_a_stop_where_the_data_ends_changes_nothing(stop_at, tmp_path):
    ended = run(tmp_path / "whole", toy.Data(16, length=7))
    assert ended[0][:2] == (7, "data") and len(ended[1]) == 1
    stop_at(7)
    assert run(tmp_path / "parts", toy.Data(16, length=7))[0][1] == "SIGTERM"
    assert run(tmp_path / "parts", toy.Data(16, length=7)) == ended
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_a_run_holds_its_folder_until_it_ends(tmp_path):
    refused = []

    def again():
        try:
            run(tmp_path)
        except RunInUse as error:
            refused.append(str(error))

    def evaluate(params, step):
        if step == 4:
            thread = threading.Thread(target=again)
            thread.start()
            thread.join()
        if step == 6:
            raise ValueError("row 3 is broken")
        return score(params, step)

    with pytest.raises(ValueError, match="row 3"):
        run(tmp_path, evaluate=evaluate)
    assert len(refused) == 1 and "in use by" in refused[0]
    assert run(tmp_path)[0][0] == 12 and not (tmp_path / "lock").exists()


def test_a_metric_that_the_last_evaluation_leaves_out_is_not_that_of_an_earlier_one(tmp_path):
    def evaluate(params, step):
        return {"accuracy": 0.5, **({"precision": 1.0} if step == 4 else {})}

    assert "eval/precision" not in run(tmp_path, evaluate=evaluate)[0][2]
    assert "eval/precision" not in run(tmp_path, evaluate=evaluate)[0][2]      # from its metrics.jsonl


def test_what_a_checkpoint_keeps_of_an_interval_does_not_grow_while_it_is_written(tmp_path, monkeypatch):
    """It is written in the background: steps after it would count twice where a kill comes next."""
    saves, save = {}, loop.Checkpoints.save

    def watch(self, step, state, **notes):
        saves[step] = notes["interval"]["sums"]
        save(self, step, state, **notes)

    monkeypatch.setattr(loop.Checkpoints, "save", watch)
    run(tmp_path)
    assert {step: sums.get("finite", [0, 0])[1] for step, sums in saves.items()} == {
        step: step % UNEQUAL["log_every"] for step in saves} and {4, 5, 10} <= saves.keys()
