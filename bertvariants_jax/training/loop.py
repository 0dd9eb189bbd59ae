"""The one training loop: takes an objective, data and an optimizer, and keeps nothing that a kill could lose.

Steps are queued ahead of the devices and their numbers are read two steps late, so the host never stops
them; metrics.jsonl, checkpoints, evaluation and export hang on the loop as arguments.

A run that is stopped and resumed writes what an uninterrupted one writes: a checkpoint keeps the interval that is not
logged yet, and an evaluation that the stop left out is made up.
"""

import contextlib
import copy
import functools
import json
import math
import pathlib
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax
import numpy as np

from bertvariants_jax.objectives.objective import Objective
from bertvariants_jax.training import flops, sharding, step
from bertvariants_jax.training.checkpoints import (
    CheckpointError,
    Checkpoints,
    Keep,
    claim,
    flat,
    kept_files,
    reason,
    refuse_foreign,
    run_config,
)
from bertvariants_jax.training.hosts import check_agreement, do_on_first
from bertvariants_jax.training.lock import Lock, RunInUse, refuse_in_use
from bertvariants_jax.training.log import Log, read_metrics
from bertvariants_jax.training.optimizer import Optim, build, schedule, steps_of
from bertvariants_jax.training.sharding import Mesh, batch_parts, make_mesh

AHEAD = 2  # steps queued on the devices before the host waits for the oldest


class Diverged(ValueError):
    """The loss or a gradient is not finite any more; says the step, its metrics and the last good checkpoint."""


