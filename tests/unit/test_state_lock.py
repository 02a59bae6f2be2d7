"""One command at a time works on a VE."""

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ve import lock
from ve.errors import InvalidValue, Locked
from ve.state import State

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from ve.state import State
with State(sys.argv[1]).lock(int(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def here(tmp_path: Path) -> State:
    return State(tmp_path)


@contextmanager
def holder(here: State, veid: int) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock until its stdin ends."""
    script = Path(here.make_dir(here.run_dir)) / "ve"
    script.write_text(HOLD)
    arguments = [sys.executable, str(script), here.path, str(veid)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process


def test_the_holder_is_named(here: State) -> None:
    with holder(here, 101) as process:
        with pytest.raises(Locked) as caught, here.lock(101, timeout=0.05):
            pass
        command = f"ve {here.path} 101"
        shown = command if len(command) <= 60 else f"{command[:59]}…"
        assert str(caught.value) == f"cannot lock 101: process {process.pid} ({shown}) works on it"
        assert caught.value.holder == process.pid
        with here.lock(102, timeout=0):
            pass


def test_a_killed_holder_holds_nothing(here: State) -> None:
    with holder(here, 101) as process:
        process.kill()
        process.wait()
        with here.lock(101, timeout=0):
            pass


def test_who_waits_gets_it_when_the_holder_ends(here: State, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    with holder(here, 101) as process:

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 10:  # by now we have been refused for good
                process.communicate()

        monkeypatch.setattr("ve.lock.time.sleep", pause)
        with here.lock(101, timeout=60):
            assert process.returncode == 0
    assert len(pauses) == 10
    assert pauses[0] == 0.001
    assert max(pauses) == 0.05


def test_two_threads_exclude_each_other(here: State) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(20):
            with here.lock(101):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                os.sched_yield()
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside[0], most[0]) == (0, 1)


def test_not_reentrant_and_says_so(here: State) -> None:
    with here.lock(101), pytest.raises(Locked, match="another thread of this process"), here.lock(101, timeout=0):
        pass


def test_an_error_inside_ends_the_lock(here: State) -> None:
    with pytest.raises(ZeroDivisionError), here.lock(101):
        raise ZeroDivisionError
    with here.lock(101, timeout=0):
        pass


def test_children_do_not_inherit_it(here: State) -> None:
    with here.lock(101):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    with child, here.lock(101, timeout=0):
        pass


def test_a_lock_of_a_removed_file_is_none(here: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opened the file before destroy removed it must not hold that one while another holds the new one."""
    flock = fcntl.flock
    opened = []

    def removed_in_between(fd: int, operation: int) -> None:
        opened.append(os.fstat(fd).st_ino)
        if len(opened) == 1:
            here.remove_lock(101)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", removed_in_between)
    with here.lock(101):
        assert len(opened) == 2
        assert Path(here.run_dir, "lock/101").stat().st_ino == opened[1]
        with pytest.raises(Locked), here.lock(101, timeout=0):
            pass


def test_a_lock_has_a_veid(here: State) -> None:
    with pytest.raises(InvalidValue), here.lock(0):
        pass


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([sys.executable, "/usr/bin/ve", "stop", "101"], "ve stop 101"),
        (["/bin/sh", "-c", "true"], "sh -c true"),
        ([sys.executable, "-m", "x"], f"{Path(sys.executable).name} -m x"),
        (["ve", "a\x1b[2Jb\nc"], r"ve a\x1b[2Jb\nc"),
        (["ve", "x" * 100], "ve " + "x" * 56 + "…"),
    ],
)
def test_commands_in_messages(words: list[str], shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "read_small", lambda path: "\0".join([*words, ""]).encode())
    assert lock._command(1) == shown
