"""Checkpoints of a run: saved in the background, whole or not at all, the newest and the best kept (Orbax).

A checkpoint that was damaged on the disk is found by its checksums (seal.py), named and set aside.
"""

import base64
import contextlib
import json
import logging
import math
import pathlib
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bertvariants_jax.files import write_file
from bertvariants_jax.training import seal
from bertvariants_jax.training.hosts import ask_first, do_on_first

# fields of a run's config that may differ when it is resumed: they change how it runs, not what it computes
FREE = ("mesh", "parallel", "accumulate", "log_every", "eval_every", "save_every", "keep_last", "workers",
        "started_in")

# fields of a task that say where its data lies
ADDRESSES = ("data", "evaluation", "test", "dialogues")


class CheckpointError(OSError):
    """A checkpoint could not be written or read; the text says which are still good."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the newest `last`, and the one with the best `metric` (empty: none)."""

    last: int = 2
    metric: str = ""
    mode: Literal["max", "min"] = "max"

    def better(self, value: float, than: float | None) -> bool:
        """Whether value beats `than`; NaN beats nothing."""
        if math.isnan(value):
            return False
        return than is None or (value > than if self.mode == "max" else value < than)

    def best(self, checkpoints):
        """The best of those that were saved with the metric, or None; the earlier one of equals."""
        best = None
        for checkpoint in checkpoints:
            value = (checkpoint.metrics or {}).get(self.metric)
            if value is not None and self.better(value, best and best.metrics[self.metric]):
                best = checkpoint
        return best

    def should_preserve(self, checkpoints, *, context):
        """Orbax's question: a bool for each checkpoint."""
        best = self.best(checkpoints)
        newest = len(checkpoints) - max(self.last, 1)
        return [i >= newest or checkpoint is best for i, checkpoint in enumerate(checkpoints)]


class Scored(NamedTuple):
    """A checkpoint's step and metrics, if it has any."""

    step: int
    metrics: dict[str, float] | None


