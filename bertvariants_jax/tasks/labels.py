"""Labels, scores and places as data files write them: one reader for each kind of value, with errors that name it.

A number may be typed (JSON, Parquet) or text (TSV, CSV); what is no finite number is an error, never a value.
"""

import ast
import math
from typing import Any

import numpy as np

LARGEST = float(np.finfo(np.float32).max)  # networks compute in float32

def real(value: Any, place: str, what: str = "label") -> float:
    """A finite number. Raises ValueError, naming the place, for anything else (nan, inf, text, true, null)."""
    value = value.item() if isinstance(value, np.generic) else value
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{place} has the {what} {value!r:.60}, expected a number")
    if abs(number) > LARGEST:
        raise ValueError(f"{place} has the {what} {value!r:.60}, which float32, up to {LARGEST:.1e}, makes infinite")
    return number


def whole(value: Any, place: str, what: str = "label") -> int:
    """A whole number: 13, 13.0 and "13" are one. Raises ValueError, naming the place, for anything else."""
    number = real(value, place, what)
    if number != int(number):
        raise ValueError(f"{place} has the {what} {value!r:.60}, expected a whole number")
    return int(number)


def flag(value: Any, place: str, what: str) -> bool:
    """true or false, however it is written: JSON's, 1 and 0, or text; null is false."""
    value = value.item() if isinstance(value, np.generic) else value
    text = "false" if value is None else str(value).strip().lower()
    if text in ("true", "1", "1.0"):
        return True
    if text in ("false", "0", "0.0"):
        return False
    raise ValueError(f"{place} has the {what} {value!r:.60}, expected true or false")


def class_name(value: Any, place: str, classes: tuple[str, ...] = ()) -> str:
    """The name of a class: text without the blanks around it, or a whole number (1, 1.0 and "1" are one class).

    classes: names that are taken whatever they look like.
    Raises ValueError, naming the place, for an empty label, a list, and what stands for a missing number (nan, inf).
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        name = value if value in classes else value.strip()
        if name in classes:
            return name
        if not name:
            raise ValueError(f"{place} has an empty label")
        if not _is_finite(name):
            raise ValueError(f"{place} has the label {name!r}, which stands for no value: give the row a label, or name it in "
                             "task.classes if it is a class")
        if name.startswith("[") and _is_list(name):
            raise ValueError(f"{place} has the label {name!r:.60}, which looks like a list: several labels a text are lists in "
                             "JSONL and Parquet, and in a table texts between which --task.separator stands")
        return name
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(f"{place} has the label {value!r}, which stands for no value: give the row a label")
        if value != int(value):
            raise ValueError(f"{place} has the label {value!r}, a fraction: --task.regression is for numbers, and a class is "
                             "text or a whole number")
        return str(int(value))
    raise ValueError(f"{place} has the label {value!r:.60}, expected text or a whole number")


def check_classes(names: dict[str, str]) -> None:
    """Raise ValueError if two of these classes are one number written differently. names: class -> where it stands."""
    numbers: dict[float, str] = {}
    for name, place in names.items():
        try:
            number = float(name)
        except ValueError:
            continue
        if (other := numbers.setdefault(number, name)) != name:
            raise ValueError(f"{place} has the label {name!r}, but {names[other]} has {other!r}: is it one class? Write them "
                             "alike")


def _is_finite(text: str) -> bool:
    """Whether a text is no spelling of nan or infinity."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return True


def _is_list(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
