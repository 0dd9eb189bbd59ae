"""A file is the old one or the new one, whatever ends the write."""

import os
import resource
import signal
import subprocess
import sys

import pytest

from bertvariants_jax.files import replacing, sweep, write_file

CHILD = """
import os, signal, sys
from bertvariants_jax.files import write_file
left = int(sys.argv[2])

def kill(event, arguments):
    global left
    if event in ("os.rename", "os.remove") or event == "open" and sys.argv[1] in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
write_file(sys.argv[1] + "/config.json", "new" * 10_000)
"""


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_content(tmp_path):
    path, contents = tmp_path / "config.json", []
    for moment in range(1, 9):
        path.write_text("old")
        child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), str(moment)])
        contents.append(path.read_text())
        assert contents[-1] in ("old", "new" * 10_000)
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
    assert child.returncode == 0 and contents[0] == "old" and moment > 3
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 16, limits[1]))
        with pytest.raises(OSError):
            write_file(path, b"x" * 2 ** 17)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["config.json"]


def test_a_file_that_holds_the_content_is_not_touched(tmp_path):
    path = tmp_path / "folder" / "config.json"
    assert write_file(path, "é\n") and path.read_bytes() == "é\n".encode()
    before = path.stat()
    assert not write_file(path, "é\n") and path.stat().st_ino == before.st_ino
    path.chmod(0o640)
    assert write_file(path, "e\n") and path.stat().st_mode & 0o777 == 0o640


def test_an_error_inside_leaves_what_was_there(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old")
    with pytest.raises(ValueError, match="row 3"), replacing(path) as file:
        file.write("new")
        raise ValueError("row 3")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["rows.jsonl"]


def test_links_are_followed_and_devices_written_to(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    write_file(os.devnull, "new")
    assert not os.path.isfile(os.devnull)
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path, "new")
