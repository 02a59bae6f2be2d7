"""The cgroup of a VE, where what it uses is counted and limited.

    <home>/<tag>/<VEID>/                  ours: limits are set here, out of the VE's reach
    <home>/<tag>/<VEID>/init/             the VE's: the root of its cgroup namespace, delegated to its root
    <home>/<tag>/<VEID>/exec/exec.*/      ours: one for each command that a program runs in it (ve/execgroup.py)
    <home>/<tag>/<VEID>/init/exec.*/      ours: one for each command that logs in

home is the root of cgroup2 or, on a host with systemd, the unit ve-host.service, which systemd delegates to us.

cgroup v2 only, wherever it is mounted (mountinfo says).  Files are read and written through cgroupspy's descriptors,
which fit v2 as well; its tree knows v1 only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time

from cgroupspy.controllers import Controller
from cgroupspy.interfaces import DictFile, FlagFile, MultiLineIntegerFile

from ve import cgrouproot, hostunit, procfs
from ve.errors import SPENT, Error, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

PLACES = ("init", "exec")  # what is below a VE's own
PATIENCE = 10.0  # seconds for the kernel to stop what it freezes
_TRIES = 100  # to remove a cgroup that others come into: each does so once
WAITING = (  # what is to be done about a process that no signal reaches
    "they wait for a device or a file system (state D in ps); a FUSE file system that does not answer is ended by "
    "echo 1 >/sys/fs/fuse/connections/N/abort, N being its minor device number"
)
_GONE = (errno.ENOENT, errno.ENODEV)  # not there, or removed while we had it open
# A VE's root may make cgroups: not so many that the host suffers, or who looks at each of them, which takes 20 us, nor
# so deep that nobody can take them away again.
_BOUNDS = {"cgroup.max.depth": 32, "cgroup.max.descendants": 4_000}
CONTROLLERS = ("memory", "pids", "cpu", "cpuset", "io")
_DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")  # cgroup-v2.rst, "Model of Delegation"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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
        return self._is("populated")

    def take(self, pid: int) -> None:
        """Move a process into it; ProcessLookupError if it has ended."""
        with open(f"{self.path}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(pid))

    def frozen(self) -> bool:
        return self._is("frozen")

    def freeze(self, frozen: bool) -> bool:
        """Stop all its processes, or let them go on; did the kernel say in time that it is so?"""
        self.core.freeze = frozen
        return self._wait("frozen", int(frozen), PATIENCE)

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
        with contextlib.suppress(OSError):  # most have none below, and then it takes no descriptor, should none be left
            os.rmdir(self.path)
        with contextlib.suppress(FileNotFoundError):
            with _directory(self.path) as fd:
                _remove_below(fd)
            os.rmdir(self.path)

    def _is(self, key: str) -> bool:
        """What a line of cgroup.events says; of one that is gone nothing is so."""
        try:
            return bool(self.core.events[key])
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False

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
    fd = os.open(path, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _children(fd: int) -> list[str]:
    with os.scandir(fd) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _read_below(fd: int, found: list[int]) -> None:
    """One that is just going, which its VE can have happen at any time, hides none of the others."""
    found += _unless_gone(_procs, "cgroup.procs", fd) or ()
    for name in _unless_gone(_below, fd) or ():
        _unless_gone(_read_child, name, fd, found)


def _below(fd: int) -> Sequence[str]:
    """Those in it: of a VE's own they are known, which spares a look at the seventy files beside them."""
    number = os.fstat(fd).st_nlink - 2  # kernfs counts them there
    if number == len(PLACES) and all(os.access(name, os.F_OK, dir_fd=fd) for name in PLACES):
        return PLACES
    return _children(fd) if number else ()


def _procs(name: str, fd: int) -> Iterator[int]:
    return map(int, procfs.contents(name, fd, 1 << 30).split())


def _read_child(name: str, fd: int, found: list[int]) -> None:
    if os.stat(name, dir_fd=fd, follow_symlinks=False).st_nlink != 2:
        with _directory(name, fd) as child:
            _read_below(child, found)
    else:
        found += _procs(f"{name}/cgroup.procs", fd)


