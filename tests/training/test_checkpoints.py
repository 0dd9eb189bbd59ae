"""Checkpoints are whole or absent, go to any mesh, and the best one stays."""

import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from bertvariants_jax.training import optimizer, sharding, step
from bertvariants_jax.training.checkpoints import CheckpointError, Checkpoints, Keep, claim

STATE = {"params": {"w": jnp.arange(8.0)}, "step": jnp.int32(3), "rng": jax.random.key(3)}


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def program(mesh, devices=8):
    objective = toy.objective(width=128, memory=True)
    return step.under_jit(objective, optimizer.build(optimizer.Optim(), 10),
                          sharding.make_mesh(mesh, jax.devices()[:devices]), batch_size=8)


def test_a_checkpoint_goes_to_another_mesh_and_number_of_devices(tmp_path):
    first = program(sharding.Mesh(1, 8))
    state = first.start(jax.random.key(0))
    state, _ = first.step(state, first.place(toy.rows(8)), jax.random.key(1))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {**state, "rng": jax.random.key(7)}, data={"at": 5, "name": "x"}, config={})
    for mesh, devices in ((sharding.Mesh(2, 1, 2), 4), (sharding.Mesh(), 1)):
        other = program(mesh, devices)
        key = jax.random.key(0)
        with Checkpoints(tmp_path / "checkpoints") as checkpoints:
            done, found, data = checkpoints.restore({**other.abstract, "rng": abstract(key)})
        assert done == 1 and data == {"at": 5, "name": "x"}
        assert jax.random.key_data(found.pop("rng")).tolist() == jax.random.key_data(jax.random.key(7)).tolist()
        jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(state))
        jax.tree.map(lambda x, like: x.sharding.is_equivalent_to(like.sharding, x.ndim) or pytest.fail(str(x.sharding)),
                     found, other.abstract)
        other.step(found, other.place(toy.rows(8)), jax.random.key(1))


def test_newest_and_best_are_kept_and_parameters_are_read_alone(tmp_path):
    with Checkpoints(tmp_path, Keep(2, "accuracy")) as checkpoints:
        for at, score in enumerate([0.1, 0.9, 0.9, float("nan"), None, 0.2], start=1):
            checkpoints.save(at, {**STATE, "params": {"w": STATE["params"]["w"] * at}},
                             metrics=None if score is None else {"accuracy": score})
        checkpoints.wait()
        assert checkpoints.latest == 6 and checkpoints.best == (2, {"accuracy": 0.9})
        params = checkpoints.params(abstract(STATE["params"]), step=2)
        assert isinstance(params["w"], np.ndarray)
        np.testing.assert_array_equal(params["w"], 2 * np.arange(8.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "5", "6"]
    with Checkpoints(tmp_path, Keep(2, "accuracy", "min")) as checkpoints:
        assert checkpoints.best == (6, {"accuracy": 0.2})


def test_a_full_disk_is_said_and_the_last_good_checkpoint_survives(tmp_path):
    rng = np.random.default_rng(0)
    big = {"params": {"w": jnp.asarray(rng.normal(size=2 ** 18), jnp.float32)}, "step": jnp.int32(1)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, big)
    checkpoints.wait()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 16, limits[1]))  # writes past 64 kB fail
        with pytest.raises(CheckpointError, match=r"cannot save .*the last good checkpoint is .*/1$"):
            checkpoints.save(2, big)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Checkpoints(tmp_path) as again:
        done, found, _ = again.restore(abstract(big))
        assert done == 1
        np.testing.assert_array_equal(found["params"]["w"], big["params"]["w"])


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(CheckpointError, match="cannot write"):
        claim(tmp_path / "file", {})


def test_another_shape_is_refused_with_the_last_good_checkpoint_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, STATE)
        other = abstract({**STATE, "params": {"w": jnp.zeros(5)}})
        with pytest.raises(CheckpointError, match="cannot restore step 4"):
            checkpoints.restore(other)


def test_a_folder_of_another_run_is_refused_by_field(tmp_path):
    ours = {"settings": {"steps": 10, "log_every": 5, "mesh": {"data": -1}}, "optim": {"rate": 1e-4}, "sizes": [1, 2]}
    claim(tmp_path, ours)
    claim(tmp_path, {**ours, "settings": {"steps": 10, "log_every": 7, "mesh": {"data": 4}}})
    with pytest.raises(ValueError, match=r"holds another run: optim\.rate is 0\.0001 there and 0\.1 here; "
                                         r"settings\.steps is 10 there and 'absent' here"):
        claim(tmp_path, {"settings": {"log_every": 1}, "optim": {"rate": 0.1}, "sizes": [1, 2]})
