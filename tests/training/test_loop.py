"""A run goes on where it was stopped, bit for bit; it stops where it must, and keeps what is best."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import jax
import numpy as np
import pytest
import toy

from bertvariants_jax.training import evaluate, loop, optimizer
from bertvariants_jax.training.log import read_metrics
from bertvariants_jax.training.sharding import Mesh

OPTIM = optimizer.Optim(rate=1e-2, warmup=2)


def settings(**fields):
    return loop.Settings(**{"steps": 12, "batch_size": 16, "log_every": 2, "save_every": 4, **fields})


def run(out, data=None, evaluate=None, export=None, **fields):
    return loop.train(toy.objective(), data or toy.Data(16), settings(**fields), OPTIM, out, evaluate=evaluate,
                      export=export)


def final(out):
    """The parameters of the last checkpoint, as bytes."""
    from bertvariants_jax.training.checkpoints import Checkpoints
    shapes = jax.eval_shape(toy.objective().init, jax.random.key(0))
    with Checkpoints(out / "checkpoints") as checkpoints:
        return checkpoints.latest, jax.tree.map(lambda x: x.tobytes(), checkpoints.params(shapes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    return run(out), out


def test_a_run_leaves_all_its_files(whole):
    outcome, out = whole
    assert (outcome.step, outcome.stopped_by) == (12, "steps")
    assert {"config.json", "metrics.jsonl", "checkpoints", "tensorboard", "report.html"} <= set(os.listdir(out))
    assert json.loads((out / "config.json").read_text())["optim"]["rate"] == 1e-2
    lines = read_metrics(out / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert {"loss", "mlm/loss", "pair/loss", "mlm/accuracy", "learning_rate", "grad_norm", "tokens_per_second",
            "data/wait", "steps_per_second"} <= set(lines[-1])
    np.testing.assert_allclose(lines[0]["learning_rate"], float(optimizer.schedule(OPTIM, 12)(1)), rtol=1e-6)
    assert outcome.metrics["loss"] == lines[-1]["loss"]


def test_a_mesh_that_cuts_nothing_is_said_once(tmp_path, capsys):
    run(tmp_path, steps=2, mesh=Mesh(1, 1, 8))
    lines = [line for line in capsys.readouterr().err.splitlines() if "mesh.model 8 cuts no parameter" in line]
    assert len(lines) == 1
    with pytest.raises(ValueError, match="keep_best is 'f1', but nothing is evaluated"):
        run(tmp_path / "other", keep_best="f1")


CHILD = textwrap.dedent("""
    import pathlib, sys, time
    import toy
    from bertvariants_jax.training import loop, optimizer

    class Slow(toy.Data):
        def __iter__(self):
            return SlowPosition(self)

    class SlowPosition(toy.Position):
        def __next__(self):
            time.sleep(0.15)
            return super().__next__()

    settings = loop.Settings(steps=12, batch_size=16, log_every=2, save_every=int(sys.argv[2]))
    outcome = loop.train(toy.objective(), Slow(16), settings, optimizer.Optim(rate=1e-2, warmup=2), sys.argv[1])
    print(outcome.step, outcome.stopped_by)
