"""A pod on this machine: two processes with four fake devices each, on meshes whose devices alternate
between the hosts, as `jax.make_mesh` lays them on TPU slices.

usage: python tests/training/pods.py     (from the project's root; prints OK or FAIL a case)
`tests/training/test_pods.py` runs the same.
"""

import faulthandler
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    os.environ.update(JAX_PLATFORMS="cpu", NPROC="16")
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0")

import jax
import numpy as np

from bertvariants_jax import recipe
from bertvariants_jax.data.pipeline import pipeline
from bertvariants_jax.objectives.objective import Loss, Objective
from bertvariants_jax.training import evaluate, loop, sharding
from bertvariants_jax.training.lock import Lock
from bertvariants_jax.training.log import read_metrics
from bertvariants_jax.training.optimizer import Optim

ORDERS = {
    "process order": [0, 1, 2, 3, 4, 5, 6, 7],
    "as v5e lays them": [0, 1, 4, 5, 2, 3, 6, 7],
    "alternating": [0, 4, 1, 5, 2, 6, 3, 7],
    "mixed": [0, 4, 1, 2, 5, 6, 3, 7],
}
# name -> an order and a mesh whose axis `model` goes across hosts; mixed, each also has rows that the other has not
CROSSED = {"model 8": ("process order", sharding.Mesh(1, 1, 8)), "2 x 2 x 2": ("mixed", sharding.Mesh(2, 2, 2))}
GROWING = {"batch_warmup_from": 8, "batch_warmup": 3}
BATCH = 16
PATIENCE = 900  # seconds; a quiet machine takes half a minute


def lay(order: str) -> None:
    """From now on the product's meshes take the devices in this order."""
    sharding.arrange = lambda sizes, devices: np.array(devices)[ORDERS[order]].reshape(sizes)


class Numbers:
    """Example i is its own number."""

    def __len__(self):
        return 7 * BATCH

    def rows(self, indices, epoch):
        ids = indices[:, None].astype(np.int32)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def numbers(mesh, batch_size=BATCH, **options):
    rows = sharding.local_rows(sharding.batch_sharding(mesh), batch_size)
    return pipeline(Numbers(), batch_size=batch_size, rows=rows, shuffle=False, **options)


class First:
    """The first batches of some data."""

    def __init__(self, data, count):
        self.data, self.count = data, count

    def __iter__(self):
        stream, count = iter(self.data), self.count

        class Stream:
            def __next__(self):
                if stream.get_state()["next"] == count:
                    raise StopIteration
                return next(stream)

            get_state, set_state = stream.get_state, stream.set_state

        return Stream()


def count(memory: bool) -> Objective:
    """Nothing to learn; its metrics say which rows a step sees, and where: `rows`, `places` (the sum of
    number x row), and with a memory `strays`, rows of it that did not meet the stream's next row."""

    def loss(params, batch, rng, held=None):
        ids = batch["input_ids"][:, 0]
        found = {"rows": len(ids), "places": (ids * (np.arange(len(ids)) + 1)).sum()}
        if memory:
            found["strays"] = ((held > 0) & (ids + 1 - held != BATCH)).sum()
        return Loss({"w": params["w"]["x"] ** 2}, {key: (x, 1) for key, x in found.items()}, ids + 1)

    return Objective(
        lambda rng: {"w": {"x": jax.numpy.ones(())}}, lambda batch: {"w": 1.0}, loss,
        lambda params, batch: {"echo": batch["input_ids"][:, 0]}, {"w": 1.0},
        memory=(lambda size: jax.numpy.zeros(size, jax.numpy.int32)) if memory else None,
    )  # fmt: skip


def metrics(folder, *names: str) -> dict[str, list[float]]:
    lines = [line for line in read_metrics(pathlib.Path(folder) / "metrics.jsonl") if "loss" in line]
    return {name: [line[name] for line in lines] for name in names}


def counted(folder, order: str, mesh: sharding.Mesh, batches=None, memory=False, **options):
    """Which rows each step of a run of six steps saw."""
    lay(order)
    settings = loop.Settings(steps=6, batch_size=BATCH, mesh=mesh, log_every=1, **options)
    data = numbers(sharding.make_mesh(mesh), settings.data_rows)
    data = data if batches is None else First(data, batches)
    return loop.train(count(memory), data, settings, Optim(rate=0.1), folder)


def echoed(order: str) -> bool:
    """Whether every example meets its own prediction, once."""
    lay(order)
    mesh, seen = sharding.make_mesh(), []
    for batch, out in evaluate.predictions(count(False), {}, numbers(mesh, epochs=1), mesh):
        assert batch["example_id"].tolist() == out["echo"].tolist(), (batch, out)
        seen += batch["example_id"].tolist()
    return seen == list(range(len(Numbers())))


WORDS = "good bad film very it was not a the number and long".split()


