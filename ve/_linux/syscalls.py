"""Bindings to Linux system calls: here and in libcrypt.py, nowhere else, is ctypes.

One function per system call, carrying the kernel's name, raising SyscallError.
Constants keep their kernel names too.  What a call means is in its man page;
when to make it is decided above this layer.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

TYPE_CHECKING = False  # as typing has it; importing typing would cost each far side 12 ms
if TYPE_CHECKING:
    from typing import NoReturn

# <linux/sched.h>
CLONE_NEWTIME = 0x00000080
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# <sys/mount.h>
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

# <linux/mount.h>
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_IDMAP = 0x00100000
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_CLOEXEC = 0x01
FSPICK_EMPTY_PATH = 0x08

# <linux/fcntl.h>
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# <linux/openat2.h>
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_TIMERSLACK = 29
PR_SET_NO_NEW_PRIVS = 38
PR_SET_THP_DISABLE = 41

# <linux/seccomp.h>, <linux/keyctl.h>
SECCOMP_SET_MODE_FILTER = 1
KEYCTL_GET_KEYRING_ID = 0
KEYCTL_JOIN_SESSION_KEYRING = 1

# <linux/capability.h>
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# <linux/ioprio.h>
IOPRIO_WHO_PROCESS = 1

# <linux/bpf.h>
BPF_PROG_LOAD = 5
BPF_PROG_ATTACH = 8
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI = 2

# <sys/inotify.h>
IN_MODIFY = 0x002
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_Q_OVERFLOW = 0x4000
IN_ONLYDIR = 0x01000000

# System call numbers: those from 424 on are the same on every architecture.
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429
_NR_FSOPEN = 430
_NR_FSCONFIG = 431
_NR_FSPICK = 433
_NR_FSMOUNT = 432
_NR_CLONE3 = 435
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442
_NR_QUOTACTL_FD = 443
_MACHINE = os.uname().machine
_NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}.get(_MACHINE, -1)
_NR_RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134, "ppc64le": 173, "s390x": 174}.get(_MACHINE, -1)
_NR_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}.get(_MACHINE, -1)
_NR_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}.get(_MACHINE, -1)
_NR_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}.get(_MACHINE, -1)
_NR_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "ppc64le": 358, "s390x": 348}.get(_MACHINE, -1)

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the GIL: the child of clone3 is a copy of the calling thread alone, and the GIL must be its own.
_libc_gil = ctypes.PyDLL(None, use_errno=True)

_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_libc.personality.argtypes = (ctypes.c_ulong,)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.syscall.restype = ctypes.c_long
_libc_gil.syscall.restype = ctypes.c_long


class SyscallError(OSError):
    """An OSError that remembers which system call failed."""

    def __init__(self, errno: int, syscall: str, path: str | None = None) -> None:
        super().__init__(errno, os.strerror(errno), path)
        self.syscall = syscall


class mount_attr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class open_how(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


class sock_fprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class clone_args(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def clone3(flags: int, exit_signal: int, cgroup: int = -1) -> int:
    """Like fork: 0 in the child.  Only for a single-threaded process of our own; Python's at-fork hooks do not run."""
    args = clone_args(flags=flags, exit_signal=exit_signal)
    if cgroup >= 0:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup
    pid: int = _libc_gil.syscall(ctypes.c_long(_NR_CLONE3), ctypes.byref(args), ctypes.c_size_t(ctypes.sizeof(args)))
    return pid if pid >= 0 else _fail("clone3")


def unshare(flags: int) -> None:
    if _libc.unshare(flags) < 0:
        _fail("unshare")


def setns(fd: int, nstype: int) -> None:
    if _libc.setns(fd, nstype) < 0:
        _fail("setns")


def prctl(option: int, arg2: int) -> None:
    """For where importing python-prctl (1 ms) is paid at each command that enters a VE."""
    if _libc.prctl(option, arg2, 0, 0, 0) < 0:
        _fail("prctl")


