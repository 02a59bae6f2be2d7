"""The namespaces of a VE: one table says which there are, how each is made and what it keeps apart.

The order is forced by the kernel.  The time namespace gets its offsets before anyone is in it (time_namespaces(7)), so
it is unshared by the process that then clones init.  One clone3 makes the user namespace and all that it shall own
(user_namespaces(7): a namespace belongs to the user namespace its maker was in).  The cgroup namespace is rooted where
its maker is, so init unshares it once it is in the VE's cgroup; the mount namespace comes last, because it locks what
is mounted by then (mount_namespaces(7), "Restrictions on mount namespaces").
"""

from __future__ import annotations

import os
import signal
import time

from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

SETUP, CLONE, INIT = "unshared before the clone", "made by the clone", "unshared by init"

# name in /proc/PID/ns, clone flag, how it is made, what it keeps apart
NAMESPACES = (
    ("time", syscalls.CLONE_NEWTIME, SETUP, "uptime and the monotonic clock"),
    ("user", syscalls.CLONE_NEWUSER, CLONE, "user ids and capabilities"),
    ("pid", syscalls.CLONE_NEWPID, CLONE, "process ids"),
    ("uts", syscalls.CLONE_NEWUTS, CLONE, "the hostname"),
    ("ipc", syscalls.CLONE_NEWIPC, CLONE, "System V IPC and POSIX queues"),
    ("net", syscalls.CLONE_NEWNET, CLONE, "network interfaces, sockets and their ports"),
    ("cgroup", syscalls.CLONE_NEWCGROUP, INIT, "the root of the cgroup tree"),
    ("mnt", syscalls.CLONE_NEWNS, INIT, "mounts"),
)
NAMES = tuple(name for name, *_ in NAMESPACES)
MOST = 1024  # of each kind that a VE may make


def flags(how: str = "", names: tuple[str, ...] = NAMES) -> int:
    """The clone flags of these namespaces, or of those among them that are made in this way."""
    return sum(flag for name, flag, made, _ in NAMESPACES if name in names and how in ("", made))


def start_clocks_at_zero() -> None:
    """Unshare the time namespace: for our later children uptime and the monotonic clock begin now.

    The wall clock has no namespace (time_namespaces(7)); a VE sees the host's.
    """
    syscalls.unshare(syscalls.CLONE_NEWTIME)
    clocks = (("monotonic", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME))
    lines = []
    for name, clock in clocks:
        seconds, nanoseconds = divmod(-time.clock_gettime_ns(clock), 1_000_000_000)  # the kernel wants the latter >= 0
        lines.append(f"{name} {seconds} {nanoseconds}\n")
    _write("/proc/self/timens_offsets", "".join(lines))


def map_ids(pid: int, ranges: Iterable[tuple[int, int, int]]) -> None:
    """Let the user namespace of pid have these users and groups: the first id in it, that on the host, how many."""
    lines = "".join(f"{inside} {host} {count}\n" for inside, host, count in ranges)
    for kind in ("uid", "gid"):
        _write(f"/proc/{pid}/{kind}_map", lines)


def mappings(maps: Iterable[Iterable[tuple[int, int, int]]]) -> list[int]:
    """A descriptor of a user namespace for each of these maps, for mount_setattr(2): nobody is in them."""
    found: list[int] = []
    pids: list[int] = []
    ended, lasts = os.pipe()
    try:
        for ranges in maps:
            pids.append(syscalls.clone3(syscalls.CLONE_NEWUSER, signal.SIGCHLD))
            if not pids[-1]:
                _stay(ended, lasts)
            number = _number_in_proc(pids[-1])
            map_ids(number, ranges)
            found.append(os.open(f"/proc/{number}/ns/user", os.O_RDONLY | os.O_CLOEXEC))
        return found
    except BaseException:
        for fd in found:
            os.close(fd)
        raise
    finally:
        for fd in (ended, lasts):
            os.close(fd)
        for pid in pids:
            os.waitpid(pid, 0)


def _stay(ended: int, lasts: int) -> NoReturn:
    """Be there, for a namespace to be so, until our parent closes its end of the pipe or has ended."""
    try:
        os.close(lasts)
        os.read(ended, 1)
    finally:
        os._exit(0)


def _number_in_proc(pid: int) -> int:
    """The number that /proc knows a child of ours by, also where that is of a PID namespace above ours."""
    pidfd = os.pidfd_open(pid)
    try:
        return host_pid(pidfd)
    finally:
        os.close(pidfd)


def host_pid(pidfd: int) -> int:
    """The number the host's /proc knows a process by, also from a PID namespace in between."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise ProcessLookupError(3, "No such process")


def limit(user_namespaces: bool) -> None:
    """In a new user namespace, before its /proc/sys is read only: how many namespaces it may make, for ever.

    Otherwise a VE has the host's share of one user, which is its threads-max / 2 of each kind (namespaces(7)).
    """
    for name, *_ in NAMESPACES:
        most = MOST if name != "user" or user_namespaces else 0
        _write(f"/proc/sys/user/max_{name}_namespaces", str(most))


def _write(path: str, text: str) -> None:
    """One write(2), as these files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
