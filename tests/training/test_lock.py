"""One process at a time in a run's folder; what a dead one left is taken over."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bertvariants_jax.training import lock as locks
from bertvariants_jax.training.lock import Lock, RunInUse

HOLD = """
import sys, time
from bertvariants_jax.training.lock import Lock
with Lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
    if sys.argv[2] == "error":
        raise ValueError("row 3 is broken")
"""


def holder(folder, way="end"):
    """A process that holds the folder until it is told to end."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), way], text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline() == "held\n"
    return child


def free(folder):
    return not (folder / "lock").exists()


def test_a_second_process_is_refused_and_told_of_the_first(tmp_path):
    child = holder(tmp_path)
    with pytest.raises(RunInUse, match=rf"in use by process {child.pid} on .*, since 20.*\. Wait for it or choose another "
                                       rf"folder; if that process is gone, delete .*lock"), Lock(tmp_path):
        pass
    assert not free(tmp_path)
    child.communicate("\n")
    assert free(tmp_path)
    with Lock(tmp_path):
        assert not free(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("way", ["error", signal.SIGTERM])
def test_errors_and_sigterm_let_go(way, tmp_path):
    child = holder(tmp_path, way if way == "error" else "end")
    if way == "error":
        child.stdin.write("\n")
    else:
        child.send_signal(way)
    child.communicate()
    assert child.returncode == (1 if way == "error" else -way) and free(tmp_path)


def test_a_dead_owners_lock_is_taken_over(tmp_path, capfd):
    child = holder(tmp_path)
    child.kill()                # and not waited for: a zombie is dead too
    deadline = time.monotonic() + 10
    while locks.began_at(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    with Lock(tmp_path):
        assert locks.read_owner(tmp_path / "lock").pid == os.getpid()
    assert f"taking over from process {child.pid}" in capfd.readouterr().err
    child.communicate()


def test_a_number_that_another_process_has_now_does_not_hold_the_folder(tmp_path):
    owner = locks.this_process()
    (tmp_path / "lock").write_text(json.dumps({**vars(owner), "pid": os.getppid(), "began": "1", "key": "x"}))
    with Lock(tmp_path):
        assert locks.read_owner(tmp_path / "lock").pid == os.getpid()


@pytest.mark.parametrize("content", ["other machine", "", "{"])
def test_an_owner_elsewhere_counts_as_dead_once_it_does_not_touch_its_lock(content, tmp_path, monkeypatch):
    owner = json.dumps({**vars(locks.this_process()), "host": "tpu-7", "boot": "x"})
    path = tmp_path / "lock"
    path.write_text(owner if content == "other machine" else content)
    os.utime(path, (time.time() - 3600,) * 2)
    with Lock(tmp_path):
        assert locks.read_owner(path).pid == os.getpid()
    monkeypatch.setattr(locks, "STALE", 0.6)
    path.write_text(owner)
    with Lock(tmp_path):        # nobody touches it meanwhile
        assert locks.read_owner(path).pid == os.getpid()
    path.write_text(owner)
    touching = threading.Timer(0.2, lambda: os.utime(path))
    touching.start()
    with pytest.raises(RunInUse, match=r"in use by process \d+ on tpu-7"), Lock(tmp_path):
        pass
    assert path.read_text() == owner


RACE = """
import os, sys, time
from bertvariants_jax.training.lock import Lock, RunInUse
while time.time() < float(sys.argv[2]):
    pass
try:
    with Lock(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.readline()
except RunInUse:
    print("refused", flush=True)
"""


@pytest.mark.parametrize("before", [None, "a dead owner's"])
def test_of_starts_at_the_same_moment_one_is_let_in(before, tmp_path):
    if before:
        child = holder(tmp_path)
        child.kill()
        child.communicate()
    at = str(time.time() + 1.0)
    children = [subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), at], text=True, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE) for _ in range(4)]
    answers = [child.stdout.readline().strip() for child in children]
    for child in children:
        child.communicate("\n")
    assert sorted(answers) == ["held", "refused", "refused", "refused"] and free(tmp_path)


FORK = """
import os, subprocess, sys
from bertvariants_jax.training.lock import Lock
with Lock(sys.argv[1]):
    if os.fork() == 0:
        sys.exit()                 # leaves the block as its parent will
    os.wait()
    print(os.path.exists(sys.argv[1] + "/lock"), flush=True)
    worker = subprocess.Popen(["sleep", "30"])
print(os.path.exists(sys.argv[1] + "/lock"), worker.poll(), flush=True)
worker.kill()
"""


def test_children_do_not_hold_or_release_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", FORK, str(tmp_path)], text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["True", "False", "None"]
    with Lock(tmp_path):
        pass


def test_a_thread_takes_it_twice_and_another_is_refused(tmp_path):
    refused = []

    def other():
        try:
            with Lock(tmp_path):
                pass
        except RunInUse as error:
            refused.append(str(error))

    with Lock(tmp_path):
        with Lock(tmp_path) as again:
            again.check()
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert not free(tmp_path)
    assert free(tmp_path) and "another thread of this process" in refused[0]


def test_an_owner_that_lost_its_lock_says_so_and_leaves_it(tmp_path):
    with Lock(tmp_path) as lock:
        lock.check()
        (tmp_path / "lock").write_text(json.dumps({**vars(locks.this_process()), "host": "tpu-7"}))
        with pytest.raises(RunInUse, match="tpu-7"):
            lock.check()
    assert not free(tmp_path)