def _unless_gone(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    try:
        return read(*args, **kwargs)
    except OSError as error:
        if error.errno in SPENT:
            raise
        return None


def _remove_below(fd: int) -> None:
    for name in _children(fd):
        with contextlib.suppress(FileNotFoundError):
            with _directory(name, fd) as child:
                _remove_below(child)
            os.rmdir(name, dir_fd=fd)


def controllers(path: str) -> list[str]:
    """Those of CONTROLLERS that cgroups below this one can have."""
    with open(f"{path}/cgroup.controllers", encoding="ascii") as file:
        there = file.read().split()
    return [name for name in CONTROLLERS if name in there]


def home() -> str:
    """The cgroup that those of all state dirs are in: who has systemd must not divide its cgroups behind its back."""
    return cgrouproot.find() + hostunit.place()


def have_home() -> str:
    """The same, made to be there; NotSupported if systemd does not delegate a unit."""
    path = home()
    hostunit.have()
    os.makedirs(path, exist_ok=True)
    return path


def above(group: Cgroup) -> list[str]:
    """The cgroups that it is in, less the root: the nearest first."""
    top, path, found = cgrouproot.find(), os.path.dirname(group.path), list[str]()
    while path != top:
        found.append(path)
        path = os.path.dirname(path)
    return found


def cgroup(tag: str, veid: int) -> Cgroup:
    """The cgroup of a VE, whether it exists or not."""
    return several(tag, [veid])[0]


def freeze(veid: int, group: Cgroup) -> None:
    """Stop all processes of a VE.

    Error names those that the kernel cannot stop, as they wait for what no signal ends; then all go on.
    """
    done = False
    try:
        done = group.freeze(True)
        waiting = [] if done else [pid for pid in group.pids() if _waits(pid)]
    finally:
        if not done:
            group.freeze(False)
    if not done:
        names = " ".join(map(str, waiting[:8])) or "nobody can say which"
        raise Error(f"cannot freeze {veid}: {len(waiting)} processes cannot be stopped: {names}; all go on", WAITING)


def _waits(pid: int) -> bool:
    """Is any thread of it in an uninterruptible wait: state D of proc_pid_stat(5)?"""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            stat = procfs.contents(f"/proc/{pid}/task/{thread}/stat", None)
            if stat.rpartition(b")")[2].split()[:1] == [b"D"]:
                return True
    return False


def several(tag: str, veids: Iterable[int]) -> list[Cgroup]:
    """Those of several VEs; where they are is asked once."""
    place = home()
    return [Cgroup(f"{place}/{tag}/{veid}") for veid in veids]


def create(tag: str, veid: int, owner: int) -> Cgroup:
    """Make the cgroup of a VE with its init directory, which is given to owner, the VE's root.

    NotSupported if cgroup2 cannot be written here, as in a container without delegation.
    """
    outer = cgroup(tag, veid)
    inner, commands = (f"{outer.path}/{name}" for name in PLACES)
    try:
        have_home()
        _make(inner)
        _make(commands)
        top = cgrouproot.find()
        _hand_down(top, controllers(top), to_leaf=True)
        for path in reversed(above(outer)):
            _hand_down(path, controllers(path))
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        raise NotSupported(
            f"cannot make a cgroup in {cgrouproot.find()}: {error.strerror}",
            hint="in a container, cgroup2 must be mounted writable: --privileged",
        ) from error
    for path in (os.path.dirname(outer.path), outer.path, inner, commands):  # whatever the caller's umask
        os.chmod(path, 0o755)  # 6.1 mounts a VE's cgroup2 only for who may search each directory above its root
    for name, value in _BOUNDS.items():
        with open(f"{outer.path}/{name}", "w", encoding="ascii") as file:
            file.write(str(value))
    os.chown(inner, owner, owner)
    for name in _DELEGATED:
        os.chown(f"{inner}/{name}", owner, owner)
    return outer


def delegate(group: Cgroup) -> None:
    """Let the VE's root divide what its cgroup has among cgroups of its own, as systemd does for its services.

    Not the pids controller where a kernel (before 6.11) counts a refused fork only in the cgroup that forked, whoever's
    limit it was: those that the VE made would take the failures along when they go.
    """
    local = os.path.exists(f"{group.path}/pids.events.local")
    _hand_down(group.path, [name for name in controllers(group.path) if local or name != "pids"])


def _hand_down(path: str, names: list[str], *, to_leaf: bool = False) -> None:
    """Enable controllers for the cgroups below this one.

    to_leaf: where processes are in it (EBUSY: cgroup-v2.rst, "No Internal Process Constraint"), as in the root of a
    container, they are moved to a leaf first.
    """
    with open(f"{path}/cgroup.subtree_control", encoding="ascii") as file:
        enabled = file.read().split()
    missing = [name for name in names if name not in enabled]
    if not missing:
        return
    text = " ".join(f"+{name}" for name in missing)
    for _ in range(100):  # they may fork while we move them, but hardly for ever
        try:
            with open(f"{path}/cgroup.subtree_control", "w", encoding="ascii") as file:
                file.write(text)
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        if not to_leaf or not _move_to_leaf(path):
            break
    raise NotSupported(
        f"cannot enable {text} in {path}: processes are in it that cannot be moved",
        hint="those of another PID namespace: in a container, --pid=private; else see its cgroup.procs",
    )


def _move_to_leaf(path: str) -> bool:
    """Those that we see; are there no others?  To write the 0 that stands for these would move ourselves."""
    os.makedirs(f"{path}/{cgrouproot.LEAF}", exist_ok=True)
    pids = list(Cgroup(path).core.procs)
    for pid in filter(None, pids):
        with contextlib.suppress(ProcessLookupError):
            Cgroup(f"{path}/{cgrouproot.LEAF}").take(pid)
    return 0 not in pids


def remove(tag: str, veid: int) -> None:
    """Remove the cgroup of a VE that has ended, and the one above when this was the last.

    Whoever was about to run a command in it is killed; OSError (EBUSY) if a process is left all the same.
    """
    group = cgroup(tag, veid)
    for tries_left in reversed(range(_TRIES)):
        try:
            group.remove()
            break
        except OSError as error:
            if error.errno != errno.EBUSY or not tries_left:
                raise
        group.kill()
        group.wait_empty(PATIENCE)
    with contextlib.suppress(OSError):  # ENOTEMPTY: there are others
        os.rmdir(os.path.dirname(group.path))


def _make(path: str) -> None:
    for _ in range(100):  # between its two steps somebody may remove the directory above, having been the last there
        with contextlib.suppress(FileNotFoundError):
            os.makedirs(path, exist_ok=True)
            return
    os.makedirs(path, exist_ok=True)
