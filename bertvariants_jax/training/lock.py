"""One process at a time trains in a run's folder: RUN/lock says which.

The file names host, process and time. It is touched while its owner lives; the next start takes over what a dead owner
left: on the same machine at once, from another one when it was not touched for a while.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bertvariants_jax.files import sweep

BEAT = 10.0    # seconds between touches
STALE = 90.0   # seconds without one after which an owner on another machine counts as dead
LOCK = "lock"


class RunInUse(OSError):
    """Another process trains in the folder; the text says which."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: process `pid`, that began at `began` (clock ticks after boot), on a machine with one view of
    process numbers (host, boot, pids)."""

    host: str
    boot: str
    pids: str
    pid: int
    began: str
    time: str
    key: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.time}"

    def same_machine(self, other: "Owner") -> bool:
        return (self.host, self.boot, self.pids) == (other.host, other.boot, other.pids)


def this_process() -> Owner:
    """The owner that this process would be."""
    return Owner(socket.gethostname(), read_text("/proc/sys/kernel/random/boot_id"), link_of("/proc/self/ns/pid"),
                 os.getpid(), began_at(os.getpid()) or "", time.strftime("%Y-%m-%d %H:%M:%S %z"), secrets.token_hex(8))


def read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def link_of(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def began_at(pid: int) -> str | None:
    """When a process of this machine began, "" where the system does not say, None if it is dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    # "pid (name) state ppid ...": a name may hold brackets and blanks
    fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not fields:
        return ""
    return None if fields[0] in "ZX" else fields[19]


class Lock:
    """RUN/lock, held while the block runs. A thread that holds it may take it again.

    sigterm: have SIGTERM remove it too, where the process does not handle that signal itself.

    Raises:
        RunInUse: another process, or another thread of this one, trains in the folder.
        OSError: the folder cannot be written.
    """

    held: dict[Path, "Lock"] = {}   # noqa: RUF012 - the locks of this process

    def __init__(self, folder: str | Path, sigterm: bool = True):
        self.folder = Path(folder).absolute()
        self.path = Path(os.path.realpath(self.folder)) / LOCK
        self.sigterm = sigterm
        self.owner: Owner | None = None
        self.depth = 0
        self.thread = 0

    def __enter__(self) -> "Lock":
        holder = Lock.held.get(self.path)
        if holder is not None and holder.owner.pid == os.getpid():
            if holder.thread != threading.get_ident():
                raise RunInUse(refusal(self.folder, f"another thread of this process ({holder.owner})", self.path))
            holder.depth += 1
            return holder
        self.owner, self.thread = this_process(), threading.get_ident()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._take()
            self._sweep()
        except BaseException:
            self.release()
            raise
        Lock.held[self.path] = self
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._touch, daemon=True)
        self._beat.start()
        self._term = let_go_on_sigterm() if self.sigterm else None
        return self

    def __exit__(self, *_) -> None:
        holder = Lock.held.get(self.path)
        if holder is None or holder.owner.pid != os.getpid():   # a forked child owns nothing
            return
        if holder.depth:
            holder.depth -= 1
            return
        holder._over.set()
        Lock.held.pop(self.path)
        if holder._term is not None:
            signal.signal(signal.SIGTERM, holder._term)
        holder.release()

    def _sweep(self) -> None:
        """Remove what killed processes left half-written in the run's own folders."""
        for folder in (self.folder, *(path for path in self.folder.iterdir() if path.is_dir())):
            if folder == self.folder or not (folder.name == "checkpoints" or (folder / "checkpoints").exists()):
                sweep(folder)
        for path in self.folder.glob(".lock-*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink()

    def release(self) -> None:
        """Remove the file, if it is still this process's."""
        with contextlib.suppress(OSError):
            if read_owner(self.path) == self.owner:
                self.path.unlink()

    def check(self) -> None:
        """Raise RunInUse where another process has taken the folder, which it does from one that seemed dead."""
        owner = read_owner(self.path)
        if owner is not None and owner != self.owner:
            raise RunInUse(refusal(self.folder, str(owner), self.path))

    def _touch(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _take(self) -> None:
        """Create the file, or put it in the place of a dead owner's."""
        beside = name_beside(self.path)
        try:
            with open(beside, "x", encoding="utf-8") as file:
                file.write(json.dumps(asdict(self.owner)) + "\n")
            while True:
                try:
                    os.link(beside, self.path)   # with its content at once, and only where there is none
                    return
                except FileExistsError:
                    pass
                except OSError:                  # a file system without links
                    with contextlib.suppress(FileExistsError), open(self.path, "x", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(self.owner)) + "\n")
                        return
                if self._take_over(beside):
                    return
        finally:
            beside.unlink(missing_ok=True)

    def _take_over(self, beside: Path) -> bool:
        """Replace a dead owner's file. Of several that try at once one may: it holds the old file locked meanwhile.

        Gives False where the file has gone or changed, so that it is to be looked at again.
        """
        try:
            handle = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            owner = read_owner(self.path)
            self._wait_for_death(owner)
            with contextlib.suppress(OSError, ImportError):     # where files cannot be locked it is done without
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX)
            if not is_at(handle, self.path) or read_owner(self.path) != owner:
                return False
            print(f"{self.folder}: taking over from {owner or 'a start that was cut short'}, which is dead",
                  file=sys.stderr, flush=True)
            os.replace(beside, self.path)
            return True
        finally:
            os.close(handle)

    def _wait_for_death(self, owner: Owner | None) -> None:
        """Come back once the owner is known to be dead; RunInUse if it lives. One on another machine is watched."""
        if owner is not None and owner.same_machine(self.owner):
            if owner.pid == os.getpid():     # an error on the way into or out of the block left it
                return
            began = began_at(owner.pid)
            if began is None or (owner.began and began and began != owner.began):   # its number may be another's now
                return
            raise RunInUse(refusal(self.folder, str(owner), self.path))
        touched, age = touched_at(self.path), age_of(self.path)
        if age < STALE:
            print(f"{self.folder} is in use by {owner or 'a start that names none'}: waiting {STALE - age:.0f} s to see "
                  "whether that still lives", file=sys.stderr, flush=True)
        while age < STALE:
            time.sleep(min(1.0, STALE / 10))
            now = touched_at(self.path)
            if now is not None and now != touched:
                raise RunInUse(refusal(self.folder, str(owner), self.path))
            if now is None:
                return
            age = age_of(self.path)


