"""What a run says while it runs: metrics.jsonl, TensorBoard files, and a progress bar or plain lines."""

import contextlib
import json
import math
import os
import pathlib
import secrets
import sys
import time

from bertvariants_jax.files import write_file


class Log:
    """Writes RUN/metrics.jsonl and RUN/tensorboard, and shows the progress of `steps` steps.

    step: where the run begins; lines past it, of a run that was killed, are dropped so that steps never go
    back. active: False on all processes but the first, where nothing is written. Use as a context manager.
    """

    def __init__(self, folder, steps: int, step: int = 0, active: bool = True):
        self.steps, self.active, self.began, self.first = steps, active, time.monotonic(), step
        self._bar = self._board = self._file = None
        if not active:
            return
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        keep_until(path, step)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._board = Board.open(folder / "tensorboard", step)
        if sys.stderr.isatty():
            self._bar = progress_bar()
            self._task = self._bar.add_task("train", total=steps, completed=step, numbers="", rate="")
            self._bar.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """One line: {"step", "time", **metrics}; numbers that are not finite are written as null."""
        if not self.active:
            return
        values = {key: float(value) for key, value in metrics.items()}
        line = {"step": int(step), "time": round(time.time(), 3),
                **{key: value if math.isfinite(value) else None for key, value in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        if self._board is not None:
            self._board(step, values)
        self._show(step, values)

    def sync(self) -> None:
        """Wait until the lines are on the disk: a checkpoint counts on those before it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def say(self, text: str) -> None:
        """A line for the reader."""
        if not self.active:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        bar, board, file, self._bar, self._board, self._file = (
            self._bar, self._board, self._file, None, None, None)
        if bar is not None:
            bar.stop()
        for part in (board, file):
            if part is not None:
                with contextlib.suppress(OSError):  # a full disk has been said where the lines are written
                    part.close()

    def _show(self, step: int, values: dict[str, float]) -> None:
        if any(key.startswith("eval/") for key in values):
            self.say(f"step {step}/{self.steps}  " + "  ".join(
                f"{key} {value:.4g}" for key, value in values.items() if isinstance(value, float)))
            return
        numbers = [f"loss {values['loss']:.4f}"] if "loss" in values else []
        numbers += [f"{key.removesuffix('/accuracy')} acc {value:.3f}" for key, value in values.items()
                    if key.endswith("accuracy")][:2]
        if "tokens_per_second" in values:
            numbers.append(f"{brief(values['tokens_per_second'])} tokens/s")
        if "mfu" in values:
            numbers.append(f"MFU {100 * values['mfu']:.1f}%")
        elif "gflops_per_second" in values:
            numbers.append(f"{values['gflops_per_second']:.0f} GFLOP/s")
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers="  ".join(numbers))
            return
        left = ""
        if step > self.first:
            seconds = (time.monotonic() - self.began) / (step - self.first) * (self.steps - step)
            left = f"  {int(seconds) // 60}:{int(seconds) % 60:02d} left"
        print(f"step {step}/{self.steps}  " + "  ".join(numbers) + left, file=sys.stderr, flush=True)


class Board:
    """TensorBoard's file of the same numbers.

    Written at once, as tensorboardX's own SummaryWriter hangs for good when its thread meets a full disk.
    """

    def __init__(self, folder: pathlib.Path, step: int, writer, event, scalar):
        folder.mkdir(parents=True, exist_ok=True)
        # a name of its own: another start within the same second would write over this file
        self._file = writer(str(folder / "events"), f".{secrets.token_hex(4)}")
        self._event, self._scalar = event, scalar
        if step:  # what came after the step that a run resumes from is not to be shown
            self._file.write_event(event(wall_time=time.time(), step=step + 1, session_log={"status": 1}))

    @staticmethod
    def open(folder: pathlib.Path, step: int) -> "Board | None":
        """A board, or None where tensorboardX is not installed."""
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.summary import scalar
        except ImportError:
            return None
        return Board(folder, step, EventsWriter, Event, scalar)

    def __call__(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self._file.write_event(self._event(wall_time=time.time(), step=step, summary=self._scalar(key, value)))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def progress_bar():
    """A rich bar with the numbers of the last log line and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    return Progress(TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
                    TextColumn("{task.fields[numbers]}"), TimeRemainingColumn(), TextColumn("left"),
                    console=Console(stderr=True))


def brief(number: float) -> str:
    """1234567 as "1.23M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def keep_until(path: pathlib.Path, step: int) -> None:
    """Drop the lines of a metrics file past `step`, and a last line that was cut off."""
    if not path.exists():
        return
    kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step]
    write_file(path, "".join(kept))


def read_metrics(path) -> list[dict]:
    """The lines of a metrics.jsonl, in order; a line that was cut off is left out."""
    lines = []
    for text in pathlib.Path(path).read_text("utf-8", errors="replace").split("\n"):
        with contextlib.suppress(json.JSONDecodeError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
    return lines
