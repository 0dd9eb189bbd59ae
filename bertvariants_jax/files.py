"""Files are replaced whole: a kill or a full disk inside a write leaves what stood there before."""

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{8}-.+")


def temporary(path: Path) -> Path:
    """A name beside `path` that no other process uses."""
    return path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")


@contextlib.contextmanager
def replacing(path: str | Path, mode: str = "w", encoding: str | None = "utf-8") -> Iterator[IO]:
    """Open a new file that takes the place of `path` when the block ends without an error.

    The folder is made if it is not there. A link is followed, and what is no regular file (/dev/null) is written to
    directly.

    Raises:
        OSError: the file could not be written; `path` is as it was.
    """
    path = Path(os.path.realpath(path))
    encoding = None if "b" in mode else encoding
    if path.exists() and not path.is_file():
        with open(path, mode, encoding=encoding) as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = temporary(path)
    try:
        with open(beside, mode.replace("w", "x"), encoding=encoding) as file:
            if path.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_file(path: str | Path, content: str | bytes) -> bool:
    """Give a file this content, by `replacing` it; a file that has it already is not touched.

    Returns:
        Whether the file was written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    path = Path(path)
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return False
    with replacing(path, "wb") as file:
        file.write(data)
    return True


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system knows how."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: str | Path) -> None:
    """Remove what writes that were killed have left in a folder."""
    for path in Path(folder).glob(".tmp-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
