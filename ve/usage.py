"""What a command uses: the far side's part, which reads it before the command's cgroup is gone.

The kernel counts CPU time twice: of the cgroup, where all of the command's tree is but what went to another cgroup, as
logins do; and of the command with those of its tree that were waited for, wherever they were (getrusage(2)).  What is
told is the larger one, less what the way in took of it.  Of memory it is the most that one process of those had: a
memory cgroup for each command would count all of them, but what it leaves in the page cache would keep a dying cgroup
for each command, and lose the guarantee (memory.low) that the VE has, which the kernel takes from who is removed.
"""

from __future__ import annotations

import os
import resource

from ve import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    Seconds = tuple[float, float]  # as user, in the kernel

OFTEN = 0.02  # seconds between two looks at least, at what is about to use up its CPU time
SELDOM = 86400.0  # and at most: poll(2) counts milliseconds in an int
_KIB = 1 << 10


def of(counted: resource.struct_rusage) -> Seconds:
    return counted.ru_utime, counted.ru_stime


def of_self() -> Seconds:
    """What this process has used, a clone from its beginning."""
    return of(resource.getrusage(resource.RUSAGE_SELF))


def of_cgroup(cgroup: bytes) -> Seconds:
    """Of all that is or was in it, with a controller or without; nothing where it is gone."""
    try:
        lines = dict(line.split() for line in procfs.contents(os.fsdecode(cgroup) + "/cpu.stat", None).splitlines())
    except OSError:
        return 0.0, 0.0
    return int(lines[b"user_usec"]) / 1e6, int(lines[b"system_usec"]) / 1e6


def told(cgroup: bytes, own: resource.struct_rusage, entering: Seconds, joiner: Seconds) -> tuple[float, float, int]:
    """Seconds as user and in the kernel, and bytes, of a command that has ended; own as wait4(2) has it."""
    of_command = _less(of(own), sum(entering))
    of_tree = _less(of_cgroup(cgroup), sum(entering) + sum(joiner))
    return *max(of_tree, of_command, key=sum), own.ru_maxrss * _KIB


def pause(left: float, cpus: int) -> float:
    """Seconds in which nobody can use up so much CPU time."""
    return min(max(left / cpus, OFTEN), SELDOM)


def _less(seconds: Seconds, before: float) -> Seconds:
    """Shared out as it was: the kernel counts the sum to the nanosecond, and samples which part of it was whose."""
    share = max(0.0, 1 - before / sum(seconds)) if sum(seconds) else 0.0
    return seconds[0] * share, seconds[1] * share
