"""What no cgroup counts of a VE: what its processes and namespaces hold while one looks.

    [numbers] = sample.many([Subject(pid, base, pids)])    # {"numfile": 31, "numtcpsock": 5, ...}

Of many VEs at once that takes one thread, and one look at the host's tables.

All is read where a VE's root cannot make the reader wait: in the host's /proc, by netlink from within its network
namespace, never in a file system of the VE's (but for ve/ptys.py, which says how).  A thread of our own goes into the
ipc and network namespaces, for setns(2) moves the calling thread only, and ends when the call does; the caller's own
namespaces, ids, directory and signals stay as they are, and nothing is forked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from ve import netfilter, procfs, ptys, sockets
from ve._linux import syscalls, visits
from ve.amounts import PAGE
from ve.errand import in_a_thread

_LOCKS_MOST = 1 << 20  # bytes of /proc/locks; the kernel finds its place in the list anew for each page of it
_STATUS_MOST, _STATUS_EACH = 1 << 20, 1 << 12  # bytes of all its processes, and of each; 65536 groups are 400 KB
_SLOTS_MOST = 4096  # of a table of descriptors that is counted one by one
_NUMBER = re.compile(rb"\s*([0-9]+)")
_SHM_INFO = struct.Struct("@i5L")  # struct shm_info: number of segments, pages of all, ...
_NAMESPACES = (("ns/ipc", syscalls.CLONE_NEWIPC), ("ns/net", syscalls.CLONE_NEWNET))
_GONE = (errno.ENOENT, errno.ESRCH, errno.EINVAL)  # no such process, a zombie, or a thread's number by now
_T = TypeVar("_T")
_BOTH = syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWNET


class Subject(NamedTuple):
    """A VE to look at: the host's pid of its init, the host's uid of its root, and the pids of all its processes."""

    pid: int
    base: int
    pids: Sequence[int]


def many(subjects: Sequence[Subject]) -> list[dict[str, int]]:
    """What each VE holds, by the names of beancounters, in their units: pages, bytes and items.

    A name is missing where its number cannot be told: this kernel lacks the means, the VE keeps it from being seen, or
    the caller may not look.  Of a VE whose init has ended, zombie or not, the dict is empty.

    lockedpages      VmLck of all processes.  Memory that processes share by CLONE_VM counts for each.  Missing where
                     what the kernel tells of them besides is endless, as of processes that are in 65536 groups each
    shmpages         System V segments, whole, whether attached or not
    numfile          descriptors: a file that two processes have open after a fork counts twice, and so do all of
                     those that share their table (CLONE_FILES)
    numflock         locks, and leases, in the host's /proc/locks that a process of the VE has taken.  In the VE's own
                     file all locks by open file description (OFD) of the whole host appear, with no owner; here they
                     are nobody's.  So is a flock(2) whose taker has ended.
    numpty           see ve/ptys.py
    numsiginfo       queued signals, of all its users, as RLIMIT_SIGPENDING is held against them
    num*sock, *buf   see ve/sockets.py
    numiptent        see ve/netfilter.py
    """
    return in_a_thread(lambda: _tour(subjects))


class _Host:
    """What is known of this kernel: does it count open files, is there an nftables, has anybody else than we a pty.

    missing: the kinds of sockets that it turned out to tell nothing of.
    """

    def __init__(self, counts_files: bool, nftables: bool, ptys: bool) -> None:
        self.counts_files, self.nftables, self.ptys = counts_files, nftables, ptys
        self.missing = set[sockets.Kind]()


class _View:
    """One VE as its readers see it; directory: its init's /proc/PID."""

    def __init__(self, subject: Subject, directory: int, host: _Host) -> None:
        self.subject, self.directory, self.host = subject, directory, host
        self.counted: sockets.Count | None = None


