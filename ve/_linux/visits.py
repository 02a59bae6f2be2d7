"""What a thread calls that visits a VE's namespaces: ids of its own, and what it asks the kernel about there."""

from __future__ import annotations

import ctypes
import os

from ve._linux.syscalls import SyscallError

SHM_INFO = 14  # <linux/shm.h>

_MACHINE = os.uname().machine
_NR_SETRESUID = {"x86_64": 117, "aarch64": 147, "riscv64": 147, "ppc64le": 164, "s390x": 208}.get(_MACHINE, -1)
_NR_SETFSUID = {"x86_64": 122, "aarch64": 151, "riscv64": 151, "ppc64le": 138, "s390x": 215}.get(_MACHINE, -1)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p)
_libc.getsockopt.argtypes = (*(ctypes.c_int,) * 3, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint))


def setresuid(ruid: int, euid: int, suid: int) -> None:
    """Of the calling thread alone: libc, and os.setresuid with it, changes them of all threads (nptl(7)); -1 keeps."""
    ids = (ctypes.c_uint(uid & 0xFFFFFFFF) for uid in (ruid, euid, suid))
    _check(_libc.syscall(ctypes.c_long(_NR_SETRESUID), *ids), "setresuid")


def setfsuid(fsuid: int) -> None:
    """Of the calling thread alone; setfsuid(2) tells no failure."""
    _libc.syscall(ctypes.c_long(_NR_SETFSUID), ctypes.c_uint(fsuid))


def shmctl(shmid: int, cmd: int, size: int) -> bytes:
    """What cmd writes, which may be no more than size."""
    buf = ctypes.create_string_buffer(size)
    _check(_libc.shmctl(shmid, cmd, buf), "shmctl")
    return buf.raw


def getsockopt(fd: int, level: int, optname: int, optval: bytes) -> bytes:
    """For the options that read their buffer before they write it; socket.getsockopt has no way to fill it."""
    buf, size = ctypes.create_string_buffer(optval, len(optval)), ctypes.c_uint(len(optval))
    _check(_libc.getsockopt(fd, level, optname, buf, ctypes.byref(size)), "getsockopt")
    return buf.raw[: size.value]


def _check(result: int, syscall: str) -> None:
    if result < 0:
        raise SyscallError(ctypes.get_errno(), syscall)
