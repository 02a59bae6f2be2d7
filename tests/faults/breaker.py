"""A call that is broken at one of its effects on the world: an error from the kernel, SIGKILL just before it, or a bug.

What counts as an effect is not listed step by step: Python's audit events tell of each file that is made, opened for
writing, renamed or removed, and of each program that is run; our own system calls go through one function, and what is
asked of the kernel's network through two.  So whatever a verb does next year is broken, too.  SIGKILL just after an
effect is SIGKILL just before the next.
"""

import mmap
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

from ve import netlink
from ve._linux import syscalls

KILL, KILL_GROUP, BUG = "kill", "kill the group", "a bug"  # the other ways are numbers of errno
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = {
    *(f"os.{name}" for name in ("mkdir", "rmdir", "remove", "rename", "link", "symlink", "chmod", "chown", "truncate")),
    *(f"os.{name}" for name in ("utime", "setxattr", "removexattr", "fork", "kill", "killpg", "posix_spawn")),
    "subprocess.Popen",
}
_WHY = 1024  # where the traceback is in what is shared
READS = {"openat2", "open_tree", "pidfd_getfd", "capget"}  # system calls of ours that change nothing


@dataclass(frozen=True)
class Broken:
    """How it ended: how many effects were begun, the broken one, its wait status, its traceback if any, its session."""

    effects: int
    name: str
    status: int
    why: str
    session: int


def run(call: Callable[[], object], at: int = 0, how: str | int = KILL) -> Broken:
    """Call it in a process of its own, broken at its effect number at (from 1 on; 0: at none), as how says."""
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _child(shared, call, at, how)
    _, status = os.waitpid(pid, 0)
    effects = int.from_bytes(shared[:8], "little")
    name, why = (bytes(part).rstrip(b"\0").decode(errors="replace") for part in (shared[8:_WHY], shared[_WHY:]))
    shared.close()
    return Broken(effects, name, status, why, pid)


def _child(shared: mmap.mmap, call: Callable[[], object], at: int, how: str | int) -> NoReturn:
    os.setsid()
    signal.setitimer(signal.ITIMER_REAL, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    try:
        _watch(_Breaker(shared, at, how))
        call()
        os._exit(0)
    except BaseException:
        text = traceback.format_exc()[-2000:].encode(errors="replace")
        shared[_WHY : _WHY + len(text)] = text
        os._exit(1)


@dataclass
class _Breaker:
    """It counts in all the processes that the call forks."""

    shared: mmap.mmap
    at: int
    how: str | int

    def __post_init__(self) -> None:
        self.main = os.getpid()

    def effect(self, name: str) -> None:
        number = int.from_bytes(self.shared[:8], "little") + 1
        self.shared[:8] = number.to_bytes(8, "little")
        if number != self.at:
            return
        text = name.encode(errors="replace")[:512]
        self.shared[8 : 8 + len(text)] = text
        if isinstance(self.how, int):
            raise OSError(self.how, os.strerror(self.how))
        if self.how == BUG:
            raise ZeroDivisionError(name)
        if os.getpid() != self.main:
            os._exit(137)  # PID 1 of a namespace does not get its own SIGKILL
        os.killpg(0, signal.SIGKILL) if self.how == KILL_GROUP else os.kill(self.main, signal.SIGKILL)


def _watch(breaker: _Breaker) -> None:
    inside = False

    def heard(event: str, args: tuple[Any, ...]) -> None:
        nonlocal inside
        if inside or not (event in EVENTS or (event == "open" and isinstance(args[2], int) and args[2] & WRITES)):
            return
        inside = True
        try:
            breaker.effect(f"{event} {args[0] if args else ''}")
        finally:
            inside = False

    sys.addaudithook(heard)
    for name in ("mount", "umount2", "unshare", "setns"):
        _wrap(breaker, syscalls, name)
    for name in ("ask", "transact"):  # the kernel does what is in one of them without being stopped in between
        _wrap(breaker, netlink, name)
    call = syscalls._syscall

    def called(name: str, *args: Any, **more: Any) -> int:
        if name not in READS:
            breaker.effect(name)
        return call(name, *args, **more)

    vars(syscalls)["_syscall"] = called


def _wrap(breaker: _Breaker, room: ModuleType, name: str) -> None:
    function = getattr(room, name)

    def called(*args: Any, **more: Any) -> Any:
        breaker.effect(" ".join([name, *(str(arg) for arg in args[:2])]))
        return function(*args, **more)

    vars(room)[name] = called
