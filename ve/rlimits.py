"""What a program gets from who started it by fork(2): a VE gets none of it, but what a machine's own init begins with.

Else a VE would have the `ulimit -n`, nice value, CPUs and OOM score of the shell, cron job or service that `ve start`
was typed in, and a command those of its caller; so too real time priority, or addresses that are not random any more
(personality(2)).  The kernel also holds a whole user namespace to the limits of who made it.
"""

from __future__ import annotations

# ruff: noqa: SIM105 - contextlib would cost each command another 3 ms
import os
import resource
from resource import RLIM_INFINITY as INFINITY

from ve import procfs
from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1 << 20
LOCKS = 10  # RLIMIT_LOCKS, of no effect since Linux 2.4, but shown
# getrlimit(2): soft and hard.  INIT_RLIMITS of the kernel; NOFILE as systemd gives it, since select(2) stops at 1024.
RLIMITS = {
    resource.RLIMIT_CPU: (INFINITY, INFINITY),
    resource.RLIMIT_FSIZE: (INFINITY, INFINITY),
    resource.RLIMIT_DATA: (INFINITY, INFINITY),
    resource.RLIMIT_STACK: (8 * MIB, INFINITY),
    resource.RLIMIT_CORE: (0, INFINITY),
    resource.RLIMIT_RSS: (INFINITY, INFINITY),
    resource.RLIMIT_NOFILE: (1024, 524288),
    resource.RLIMIT_MEMLOCK: (8 * MIB, 8 * MIB),
    resource.RLIMIT_AS: (INFINITY, INFINITY),
    LOCKS: (INFINITY, INFINITY),
    resource.RLIMIT_MSGQUEUE: (819200, 819200),
    resource.RLIMIT_NICE: (0, 0),
    resource.RLIMIT_RTPRIO: (0, 0),
    resource.RLIMIT_RTTIME: (INFINITY, INFINITY),
}
TIMER_SLACK = 50_000  # nanoseconds, prctl(2)
BY_THREADS = (resource.RLIMIT_NPROC, resource.RLIMIT_SIGPENDING)  # half of the threads that the host can have


def reset(asked: Mapping[str, int]) -> list[str]:
    """Take the limits, priorities, CPUs and OOM score of a machine's own init, for us and whom we start.

    asked: what is to be the hard limit of a resource instead, by the names of getrlimit(2); those are returned that are
    less now.  Where CAP_SYS_RESOURCE or CAP_SYS_NICE is missing, as in a VE, nothing goes beyond what its caller may
    have.
    """
    half = procfs.threads() // 2
    usual = RLIMITS | dict.fromkeys(BY_THREADS, (half, half))
    for name, most in asked.items():
        number = getattr(resource, name)
        usual[number] = (min(usual[number][0], most), most)
    for number, limits in usual.items():
        _set(number, *limits)
    syscalls.personality(0)
    syscalls.prctl(syscalls.PR_SET_TIMERSLACK, TIMER_SLACK)
    syscalls.prctl(syscalls.PR_SET_THP_DISABLE, 0)
    for take in (_all_cpus, _no_priority, _score):
        try:
            take()
        except PermissionError:
            pass
    return [name for name, most in asked.items() if resource.getrlimit(getattr(resource, name))[1] != most]


def _all_cpus() -> None:
    """That its cpuset has."""
    os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))


def _no_priority() -> None:
    """Of the CPU or of the disk."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    syscalls.ioprio_set(syscalls.IOPRIO_WHO_PROCESS, 0, 0)


def _score() -> None:
    for name, value in (("oom_score_adj", b"0"), ("coredump_filter", b"0x33")):  # what core(5) has by default
        with open(f"/proc/self/{name}", "wb") as file:
            file.write(value)


def _set(number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError:  # not allowed, or beyond fs.nr_open
        most = resource.getrlimit(number)[1]
        resource.setrlimit(number, (most if soft == INFINITY else min(soft, most), most))