@dataclass(frozen=True)
class Settings:
    """How long, how wide and how watched a run is.

    steps, epochs: the run ends after so many updates, or passes over the training data, whichever are fewer; 0 is no
    limit.
    continue_from: folder of the run of the phase before. Its last checkpoint gives the parameters, the optimizer's moments
    and the step, so that steps, and the schedule, count on from its own; the data is read from its beginning.
    batch_size: global, of one optimizer step. accumulate: micro-batches it is cut into.
    batch_warmup_from: rows of the first step, from which batches grow in a line over the first batch_warmup steps (a part
    of all steps, if below 1), by so many at a time; 0 is no such warm-up. Each size is compiled once.
    batch_warmup_by: fewer rows at a time, which the devices of several hosts must divide. Steps are still compiled for
    multiples of batch_warmup_from, of which what a batch has less are rows of weight 0, and the learning rate of a
    warm-up rises with the rows, not with the steps.
    eval_every, save_every: steps, 0 is only at the end. keep_best: name of an evaluation metric; the
    checkpoint that is best by it is kept and exported (best_mode: max or min).
    """

    steps: int = 1000
    epochs: float = 0.0
    continue_from: str = ""
    batch_size: int = 32
    accumulate: int = 1
    batch_warmup_from: int = 0
    batch_warmup: float = 0.0
    batch_warmup_by: int = 0
    seed: int = 0
    parallel: Literal["mesh", "pmap"] = "mesh"
    mesh: Mesh = field(default_factory=Mesh)
    log_every: int = 50
    eval_every: int = 0
    save_every: int = 1000
    keep_last: int = 2
    keep_best: str = ""
    best_mode: Literal["max", "min"] = "max"

    def __post_init__(self):
        for name, least in (("epochs", 0), ("steps", 0 if self.epochs else 1), ("batch_size", 1), ("accumulate", 1),
                            ("log_every", 1), ("keep_last", 1), ("eval_every", 0), ("save_every", 0),
                            ("batch_warmup_from", 0), ("batch_warmup", 0), ("batch_warmup_by", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"settings.{name} must be at least {least}, got {getattr(self, name)}")
        if self.continue_from and self.epochs:
            raise ValueError("settings.continue_from counts on the steps of the phase before: give settings.steps, of all "
                             "phases together, and epochs 0")
        if self.batch_size % self.data_rows or self.batch_warmup_from % self.data_rows:
            by = "batch_warmup_by" if self.batch_warmup_by else "batch_warmup_from"
            raise ValueError(f"settings.batch_size {self.batch_size} and batch_warmup_from {self.batch_warmup_from} are not "
                             f"multiples of {by} {self.data_rows}")

    @property
    def data_rows(self) -> int:
        """Rows of each batch that the data gives: a step takes one, or while batches may differ several."""
        return (self.batch_warmup_by or self.batch_warmup_from) if self.batch_warmup_from else self.batch_size

    def rows_at(self, step: int) -> int:
        """Rows of the global batch of a step, counted from 0."""
        over = steps_of(self.batch_warmup, self.steps)
        if not self.batch_warmup_from or step >= over:
            return self.batch_size
        grown = (self.batch_size - self.batch_warmup_from) * step // over
        return self.batch_warmup_from + grown // self.data_rows * self.data_rows

    def places_at(self, step: int) -> int:
        """Rows that the step's program takes, as many or more."""
        rows = self.rows_at(step)
        return min(-(-rows // self.batch_warmup_from) * self.batch_warmup_from if self.batch_warmup_from else rows,
                   self.batch_size)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: after `step` steps, by "steps", "data" (no more of it), "SIGTERM" or "SIGINT".

    metrics: the last value of everything that was logged, "eval/..." of the last evaluation, and where a
    best checkpoint is kept "best/step" and "best/<metric>".
    """

    step: int
    metrics: dict[str, float]
    stopped_by: str


def train(objective: Objective, data: Iterable, settings: Settings, optim: Optim, out, *, params=None,
          evaluate: Callable[[Any, int], dict[str, float]] | None = None,
          export: Callable[[Any, pathlib.Path], None] | None = None, config: dict[str, Any] | None = None,
          flops_per_step: float | None = None, tokens_per_step: float | None = None,
          data_changed: bool = False, defaults: dict[str, Any] | None = None) -> Outcome:
    """Train in the folder `out`, going on from its newest checkpoint if it has one.

    data: its iterator gives batches of settings.data_rows rows, of which those of this process (sharding.local_rows;
        on one host all of them), and has get_state() and set_state(state), JSON-able.
    params: initial values (a host tree); else drawn by objective.init from the seed.
    evaluate(params, step) -> {name: number}: called with the parameters on the devices.
    export(params, folder): writes `out`/model from the best parameters, or the last; on the first process.
    config: JSON-able, kept in config.json; a folder that holds another config is refused.
    flops_per_step, tokens_per_step: of a step of batch_size rows; tokens are the size of input_ids if not given.
    defaults: of the config's fields, for a folder of a version that had not all of them.
    data_changed: go on though the data is not what it was in the run that is there.
    SIGTERM, or SIGINT once: the step is finished, saved, and train returns.
    Raises Diverged, CheckpointError, and ValueError for settings that do not fit.
    """
    out, first = pathlib.Path(out), jax.process_index() == 0
    config = {**(config or {}), "settings": asdict(settings), "optim": asdict(optim)}
    check_agreement({name: value for name, value in flat(config) if name != "workers"})
    growing = settings.rows_at if settings.batch_warmup_from and settings.batch_warmup_by else None
    rate, optimizer = schedule(optim, settings.steps, growing), build(optim, settings.steps, growing)
    if objective.memory is not None and settings.continue_from:
        raise ValueError("settings.continue_from: an objective with a memory is not handed over to another phase")
    if objective.memory is not None and settings.batch_warmup_from:
        raise ValueError("settings.batch_warmup_from: an objective with a memory needs batches of one size")
    if settings.keep_best and evaluate is None:
        raise ValueError(f"settings.keep_best is {settings.keep_best!r}, but nothing is evaluated")
    mesh = make_mesh(settings.mesh) if settings.parallel == "mesh" else None

    @functools.cache
    def program_of(rows: int) -> step.Program:
        """The step for a batch of so many rows, with micro-batches no larger than a full batch's."""
        devices = jax.device_count() if mesh is None else batch_parts(mesh)
        parts = -(-rows * settings.accumulate // settings.batch_size)
        while rows % (parts * devices) and parts * devices < rows < settings.batch_size:
            parts += 1
        options = {"batch_size": rows, "rate": rate, "accumulate": parts}
        if mesh is None:
            return step.under_pmap(objective, optimizer, **options)
        return step.under_jit(objective, optimizer, mesh, **options)

    program = program_of(settings.batch_size)
    keep = Keep(settings.keep_last, settings.keep_best.removeprefix("eval/"), settings.best_mode)

    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(locked(out))
        claim(out, config, data_changed, {**(defaults or {}), "settings": asdict(Settings()), "optim": asdict(Optim())})
        checkpoints = stack.enter_context(Checkpoints(out / "checkpoints", keep))
        stop = stack.enter_context(stop_signals())
        stream = iter(data)
        state, rng, done, notes = begin(program, checkpoints, stream, settings, params, config, data_changed)
        with Log(out, settings.steps, done, active=first) as log:
            latest, logged = known_metrics(out, done)
            if done:
                before = f" of {settings.continue_from}" if checkpoints.latest is None else ""
                log.say(f"resumed from step {done}{before}")
            for line in [] if mesh is None else sharding.remarks(mesh, program.abstract["params"]):
                log.say(line)
            run = Run(program_of, checkpoints, log, settings, {"config": config, "files": kept_files(out)}, latest,
                      flops_per_step, tokens_per_step, lock)
            run.go_on(done, notes, logged)
            stopped_by = run.steps(state, rng, stream, evaluate, stop)
        checkpoints.wait()
        best = checkpoints.best if settings.keep_best else None
        if best:
            latest.update({"best/step": float(best[0]), **{f"best/{key}": value for key, value in best[1].items()}})
        if export is not None and stopped_by in ("steps", "data"):
            chosen = best[0] if best else checkpoints.latest
            values = checkpoints.params(program.abstract["params"], chosen)
            if first and checkpoints.damaged:
                print(f"the model is that of step {chosen}; not looked at, as set aside: {', '.join(checkpoints.damaged)}",
                      file=sys.stderr, flush=True)
            do_on_first(lambda: export(values, out / "model"))
        if first:
            draw_curves(out)
        return Outcome(run.done, latest, stopped_by)


def draw_curves(out: pathlib.Path) -> None:
    """Write RUN/report.html, an extra: what a run has come to does not hang on it."""
    try:
        from bertvariants_jax.training.report import write_report

        write_report([out], out / "report.html")
    except ImportError:
        pass
    except (OSError, ValueError) as error:
        print(f"{out / 'report.html'} is not written: {reason(error)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(out):
    """Hold RUN/lock on the first process of a run; gives the Lock, None on the others.

    Raises RunInUse where another run holds it, CheckpointError where the folder cannot be written.
    """
    lock = None
    with contextlib.ExitStack() as stack:

        def take() -> None:
            nonlocal lock
            try:    # on several hosts JAX itself watches for SIGTERM
                lock = stack.enter_context(Lock(out, sigterm=jax.process_count() == 1))
            except RunInUse:
                raise
            except OSError as error:
                raise CheckpointError(f"cannot write to {out}: {reason(error)}") from error

        do_on_first(take)
        yield lock


def begin(program: step.Program, checkpoints: Checkpoints, stream, settings: Settings, params, config: dict[str, Any],
          data_changed: bool = False):
    """(state, the run's key, steps done, notes): from the newest checkpoint, with the data put where it was, from the phase
    before, or fresh, with no notes."""
    first, run = jax.random.split(jax.random.key(settings.seed))
    rng = jax.jit(lambda key: key, out_shardings=program.abstract["step"].sharding)(run)
    key = jax.ShapeDtypeStruct(rng.shape, rng.dtype, sharding=rng.sharding)
    checkpoints.refuse_damaged()
    if checkpoints.latest is None and settings.continue_from:
        state, done = hand_over({**program.abstract, "rng": key}, settings, config)
        return state, rng, done, None
    if checkpoints.latest is None:
        return program.start(first, params), rng, 0, None
    refuse_foreign(checkpoints.folder, checkpoints.latest, checkpoints.notes(checkpoints.latest)["config"] or {}, config)
    done, state, position = checkpoints.restore({**program.abstract, "rng": key})
    stream.set_state(position, **({"data_changed": True} if data_changed else {}))
    return state, state.pop("rng"), done, checkpoints.notes(done)


def hand_over(abstract: dict[str, Any], settings: Settings, config: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """(state, steps done) at the end of the run of the phase before.

    That it did not come to its own end is said. Raises ValueError where there is no such run, where it has taken as many
    steps as all phases together and where it learned with another tokenizer, RunInUse while it is still going on.
    """
    run = pathlib.Path(settings.continue_from)
    if not (run / "checkpoints").is_dir():
        raise ValueError(f"settings.continue_from: {run} is no training run, it has no checkpoints. Without --continue-from "
                         "the weights of --model.start are trained with new moments, from step 0")
    remarks = compare_phases(run, run_config(run), config)
    do_on_first(lambda: refuse_in_use(run))
    with Checkpoints(run / "checkpoints", reading=True) as earlier:
        done, state, _ = earlier.restore(abstract)
        damaged = earlier.damaged
    if done >= settings.steps:
        raise ValueError(f"settings.continue_from: {run} has taken {done} steps, so that none is left of settings.steps "
                         f"{settings.steps}, which counts the steps of all phases")
    asked = (run_config(run).get("settings") or {}).get("steps", done)
    if done < asked:
        remarks.append(f"{run} has come to step {done} of its {asked}" + (
            f"; set aside as damaged: {', '.join(damaged)}" if damaged else ""))
    if jax.process_index() == 0:
        for line in remarks:
            print(f"settings.continue_from: {line}", file=sys.stderr, flush=True)
    del state["rng"]
    return state, done


def compare_phases(run: pathlib.Path, earlier: dict[str, Any], config: dict[str, Any]) -> list[str]:
    """Remarks on the network of a run and of the phase after it.

    Raises ValueError where they differ in what the numbers of embeddings and classes mean.
    """
    before, now = (json.loads(json.dumps(one.get("origin") or {})) for one in (earlier, config))
    if now and not before:
        return [f"{run} was begun by a version that kept no fingerprints: whether it had this tokenizer cannot be told"]
    there, here = (one.get("tokenizer") for one in (before, now))
    if there != here and there and here:
        raise ValueError(f"settings.continue_from: {run} learned with another tokenizer (fingerprint {there}, here {here}): "
                         "give --model.tokenizer the one that it had")
    there, here = (one.get("classes", {}) for one in (before, now))
    if there != here and there and here:
        names = [", ".join(value for key, value in one.items() if key != "count") for one in (there, here)]
        raise ValueError(f"settings.continue_from: {run} learned the classes {names[0]}; here they are {names[1]}")
    there, here = (dict(flat(one.get("network", {}))) for one in (before, now))
    return [f"{name} is {there[name]!r} in {run} and {here[name]!r} here" for name in there
            if name in here and there[name] != here[name]]


def known_metrics(out: pathlib.Path, done: int) -> tuple[dict[str, float], set[str]]:
    """(the last value of each metric that the run has logged up to step `done`, the metrics logged at that step)."""
    path, latest, logged = out / "metrics.jsonl", {}, set()
    for line in read_metrics(path) if done and path.exists() else []:
        values = {key: math.nan if value is None else value for key, value in line.items() if key not in ("step", "time")}
        if line["step"] <= done:    # another process may be about to drop the rest
            update(latest, values)
        if line["step"] == done:
            logged.update(values)
    return latest, logged


def update(latest: dict[str, float], values: dict[str, float]) -> None:
    """Take in a line of metrics. An evaluation replaces the one before: a metric that it leaves out has no value now."""
    if any(key.startswith("eval/") for key in values):
        for key in [key for key in latest if key.startswith("eval/")]:
            del latest[key]
    latest.update(values)


class Interval:
    """Sums and weights of the steps since the last line of metrics.jsonl."""

    def __init__(self, sums: dict[str, list[float]] | None = None, step: int = 0):
        self.sums, self.step = dict(sums or {}), step

    def add(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Add a step's metrics, in the order of steps: a sum that is carried over a stop is the same to the bit."""
        for key, pair in metrics.items():
            total, weight = np.asarray(pair, np.float64).tolist()
            before = self.sums.get(key, [0.0, 0.0])
            self.sums[key] = [total, weight] if key == "learning_rate" else [before[0] + total, before[1] + weight]
        self.step = step

    def means(self) -> dict[str, float]:
        """Each metric's mean by weight; of the learning rate the last."""
        return {key: total / weight for key, (total, weight) in self.sums.items() if weight and key != "finite"}


class Run:
    """The state of a loop under way: steps queued, the interval that is being measured, the clock."""

    def __init__(self, program_of, checkpoints, log, settings, notes, latest, flops_per_step, tokens_per_step, lock=None):
        self.program_of, self.checkpoints, self.log, self.settings = program_of, checkpoints, log, settings
        self.notes, self.latest, self.flops, self.tokens = notes, latest, flops_per_step, tokens_per_step
        self.lock = lock
        self.done = 0
        self.resumed = False             # from a checkpoint of its own
        self.logged: set[str] = set()    # metrics in metrics.jsonl of the step that the run resumes from
        self.queued: deque = deque()     # (step, metrics) on the devices
        self.finished: list = []         # (step, metrics) finished and not yet in the interval
        self.interval = Interval()
        self.clock: float | None = None  # when the interval began, moved on by what was not training
        self.timed = 0                   # steps of the interval that the clock covers
        self.full = 0.0                  # the same in full batches
        self.waited = 0.0

    def go_on(self, done: int, notes: dict[str, Any] | None, logged: set[str]) -> None:
        """Begin behind step `done`, where this run's own checkpoint has notes; of an earlier version they lack the interval."""
        self.done, self.resumed, self.logged = done, notes is not None, logged
        if notes and notes.get("interval") and "loss" not in logged:
            self.interval = Interval(notes["interval"]["sums"], notes["interval"]["step"])

    def steps(self, state, rng, stream, evaluate, stop) -> str:
        """Take the steps that are left; returns what ended them."""
        settings = self.settings
        if self.resumed and (stopped_by := stop(self.done)):
            return stopped_by
        last = self.done >= settings.steps
        batch, position = (None, None) if last else self.pull(stream)
        if batch is None and not self.resumed:
            raise ValueError("the data gave no batch: is it smaller than one batch?")
        if self.resumed:
            if batch is None:
                self.write()
            if evaluate is not None and (batch is None or due(self.done, settings.eval_every)):
                self.make_up(evaluate, state["params"])
        while batch is not None:
            state, metrics = self.program_of(settings.places_at(self.done)).step(state, batch, rng)
            self.done += 1
            self.queued.append((self.done, metrics))
            if self.clock is None:  # the first step compiled; time begins after it
                self.finish(0)
                self.clock = time.monotonic()
            here, last = position, self.done == settings.steps
            batch, position = (None, None) if last else self.pull(stream)
            self.finish(AHEAD)
            stopped_by = stop(self.done)
            ends = batch is None or stopped_by is not None
            scores, best, failure = None, False, None
            if batch is None and not stopped_by:
                self.finish(0)
                self.write()  # before the save: a kill right after it would lose the line
            if evaluate is not None and not stopped_by and (ends or due(self.done, settings.eval_every)):
                self.finish(0)
                try:
                    with self.paused():
                        scores = self.scores(evaluate, state["params"])
                        self.record({f"eval/{key}": value for key, value in scores.items()})
                        best = self.is_best(scores)
                except Exception as error:  # whatever became of the evaluation, the steps are kept
                    scores, failure = None, error
            if ends or due(self.done, settings.save_every) or best or failure:
                self.finish(0)
                with self.paused():
                    self.before_save()
                    # a copy, as it is written in the background while the interval goes on
                    interval = {"sums": dict(self.interval.sums), "step": self.interval.step}
                    self.checkpoints.save(self.done, {**state, "rng": rng}, data=here, metrics=scores, **self.notes,
                                          interval=interval)
            if failure:
                self.checkpoints.wait()
                raise failure
            if ends:
                return stopped_by or ("steps" if last else "data")
        return "steps" if last else "data"

    def scores(self, evaluate, params) -> dict[str, float]:
        return {key.removeprefix("eval/"): float(value) for key, value in evaluate(params, self.done).items()}

    def make_up(self, evaluate, params) -> None:
        """The evaluation of the step that the run resumes from, if a stop, a kill or a fault left it out."""
        scores = self.checkpoints.metrics(self.done)
        if scores is None:
            scores = self.scores(evaluate, params)
            self.is_best(scores)  # raises where the metric is not there
            self.checkpoints.score(self.done, scores)
        if not any(key.startswith("eval/") for key in self.logged):
            self.record({f"eval/{key}": value for key, value in scores.items()})

    def pull(self, stream):
        """(the next batch on the devices, the data's state after it), or (None, None) at the data's end."""
        began, wanted = time.monotonic(), self.settings.rows_at(self.done)
        try:
            parts = [next(stream) for _ in range(wanted // self.settings.data_rows)]
        except StopIteration:
            return None, None
        took = time.monotonic() - began
        if not self.queued or self.queued[-1][1]["loss"].is_ready():  # the devices had nothing left to do
            self.waited += took
        places = self.settings.places_at(self.done)
        program = self.program_of(places)
        if self.settings.batch_warmup_by and wanted < self.settings.batch_size:
            parts = weighed(parts, places // self.settings.data_rows)
        found = {key: sum(len(part[key]) for part in parts) for key in parts[0]}
        found = {key: rows for key, rows in found.items() if rows != program.share}
        if found:
            raise ValueError(f"the data gives batches of {found} rows where this process's share of batch_size "
                             f"{self.settings.batch_size} is {program.share}")
        if self.tokens is None and "input_ids" in parts[0]:
            ids = parts[0]["input_ids"]
            self.tokens = float(ids.size / len(ids) * self.settings.batch_size)
        return program.place(*parts), copy.deepcopy(stream.get_state())

    def finish(self, queue: int) -> None:
        """Wait until at most `queue` steps are under way; log intervals that are whole, stop where not finite."""
        while len(self.queued) > queue:
            at, metrics = self.queued.popleft()
            jax.block_until_ready(metrics)
            self.finished.append((at, metrics))
            if self.clock is not None:
                self.timed += 1
                self.full += self.settings.rows_at(at - 1) / self.settings.batch_size
            self.log.advance(at)
            if due(at, self.settings.log_every):
                self.write()
        if queue == 0:
            self.check(self.collect())

    def collect(self) -> list:
        """Add the steps that are finished to the interval; gives (step, metrics) of them on the host."""
        found = [(at, jax.device_get(metrics)) for at, metrics in self.finished]
        for at, metrics in found:
            self.interval.add(at, metrics)
        self.finished = []
        return found

    def write(self) -> None:
        """Log the interval and begin a new one."""
        found = self.collect()
        if not self.interval.sums:
            return
        at, values, now = self.interval.step, self.interval.means(), time.monotonic()
        if self.timed and now > self.clock:
            seconds = now - self.clock
            values["steps_per_second"] = self.timed / seconds
            values["data/wait"] = min(self.waited / seconds, 1.0)
            if self.tokens:
                values["tokens_per_second"] = self.tokens * self.full / seconds
            if self.flops:
                used = flops.mfu(self.flops, seconds / self.full)
                speed = self.flops * self.full / seconds / 1e9
                values |= {"gflops_per_second": speed} if used is None else {"mfu": used}
        self.record(values, at)
        self.interval, self.timed, self.full, self.waited = Interval(), 0, 0.0, 0.0
        if self.clock is not None:
            self.clock = now
        self.check(found)

    def check(self, found) -> None:
        """Raise Diverged at the first step whose loss or gradients are not finite."""
        for at, metrics in found:
            if metrics["finite"][0] != 1:
                self.checkpoints.wait()
                good = self.checkpoints.latest
                values = ", ".join(f"{key} {pair[0] / pair[1] if pair[1] else 0.0:.4g}" for key, pair in metrics.items()
                                   if key != "finite")
                kept = "no checkpoint was saved" if good is None else (
                    f"the last good checkpoint is {self.checkpoints.folder / str(good)}")
                raise Diverged(f"the loss or its gradient is not finite at step {at} ({values}); {kept}")

    def record(self, values: dict[str, float], at: int | None = None) -> None:
        update(self.latest, values)
        try:
            self.log(self.done if at is None else at, values)
        except OSError as error:
            raise self.checkpoints.failed("cannot write the log", error) from error

    def before_save(self) -> None:
        """The lines that a checkpoint counts on are on the disk, and the folder is still this process's."""
        def check() -> None:
            if self.lock is not None:
                self.lock.check()
            try:
                self.log.sync()
            except OSError as error:
                raise self.checkpoints.failed("cannot write the log", error) from error

        do_on_first(check)

    def is_best(self, scores: dict[str, float] | None) -> bool:
        """Whether these scores beat those of every checkpoint."""
        keep = self.checkpoints.keep
        if scores is None or not keep.metric:
            return False
        if keep.metric not in scores:
            raise ValueError(f"settings.keep_best is {keep.metric!r}, but the evaluation gives {sorted(scores)}")
        best = self.checkpoints.best
        return keep.better(scores[keep.metric], best and best[1][keep.metric])

    @contextlib.contextmanager
    def paused(self):
        """Leave what happens inside out of the training's time."""
        began = time.monotonic()
        yield
        self.clock += time.monotonic() - began


def weighed(parts: list[dict[str, np.ndarray]], count: int) -> list[dict[str, np.ndarray]]:
    """Data batches whose rows weigh 1, and after them as many that weigh 0 as make `count`."""
    first = parts[0]
    ones = np.ones(len(first["input_ids"]), np.float32)
    filling = {**first, "example_weight": 0 * ones, **{key: 0 * first[key] for key in first if key.endswith("_weights")}}
    return [*({"example_weight": ones, **part} for part in parts), *[filling] * (count - len(parts))]


def due(done: int, every: int) -> bool:
    """Whether something done every so many steps (0: never) is to be done now."""
    return every > 0 and done % every == 0


@contextlib.contextmanager
def stop_signals():
    """Gives stop(step) -> None, or the name of the signal that asks the run to end.

    A second SIGINT interrupts at once. On several hosts the coordination service watches for SIGTERM, and
    all of them stop at the same step.
    """
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import reached_preemption_sync_point
        yield lambda step: "SIGTERM" if reached_preemption_sync_point(step) else None
        return
    caught: list[str] = []

    def handle(number, frame):
        caught.append(signal.Signals(number).name)
        signal.signal(number, before[number])

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.getsignal(number)
            signal.signal(number, handle)
    try:
        yield lambda step: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
