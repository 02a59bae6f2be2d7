"""Where ve/probes.py tries things: a new directory beside the state dir's files, one beside the run dir's, a cgroup.

Each is locked (flock(2)) for as long as it is in use, so that what a check that was killed has left is known by its not
being locked, and the next check removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

from ve import namespaces
from ve._linux import syscalls
from ve._linux.syscalls import SyscallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

NAME = "ve-check-"
_BASE, COUNT = 1 << 30, 1 << 16  # host ids that nobody has, as many as a VE's; only what the probes make gets them


class Ground:
    """state(), run() and cgroup() give a path, or raise why there is none."""

    def __init__(self, state_dir: str, run_dir: str, cgroup_root: str) -> None:
        self._held: list[int] = []
        self.state = self._new(nearest(state_dir), f".{NAME}")
        self.run = self._new(nearest(run_dir), f".{NAME}")
        self.cgroup = self._new(cgroup_root, NAME)

    def _new(self, parent: str, prefix: str) -> Callable[[], str]:
        if not parent:
            return _raising(OSError(2, "cgroup2 is not mounted"))
        try:
            _sweep(parent, prefix)
            path = f"{parent}/{prefix}{os.urandom(8).hex()}"
            self._held.append(_locked(path))
        except OSError as error:
            return _raising(error)
        return lambda: path

    def clear(self) -> None:
        for make in (self.state, self.run, self.cgroup):
            with suppress(OSError):
                _remove(make())

    def base(self) -> int:
        """The first of the ids that the probes take: where we are in a user namespace, of those that there are."""
        with open("/proc/self/uid_map", encoding="ascii") as file:
            ranges = [range(first, first + count) for first, _, count in (map(int, line.split()) for line in file)]
        for ids in ranges:
            base = min(_BASE, ids.stop - COUNT)
            if base >= max(ids.start, COUNT):
                return base
        raise PermissionError(1, f"this user namespace has no ids but {', '.join(map(_shown, ranges))}")

    def user_namespace(self) -> int:
        """A descriptor of a user namespace with a VE's id map; nobody is in it."""
        told, tell = os.pipe()
        wait, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(end)
            _in_user_namespace(tell, wait)
        os.close(tell)
        os.close(wait)
        try:
            if number := int(os.read(told, 16) or errno.ESRCH):
                raise SyscallError(number, "unshare")
            namespaces.map_ids(pid, [(0, self.base(), COUNT)])
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        finally:
            os.close(end)
            os.waitpid(pid, 0)


def _shown(ids: range) -> str:
    return f"{ids.start} to {ids.stop - 1}"


def _in_user_namespace(tell: int, wait: int) -> NoReturn:
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(tell, b"0")
        os.read(wait, 1)  # until our parent has ended or wants no more
    except OSError as error:
        os.write(tell, b"%d" % (error.errno or errno.EIO))
    finally:
        os._exit(0)


def _raising(error: OSError) -> Callable[[], str]:
    def make() -> str:
        raise error

    return make


def nearest(path: str) -> str:
    """The nearest directory above a path, or itself, that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _locked(path: str) -> int:
    """Make a directory that is ours for as long as the descriptor is open: another check may take it for a leftover."""
    while True:
        os.mkdir(path, 0o755)
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            with suppress(OSError):  # a file system without locks: a probe tells, and nobody sweeps here
                fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_at(path, fd):
                return fd
            os.close(fd)


def _is_at(path: str, fd: int) -> bool:
    return os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(fd))


def _sweep(parent: str, prefix: str) -> None:
    """Remove what checks that were killed have left."""
    for name in os.listdir(parent):
        if name.startswith(prefix):
            with suppress(OSError):  # it is in use, or just going
                fd = os.open(f"{parent}/{name}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(f"{parent}/{name}")
                finally:
                    os.close(fd)


def _remove(path: str) -> None:
    for directory, names, files in os.walk(path, topdown=False):
        for name in files:
            with suppress(PermissionError):  # a cgroup's go with it
                os.unlink(f"{directory}/{name}")
        for name in names:
            os.rmdir(f"{directory}/{name}")
    os.rmdir(path)
