"""kernel.shmall of a VE: how many pages its System V segments may have, all together (sysvipc(7), proc_sys_kernel(5)).

It is the VE's IPC namespace's own.  /proc/sys shows that of whoever opens it, so a thread of ours goes in.
"""

from __future__ import annotations

import errno
import os

from ve._linux import syscalls, visits
from ve.errand import in_a_thread
from ve.errors import Error

_SHMALL = "/proc/sys/kernel/shmall"
UNLIMITED = (2**64 - 1) - (1 << 24)  # SHMALL of <linux/shm.h>: what a new namespace has


def limit(pid: int, base: int, pages: int) -> None:
    """Of the VE whose init is pid and whose root is the host's uid base; Error if the kernel takes another number."""
    pages = min(pages, UNLIMITED)
    taken = in_a_thread(lambda: _set(pid, base, pages))
    if taken != pages:
        raise Error(f"cannot set kernel.shmall to {pages}: the kernel has made {taken} of it")


def _set(pid: int, base: int, pages: int) -> int:
    namespace = os.open(f"/proc/{pid}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWIPC)
    finally:
        os.close(namespace)
    try:
        _write(pages)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise
        visits.setresuid(-1, base, -1)  # it belongs to the root of the namespace since kernel 6.9, to ours before
        try:
            _write(pages)
        finally:
            visits.setresuid(-1, 0, -1)
    with open(_SHMALL, encoding="ascii") as file:
        return int(file.read())


def _write(pages: int) -> None:
    with open(_SHMALL, "w", encoding="ascii") as file:
        file.write(str(pages))
