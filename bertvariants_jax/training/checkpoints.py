"""Checkpoints of a run: saved in the background, whole or not at all, the newest and the best kept (Orbax)."""

import contextlib
import json
import logging
import math
import pathlib
import sys
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bertvariants_jax.files import write_file

# fields of a run's config that may differ when it is resumed: they change how it runs, not what it computes
FREE = ("mesh", "parallel", "accumulate", "log_every", "eval_every", "save_every", "keep_last", "workers")

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


class Checkpoints:
    """The checkpoints of one run, RUN/checkpoints/<step>; use as a context manager.

    reading: leave the folder as it is, another run's.
    Raises CheckpointError where the folder cannot be written.
    """

    def __init__(self, folder, keep: Keep = Keep(), reading: bool = False):
        self.folder, self.keep = pathlib.Path(folder).absolute(), keep
        logging.getLogger("absl").addFilter(not_orbax)
        try:
            if not reading:
                self.folder.mkdir(parents=True, exist_ok=True)
            self._orbax = ocp.training.Checkpointer(
                self.folder, preservation_policy=keep, cleanup_tmp_directories=not reading,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1))
        except OSError as error:
            raise CheckpointError(f"cannot write checkpoints to {self.folder}: {reason(error)}") from error

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
    def best(self) -> tuple[int, dict[str, float]] | None:
        """(step, metrics) of the best checkpoint, or None."""
        best = self.keep.best(self._orbax.checkpoints)
        return best and (best.step, dict(best.metrics))

    def save(self, step: int, state: dict[str, Any], *, data=None, config=None, metrics=None) -> None:
        """Begin to save; waits for the save before this one, not for this one.

        state: arrays, with a key "params". data, config: JSON. metrics: name -> float, for the best.
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
        try:
            with context:
                self._orbax.save_checkpointables_async(
                    step, {"params": state["params"], "rest": rest}, force=True, metrics=metrics,
                    custom_metadata={"data": data, "config": config})
        except Exception as error:  # whatever Orbax or TensorStore makes of a full disk
            raise self.failed(f"cannot save the checkpoint of step {step}", error) from error

    def wait(self) -> None:
        """Wait until the save under way is whole on disk."""
        try:
            self._orbax.wait()
        except Exception as error:
            raise self.failed("cannot save a checkpoint", error) from error

    def close(self) -> None:
        """Wait and close."""
        try:
            self._orbax.close()
        except Exception as error:
            raise self.failed("cannot save a checkpoint", error) from error

    def restore(self, abstract: dict[str, Any], step: int | None = None) -> tuple[int, dict[str, Any], Any]:
        """(step, state, data) of the newest checkpoint or of `step`, laid out as `abstract` says.

        abstract: shapes with shardings, of any mesh. CheckpointError where there is none or it does not fit.
        """
        step = self.latest if step is None else step
        if step is None:
            raise CheckpointError(f"no checkpoint in {self.folder}")
        rest = {key: value for key, value in abstract.items() if key != "params"}
        try:
            found = self._orbax.load_checkpointables(step, {"params": abstract["params"], "rest": rest})
            notes = self._orbax.checkpointables_metadata(step).custom_metadata
        except Exception as error:
            raise self.failed(f"cannot restore step {step}", error) from error
        return step, {"params": found["params"], **found["rest"]}, notes["data"]

    def params(self, abstract, step: int | None = None):
        """The parameters alone, on the host as numpy arrays of `abstract`'s shapes and dtypes."""
        step = self.latest if step is None else step
        target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract)
        try:
            return self._orbax.load_checkpointables(step, {"params": target})["params"]
        except Exception as error:
            raise self.failed(f"cannot restore the parameters of step {step}", error) from error

    def failed(self, what: str, error: Exception) -> CheckpointError:
        """The error to raise when `what` failed: the reason, and the last good checkpoint."""
        good = sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdigit())
        kept = f"the last good checkpoint is {self.folder / str(good[-1])}" if good else "there is no good checkpoint"
        return CheckpointError(f"{what} in {self.folder}: {reason(error)}; {kept}")


def not_orbax(record: logging.LogRecord) -> bool:
    """Whether a log record is of others: Orbax prints the trace of each error that is raised here anyway."""
    return "orbax" not in record.pathname or record.levelno < logging.WARNING


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def claim(folder, config: dict[str, Any], data_changed: bool = False, defaults: dict[str, Any] | None = None) -> None:
    """Make `folder` this run's, and write its config.json.

    data_changed: take other data than the run has had. defaults: the values of fields that a run of an older version
    need not name.
    ValueError names the fields in which the config of another run that is there differs (those that only
    say how it runs may); CheckpointError where the folder cannot be written.
    """
    path, config = pathlib.Path(folder) / "config.json", json.loads(json.dumps(config))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            compare(path.parent, json.loads(path.read_text("utf-8")), config, data_changed, defaults)
        if jax.process_index() == 0:
            write_file(path, json.dumps(config, indent=2) + "\n")
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); choose another folder, or delete it") from error
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {reason(error)}") from error


def compare(folder, theirs: dict[str, Any], ours: dict[str, Any], data_changed: bool = False,
            defaults: dict[str, Any] | None = None) -> None:
    """Raise ValueError where two configs are of different runs, with all fields in which they differ.

    What `origin` says of the data is compared unless `data_changed`, and then also the numbers that follow from the data
    are left out. A config from before there was an `origin` is compared without it, which is said. A field that a config
    lacks because it is older than the field has its value in `defaults`.
    """
    origins = [dict(config.get("origin") or {}) for config in (theirs, ours)]
    if origins[1] and not origins[0] and jax.process_index() == 0:
        print(f"{folder} was begun by a version that kept no fingerprints: whether its data, classes and tokenizer are "
              "still the same cannot be told, and is compared from now on", file=sys.stderr)
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


def flat(config, prefix: str = ""):
    """(dotted name, value) of a nested dict's leaves; lists are values."""
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config
