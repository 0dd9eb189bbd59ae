"""Phases of one run in folders of their own: one schedule, and moments and the step handed over."""

import json
import os
import pathlib
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import toy

from bertvariants_jax.cli import load_recipe
from bertvariants_jax.training import loop
from bertvariants_jax.training.checkpoints import Checkpoints
from bertvariants_jax.training.lock import Lock, RunInUse
from bertvariants_jax.training.log import read_metrics
from bertvariants_jax.training.optimizer import Optim, schedule

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"
OPTIM = Optim("bert_adam", rate=1e-2, schedule="bert", schedule_steps=12, warmup=2)
SETTINGS = loop.Settings(steps=12, batch_size=16, log_every=1, save_every=3)


class LaterData(toy.Data):
    """What `toy.Data` gives from its seventh batch on."""

    def __iter__(self):
        position = super().__iter__()
        position.at = 6
        return position


def train(out, data=None, **settings):
    data = data or toy.Data(16)
    return loop.train(toy.objective(), data, replace(SETTINGS, **settings), OPTIM, out)


def state(out):
    """Step, parameters and optimizer state of the last checkpoint, as bytes."""
    from bertvariants_jax.training.optimizer import build
    from bertvariants_jax.training.step import init_state

    shapes = jax.eval_shape(
        lambda: init_state(toy.objective(), build(OPTIM, 12), jax.random.key(0))
        | {"rng": jax.random.key(0)}
    )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
        ),
        shapes,
    )
    with Checkpoints(out / "checkpoints") as checkpoints:
        step, found, _ = checkpoints.restore(shapes)
    del found["rng"]
    return step, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The first phase: six of twelve steps."""
    out = tmp_path_factory.mktemp("first")
    assert train(out, steps=6).step == 6
    return out


def test_two_phases_end_bit_for_bit_like_one_run(first, tmp_path):
    train(tmp_path / "whole")
    outcome = train(tmp_path / "second", LaterData(16), continue_from=str(first))
    assert (outcome.step, outcome.stopped_by) == (12, "steps")
    assert state(tmp_path / "second") == state(tmp_path / "whole")
    rows = [
        {row["step"]: (row["loss"], row["learning_rate"]) for row in read_metrics(out / "metrics.jsonl")}
        for out in (tmp_path / "whole", first, tmp_path / "second")
    ]
    assert list(rows[2]) == [7, 8, 9, 10, 11, 12] and rows[0] == rows[1] | rows[2]


def test_a_later_phase_goes_on_from_its_own_checkpoint(first, tmp_path):
    shutil.copytree(first, tmp_path / "first")
    options = {"continue_from": str(tmp_path / "first")}
    train(tmp_path / "whole", LaterData(16), **options)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed/checkpoints/12")
    shutil.rmtree(tmp_path / "first")
    train(tmp_path / "killed", LaterData(16), **options)
    assert state(tmp_path / "killed") == state(tmp_path / "whole")


def test_a_phase_does_not_begin_where_the_one_before_is_going_on(first, tmp_path):
    shutil.copytree(first, tmp_path / "first")
    options = {"continue_from": str(tmp_path / "first")}
    with Lock(tmp_path / "first"), pytest.raises(RunInUse, match=rf"first is in use by process {os.getpid()}"):
        train(tmp_path / "second", LaterData(16), **options)
    (tmp_path / "first/lock").write_text(json.dumps({
        "host": "elsewhere", "boot": "", "pids": "", "pid": 1, "began": "", "time": "", "key": ""}))
    with pytest.raises(RunInUse, match="in use by process 1 on elsewhere"):
        train(tmp_path / "second", LaterData(16), **options)
    os.utime(tmp_path / "first/lock", (1, 1))
    assert train(tmp_path / "second", LaterData(16), **options).step == 12
    assert (tmp_path / "first/lock").exists()


def test_a_phase_says_that_the_one_before_did_not_come_to_its_end(first, tmp_path, capfd):
    shutil.copytree(first, tmp_path / "first")
    checkpoints = tmp_path / "first/checkpoints"
    (checkpoints / "6").rename(checkpoints / "damaged-6")
    train(tmp_path / "second", LaterData(16), continue_from=str(tmp_path / "first"))
    told = capfd.readouterr().err
    assert told.count("first has come to step 3 of its 6; set aside as damaged: damaged-6\n") == 1
    train(tmp_path / "third", LaterData(16), continue_from=str(first))
    assert "has come to" not in capfd.readouterr().err


def test_a_phase_with_another_tokenizer_or_other_classes_is_refused(tmp_path, capfd):
    def begin(name, tokenizer, heads=2, **settings):
        classes = {"count": 2, "0": tokenizer + "-bad", "1": "good"}
        config = {"origin": {"tokenizer": tokenizer[0], "network": {"heads": heads}, "classes": classes}}
        return loop.train(
            toy.objective(), toy.Data(16), replace(SETTINGS, **settings), OPTIM, tmp_path / name, config=config
        )

    begin("first", "a", steps=6)
    with pytest.raises(ValueError, match="first learned with another tokenizer"):
        begin("second", "b", continue_from=str(tmp_path / "first"))
    with pytest.raises(ValueError, match="first learned the classes a-bad, good; here they are ab-bad, good"):
        begin("third", "ab", continue_from=str(tmp_path / "first"))
    begin("fourth", "a", heads=4, continue_from=str(tmp_path / "first"))
    assert f"heads is 2 in {tmp_path / 'first'} and 4 here" in capfd.readouterr().err


def test_what_cannot_be_handed_over_is_refused(first, tmp_path):
    before = sorted(path.name for path in (first / "checkpoints").iterdir())
    with pytest.raises(ValueError, match="nowhere is no training run"):
        train(tmp_path / "a", continue_from=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"has taken 6 steps, so that none is left of settings\.steps 6"):
        train(tmp_path / "b", steps=6, continue_from=str(first))
    with pytest.raises(ValueError, match="epochs 0"):
        replace(SETTINGS, epochs=1.0, continue_from=str(first))
    with pytest.raises(ValueError, match="memory"):
        loop.train(
            toy.objective(memory=True),
            toy.Data(16),
            replace(SETTINGS, continue_from=str(first)),
            OPTIM,
            tmp_path / "c",
        )
    with pytest.raises(ValueError, match="schedule_steps 12 ends before the last of 13 steps"):
        train(tmp_path / "d", steps=13)
    assert sorted(path.name for path in (first / "checkpoints").iterdir()) == before


def recipe(name, **knobs):
    return load_recipe(EXPERIMENTS / f"{name}.py").recipe(**knobs)


def rate(chosen, step):
    return float(schedule(chosen.optim, chosen.settings.steps)(step))


def test_berts_second_phase_goes_on_down_the_schedule_of_a_million_steps():
    one, two = recipe("bert_base"), recipe("bert_base", phase=2, start="runs/one")
    assert rate(one, 899_999) == pytest.approx(1.0e-5, rel=1e-4)
    assert rate(two, 900_000) == pytest.approx(1.0e-5, rel=1e-4)
    assert np.mean([rate(two, t) for t in range(900_000, 1_000_000, 1000)]) == pytest.approx(5e-6, rel=0.02)
    assert (two.settings.continue_from, two.model.start) == ("runs/one", "runs/one/model")
    assert one.optim == two.optim
    for wrong in ({"phase": 2}, {"start": "runs/one"}, {"phase": 3, "start": "runs/one"}):
        with pytest.raises(ValueError, match="phase"):
            recipe("bert_base", **wrong)


@pytest.mark.parametrize("tiny", [False, True])
def test_modernberts_phases_hand_over_moments_and_steps(tiny):
    phases = [recipe("modernbert_base", tiny=tiny)]
    for phase in (2, 3):
        phases.append(recipe("modernbert_base", phase=phase, start=f"runs/{phase - 1}/model", tiny=tiny))
        chosen, before = phases[-1], phases[-2]
        assert chosen.settings.continue_from == f"runs/{phase - 1}"
        assert chosen.model.start == f"runs/{phase - 1}/model"
        assert chosen.settings.steps > before.settings.steps
        assert chosen.settings.rows_at(before.settings.steps) == chosen.settings.batch_size
        assert rate(chosen, before.settings.steps) == pytest.approx(chosen.optim.rate)  # no second warm-up
    assert rate(phases[2], phases[2].settings.steps) == pytest.approx(0.001 * phases[2].optim.rate)
    for wrong in ({"phase": 2}, {"phase": 1, "start": "runs/1"}):
        with pytest.raises(ValueError, match="phase"):
            recipe("modernbert_base", tiny=tiny, **wrong)


def test_a_run_from_before_there_were_phases_goes_on(tmp_path):
    optim = replace(OPTIM, schedule_steps=0)
    loop.train(toy.objective(), toy.Data(16), SETTINGS, optim, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["settings"]["continue_from"], config["optim"]["schedule_steps"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert loop.train(toy.objective(), toy.Data(16), SETTINGS, optim, tmp_path).step == 12
    with pytest.raises(ValueError, match="schedule_steps is 0 there and 12 here"):
        train(tmp_path)
