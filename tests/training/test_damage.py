"""A checkpoint that was damaged on the disk is named and set aside; the one before it is taken."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from bertvariants_jax.training import loop, optimizer
from bertvariants_jax.training.checkpoints import CheckpointError, Checkpoints, Keep
from bertvariants_jax.training.log import read_metrics

SHAPES = {"params": {"w": jnp.zeros(2 ** 15), "b": jnp.zeros(3)}, "opt": [jnp.zeros(2 ** 15)], "step": jnp.int32(0)}
ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), SHAPES)


def state(step):
    noise = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(noise.normal(size=x.shape), x.dtype), SHAPES)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 5, 10 and 15, of which 10 is the best."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    with Checkpoints(folder, Keep(3, "accuracy")) as checkpoints:
        for step in (5, 10, 15):
            checkpoints.save(step, state(step), data={"at": step}, config={}, metrics={"accuracy": -abs(step - 10.0)})
    return folder


def data_file(folder):
    """The file that holds the weights."""
    return max((path for path in (folder / "params").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path, at=None, count=8):
    content = bytearray(path.read_bytes())
    at = len(content) // 2 if at is None else at
    content[at:at + count] = bytes(255 - byte for byte in content[at:at + count])
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    "flipped weights": lambda folder: flip(data_file(folder)),
    "weights cut short": lambda folder: cut(data_file(folder)),
    "weights lost": lambda folder: data_file(folder).unlink(),
    "params lost": lambda folder: shutil.rmtree(folder / "params"),
    "rest lost": lambda folder: shutil.rmtree(folder / "rest"),
    "flipped metadata": lambda folder: flip(folder / "_CHECKPOINT_METADATA"),
    "metadata cut short": lambda folder: cut(folder / "_CHECKPOINT_METADATA"),
    "metadata lost": lambda folder: (folder / "_CHECKPOINT_METADATA").unlink(),
    "another place in the data": lambda folder: (folder / "_CHECKPOINT_METADATA").write_text(
        (folder / "_CHECKPOINT_METADATA").read_text().replace('"at": 15', '"at": 14')),
    "tree flipped": lambda folder: flip(folder / "params" / "_METADATA"),
    "another score": lambda folder: (folder / "metrics" / "metrics").write_text('{"accuracy": 7.0}'),
    "score cut short": lambda folder: cut(folder / "metrics" / "metrics"),
    "checksums flipped": lambda folder: flip(folder / "seal.json"),
    "index cut short": lambda folder: cut(folder / "params" / "manifest.ocdbt"),
    "all lost": empty,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_is_set_aside_and_the_one_before_is_restored(damage, saved, tmp_path, capfd):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    DAMAGES[damage](folder / "15")
    with Checkpoints(folder, Keep(3, "accuracy")) as checkpoints:
        step, found, data = checkpoints.restore(ABSTRACT)
        assert step == 10 and data == {"at": 10} and checkpoints.best[0] == 10
        np.testing.assert_array_equal(found["params"]["w"], state(10)["params"]["w"])
        checkpoints.save(15, state(15), data={"at": 15}, config={}, metrics={"accuracy": -5.0})
    said = capfd.readouterr().err
    assert "checkpoint of step 15 is damaged" in said and f"set aside as {folder / 'damaged-15'}" in said
    assert sorted(path.name for path in folder.iterdir()) == ["10", "15", "5", "damaged-15"]


@pytest.mark.parametrize("damage", ["params lost", "weights lost", "metadata lost", "tree flipped", "index cut short", "all lost"])
def test_a_checkpoint_without_checksums_is_set_aside_where_it_cannot_be_read(damage, saved, tmp_path, capfd):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    for step in (5, 10, 15):
        (folder / str(step) / "seal.json").unlink()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(ABSTRACT)[0] == 15
    DAMAGES[damage](folder / "15")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.restore(ABSTRACT)[0] == 10
        assert max(map(len, capfd.readouterr().err.splitlines())) < 300 + 2 * len(str(folder))
        other = {**ABSTRACT, "params": {**ABSTRACT["params"], "b": jax.ShapeDtypeStruct((4,), jnp.float32)}}
        with pytest.raises(CheckpointError, match="cannot restore step 10"):
            checkpoints.restore(other)
    assert (folder / "10").is_dir() and (folder / "damaged-15").is_dir()


def test_damaged_weights_are_never_handed_out(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    flip(data_file(folder / "10"))
    with Checkpoints(folder, Keep(3, "accuracy")) as checkpoints:
        with pytest.raises(CheckpointError, match=r"the best checkpoint of .*, step 10, is damaged: params/.* checksum "
                                                  r"differs. It is set aside as damaged-10; .* go on with step 5"):
            checkpoints.params(ABSTRACT["params"], 10)
        assert checkpoints.best[0] == 5 and (folder / "damaged-10").is_dir()


def test_a_run_does_not_begin_again_where_all_is_damaged(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    for step in (5, 10, 15):
        flip(data_file(folder / str(step)))
    for _ in range(2):
        with Checkpoints(folder) as checkpoints, pytest.raises(
                CheckpointError, match=r"no good checkpoint is left in .*, only damaged-10, damaged-15, damaged-5"):
            checkpoints.restore(ABSTRACT)


def run(out, optim=None, **fields):
    exported = []
    outcome = loop.train(toy.objective(), toy.Data(16), loop.Settings(**{
        "steps": 9, "batch_size": 16, "log_every": 2, "save_every": 3, "keep_last": 2, **fields}),
        optim or optimizer.Optim(rate=1e-2, warmup=2), out,
        export=lambda params, _: exported.append(jax.tree.map(lambda x: x.tobytes(), params)))
    return outcome, exported, [(line["step"], line["loss"]) for line in read_metrics(out / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return run(out), out


def test_a_run_goes_on_from_the_checkpoint_before_and_ends_as_it_would_have(whole, tmp_path, capfd):
    out = shutil.copytree(whole[1], tmp_path / "run")
    flip(data_file(out / "checkpoints" / "9"))
    (out / "config.json").write_text('{"settings": ')
    outcome, exported, lines = run(out)
    said = capfd.readouterr().err
    assert "step 9 is damaged" in said and "resumed from step 6" in said and "config.json was lost or changed" in said
    assert (outcome.step, exported, lines) == (9, whole[0][1], whole[0][2])
    assert json.loads((out / "config.json").read_text())["settings"]["steps"] == 9


def test_another_runs_checkpoint_is_refused(whole, tmp_path):
    out = shutil.copytree(whole[1], tmp_path / "run")
    run(tmp_path / "other", optimizer.Optim(rate=2e-2, warmup=2), steps=12)
    shutil.copytree(tmp_path / "other" / "checkpoints" / "12", out / "checkpoints" / "12")
    with pytest.raises(ValueError, match=r"checkpoints/12 is a checkpoint of another run: optim.rate is 0.02 there"):
        run(out)
    (out / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds another run|is a checkpoint of another run"):
        run(out)


def test_a_config_of_which_a_digit_was_damaged_is_taken_from_the_checkpoint(whole, tmp_path, capfd):
    out = shutil.copytree(whole[1], tmp_path / "run")
    path, content = out / "config.json", (out / "config.json").read_text()
    path.write_text(content.replace('"rate": 0.01', '"rate": 0.07'))
    assert path.read_text() != content
    run(out)
    assert path.read_text() == content and "config.json was changed: taken from the checkpoint" in capfd.readouterr().err
    with pytest.raises(ValueError, match=r"holds another run: optim.rate is 0.01 there and 0.02 here"):
        run(out, optimizer.Optim(rate=2e-2, warmup=2))


def test_the_best_of_those_that_are_left_is_exported_only_when_asked_again(tmp_path, capfd):
    def train():
        return loop.train(toy.objective(), toy.Data(16), loop.Settings(
            steps=9, batch_size=16, save_every=3, keep_last=2, eval_every=3, keep_best="accuracy"),
            optimizer.Optim(rate=1e-2), tmp_path, evaluate=lambda params, step: {"accuracy": -step},
            export=lambda params, folder: exported.append(jax.tree.map(lambda x: x.tobytes(), params)))

    exported = []
    assert train().metrics["best/step"] == 3
    flip(data_file(tmp_path / "checkpoints" / "3"), 200)
    outcome = None
    for _ in range(2):     # the first one says what is lost, if opening the folder has not
        with contextlib.suppress(CheckpointError):
            outcome = train()
    assert outcome.metrics["best/step"] == 6 and exported[-1] != exported[0]
    said = capfd.readouterr().err
    assert "step 3 is damaged" in said and "the model is that of step 6; not looked at, as set aside: damaged-3" in said
