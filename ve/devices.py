"""Which devices the processes of a VE may open: the second fence, beside there being no other nodes.

A program at the VE's cgroup is asked at each open and mknod of a device node, wherever the node came from
(cgroup-v2.rst, "Device controller").  Nobody in the VE can take it away: it goes with the cgroup.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterable

from ve._linux import syscalls
from ve.errors import NotSupported

# A VE's terminals (devices.txt): /dev/tty, /dev/ptmx, and its ptys, of which None is each minor number.
TERMINALS = ((stat.S_IFCHR, 5, 0), (stat.S_IFCHR, 5, 2), (stat.S_IFCHR, 136, None))

Device = tuple[int, int, int | None]  # S_IFCHR or S_IFBLK, major, minor

# <linux/bpf.h>, <linux/bpf_common.h>
_KINDS = {stat.S_IFBLK: 1, stat.S_IFCHR: 2}
_LOAD, _AND, _MOVE, _UNLESS, _EXIT = 0x61, 0x54, 0xB7, 0x55, 0x95
_RESULT, _CONTEXT, _KIND, _MAJOR, _MINOR = range(5)  # registers


def of(at: os.stat_result) -> Device:
    """The device that a node stands for."""
    return stat.S_IFMT(at.st_mode), os.major(at.st_rdev), os.minor(at.st_rdev)


def is_one(at: os.stat_result | None) -> bool:
    return at is not None and (stat.S_ISCHR(at.st_mode) or stat.S_ISBLK(at.st_mode))


def on_host(path: str) -> Device | None:
    """The device at path, if there is one."""
    try:
        at = os.stat(path)
    except OSError:
        return None
    return of(at) if is_one(at) else None


def allow(cgroup: str, devices: Iterable[Device]) -> None:
    """Let what runs in this cgroup and below open these devices and no others, for ever; NotSupported without BPF.

    In a user namespace, where a VE in a VE is, BPF is refused; and not missed, since no device node can be made there.
    """
    program = _program(devices)
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        loaded = syscalls.bpf_prog_load(syscalls.BPF_PROG_TYPE_CGROUP_DEVICE, program, "GPL")
        try:
            syscalls.bpf_prog_attach(directory, loaded, syscalls.BPF_CGROUP_DEVICE)
        finally:
            os.close(loaded)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS) and _in_user_namespace():
            return
        what = f"cannot keep devices from a VE: {error.strerror}"
        raise NotSupported(what, hint="use a kernel with CONFIG_CGROUP_BPF") from error
    finally:
        os.close(directory)


def _program(devices: Iterable[Device]) -> bytes:
    """1 for each of these, else 0.  What it is asked about is struct bpf_cgroup_dev_ctx: kind, major, minor."""
    code = [
        _instruction(_LOAD, _KIND, _CONTEXT, 0),
        _instruction(_AND, _KIND, value=0xFFFF),
        _instruction(_LOAD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD, _MINOR, _CONTEXT, 8),
    ]
    for kind, major, minor in dict.fromkeys(devices):
        wanted = [(_KIND, _KINDS[kind]), (_MAJOR, major)] + ([] if minor is None else [(_MINOR, minor)])
        for left, (register, value) in zip(range(len(wanted), 0, -1), wanted, strict=True):
            code.append(_instruction(_UNLESS, register, skip=left + 1, value=value))
        code += [_instruction(_MOVE, _RESULT, value=1), _instruction(_EXIT)]
    return b"".join([*code, _instruction(_MOVE, _RESULT), _instruction(_EXIT)])


def _instruction(code: int, destination: int = 0, source: int = 0, skip: int = 0, value: int = 0) -> bytes:
    """struct bpf_insn; skip is an offset too."""
    return struct.pack("=BBhi", code, source << 4 | destination, skip, value)


def _in_user_namespace() -> bool:
    with open("/proc/self/uid_map", encoding="utf-8") as file:
        return file.read().split() != ["0", "0", "4294967295"]
