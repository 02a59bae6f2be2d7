"""Files written whole, on a disk that fills up, and in a directory that cannot be written."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ve.wholefile import create_whole, write_whole

pytestmark = pytest.mark.any_kernel

ROOT = Path(__file__).resolve().parents[2]

FULL = """
import os, subprocess, sys
from ve.errors import DiskFull, Exists
from ve.state import State
from ve.wholefile import create_whole, write_whole
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=40", "none", sys.argv[1]], check=True)
os.chdir(sys.argv[1])
write_whole("old", b"old content")
here = State(sys.argv[1])
here.write_conf(101, b"conf")
for act in (
    lambda: write_whole("old", b"x" * 1_000_000),
    lambda: create_whole("new", b"x" * 1_000_000),
    lambda: here.write_conf(101, b"x" * 1_000_000),
):
    try:
        act()
        print("done")
    except DiskFull as error:
        print(error.exit_code, str(error).rpartition(": ")[2])
print(open("old").read(), open("conf/101.toml").read(), sorted(os.listdir(".")), os.listdir("conf"))
here.make_dir("%s/name" % sys.argv[1])
try:
    for number in range(40):
        os.symlink("x", str(number))
except OSError:
    pass
try:
    here.claim_name("web", 101)
except DiskFull as error:
    print(error.exit_code, error)
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
for act in (lambda: here.write_conf(101, b""), lambda: here.claim_name("a", 101), lambda: here.lock(101).__enter__()):
    try:
        act()
    except Exception as error:
        print(error.exit_code, error)
"""


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", FULL, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    unwritable = f"5 cannot write the state dir {tmp_path}: Read-only file system"
    assert done.stdout.splitlines() == [
        *["46 No space left on device"] * 3,
        "old content conf ['conf', 'old'] ['101.toml']",
        f"46 cannot write the state dir {tmp_path}: No space left on device",
        *[unwritable] * 3,
    ]


def test_write_replaces_and_create_does_not(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    create_whole(path, b"one", mode=0o640)
    with pytest.raises(FileExistsError):
        create_whole(path, b"two")
    assert Path(path).read_bytes() == b"one"
    assert Path(path).stat().st_mode & 0o777 == 0o640
    assert Path(path).stat().st_nlink == 1
    write_whole(path, b"three" * 100_000)
    assert Path(path).read_bytes() == b"three" * 100_000
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_keeps_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(str(path), b"one")
    with path.open("rb") as reader:
        write_whole(str(path), b"two")
        assert reader.read() == b"one"


def test_what_a_killed_writer_left_is_not_written_to(tmp_path: Path) -> None:
    """It may be a second link to the file that was made."""
    path = str(tmp_path / "file")
    create_whole(path, b"one")
    os.link(path, tmp_path / f".file.{threading.get_native_id()}")
    with pytest.raises(FileExistsError):
        create_whole(path, b"two")
    assert Path(path).read_bytes() == b"one"
    os.link(path, tmp_path / f".file.{threading.get_native_id()}")
    write_whole(path, b"two")
    assert Path(path).read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(str(tmp_path / "directory"), b"x")
    assert os.listdir(tmp_path) == ["directory"]