class Checkpoints:
    """The checkpoints of one run, RUN/checkpoints/<step>; use as a context manager.

    Damaged ones are renamed to damaged-<step>, which is said on stderr: those that cannot be read when the folder is
    opened, and others when they are to be restored.
    reading: leave the folder as it is, another run's; what is damaged there is refused.
    Raises CheckpointError where the folder cannot be written.
    """

    def __init__(self, folder, keep: Keep = Keep(), reading: bool = False):
        self.folder, self.keep, self.reading = pathlib.Path(folder).absolute(), keep, reading
        self._sealing: threading.Thread | None = None
        self._failure: Exception | None = None   # of what is done in the background
        logging.getLogger("absl").addFilter(not_orbax)
        logging.getLogger("asyncio").addFilter(not_tensorstore)
        try:
            if not reading:
                do_on_first(self._look_over)
            elif faults := [f"the checkpoint of step {step} is damaged ({fault})" for step in seal.steps_in(self.folder)
                            if (fault := seal.find_fault(self.folder / str(step), thorough=False))]:
                raise CheckpointError(f"{self.folder}: {'; '.join(faults)}. Take it out, or run that run again")
            self._orbax = ocp.training.Checkpointer(
                self.folder, preservation_policy=self, cleanup_tmp_directories=not reading,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1))
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(f"cannot write checkpoints to {self.folder}: {reason(error)}") from error
        self._metrics = {found.step: seal.read_seal(self.folder / str(found.step))["metrics"] or found.metrics
                         for found in self._orbax.checkpoints}

    def _look_over(self) -> None:
        """Make the folder, and set aside what cannot be read in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for step in seal.steps_in(self.folder):
            if fault := seal.find_fault(self.folder / str(step), thorough=False):
                self._rename(step, fault)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.close()
        else:  # the error that ends the run is the one to see
            with contextlib.suppress(CheckpointError):
                self.close()

    @property
    def latest(self) -> int | None:
        """The newest step saved."""
        return self._orbax.latest.step if self._orbax.latest else None

    @property
    def damaged(self) -> list[str]:
        """Names of the checkpoints that were set aside, now or by an earlier start."""
        return sorted(path.name for path in self.folder.glob("damaged-*"))

    @property
    def best(self) -> tuple[int, dict[str, float]] | None:
        """(step, metrics) of the best checkpoint, or None."""
        best = self.keep.best(self._scored(self._orbax.checkpoints))
        return best and (best.step, dict(best.metrics))

    def should_preserve(self, checkpoints, *, context):
        """Orbax's question: a bool for each checkpoint."""
        return self.keep.should_preserve(self._scored(checkpoints), context=context)

    def _scored(self, checkpoints) -> list[Scored]:
        return [Scored(found.step, self._metrics.get(found.step)) for found in checkpoints]

    def metrics(self, step: int) -> dict[str, float] | None:
        """What the evaluation of a checkpoint gave, None where there was none."""
        return self._metrics.get(step)

    def score(self, step: int, metrics: Mapping[str, float]) -> None:
        """Give a saved checkpoint the metrics of an evaluation that came after it."""
        self.wait()
        self._metrics[step] = {key: float(value) for key, value in metrics.items()}
        try:
            do_on_first(lambda: seal.keep_metrics(self.folder / str(step), self._metrics[step]))
        except (OSError, ValueError) as error:
            raise self.failed(f"cannot keep the metrics of step {step}", error) from error

    def save(self, step: int, state: dict[str, Any], *, data=None, config=None, metrics=None, **notes) -> None:
        """Begin to save; waits for the save before this one, not for this one.

        state: arrays, with a key "params". data, config, notes: JSON. metrics: name -> float, for the best.
        A step that is already there is left as it is.
        """
        if any(checkpoint.step == step for checkpoint in self._orbax.checkpoints):
            return
        self.wait()
        rest = {key: value for key, value in state.items() if key != "params"}
        metrics = None if metrics is None else {key: float(value) for key, value in metrics.items()}
        # One host writes all of an array anyway: without this each replica's slice of each array is a program to compile.
        context = ocp.Context()
        context.array.saving.use_replica_parallel = jax.process_count() > 1
        self._metrics[step] = metrics
        try:
            with context:
                response = self._orbax.save_checkpointables_async(
                    step, {"params": state["params"], "rest": rest}, force=True, metrics=metrics,
                    custom_metadata={"data": data, "config": config, **notes})
        except Exception as error:  # whatever Orbax or TensorStore makes of a full disk
            raise self.failed(f"cannot save the checkpoint of step {step}", error) from error
        if jax.process_index() == 0:
            self._sealing = threading.Thread(target=self._seal, args=(step, response), daemon=True)
            self._sealing.start()

    def _seal(self, step: int, response) -> None:
        """Wait until a checkpoint is whole, then write its checksums; in a thread of its own."""
        try:
            response.result()
            seal.seal(self.folder / str(step))
        except Exception as error:
            self._failure = error

    def wait(self) -> None:
        """Wait until the save under way is whole on disk, with its checksums."""
        try:
            self._orbax.wait()
            self._join()
        except Exception as error:
            raise self.failed("cannot save a checkpoint", error) from error

    def _join(self) -> None:
        """Wait for the checksums; raise what became of them."""
        if self._sealing is not None:
            self._sealing.join()
        failure, self._sealing, self._failure = self._failure, None, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Wait and close."""
        try:
            self._orbax.close()
            self._join()
        except Exception as error:
            raise self.failed("cannot save a checkpoint", error) from error

    def restore(self, abstract: dict[str, Any], step: int | None = None) -> tuple[int, dict[str, Any], Any]:
        """(step, state, data) of the newest checkpoint that is whole or of `step`, laid out as `abstract` says.

        abstract: shapes with shardings, of any mesh. Newer ones that are damaged are set aside.
        CheckpointError where there is none or it does not fit.
        """
        rest = {key: value for key, value in abstract.items() if key != "params"}
        self.wait()
        chosen = step
        while True:
            step = self.latest if chosen is None else chosen
            if step is None:
                self.refuse_damaged()
                raise CheckpointError(f"no checkpoint in {self.folder}")
            fault, error = self._fault(step), None
            if fault is None:
                try:
                    found = self._orbax.load_checkpointables(step, {"params": abstract["params"], "rest": rest})
                    return step, {"params": found["params"], **found["rest"]}, self.notes(step)["data"]
                except Exception as failure:
                    fault, error = reason(failure), failure
                if self._fits(step, abstract, error):
                    raise self.failed(f"cannot restore step {step}", error) from error
            self.set_aside(step, fault)
            if chosen is not None:
                raise CheckpointError(f"the checkpoint of step {step} in {self.folder} is damaged: {fault}") from error

    def notes(self, step: int) -> dict[str, Any]:
        """What was saved with a checkpoint besides its arrays: data, config and other notes."""
        try:
            return seal.read_notes(self.folder / str(step))
        except ValueError as error:
            raise self.failed(f"cannot read the notes of step {step}", error) from error

    def params(self, abstract, step: int | None = None):
        """The parameters alone, on the host as numpy arrays of `abstract`'s shapes and dtypes.

        A checkpoint that is damaged is set aside, and CheckpointError says which is left.
        """
        self.wait()
        step = self.latest if step is None else step
        if fault := self._fault(step, ("params",)):
            name = "the best checkpoint" if self.best and self.best[0] == step else "the checkpoint"
            self.set_aside(step, fault)
            left = self.best[0] if self.keep.metric and self.best else self.latest
            raise CheckpointError(
                f"{name} of {self.folder}, step {step}, is damaged: {fault}. It is set aside as damaged-{step}; " + (
                    "no other is left" if left is None else f"run again to go on with step {left}"))
        target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract)
        try:
            return self._orbax.load_checkpointables(step, {"params": target})["params"]
        except Exception as error:
            raise self.failed(f"cannot restore the parameters of step {step}", error) from error

    def set_aside(self, step: int, fault: str) -> None:
        """Rename a damaged checkpoint, so that it is none any more, and say so."""
        if self.reading:
            raise CheckpointError(f"the checkpoint of step {step} in {self.folder} is damaged: {fault}. "
                                  "Run that run again: it goes on from the one before")
        do_on_first(lambda: self._rename(step, fault))
        self._metrics.pop(step, None)
        self._orbax.reload()

    def _rename(self, step: int, fault: str) -> None:
        place = seal.set_aside(self.folder / str(step))
        print(f"the checkpoint of step {step} is damaged ({fault}): set aside as {place}", file=sys.stderr, flush=True)

    def _fault(self, step: int, parts: tuple[str, ...] = ()) -> str | None:
        """What is wrong with a checkpoint's files; the first process reads them for all."""
        if step not in [found.step for found in self._orbax.checkpoints]:
            raise CheckpointError(f"there is no checkpoint of step {step} in {self.folder}")
        try:
            return ask_first(lambda: seal.find_fault(self.folder / str(step), parts))
        except (ValueError, OSError) as error:
            raise self.failed(f"cannot read the checkpoint of step {step}", error) from error

    def _fits(self, step: int, abstract: dict[str, Any], error: Exception) -> bool:
        """Whether a checkpoint that could not be restored is good for all that is known: it is another state's, or the
        machine failed."""
        if seal.read_seal(self.folder / str(step))["files"] or isinstance(error, RuntimeError | MemoryError):
            return True
        try:
            stored = self._orbax.checkpointables_metadata(step).metadata
            if stored["params"] is None:  # not even its shapes can be read
                return False
            stored = {"params": stored["params"], **stored["rest"]}
            return any(shapes_of(stored[key]) != shapes_of(abstract[key]) for key in abstract if key != "rng")
        except Exception:  # whatever Orbax makes of files that are damaged
            return False

    def refuse_damaged(self) -> None:
        """Raise CheckpointError where checkpoints were set aside and none is left: the run would begin again."""
        if self.latest is None and self.damaged:
            raise CheckpointError(f"no good checkpoint is left in {self.folder}, only {', '.join(self.damaged)}. "
                                  "Begin in another folder, or delete this one")

    def failed(self, what: str, error: Exception) -> CheckpointError:
        """The error to raise when `what` failed: the reason, and the last good checkpoint."""
        good: list[int] = []
        with contextlib.suppress(OSError):  # what says why is not to fail itself
            good = [step for step in seal.steps_in(self.folder)
                    if seal.find_fault(self.folder / str(step), thorough=False) is None]
        kept = f"the last good checkpoint is {self.folder / str(good[-1])}" if good else "there is no good checkpoint"
        return CheckpointError(f"{what} in {self.folder}: {reason(error)}; {kept}")


