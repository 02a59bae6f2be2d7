"""Far sides: what a process of ours has and is when it begins, and the launcher that they are clones of."""

import contextlib
import gc
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.nest import ROOT
from ve import caller, interpreter
from ve._linux import syscalls
from ve.errors import NotSupported

IGNORED_BY_PYTHON = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
PROGRAM = """
import os, sys
from tests.kernel.test_launcher import begin
from ve import interpreter
begin()
print(interpreter._launcher.process.pid, flush=True)
"""


def begin(*more: int, **options: Any) -> dict[str, Any]:
    """What a far side with so many more descriptors tells of itself, which must end as it was told."""
    answer, say = os.pipe()
    with open(answer, "rb") as file:
        try:
            far = interpreter.FarSide("tests.kernel.farther", say, *more, **options)
        finally:
            os.close(say)
        told: dict[str, Any] = marshal.loads(file.read())
        assert far.wait() == 1 + len(more)
        return told


@pytest.fixture(params=["launcher", "itself"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of what far sides are clones."""
    monkeypatch.setattr(caller, "is_the_command", request.param == "itself")
    return str(request.param)


def test_it_is_our_child_and_begins_with_nothing_of_ours(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter._end()  # that of an earlier test
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        told = begin()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        signal.signal(signal.SIGHUP, kept)
    assert (told["parent"], told["session"], told["directory"], told["threads"]) == (os.getpid(), True, "/", 1)
    assert "SECRET" not in told["environment"]
    assert "LC_ALL" in told["environment"]
    assert (told["ignored"], told["blocked"]) == (IGNORED_BY_PYTHON, 0)


def test_descriptors_keep_their_numbers_and_others_are_not_there(way: str) -> None:
    with open("/etc/passwd") as one, open("/etc/hosts") as two, open("/etc/group") as three, open("/etc/fstab"):
        high = os.dup2(three.fileno(), 200, inheritable=False)
        try:
            told = begin(one.fileno(), high, stdin=two, stdout=subprocess.DEVNULL, passed=[three.fileno()])
        finally:
            os.close(high)
        files = {number: path for number, path in told["held"].items() if path.startswith("/etc/")}
        assert files == {
            0: "/etc/hosts",
            one.fileno(): "/etc/passwd",
            three.fileno(): "/etc/group",
            200: "/etc/group",
        }
        assert told["held"][1] == "/dev/null"


def test_standard_descriptors_may_be_each_other(way: str) -> None:
    with open("/etc/passwd") as one, open("/etc/group") as other:
        kept = [os.dup(fd) for fd in (0, 1)]
        try:
            os.dup2(one.fileno(), 0)
            os.dup2(other.fileno(), 1)
            told = begin(stdin=1, stdout=0)
        finally:
            for number, fd in enumerate(kept):
                os.dup2(fd, number)
                os.close(fd)
    assert (told["held"][0], told["held"][1]) == ("/etc/group", "/etc/passwd")


def test_a_large_program_with_threads_does_not_come_along() -> None:
    ballast = bytearray(os.urandom(1)) * (64 << 20)
    go_on = threading.Event()
    threads = [threading.Thread(target=go_on.wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        told = begin()
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
    assert told["threads"] == 1
    assert told["memory"] < 16 << 10 < len(ballast) >> 10  # KiB


def test_twenty_threads_at_once() -> None:
    with ThreadPoolExecutor(20) as pool:
        told = [*pool.map(lambda _: begin(), range(100))]
    assert {each["parent"] for each in told} == {os.getpid()}


def test_a_launcher_that_is_killed_is_replaced() -> None:
    begin()
    assert interpreter._launcher
    first = interpreter._launcher.process
    os.kill(first.pid, signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    begin()
    assert interpreter._launcher and interpreter._launcher.process.pid != first.pid


@pytest.mark.parametrize("asked", [False, True])
def test_so_is_one_that_is_killed_and_has_not_ended_yet(monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    """Which has not read what it was asked: before it was asked, or while it is."""
    begin()
    assert interpreter._launcher
    first, send = interpreter._launcher.process, socket.send_fds

    def end() -> None:
        os.kill(first.pid, signal.SIGKILL)
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)

    def send_and_end(channel: socket.socket, *rest: Any) -> int:
        monkeypatch.setattr("socket.send_fds", send)
        sent = send(channel, *rest)
        end()
        return sent

    monkeypatch.setattr(first, "poll", lambda: None)
    if asked:
        os.kill(first.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)  # or it might read on until then
        monkeypatch.setattr("socket.send_fds", send_and_end)
    else:
        end()
    begin()
    assert interpreter._launcher and interpreter._launcher.process.pid != first.pid


def test_a_thread_in_another_network_begins_there() -> None:
    begin()

    def elsewhere() -> tuple[str, str]:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        return os.readlink("/proc/thread-self/ns/net"), begin()["network"]

    with ThreadPoolExecutor(1) as pool:
        there, told = pool.submit(elsewhere).result()
    here = os.readlink("/proc/self/ns/net")
    assert told == there != here
    assert begin()["network"] == here


def test_a_fork_has_a_launcher_of_its_own() -> None:
    begin()
    assert interpreter._launcher
    ours = interpreter._launcher.process.pid

    def another() -> None:
        assert begin()["parent"] == os.getpid()
        assert interpreter._launcher and interpreter._launcher.process.pid != ours

    in_a_fork(another)
    begin()
    assert interpreter._launcher and interpreter._launcher.process.pid == ours


class Enough(Exception):
    pass


def enough(*_: object) -> NoReturn:
    raise Enough


def in_a_fork(work: Callable[[], object]) -> None:
    """Where it does no harm to who goes on; what it finds wrong is shown."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            interpreter.end_launcher()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_who_has_given_up_its_ids_gets_nothing_of_them() -> None:
    def drop() -> None:
        begin()
        surroundings = interpreter._surroundings()
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        interpreter._surroundings = lambda: surroundings  # as one who does not ask whether it may
        with pytest.raises(syscalls.SyscallError, match="not permitted"):
            begin()

    in_a_fork(drop)


@pytest.mark.any_kernel
def test_a_request_that_is_interrupted_is_answered_to_nobody() -> None:
    def interrupt() -> None:
        begin()
        signal.signal(signal.SIGALRM, enough)
        for delay in range(1, 200, 5):
            with contextlib.suppress(Enough):
                signal.setitimer(signal.ITIMER_REAL, delay / 50000)
                begin(stderr=subprocess.DEVNULL)
            signal.setitimer(signal.ITIMER_REAL, 0)
            begin()  # which sees that its own child ends as it was told

    in_a_fork(interrupt)


@pytest.mark.any_kernel
def test_who_is_interrupted_leaves_no_child() -> None:
    """But for one that Popen itself waits for later, as it does for those of a Popen that nobody has any more."""

    def interrupt() -> None:
        begin()
        before = {*children_of_ours()}
        warnings.simplefilter("ignore", ResourceWarning)  # an error here, which would keep Popen from its list
        signal.signal(signal.SIGALRM, enough)
        for delay in range(1, 200, 5):
            with contextlib.suppress(Enough, EOFError):
                signal.setitimer(signal.ITIMER_REAL, delay / 50000)
                begin(stderr=subprocess.DEVNULL)
            signal.setitimer(signal.ITIMER_REAL, 0)
        for left in {*children_of_ours()} - before:
            os.waitid(os.P_PID, int(left), os.WEXITED | os.WNOWAIT)
        gc.collect()
        vars(subprocess)["_cleanup"]()  # as the next Popen does
        assert {*children_of_ours()} == before

    in_a_fork(interrupt)


def children_of_ours() -> list[str]:
    return Path("/proc/thread-self/children").read_text().split()


def test_what_runs_after_our_end_is_not_held_up() -> None:
    program = """
import atexit, os
@atexit.register
def late():
    from tests.kernel.test_launcher import begin
    begin()
    os.fork() or os._exit(0)
    os.wait()
    print("late", flush=True)
from tests.kernel.test_launcher import begin
begin()
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout == "late\n"


def test_who_is_to_be_in_a_new_pid_namespace_forks_first() -> None:
    def unshared() -> None:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        with pytest.raises(NotSupported, match="must be a fork"):
            begin()

    in_a_fork(unshared)


@pytest.mark.parametrize("end", ["", "os.kill(os.getpid(), 9)", "os.fork() or sys.stdin.read()"])
def test_it_ends_with_its_caller(end: str) -> None:
    """However that ends, and though a fork of it lives."""
    command = [sys.executable, "-c", f"{PROGRAM}sys.stdin.readline()\n{end}\n"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin and program.stdout
        launcher = os.pidfd_open(int(program.stdout.readline()))
        program.stdin.write(b"\n")
        program.stdin.flush()
        try:
            program.wait()
            assert select.select([launcher], [], [], 30)[0]
        finally:
            os.close(launcher)
        program.stdin.close()
        program.stdout.read()  # until the fork has ended, too