def write_table(folder: pathlib.Path) -> None:
    draw = np.random.default_rng(0)
    for name, rows in (("train", 64), ("dev", 45)):
        lines = [(" ".join(draw.choice(WORDS, 9)), ("up", "down", "so")[draw.integers(3)]) for _ in range(rows)]
        (folder / f"{name}.tsv").write_text("text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in lines))


def trained(folder: pathlib.Path, out: str, order: str, mesh: sharding.Mesh) -> dict[str, object]:
    """A run through the product's own door: its losses and scores, and those of the model that it exports."""
    lay(order)
    tiny = recipe.model("bert", vocab_size=60, hidden_size=96, num_hidden_layers=1,
                        num_attention_heads=8, intermediate_size=96, max_position_embeddings=32)  # fmt: skip
    task = recipe.Classify(f"tsv:{folder}/train.tsv", f"tsv:{folder}/dev.tsv", max_length=16,
                           metrics=("accuracy", "macro_f1"))  # fmt: skip
    settings = recipe.Settings(steps=6, batch_size=BATCH, mesh=mesh, log_every=1, eval_every=2)
    run = recipe.Recipe(task, tiny, Optim(rate=3e-3), settings)
    outcome = recipe.run(run, folder / out)
    seen = {key: value for key, value in outcome.metrics.items() if key.startswith(("loss", "eval", "best"))}
    scores = recipe.evaluate(folder / out / "model", task, output=folder / out / "predictions")
    return {**metrics(folder / out, "loss"), "metrics": seen, "scores": scores}


def child(me: int, port: str, folder: pathlib.Path, *runs: str) -> dict[str, object]:
    """What one of two processes finds."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # two processes that wait for each other say where
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=me)
    seen: dict[str, object] = {f"evaluation, {order}": echoed(order) for order in ORDERS}
    for name, (order, mesh) in CROSSED.items():
        counted(folder / f"rows {name}", order, mesh)
    counted(folder / "growing", "alternating", sharding.Mesh(), **GROWING)
    counted(folder / "memory", "process order", sharding.Mesh(), batches=2, memory=True)
    counted(folder / "memory", "alternating", sharding.Mesh(), batches=4, memory=True)
    try:
        counted(folder / "apart", "process order", sharding.Mesh(), seed=me)
    except ValueError as error:
        seen["apart"] = str(error)
    try:
        counted(folder / "held", "process order", sharding.Mesh())
    except (ValueError, OSError) as error:
        seen["held"] = str(error)
    for name in runs:
        seen[name] = trained(folder, f"run {name}", *CROSSED[name])
    jax.distributed.shutdown()
    return seen


def pair(folder: pathlib.Path, *runs: str) -> list[dict[str, object]]:
    """What both processes find."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    children = [
        subprocess.Popen([sys.executable, __file__, str(me), port, str(folder), *runs], text=True,
                         env={**os.environ, "XLA_FLAGS": flags}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for me in (0, 1)
    ]  # fmt: skip
    said = [process.communicate(timeout=PATIENCE + 60) for process in children]
    if any(process.returncode for process in children):
        raise RuntimeError("\n".join(f"process {me}: {errors[-3000:]}" for me, (_, errors) in enumerate(said)))
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def cases(folder: pathlib.Path, *runs: str) -> dict[str, tuple[object, object]]:
    """Case -> (what two processes give, what must hold); this process has eight devices. runs: of CROSSED."""
    write_table(folder)
    with Lock(folder / "held"):
        two, arrange = pair(folder, *runs), sharding.arrange
    try:
        counted(folder / "one", "process order", sharding.Mesh(), **GROWING)
        counted(folder / "memory", "process order", sharding.Mesh(2, 4), memory=True)
        alone = trained(folder, "run", "process order", sharding.Mesh())
    finally:
        sharding.arrange = arrange
    found: dict[str, tuple[object, object]] = {
        f"evaluation, {order}": ([each[f"evaluation, {order}"] for each in two], [True, True]) for order in ORDERS}
    first = np.arange(6 * BATCH).reshape(6, BATCH)
    wanted = {"rows": [float(BATCH)] * 6, "places": (first * (np.arange(BATCH) + 1)).sum(1).astype(float).tolist()}
    for name in CROSSED:
        found[f"the global batch is the one asked for, {name}"] = (metrics(folder / f"rows {name}", *wanted), wanted)
    found["a growing batch"] = (metrics(folder / "growing", *wanted), metrics(folder / "one", *wanted))
    found["a memory on other layouts"] = (metrics(folder / "memory", "strays")["strays"], [0.0] * 6)
    found["hosts that were not started alike"] = ([each["apart"].split(".")[:2] for each in two], [[
        "processes 0 and 1 of this run differ: settings", "seed is 0 and 1"]] * 2)
    found["a folder that another run holds"] = ([f"in use by process {os.getpid()}" in each["held"] for each in two],
                                                [True, True])
    for name in runs:
        found[f"one process's losses and scores, {name}"] = ([each[name] for each in two], [alone, alone])
        found[f"one process's predictions, {name}"] = tuple(
            [path.read_text() for path in (folder / run / "predictions").iterdir()] for run in (f"run {name}", "run"))
    return found


def same(found, wanted) -> bool:
    """Equal, numbers up to rounding."""
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, float):
        return abs(found - wanted) <= 1e-5 * max(1.0, abs(wanted))
    return found == wanted


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = cases(pathlib.Path(folder), *CROSSED)
    right = 0
    for name, (got, wanted) in found.items():
        right += same(got, wanted)
        print("OK  " if same(got, wanted) else "FAIL", name, "" if same(got, wanted) else f"{got}, not {wanted}")
    print(f"{right} of {len(found)} right")
    return int(right < len(found))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main())
    number, address, place, *names = sys.argv[1:]
    print(json.dumps(child(int(number), address, pathlib.Path(place), *names)))
