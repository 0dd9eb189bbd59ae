"""What the processes of a run on several hosts do together."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def gather_json(value: Any) -> list[Any]:
    """JSON-able values of all processes, in their order."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(text.size))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: text.size] = text
    texts = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(texts, sizes, strict=True)]


def ask_first(question: Callable[[], Any]) -> Any:
    """The answer of the first process, JSON-able, for all, that wait; its failure is that of every process."""
    answer, failure = None, None
    if jax.process_index() == 0:
        try:
            answer = question()
        except (ValueError, OSError) as error:
            failure = error
    if jax.process_count() > 1:
        answer, message = gather_json((answer, None if failure is None else str(failure)))[0]
        if message is not None and failure is None:
            failure = ValueError(message)
    if failure is not None:
        raise failure
    return answer


def do_on_first(action: Callable[[], Any]) -> None:
    """Let the first process do something for all, as `ask_first`."""

    def act() -> None:
        action()

    ask_first(act)


def check_agreement(values: dict[str, Any]) -> None:
    """Raise ValueError, on every process, where the processes do not have the same values.

    Hosts that were started with other flags, or whose files differ, would train on as if they were one run.
    """
    first, *others = gather_json(values)
    for number, other in enumerate(others, 1):
        names = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if names:
            differences = "; ".join(
                f"{name} is {first.get(name, 'absent')!r} and {other.get(name, 'absent')!r}" for name in names[:8]
            )
            raise ValueError(
                f"processes 0 and {number} of this run differ: {differences}. Give all hosts the same command, "
                "package and files"
            )