def personality(persona: int) -> int:
    """The one before."""
    before: int = _libc.personality(persona)
    return before if before >= 0 else _fail("personality")


def ioprio_set(which: int, who: int, ioprio: int) -> None:
    _syscall("ioprio_set", _NR_IOPRIO_SET, ctypes.c_int(which), ctypes.c_int(who), ctypes.c_int(ioprio))


def rt_sigaction(signum: int, handler: int) -> None:
    """Set SIG_DFL or SIG_IGN, also of 32 and 33: libc keeps these to itself, but exec hands on their being ignored."""
    act = ctypes.create_string_buffer(handler.to_bytes(8, sys.byteorder), 32)  # struct sigaction, no flags, no mask
    _syscall("rt_sigaction", _NR_RT_SIGACTION, ctypes.c_int(signum), act, None, ctypes.c_size_t(8))


def keyctl(operation: int, arg2: str | None = None) -> int:
    return _syscall("keyctl", _NR_KEYCTL, ctypes.c_int(operation), ctypes.c_char_p(_b(arg2)))


def capset(capabilities: int) -> None:
    """These and no others as permitted and effective, none inheritable; a bit each."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    halves = [capabilities >> shift & 0xFFFFFFFF for shift in (0, 32)]
    data = b"".join(struct.pack("=III", half, half, 0) for half in halves)
    if _libc.capset(header, data) < 0:
        _fail("capset")


def overwrite(start: int, end: int) -> None:
    """Memory of our own, with zeros."""
    ctypes.memset(start, 0, end - start)


def by_number(number: int, *arguments: int | bytes | None) -> int:
    """Any system call, for who wants to see what the kernel says to it; bytes are a pointer to them."""
    given = [ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments]
    return _syscall(f"system call {number}", number, *given)


def seccomp(operation: int, filter: bytes, flags: int = 0) -> None:
    """filter is the program: struct sock_filter after struct sock_filter, of 8 bytes each."""
    program = sock_fprog(len(filter) // 8, filter)
    _syscall("seccomp", _NR_SECCOMP, ctypes.c_uint(operation), ctypes.c_uint(flags), ctypes.byref(program))


def bpf_prog_load(prog_type: int, insns: bytes, license: str) -> int:
    """BPF_PROG_LOAD: a descriptor of the program, closed on exec as all of bpf(2)'s are."""
    code, text = ctypes.create_string_buffer(insns), ctypes.create_string_buffer(license.encode())
    attr = struct.pack("=IIQQ", prog_type, len(insns) // 8, ctypes.addressof(code), ctypes.addressof(text)) + bytes(104)
    return _syscall("bpf", _NR_BPF, ctypes.c_int(BPF_PROG_LOAD), attr, ctypes.c_uint(len(attr)))


def bpf_prog_attach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    """BPF_PROG_ATTACH; it stays for as long as what target_fd stands for."""
    attr = struct.pack("=IIII", target_fd, prog_fd, attach_type, BPF_F_ALLOW_MULTI)
    _syscall("bpf", _NR_BPF, ctypes.c_int(BPF_PROG_ATTACH), attr, ctypes.c_uint(len(attr)))


def inotify_init1(flags: int = 0) -> int:
    fd: int = _libc.inotify_init1(flags | os.O_CLOEXEC)
    return fd if fd >= 0 else _fail("inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    wd: int = _libc.inotify_add_watch(fd, _b(path), mask)
    return wd if wd >= 0 else _fail("inotify_add_watch", path)


def inotify_rm_watch(fd: int, wd: int) -> None:
    if _libc.inotify_rm_watch(fd, wd) < 0:
        _fail("inotify_rm_watch")


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    if _libc.mount(_b(source), _b(target), _b(fstype), flags, _b(data)) < 0:
        _fail("mount", target)


def umount2(target: str, flags: int = 0) -> None:
    if _libc.umount2(_b(target), flags) < 0:
        _fail("umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    _syscall("pivot_root", _NR_PIVOT_ROOT, ctypes.c_char_p(_b(new_root)), ctypes.c_char_p(_b(put_old)), path=new_root)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    return _syscall(
        "open_tree",
        _NR_OPEN_TREE,
        ctypes.c_int(dirfd),
        ctypes.c_char_p(_b(path)),
        ctypes.c_uint(flags | OPEN_TREE_CLOEXEC),
        path=path,
    )


def move_mount(from_fd: int, to_dirfd: int, to_path: str = "") -> None:
    """Attach the detached mount from_fd at to_path, or at to_dirfd itself if to_path is empty."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else MOVE_MOUNT_T_EMPTY_PATH)
    _syscall(
        "move_mount",
        _NR_MOVE_MOUNT,
        ctypes.c_int(from_fd),
        ctypes.c_char_p(b""),
        ctypes.c_int(to_dirfd),
        ctypes.c_char_p(_b(to_path)),
        ctypes.c_uint(flags),
        path=to_path,
    )


def mount_setattr(
    fd: int, attr_set: int = 0, attr_clr: int = 0, userns_fd: int = 0, flags: int = 0, propagation: int = 0
) -> None:
    attr = mount_attr(attr_set, attr_clr, propagation, userns_fd)
    _syscall(
        "mount_setattr",
        _NR_MOUNT_SETATTR,
        ctypes.c_int(fd),
        ctypes.c_char_p(b""),
        ctypes.c_uint(AT_EMPTY_PATH | flags),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )


def fsopen(fstype: str) -> int:
    return _syscall("fsopen", _NR_FSOPEN, ctypes.c_char_p(_b(fstype)), ctypes.c_uint(FSOPEN_CLOEXEC), path=fstype)


def fspick(dirfd: int, path: str, flags: int = 0) -> int:
    """The file system of a mount, to be reconfigured; path "" with FSPICK_EMPTY_PATH is what dirfd is open on."""
    words = (ctypes.c_int(dirfd), ctypes.c_char_p(_b(path)), ctypes.c_uint(flags | FSPICK_CLOEXEC))
    return _syscall("fspick", _NR_FSPICK, *words, path=path)


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    _syscall(
        "fsconfig",
        _NR_FSCONFIG,
        ctypes.c_int(fd),
        ctypes.c_uint(command),
        ctypes.c_char_p(_b(key)),
        ctypes.c_char_p(_b(value)),
        ctypes.c_int(0),
        path=key,
    )


def fsmount(fd: int, attr_flags: int = 0) -> int:
    return _syscall("fsmount", _NR_FSMOUNT, ctypes.c_int(fd), ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(attr_flags))


def quotactl_fd(fd: int, cmd: int, type: int, id: int, addr: bytearray) -> None:
    """cmd without its type; addr is what the kernel reads or fills in."""
    number = ctypes.c_uint(cmd << 8 | type)  # QCMD of <linux/quota.h>
    _syscall("quotactl_fd", _NR_QUOTACTL_FD, ctypes.c_uint(fd), number, ctypes.c_uint(id), _in_place(addr))


def _in_place(data: bytearray) -> ctypes.Array[ctypes.c_char]:
    return (ctypes.c_char * len(data)).from_buffer(data)


def openat2(dirfd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    how = open_how(flags | os.O_CLOEXEC, mode, resolve)
    return _syscall(
        "openat2",
        _NR_OPENAT2,
        ctypes.c_int(dirfd),
        ctypes.c_char_p(_b(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
        path=path,
    )


def _syscall(name: str, number: int, *args: object, path: str | None = None) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *args)
    return result if result >= 0 else _fail(name, path)


def _fail(syscall: str, path: str | None = None) -> NoReturn:
    raise SyscallError(ctypes.get_errno(), syscall, path)


def _b(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
