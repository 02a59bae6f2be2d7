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
import functools
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Subject:
    """A VE to look at: the host's pid of its init, the host's uid of its root, and the pids of all its processes."""

    pid: int
    base: int
    pids: Sequence[int]


def many(subjects: Sequence[Subject]) -> list[dict[str, int]]:
    """What each VE holds, by the names of beancounters, in their units: pages, bytes and items.

    A name is missing where its number cannot be told: this kernel lacks the means, the VE keeps it from being seen, or
    the caller may not look.  Of a VE whose init has ended, zombie or not, the dict is empty.

    lockedpages      VmLck of all processes.  Memory that processes share by CLONE_VM counts for each.
    shmpages         System V segments, whole, whether attached or not
    numfile          descriptors: a file that two processes have open after a fork counts twice
    numflock         locks, and leases, in the host's /proc/locks that a process of the VE has taken.  In the VE's own
                     file all locks by open file description (OFD) of the whole host appear, with no owner; here they
                     are nobody's.  So is a flock(2) whose taker has ended.
    numpty           see ve/ptys.py
    numsiginfo       queued signals, of all its users, as RLIMIT_SIGPENDING is held against them
    num*sock, *buf   see ve/sockets.py
    numiptent        see ve/netfilter.py
    """
    return in_a_thread(lambda: _tour(subjects))


@dataclass
class _Host:
    """What is known of this kernel: is there an nftables, and which kinds of sockets it turned out not to tell of."""

    nftables: bool
    missing: set[sockets.Kind] = field(default_factory=set)


class _View:
    """One VE as its readers see it."""

    def __init__(self, subject: Subject, directory: int, host: _Host, stack: contextlib.ExitStack) -> None:
        self.subject, self.directory, self.host, self.stack = subject, directory, host, stack

    @functools.cached_property
    def counted(self) -> sockets.Count:
        return sockets.count(self.directory)

    @functools.cached_property
    def meter(self) -> sockets.Meter:
        return self.stack.enter_context(sockets.Meter(self.host.missing))


def _processes(view: _View) -> dict[str, int]:
    locked = files = 0
    left = _STATUS_MOST + _STATUS_EACH * len(view.subject.pids)
    for pid in view.subject.pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), contextlib.ExitStack() as stack:
            process = stack.enter_context(_opened(f"/proc/{pid}"))
            status = procfs.contents("status", process, left)
            left -= len(status)
            if b"\nState:\tZ" in status and (thread := _another(process, pid)):
                process = stack.enter_context(_opened(f"task/{thread}", process))
                status = procfs.contents("status", process, left)
                left -= len(status)
            locked += _number(status, b"VmLck")
            files += _files(process, _number(status, b"FDSize"))
    return {"lockedpages": locked * 1024 // PAGE, "numfile": files}


def _another(process: int, pid: int) -> str:
    """A thread that goes on though the main thread has ended, whose numbers are none; "" if none does."""
    with _opened("task", process, os.O_RDONLY) as fd, os.scandir(fd) as threads:
        return next((thread.name for thread in threads if thread.name != str(pid)), "")


def _files(process: int, slots: int) -> int:
    """The kernel says how many since 6.2; before, they are counted, and a large table for as much as fits in it."""
    told = os.stat("fd", dir_fd=process).st_size
    if told or slots > _SLOTS_MOST:
        return told or slots
    with _opened("fd", process, os.O_RDONLY) as listed:
        return len(os.listdir(listed))


def _signals(view: _View) -> dict[str, int]:
    """SigQ of whoever has the real uid of the VE's root, in our user namespace: there all of the VE's users add up.

    So the thread has that uid for as long as it reads its own, and keeps its other ids and with them its rights.
    """
    own, _, _ = os.getresuid()
    visits.setresuid(view.subject.base, -1, -1)
    try:
        with _opened("/proc/thread-self") as thread:
            return {"numsiginfo": _number(procfs.contents("status", thread), b"SigQ")}
    finally:
        visits.setresuid(own, -1, -1)


def _ptys(view: _View) -> dict[str, int]:
    return {"numpty": ptys.count(view.directory, view.subject.base)}


def _sockets(view: _View) -> dict[str, int]:
    return view.counted.named()


def _shared_memory(view: _View) -> dict[str, int]:
    _, pages, *_ = _SHM_INFO.unpack(visits.shmctl(0, visits.SHM_INFO, _SHM_INFO.size))
    return {"shmpages": pages}


def _tcp_buffers(view: _View) -> dict[str, int]:
    kinds = view.counted.kinds  # first, for the meter is a socket too
    return view.meter.tcp(kinds)


def _other_buffers(view: _View) -> dict[str, int]:
    kinds = view.counted.kinds
    return view.meter.others(kinds)


def _firewall(view: _View) -> dict[str, int]:
    return {"numiptent": netfilter.legacy(view.directory) + (netfilter.nftables() if view.host.nftables else 0)}


_OUTSIDE: tuple[Callable[[_View], dict[str, int]], ...] = (_processes, _signals, _ptys, _sockets)
_INSIDE = (_shared_memory, _tcp_buffers, _other_buffers, _firewall)  # in its namespaces


def _tour(subjects: Sequence[Subject]) -> list[dict[str, int]]:
    """Through the namespaces of one VE after another, and back: by a thread that does nothing else."""
    locks, host = _locks(subjects), _Host(netfilter.has_nftables())
    with contextlib.ExitStack() as home:
        for name, kind in _NAMESPACES:
            fd = os.open(f"/proc/thread-self/{name}", os.O_RDONLY | os.O_CLOEXEC)
            home.callback(os.close, fd)
            home.callback(syscalls.setns, fd, kind)  # or the last VE's would be there until the kernel ends the thread
        return [_look(subject, host, held) for subject, held in zip(subjects, locks, strict=True)]


def _look(subject: Subject, host: _Host, locks: dict[str, int]) -> dict[str, int]:
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(_opened(f"/proc/{subject.pid}"))
            if _first_id(directory) != subject.base:
                return {}  # its init has ended, and the pid is another's
            inside = _enter(directory)
        except (FileNotFoundError, ProcessLookupError):
            return {}
        found, view = dict(locks), _View(subject, directory, host, stack)
        for read in (*_OUTSIDE, *(_INSIDE if inside else ())):
            with contextlib.suppress(OSError):
                found.update(read(view))
        return found


def _enter(directory: int) -> bool:
    """Take the thread into the namespaces of this process, which ENOENT says has ended; False where it may not go."""
    with contextlib.ExitStack() as stack:
        try:
            doors = [(stack.enter_context(_opened(name, directory, os.O_RDONLY)), kind) for name, kind in _NAMESPACES]
            for door, kind in doors:
                syscalls.setns(door, kind)
        except (FileNotFoundError, ProcessLookupError):
            raise
        except OSError:
            return False
    return True


def _first_id(directory: int) -> int:
    """The host's uid that is root in the process's user namespace, the first row of its map."""
    return int(procfs.contents("uid_map", directory).split(None, 2)[1])


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
def _opened(path: str, directory: int | None = None, flags: int = os.O_PATH) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)
