"""What a program gets from who started it by fork(2): a VE gets none of it, but what a machine's own init begins with.

Else a VE would have the `ulimit -n`, nice value and OOM score of the shell, cron job or service that `ve start` was
typed in, and a command those of its caller.  The kernel also holds a whole user namespace to the limits of who made it.
"""

from __future__ import annotations

import os
import resource
from resource import RLIM_INFINITY as INFINITY

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
BY_THREADS = (resource.RLIMIT_NPROC, resource.RLIMIT_SIGPENDING)  # half of the threads that the host can have


def reset() -> None:
    """Take the limits, nice value and OOM score of a machine's own init, for us and whom we start.

    Where CAP_SYS_RESOURCE or CAP_SYS_NICE is missing, as in a VE, nothing goes beyond what its caller may have.
    """
    half = _threads() // 2
    for number, limits in (RLIMITS | dict.fromkeys(BY_THREADS, (half, half))).items():
        _set(number, *limits)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        with open("/proc/self/oom_score_adj", "wb") as file:
            file.write(b"0")
    except PermissionError:
        pass


def _threads() -> int:
    """As many as the kernel allows, and as there are pids for: pid_max is the lower one where no init has raised it."""
    least = []
    for name in ("threads-max", "pid_max"):
        with open(f"/proc/sys/kernel/{name}", "rb") as file:  # no text: ve/enter.py can import no codec
            least.append(int(file.read()))
    return min(least)


def _set(number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError:  # not allowed, or beyond fs.nr_open
        most = resource.getrlimit(number)[1]
        resource.setrlimit(number, (most if soft == INFINITY else min(soft, most), most))