def shapes_of(tree) -> dict[str, tuple[int, ...]]:
    """Path -> shape of a tree's leaves, alike for the tuples of a state and the lists of a checkpoint's metadata."""
    return {"/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path):
            tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if hasattr(leaf, "shape")}


def not_orbax(record: logging.LogRecord) -> bool:
    """Whether a log record is of others: Orbax prints the trace of each error that is raised here anyway."""
    return "orbax" not in record.pathname or record.levelno < logging.WARNING


def not_tensorstore(record: logging.LogRecord) -> bool:
    """Whether a log record is of others: of several arrays that cannot be read, the first is raised here."""
    return "OCDBT" not in record.getMessage()


def reason(error: Exception) -> str:
    """The first line of what an error says, without the list of Orbax's handlers that may follow."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = text.partition(" due to incompatible handler")[0].strip().strip('"')
    return text.splitlines()[0] if text else type(error).__name__


KEPT = "tokenizer"  # folder of a run whose files each checkpoint keeps a copy of


def kept_files(folder) -> dict[str, str]:
    """Name -> content (base64) of the files of RUN/tokenizer."""
    folder = pathlib.Path(folder)
    return {f"{KEPT}/{path.name}": base64.b64encode(path.read_bytes()).decode("ascii")
            for path in sorted((folder / KEPT).glob("[!.]*")) if path.is_file()}


def recover(folder) -> None:
    """Put config.json and the tokenizer's files of a run back where they are lost or damaged, from its newest checkpoint.

    Raises CheckpointError where they cannot be written.
    """
    do_on_first(lambda: put_back(pathlib.Path(folder)))


def put_back(folder: pathlib.Path) -> None:
    """What `recover` does on the first process."""
    if (newest := newest_notes(folder)) is None:
        return
    step, notes = newest
    files = {name: base64.b64decode(content) for name, content in (notes.get("files") or {}).items()}
    if not readable(folder / "config.json") and notes.get("config"):
        files["config.json"] = (json.dumps(notes["config"], indent=2) + "\n").encode()
    try:
        for name, content in files.items():
            if write_file(folder / name, content):
                print(f"{folder / name} was lost or changed: taken from the checkpoint of step {step}",
                      file=sys.stderr, flush=True)
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {reason(error)}") from error


def newest_notes(folder) -> tuple[int, dict[str, Any]] | None:
    """(step, notes) of a run's newest checkpoint whose notes can be read."""
    checkpoints = pathlib.Path(folder) / "checkpoints"
    for step in reversed(seal.steps_in(checkpoints)):
        if seal.find_fault(checkpoints / str(step), thorough=False) is None:
            return step, seal.read_notes(checkpoints / str(step))
    return None