def refuse_in_use(folder: str | Path) -> None:
    """Raise RunInUse where a process trains in a folder that is only to be read, for all that its lock tells."""
    path = Path(os.path.realpath(folder)) / LOCK
    owner, touched = read_owner(path), touched_at(path)
    if touched is None:
        return
    if owner is not None and owner.same_machine(this_process()):
        began = began_at(owner.pid)
        is_alive = began is not None and (not owner.began or not began or began == owner.began)
    else:
        is_alive = time.time() - touched / 1e9 < STALE
    if is_alive:
        raise RunInUse(refusal(Path(folder), str(owner or "a start that names none"), path))


def name_beside(path: Path) -> Path:
    return path.with_name(f".lock-{secrets.token_hex(8)}")


def refusal(folder: Path, owner: str, path: Path) -> str:
    return (f"{folder} is in use by {owner}. Wait for it or choose another folder; if that process is gone, "
            f"delete {path}")


def read_owner(path: Path) -> Owner | None:
    """Who a lock names; None where there is none or it was cut short."""
    try:
        return Owner(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def touched_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def age_of(path: Path) -> float:
    """Seconds since a file was touched, by the clock of the file system that keeps it; of one that is gone, infinite."""
    probe = name_beside(path)
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def let_go_on_sigterm():
    """Have SIGTERM remove this process's locks before it ends the process as it would; gives what to put back, or None
    where someone else handles it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return None

    def let_go(number, frame):
        for lock in list(Lock.held.values()):
            if lock.owner.pid == os.getpid():
                lock.release()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return signal.signal(signal.SIGTERM, let_go)
