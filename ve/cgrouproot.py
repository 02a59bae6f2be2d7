"""Where cgroup2 is mounted, and which cgroup of it is ours to divide."""

from __future__ import annotations

import contextlib
import os
import re
from functools import cache

from ve import mountinfo
from ve.errors import NotSupported

LEAF = "ve-host"  # where the processes go that were in the root of a container


def mount_point() -> str:
    """Where cgroup2 is mounted; NotSupported if it is nowhere."""
    return _mount().point


def find() -> str:
    """The cgroup that is ours to divide: that of all others, or a container's where it sees those of its host."""
    line = _mount()
    return line.point + below(_of_first(), line.root)


_known: tuple[mountinfo.Line, tuple[int, int]] | None = None  # and which directory was there


def _mount() -> mountinfo.Line:
    """The first of cgroup2 that no other mount hides: the one that was known, while it is there.  NotSupported."""
    global _known
    if _known and _which(_known[0]) == _known[1]:
        return _known[0]
    for line in mountinfo.lines(kind="cgroup2"):
        there = _which(line)
        if there and _is_shown(line):
            _known = line, there
            return line
    raise NotSupported("cannot find cgroup2: it is not mounted", hint="mount -t cgroup2 none /sys/fs/cgroup")


def _which(line: mountinfo.Line) -> tuple[int, int] | None:
    """The directory that its path leads to now; None if another mount is in the way."""
    with contextlib.suppress(OSError):
        about = os.stat(line.point)
        return about.st_dev, about.st_ino
    return None


def _is_shown(line: mountinfo.Line) -> bool:
    """Does its path lead to this very mount?"""
    with contextlib.suppress(OSError):
        fd = os.open(line.point, os.O_PATH | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
                return f"mnt_id:\t{line.number}\n" in file
        finally:
            os.close(fd)
    return False


def below(first: str, root: str) -> str:
    """Where in a mount of cgroup2, whose top is the cgroup root, that of PID 1 is, less the leaf that it was moved to.

    Nowhere ("") if it is not below, or outside our cgroup namespace ("/.."), as that of a host's own PID 1.
    """
    path = re.sub(f"/({LEAF}|init.scope)$", "", first)
    inside = path.removeprefix(root.rstrip("/"))
    is_there = path.startswith(f"{root.rstrip('/')}/") and ".." not in path.split("/")
    return inside.rstrip("/") if is_there else ""


@cache
def _of_first() -> str:
    """As our cgroup namespace shows it: proc_pid_cgroup(5)."""
    with open("/proc/1/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "/")