def _locked(view: _View) -> dict[str, int]:
    locked, left = 0, _STATUS_MOST + _STATUS_EACH * len(view.subject.pids)
    for pid in view.subject.pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = procfs.contents(f"/proc/{pid}/status", None, left)
            left -= len(status)
            if b"\nState:\tZ" in status and (thread := _another(pid)):
                status = procfs.contents(f"/proc/{pid}/task/{thread}/status", None, left)
                left -= len(status)
            locked += _number(status, b"VmLck")
    return {"lockedpages": locked * 1024 // PAGE}


def _files(view: _View) -> dict[str, int]:
    """The kernel says how many of each process since 6.2, and 0 of one whose main thread has ended, too."""
    files = 0
    for pid in view.subject.pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            files += os.stat(f"/proc/{pid}/fd").st_size or _files_of(pid, view.host.counts_files)
    return {"numfile": files}


def _files_of(pid: int, counted: bool) -> int:
    """Where the kernel does not say, they are counted, and a large table for as much as fits in it."""
    stat = procfs.contents(f"/proc/{pid}/stat", None)
    ended = stat[stat.rindex(b")") + 2 :].startswith(b"Z")
    process = f"/proc/{pid}/task/{thread}" if ended and (thread := _another(pid)) else f"/proc/{pid}"
    if counted:
        return os.stat(f"{process}/fd").st_size
    slots = _number(procfs.contents(f"{process}/status", None), b"FDSize")
    return slots if slots > _SLOTS_MOST else len(os.listdir(f"{process}/fd"))


def _another(pid: int) -> str:
    """A thread that goes on though the main thread has ended, whose numbers are none; "" if none does."""
    with os.scandir(f"/proc/{pid}/task") as threads:
        return next((thread.name for thread in threads if thread.name != str(pid)), "")


def _ptys(view: _View) -> dict[str, int]:
    return {"numpty": ptys.count(view.directory, view.subject.base) if view.host.ptys else 0}


def _sockets(view: _View) -> dict[str, int]:
    view.counted = sockets.count(view.directory)
    return view.counted.named()


def _shared_memory(view: _View) -> dict[str, int]:
    _, pages, *_ = _SHM_INFO.unpack(visits.shmctl(0, visits.SHM_INFO, _SHM_INFO.size))
    return {"shmpages": pages}


def _buffers(view: _View) -> dict[str, int]:
    counted = view.counted
    if counted is None:
        return {}
    with sockets.Meter(view.host.missing) as meter:  # which is a socket too
        return _told(meter.tcp, counted.kinds) | _told(meter.others, counted.kinds)


def _firewall(view: _View) -> dict[str, int]:
    return {"numiptent": netfilter.legacy(view.directory) + (netfilter.nftables() if view.host.nftables else 0)}


_OUTSIDE: tuple[Callable[[_View], dict[str, int]], ...] = (_locked, _files, _ptys, _sockets)
_INSIDE = (_shared_memory, _buffers, _firewall)  # in its namespaces


def _tour(subjects: Sequence[Subject]) -> list[dict[str, int]]:
    """Through the namespaces of one VE after another, and back: by a thread that does nothing else."""
    host = _Host(bool(os.stat("/proc/self/fd").st_size), netfilter.has_nftables(), ptys.any_elsewhere())
    known = [locks | signals for locks, signals in zip(_locks(subjects), _signals(subjects), strict=True)]
    with contextlib.ExitStack() as home:
        for name, kind in _NAMESPACES:
            fd = os.open(f"/proc/thread-self/{name}", os.O_RDONLY | os.O_CLOEXEC)
            home.callback(os.close, fd)
            home.callback(syscalls.setns, fd, kind)  # or the last VE's would be there until the kernel ends the thread
        return [_look(subject, host, each) for subject, each in zip(subjects, known, strict=True)]


def _look(subject: Subject, host: _Host, known: dict[str, int]) -> dict[str, int]:
    """What is known of it, and what else it holds."""
    try:
        with _opened(f"/proc/{subject.pid}") as directory:
            inside = _enter(subject, directory)
            view = _View(subject, directory, host)
            for read in (*_OUTSIDE, *(_INSIDE if inside else ())):
                known |= _told(read, view)
            return known
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return {}


def _told(read: Callable[[_T], dict[str, int]], of: _T) -> dict[str, int]:
    """Nothing where it cannot be told."""
    try:
        return read(of)
    except OSError:
        return {}


def _enter(subject: Subject, directory: int) -> bool:
    """Take the thread into the namespaces of its init; False where it may not go, OSError (_GONE) if that has ended."""
    pidfd = os.pidfd_open(subject.pid)
    try:
        if _first_id(directory) != subject.base:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        syscalls.setns(pidfd, _BOTH)  # of the same process, which had that pid before and has it still
    except OSError as error:
        if error.errno in _GONE:
            raise
        return False
    finally:
        os.close(pidfd)
    return True


def _first_id(directory: int) -> int:
    """The host's uid that is root in the process's user namespace, the first row of its map."""
    return int(procfs.contents("uid_map", directory).split(None, 2)[1])


def _signals(subjects: Sequence[Subject]) -> list[dict[str, int]]:
    """SigQ of whoever has the real uid of a VE's root, in our user namespace: there all of the VE's users add up.

    So the thread has that uid for as long as it reads its own, and keeps its other ids and with them its rights.
    """
    own, _, _ = os.getresuid()
    found = list[dict[str, int]]()
    with _opened("/proc/thread-self/status", os.O_RDONLY) as status:
        try:
            for subject in subjects:
                try:
                    visits.setresuid(subject.base, -1, -1)
                    found.append({"numsiginfo": _number(procfs.anew(status), b"SigQ")})
                except OSError:
                    found.append({})
        finally:
            visits.setresuid(own, -1, -1)
    return found


def _locks(subjects: Sequence[Subject]) -> list[dict[str, int]]:
    """numflock of each VE; of none if there are more locks on the host than one would read."""
    owner = {pid: index for index, subject in enumerate(subjects) for pid in subject.pids}
    held = [0] * len(subjects)
    try:
        for line in _lines("/proc/locks", _LOCKS_MOST):
            words = line.split(None, 5)  # 1: POSIX ADVISORY WRITE 1234 ..., or 1: -> POSIX ... of one who waits
            if words[1] != b"->" and (index := owner.get(int(words[4]))) is not None:
                held[index] += 1
    except OSError:
        return [{} for _ in subjects]
    return [{"numflock": number} for number in held]


def _lines(path: str, most: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        for line in file:
            most -= len(line)
            if most < 0:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
            yield line


def _number(status: bytes, name: bytes) -> int:
    """A field of /proc/PID/status; 0 if it is not there, as those of memory in a zombie.

    No name of a process looks like one: the kernel writes its newlines as \\n.
    """
    _, _, rest = status.partition(b"\n%s:\t" % name)
    return int(found[1]) if (found := _NUMBER.match(rest)) else 0


@contextlib.contextmanager
def _opened(path: str, flags: int = os.O_PATH) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
