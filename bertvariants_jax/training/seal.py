"""Checksums of a checkpoint's files, kept beside them in seal.json: whatever was changed, cut short or lost is found.

A seal is written once a checkpoint is whole, in the background. A checkpoint without one (of an earlier version, or saved
just before a kill) is held to less: its JSON must be readable. The seal also keeps the metrics of an evaluation that was
made up after the save.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bertvariants_jax.files import write_file

SEAL = "seal.json"
METADATA = "_CHECKPOINT_METADATA"   # Orbax's file that holds what was saved as custom metadata
SMALL = 2 ** 16                     # bytes of a file that is always read
THREADS = 4


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def files_of(folder: Path) -> list[str]:
    """Names of a checkpoint's files below its folder, without the seal."""
    names = [(Path(root) / name).relative_to(folder).as_posix() for root, _, files in os.walk(folder) for name in files]
    return sorted(name for name in names if name != SEAL and not name.startswith(".tmp-"))


def seal(folder: Path, metrics: dict[str, float] | None = None) -> None:
    """Write the seal of a checkpoint that is whole."""
    names = files_of(folder)
    with ThreadPoolExecutor(THREADS) as pool:
        sums = list(pool.map(lambda name: checksum(folder / name), names))
    files = {name: [(folder / name).stat().st_size, value] for name, value in zip(names, sums, strict=True)}
    write_seal(folder, {"files": files, "metrics": metrics})


def write_seal(folder: Path, content: dict[str, Any]) -> None:
    write_file(folder / SEAL, json.dumps({**content, "checksum": content_checksum(content)}) + "\n")


def keep_metrics(folder: Path, metrics: dict[str, float]) -> None:
    """Give a checkpoint's seal the metrics of an evaluation that was made up."""
    write_seal(folder, {**read_seal(folder), "metrics": metrics})


def read_seal(folder: Path) -> dict[str, Any]:
    """{"files": name -> [bytes, checksum], "metrics"} of a checkpoint, both empty without a seal.

    Raises:
        ValueError: the seal itself is damaged.
    """
    path = folder / SEAL
    if not path.exists():
        return {"files": {}, "metrics": None}
    content = read_json(path)
    if content.pop("checksum", None) != content_checksum(content) or not {"files", "metrics"} <= set(content):
        raise ValueError(f"{SEAL} is damaged")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError, naming the file, for anything else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is damaged (no JSON object)")
    return content


def read_notes(folder: Path) -> dict[str, Any]:
    """What the loop saved with a checkpoint besides its arrays; ValueError where it cannot be read."""
    notes = read_json(folder / METADATA).get("custom_metadata")
    if not isinstance(notes, dict) or "data" not in notes:
        raise ValueError(f"{METADATA} is damaged (it does not say where the data was)")
    return notes


def find_fault(folder: Path, parts: tuple[str, ...] = (), thorough: bool = True) -> str | None:
    """What is wrong with a checkpoint, in words, or None.

    Args:
        folder: RUN/checkpoints/<step>.
        parts: read only these of its folders ("params") and what lies beside them; () is all.
        thorough: compare all checksums; else sizes, and the checksums of small files.
    """
    try:
        read_notes(folder)
        files = read_seal(folder)["files"]
        for path in folder.glob("metrics/metrics"):
            read_json(path)
        if not files:
            for path in (folder / part / "_METADATA" for part in ("params", "rest")):
                read_json(path)
    except ValueError as error:
        return str(error)
    names = [name for name in files if not parts or "/" not in name or name.split("/")[0] in parts]
    for name in names:
        path, size = folder / name, files[name][0]
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, {size} were written"
    read = [name for name in names if thorough or files[name][0] <= SMALL]
    with ThreadPoolExecutor(THREADS) as pool:
        for name, value in zip(read, pool.map(lambda name: checksum(folder / name), read), strict=True):
            if value != files[name][1]:
                return f"{name} is not what was written: its checksum differs"
    return None


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, RUN/checkpoints/<step>, to damaged-<step>, where no one takes it for a checkpoint."""
    number, place = 1, folder.with_name(f"damaged-{folder.name}")
    while place.exists():
        number += 1
        place = folder.with_name(f"damaged-{folder.name}-{number}")
    os.rename(folder, place)
    return place


def steps_in(folder: Path) -> list[int]:
    """Steps of the folders that are called as checkpoints are, damaged ones too, in order."""
    return sorted(int(path.name) for path in Path(folder).glob("*")
                  if path.name.isdecimal() and path.name == str(int(path.name)) and path.is_dir())