""")


def interrupted(out, number, save_every, after):
    """Start a run in its own process and send it a signal when its file says that it is past step `after`."""
    here = pathlib.Path(__file__).parent
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(out), str(save_every)], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env={**os.environ, "PYTHONPATH": f"{here}:{here.parents[1]}"})
    end = time.monotonic() + 120
    while time.monotonic() < end and child.poll() is None:
        path = out / "metrics.jsonl"
        if path.exists() and any(line["step"] >= after for line in read_metrics(path)):
            break
        time.sleep(0.02)
    child.send_signal(number)
    said, errors = child.communicate(timeout=60)
    return child.returncode, said, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_stopped_and_resumed_is_bit_for_bit_the_uninterrupted_run(number, whole, tmp_path):
    code, said, errors = interrupted(tmp_path, number, save_every=1 if number == signal.SIGKILL else 100, after=4)
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 0, errors
        assert said.split()[1] == signal.Signals(number).name and 4 <= int(said.split()[0]) < 12
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [said.split()[0]]
    outcome = run(tmp_path)
    assert (outcome.step, outcome.stopped_by) == (12, "steps")
    assert final(tmp_path) == final(whole[1])
    steps = [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == sorted(set(steps)) and steps[-1] == 12
    theirs, ours = (read_metrics(out / "metrics.jsonl")[-1] for out in (whole[1], tmp_path))
    assert ours["loss"] == theirs["loss"] or len(steps) < 6


def test_a_finished_run_is_left_as_it_is(whole):
    lines = (whole[1] / "metrics.jsonl").read_text()
    outcome = run(whole[1])
    assert (outcome.step, outcome.stopped_by) == (12, "steps") and outcome.metrics == whole[0].metrics
    assert (whole[1] / "metrics.jsonl").read_text() == lines


def test_a_run_goes_on_with_other_devices(whole, tmp_path):
    run(tmp_path, data=toy.Data(16, length=6))
    outcome = run(tmp_path, mesh=loop.Mesh(1, 4, 2), log_every=3)
    assert outcome.step == 12
    np.testing.assert_allclose(outcome.metrics["loss"], whole[0].metrics["loss"], rtol=0.05)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.frombuffer(a, "f4"), np.frombuffer(b, "f4"), atol=1e-3),
                 final(tmp_path)[1], final(whole[1])[1])


@pytest.mark.parametrize("parallel", ["mesh", "pmap"])
def test_data_that_ends_ends_the_run(parallel, tmp_path):
    def score(params, step):
        return evaluate.evaluate_loss(toy.objective(), params, [toy.rows(16)])

    outcome = run(tmp_path, data=toy.Data(16, length=5), parallel=parallel, keep_last=1, evaluate=score)
    assert outcome.metrics["eval/loss"] > 0
    assert (outcome.step, outcome.stopped_by) == (5, "data")
    assert os.listdir(tmp_path / "checkpoints") == ["5"]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 5


def test_no_data_and_wrong_batches_are_said(tmp_path):
    with pytest.raises(ValueError, match="the data gave no batch"):
        run(tmp_path / "a", data=toy.Data(16, length=0))
    with pytest.raises(ValueError, match="this process's share of batch_size 16 is 16"):
        run(tmp_path / "b", data=toy.Data(24))


@pytest.mark.parametrize("log_every, save_every", [(1, 4), (100, 4), (5, 100)])
def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(log_every, save_every, tmp_path):
    with pytest.raises(loop.Diverged, match=r"not finite at step 6 \(.*loss nan") as error:
        loop.train(toy.objective(nan_at=1), toy.Data(16, spoil=5), settings(log_every=log_every, save_every=save_every),
                   OPTIM, tmp_path)
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert saved == (["4"] if save_every == 4 else [])
    assert "checkpoints/4" in str(error.value) if saved else "no checkpoint was saved" in str(error.value)


def test_the_best_checkpoint_is_kept_and_exported(tmp_path):
    exported = []
    seen = {}

    def evaluate(params, step):
        seen[step] = np.array(params["pair"]["kernel"])
        return {"accuracy": 1.0 - abs(step - 5) / 10}

    outcome = run(tmp_path, evaluate=evaluate, export=lambda params, folder: exported.append((params, folder)),
                  eval_every=5, keep_best="eval/accuracy", keep_last=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["12", "5"]
    assert list(seen) == [5, 10, 12]
    assert (outcome.metrics["best/step"], outcome.metrics["best/accuracy"]) == (5, 1.0)
    assert outcome.metrics["eval/accuracy"] == pytest.approx(0.3)
    (params, folder), = exported
    assert folder == tmp_path / "model"
    np.testing.assert_array_equal(params["pair"]["kernel"], seen[5])


def test_without_a_metric_the_last_parameters_are_exported(tmp_path):
    exported = []
    run(tmp_path, export=lambda params, folder: exported.append(params))
    assert jax.tree.map(lambda x: x.tobytes(), exported[0]) == final(tmp_path)[1]


def test_an_evaluation_that_fails_loses_no_step(tmp_path):
    def evaluate(params, step):
        if step == 7:
            raise ValueError("row 3 is broken")
        return {"loss": 1.0}

    with pytest.raises(ValueError, match="row 3 is broken"):
        run(tmp_path, evaluate=evaluate, eval_every=7, save_every=100)
    assert final(tmp_path)[0] == 7
    assert run(tmp_path, evaluate=lambda params, step: {"loss": float(step)}, eval_every=7, save_every=100).step == 12


def test_a_metric_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"keep_best is 'f1', but the evaluation gives \['accuracy'\]"):
        run(tmp_path, evaluate=lambda params, step: {"accuracy": 1.0}, eval_every=2, keep_best="f1")


def test_a_folder_of_another_run_is_refused(whole):
    with pytest.raises(ValueError, match=r"settings\.steps is 12 there and 13 here"):
        run(whole[1], steps=13)


def test_given_parameters_are_where_the_run_starts(tmp_path):
    params = jax.tree.map(np.array, jax.device_get(toy.objective().init(jax.random.key(9))))
    params["pair"]["bias"] += 2.0
    loop.train(toy.objective(), toy.Data(16), settings(steps=1), optimizer.Optim(rate=0.0), tmp_path, params=params)
    assert final(tmp_path)[1] == jax.tree.map(lambda x: x.tobytes(), params)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"settings\.log_every must be at least 1"):
        loop.Settings(log_every=0)


TWO = textwrap.dedent("""
    import sys
    import jax
    import numpy as np
    import toy
    from bertvariants_jax.training import evaluate, loop, optimizer
    from bertvariants_jax.training.sharding import Mesh

    me = int(sys.argv[1])
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", num_processes=2, process_id=me)

    class Half(toy.Data):
        def __iter__(self):
            return HalfPosition(self)

    class HalfPosition(toy.Position):
        def __next__(self):
            return {key: value[8 * me:8 * me + 8] for key, value in super().__next__().items()}

    def score(params, step):
        rows = [{key: value[5 * me:5 * me + 5] for key, value in toy.rows(10, seed=3).items()}]
        pairs = list(evaluate.predictions(toy.objective(), params, rows))
        ids = np.concatenate([batch["example_id"] for batch, _ in pairs])
        logits = np.concatenate([out["logits"] for _, out in pairs])
        assert ids.tolist() == list(range(10)) and len(logits) == 10, ids
        return {"mean": float(logits.mean())}

    out = loop.train(toy.objective(), Half(16), loop.Settings(steps=12, batch_size=16, log_every=2, save_every=4,
                     mesh=Mesh(-1, 4)), optimizer.Optim(rate=1e-2, warmup=2), sys.argv[3], evaluate=score)
    print(out.step, out.stopped_by)
    jax.distributed.shutdown()