def readable(path: pathlib.Path) -> bool:
    """Whether a file holds a JSON object."""
    try:
        seal.read_json(path)
    except (OSError, ValueError):
        return False
    return True


def run_config(folder) -> dict[str, Any]:
    """config.json of a run, from its newest checkpoint where the file is lost or damaged.

    Raises FileNotFoundError or ValueError where neither is there.
    """
    path = pathlib.Path(folder) / "config.json"
    if not readable(path) and (newest := newest_notes(folder)) is not None and newest[1].get("config"):
        return newest[1]["config"]
    if not path.exists():
        raise FileNotFoundError(f"{folder} is not a run: it has no config.json")
    return seal.read_json(path)


def refuse_foreign(folder, step: int, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise ValueError where the checkpoint of `step` was saved by a run of another model, optimizer or seed."""
    free = {*FREE, "steps", "epochs", "batch_size"}   # they follow from the data too
    parts = ("settings", "optim", "model")
    there, here = (dict(flat({key: config[key] for key in parts if key in config}))
                   for config in (theirs, json.loads(json.dumps(ours))))
    differ = [f"{name} is {there[name]!r} there and {here[name]!r} here" for name in sorted({*there} & {*here})
              if there[name] != here[name] and not set(name.split(".")) & free]
    if differ:
        raise ValueError(f"{pathlib.Path(folder) / str(step)} is a checkpoint of another run: {'; '.join(differ)}. "
                         "Take it out of the folder")


def claim(folder, config: dict[str, Any], data_changed: bool = False, defaults: dict[str, Any] | None = None) -> None:
    """Make `folder` this run's, and write its config.json.

    data_changed: take other data than the run has had. defaults: the values of fields that a run of an older version
    need not name.
    ValueError names the fields in which the config of another run that is there differs (those that only
    say how it runs may); CheckpointError where the folder cannot be written.
    """
    config = json.loads(json.dumps(config))
    recover(folder)
    do_on_first(lambda: write_config(pathlib.Path(folder) / "config.json", config, data_changed, defaults))


def write_config(path: pathlib.Path, config: dict[str, Any], data_changed: bool, defaults: dict[str, Any] | None) -> None:
    """What `claim` does on the first process."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and not readable(path):
            raise ValueError(f"{path} is not JSON, and no checkpoint keeps a copy; choose another folder, or delete it")
        if path.exists():
            theirs = seal.read_json(path)
            if config.get("origin") and not theirs.get("origin"):
                print(f"{folder} was begun by a version that kept no fingerprints: whether its data, classes and tokenizer "
                      "are still the same cannot be told, and is compared from now on", file=sys.stderr)
            try:
                compare(folder, theirs, config, data_changed, defaults)
            except ValueError:
                # with a damaged digit it is JSON still, but the checkpoint knows better
                if (step := agreeing_step(folder, config, data_changed, defaults)) is None:
                    raise
                print(f"{path} was changed: taken from the checkpoint of step {step}", file=sys.stderr, flush=True)
        write_file(path, json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {reason(error)}") from error


def agreeing_step(folder, config: dict[str, Any], data_changed: bool, defaults: dict[str, Any] | None) -> int | None:
    """The step of a run's newest checkpoint, if that was saved under this config."""
    step, notes = newest_notes(folder) or (None, {})
    if not notes.get("config"):
        return None
    try:
        compare(folder, notes["config"], config, data_changed, defaults)
    except ValueError:
        return None
    return step


def compare(folder, theirs: dict[str, Any], ours: dict[str, Any], data_changed: bool = False,
            defaults: dict[str, Any] | None = None) -> None:
    """Raise ValueError where two configs are of different runs, with all fields in which they differ.

    What `origin` says of the data is compared unless `data_changed`, and then also the numbers that follow from the data
    are left out. A config from before there was an `origin` is compared without it. A field that a config lacks because it
    is older than the field has its value in `defaults`.
    """
    origins = [dict(origin) if isinstance(origin := config.get("origin"), dict) else {} for config in (theirs, ours)]
    data = [dict(flat(origin.pop("data", {}))) for origin in origins]
    there, here = (dict(flat({key: value for key, value in config.items() if key != "origin"})) for config in (theirs, ours))
    usual = dict(flat(json.loads(json.dumps(defaults or {}))))
    there = {**{name: value for name, value in usual.items() if name in here}, **there}
    free = {*FREE, *(("steps", "batch_size", *ADDRESSES) if data_changed else ())}
    differ = [f"{name} is {there.get(name, 'absent')!r} there and {here.get(name, 'absent')!r} here"
              for name in sorted({*there, *here})
              if there.get(name, ...) != here.get(name, ...) and not set(name.split(".")) & free]
    if origins[0]:
        there, here = (dict(flat(origin)) for origin in origins)
        differ += [f"{name} is {there[name]!r} there and {here[name]!r} here" for name in there
                   if name in here and there[name] != here[name]]
    if differ:
        raise ValueError(f"{folder} holds another run: {'; '.join(differ)}. Choose another folder, or delete that one")
    changed = [f"the {name.replace('.', ' ', 1)} " + ("is no longer read" if name not in data[1] else
               "was not read" if name not in data[0] else "has another content")
               for name in dict.fromkeys((*data[0], *data[1])) if data[0].get(name) != data[1].get(name)]
    if origins[0] and changed and not data_changed:
        raise ValueError(f"{folder} was begun on other data: {'; '.join(changed)}. Give the data back, choose another "
                         "folder, or go on with it as it is now by --data-changed")
    if origins[0] and changed:
        scores = any(name.startswith("evaluation") for name in {*data[0], *data[1]} if data[0].get(name) != data[1].get(name))
        print(f"{folder} goes on with other data: {'; '.join(changed)}" + (
            "; scores from before, by which a best checkpoint is kept, are of the old data" if scores else ""), file=sys.stderr)


def flat(config, prefix: str = ""):
    """(dotted name, value) of a nested dict's leaves; lists are values."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config
