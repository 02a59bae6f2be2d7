"""The cgroup of a VE, where what it uses is counted and limited.

    <cgroup2>/<tag>/<VEID>/               ours: limits are set here, out of the VE's reach
    <cgroup2>/<tag>/<VEID>/init/          the VE's: the root of its cgroup namespace, delegated to its root
    <cgroup2>/<tag>/<VEID>/init/exec.*/   ours: one for each command that entered from outside (ve/execgroup.py)

cgroup v2 only, wherever it is mounted (mountinfo says).  Files are read and written through cgroupspy's descriptors,
which fit v2 as well; its tree knows v1 only.
"""

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterator

from cgroupspy.controllers import Controller
from cgroupspy.interfaces import DictFile, FlagFile, MultiLineIntegerFile

from ve import mountinfo
from ve.errors import SPENT, NotSupported

_GONE = (errno.ENOENT, errno.ENODEV)  # not there, or removed while we had it open
# A VE's root may make cgroups: not so many that the host suffers, nor so deep that nobody can take them away again.
_BOUNDS = {"cgroup.max.depth": 32, "cgroup.max.descendants": 10_000}
_DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")  # cgroup-v2.rst, "Model of Delegation"


class Core(Controller):  # type: ignore[misc]
    """The cgroup.* files that every cgroup but the root has."""

    procs = MultiLineIntegerFile("cgroup.procs", readonly=True)
    events = DictFile("cgroup.events", readonly=True)
    freeze = FlagFile("cgroup.freeze")
    kill = FlagFile("cgroup.kill", writeonly=True)


class Cgroup:
    """One cgroup directory, existing or not; everything is asked of the kernel each time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.full_path = os.fsencode(path)  # what cgroupspy calls a node is anything with a full_path
        self.core = Core(self)

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def populated(self) -> bool:
        """Is any process in it or below?"""
        try:
            return bool(self.core.events["populated"])
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False

    def frozen(self) -> bool:
        try:
            return bool(self.core.events["frozen"])
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False

    def freeze(self, frozen: bool) -> None:
        """Stop all its processes, or let them go on; returns when the kernel says it is so."""
        self.core.freeze = frozen
        self._wait("frozen", int(frozen), None)

    def kill(self) -> None:
        """SIGKILL to every process in it and below, also those that fork meanwhile (kernel 5.14)."""
        try:
            self.core.kill = True
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def wait_empty(self, timeout: float | None) -> bool:
        """Wait until no process is left, for timeout seconds at most; was it so?"""
        return not self.exists() or self._wait("populated", 0, timeout)

    def pids(self) -> list[int]:
        """The processes in it and below, as the host numbers them."""
        found: list[int] = []
        with contextlib.suppress(FileNotFoundError), _directory(self.path) as fd:
            _read_below(fd, found)
        return found

    def remove(self) -> None:
        """Remove it and what is below; nothing happens if it is gone, OSError (EBUSY) if a process is left."""
        with contextlib.suppress(FileNotFoundError):
            with _directory(self.path) as fd:
                _remove_below(fd)
            os.rmdir(self.path)

    def _wait(self, key: str, value: int, timeout: float | None) -> bool:
        """Wait for a line of cgroup.events; each change of the file is a POLLPRI (cgroup-v2.rst)."""
        try:
            fd = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _GONE:
                return True
            raise
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            poll = select.poll()
            poll.register(fd, select.POLLPRI)
            while f"{key} {value}" not in os.pread(fd, 4096, 0).decode():
                left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
                if not poll.poll(left):
                    return False
        except OSError as error:
            if error.errno not in _GONE:
                raise
        finally:
            os.close(fd)
        return True


# The VE chooses the names below: a path of 32 of them is longer than the kernel takes, so each is opened in its parent.


@contextlib.contextmanager
def _directory(path: str, parent: int | None = None) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _children(fd: int) -> list[str]:
    with os.scandir(fd) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _read_below(fd: int, found: list[int]) -> None:
    try:
        with open("cgroup.procs", encoding="ascii", opener=lambda name, flags: os.open(name, flags, dir_fd=fd)) as file:
            found += map(int, file.read().split())
        for name in _children(fd):
            with _directory(name, fd) as child:
                _read_below(child, found)
    except OSError as error:  # one that is just going
        if error.errno in SPENT:
            raise


def _remove_below(fd: int) -> None:
    for name in _children(fd):
        with contextlib.suppress(FileNotFoundError):
            with _directory(name, fd) as child:
                _remove_below(child)
            os.rmdir(name, dir_fd=fd)


def mount_point() -> str:
    """Where cgroup2 is mounted; NotSupported if it is nowhere."""
    for line in mountinfo.lines():
        if line.kind == "cgroup2":
            return line.point
    raise NotSupported("cannot find cgroup2: it is not mounted", hint="mount -t cgroup2 none /sys/fs/cgroup")


def cgroup(tag: str, veid: int) -> Cgroup:
    """The cgroup of a VE, whether it exists or not."""
    return Cgroup(f"{mount_point()}/{tag}/{veid}")


def create(tag: str, veid: int, owner: int) -> Cgroup:
    """Make the cgroup of a VE with its init directory, which is given to owner, the VE's root.

    NotSupported if cgroup2 cannot be written here, as in a container without delegation.
    """
    outer = cgroup(tag, veid)
    inner = f"{outer.path}/init"
    try:
        _make(inner)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise NotSupported(
            f"cannot make a cgroup in {mount_point()}: {error.strerror}",
            hint="in a container, cgroup2 must be mounted writable: --privileged with --cgroupns=private",
        ) from error
    for path in (os.path.dirname(outer.path), outer.path, inner):  # whatever the caller's umask
        os.chmod(path, 0o755)  # 6.1 mounts a VE's cgroup2 only for who may search each directory above its root
    for name, value in _BOUNDS.items():
        with open(f"{outer.path}/{name}", "w", encoding="ascii") as file:
            file.write(str(value))
    os.chown(inner, owner, owner)
    for name in _DELEGATED:
        os.chown(f"{inner}/{name}", owner, owner)
    return outer


def remove(tag: str, veid: int) -> None:
    """Remove the cgroup of a VE, and the one above when this was the last; OSError (EBUSY) if a process is left."""
    group = cgroup(tag, veid)
    group.remove()
    with contextlib.suppress(OSError):  # ENOTEMPTY: there are others
        os.rmdir(os.path.dirname(group.path))


def _make(path: str) -> None:
    for _ in range(100):  # between its two steps somebody may remove the directory above, having been the last there
        with contextlib.suppress(FileNotFoundError):
            os.makedirs(path, exist_ok=True)
            return
    os.makedirs(path, exist_ok=True)