""")


@pytest.mark.long
def test_two_processes_take_the_same_steps(whole, tmp_path):
    import socket
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    here = pathlib.Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{here}:{here.parents[1]}",
           "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    children = [subprocess.Popen([sys.executable, "-c", TWO, str(i), port, str(tmp_path)], env=env, text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(2)]
    said = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0, 0], said[0][1][-3000:] + said[1][1][-3000:]
    ours, theirs = ([line["loss"] for line in read_metrics(out / "metrics.jsonl") if "loss" in line]
                    for out in (tmp_path, whole[1]))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


GROWING = {"batch_size": 32, "batch_warmup_from": 8, "batch_warmup": 6}


def test_batches_grow_to_their_full_size():
    assert [settings(**GROWING).rows_at(at) for at in range(8)] == [8, 8, 16, 16, 24, 24, 32, 32]
    assert [settings(batch_size=32, batch_warmup_from=8, batch_warmup=0.5).rows_at(at) for at in (0, 2, 6)] == [8, 16, 32]
    assert [settings().rows_at(at) for at in (0, 11)] == [16, 16]
    with pytest.raises(ValueError, match="batch_size 32 and batch_warmup_from 12 are not multiples of batch_warmup_from 12"):
        settings(batch_size=32, batch_warmup_from=12)
    finely = settings(**{**GROWING, "batch_warmup_by": 2})
    assert [finely.rows_at(at) for at in range(8)] == [8, 12, 16, 20, 24, 28, 32, 32] and finely.data_rows == 2
    assert [finely.places_at(at) for at in range(8)] == [8, 16, 16, 24, 24, 32, 32, 32]
    with pytest.raises(ValueError, match="batch_warmup_from 8 are not multiples of batch_warmup_by 3"):
        settings(batch_size=24, batch_warmup_from=8, batch_warmup_by=3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_growing_batch_is_the_data_in_order_and_resumes(tmp_path, accumulate):
    run(tmp_path / "whole", toy.Data(8), accumulate=accumulate, **GROWING)
    stopped = run(tmp_path / "parts", toy.Data(8, length=2 + 4 + 3), accumulate=accumulate, **GROWING)
    assert (stopped.step, stopped.stopped_by) == (5, "data")    # 8 8 16 16 24, and then two of 24's three parts were there
    assert run(tmp_path / "parts", toy.Data(8), accumulate=accumulate, **GROWING).step == 12
    assert final(tmp_path / "parts") == final(tmp_path / "whole")


def test_a_growing_batch_takes_the_step_of_that_many_rows(tmp_path):
    """Of 12 rows too, which eight devices do not share: their program takes 16, of which four weigh nothing."""
    growing = settings(log_every=1, batch_warmup_from=8, batch_warmup=2, batch_warmup_by=4, steps=3)
    outcome = loop.train(toy.objective(dropout=0), toy.Data(4), growing, OPTIM, tmp_path)
    assert outcome.step == 3
    from bertvariants_jax.training import step
    build, first = optimizer.build(OPTIM, 3, growing.rows_at), jax.random.split(jax.random.key(0))[0]
    state, stream, losses = step.init_state(toy.objective(), build, first), iter(toy.Data(4)), []
    update = jax.jit(step.make_update(toy.objective(dropout=0), build))
    for rows in (8, 12, 16):
        parts = [next(stream) for _ in range(rows // 4)]
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        state, metrics = update(state, batch, first)
        losses.append(float(metrics["loss"][0]))
    found = [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")]
    np.testing.assert_allclose(found, losses, rtol=1e-5)
