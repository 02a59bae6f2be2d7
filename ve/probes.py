"""The far side of check: tries what a start does, so that what is missing shows itself.

A fresh interpreter forks a child for each probe: one that unshares, mounts or is refused changes nobody else, and the
kernel takes back what it made.  What would stay, a directory and a cgroup, the parent removes.  The answers go to
stdout, marshalled: for each name the reason why it is missing, empty if it is there.
"""

from __future__ import annotations

import marshal
import os
import signal
import stat
import struct
import sys
from contextlib import suppress

from ve import devices, namespaces, unionfs
from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BASE, _COUNT = 1 << 30, 1 << 16  # host ids that nobody has, as many as a VE's; only what the probes make gets them
_PR_SET_SECUREBITS, _NO_SETUID_FIXUP = 28, 1 << 2  # <linux/prctl.h>, <linux/securebits.h>


class Ground:
    """Where to try: a new directory on the state dir's file system, a new cgroup; empty if it could not be made."""

    def __init__(self, state_dir: str, cgroup_root: str) -> None:
        parent = state_dir
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        name = f"ve-check-{os.getpid()}"
        self.directory = _make(f"{parent}/.{name}")
        self.cgroup = _make(f"{cgroup_root}/{name}") if cgroup_root else ""
        for point in ("lower", "upper", "work", "scratch") if self.directory else ():
            os.mkdir(f"{self.directory}/{point}", 0o755)

    def clear(self) -> None:
        if self.directory:
            _remove(self.directory)
        if self.cgroup:
            os.rmdir(self.cgroup)


def _make(path: str) -> str:
    try:
        os.mkdir(path, 0o755)
    except OSError:
        return ""
    return path


def _remove(path: str) -> None:
    for directory, names, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(f"{directory}/{name}")
        for name in names:
            os.rmdir(f"{directory}/{name}")
    os.rmdir(path)


# --- the probes: each returns if it is there, and raises if not ----------------------------------------------------


def root(ground: Ground) -> None:
    if os.geteuid():
        raise PermissionError(1, "not root")


def clone_into_cgroup(ground: Ground) -> None:
    if not ground.cgroup:
        raise OSError(30, "no cgroup could be made")
    cgroup = os.open(ground.cgroup, os.O_PATH | os.O_DIRECTORY)
    pid = syscalls.clone3(0, signal.SIGCHLD, cgroup)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def pidfd(ground: Ground) -> None:
    os.close(os.pidfd_open(os.getpid()))


def openat2(ground: Ground) -> None:
    top = os.open("/", os.O_PATH | os.O_DIRECTORY)
    syscalls.openat2(top, "/../..", os.O_PATH, syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS)


def mount_api(ground: Ground) -> None:
    _own_mounts()
    syscalls.open_tree(syscalls.AT_FDCWD, "/", syscalls.OPEN_TREE_CLONE)
    fs = syscalls.fsopen("tmpfs")
    syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_CREATE)
    syscalls.fsmount(fs)


def idmapped_mounts(ground: Ground) -> None:
    _own_mounts()
    unionfs.idmapped(_directory(ground), _user_namespace())


def overlayfs(ground: Ground) -> None:
    """The way of a start: its layers idmapped, its mounter the mapped root."""
    _own_mounts()
    os.chdir(_directory(ground))
    userns = _user_namespace()
    syscalls.mount("ve", "scratch", "tmpfs", 0, f"mode=755,uid={_BASE},gid={_BASE}")
    for name in ("lower", "private", "root"):
        os.mkdir(f"scratch/{name}")
    syscalls.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(_BASE, _BASE, _BASE)
    os.setresuid(_BASE, _BASE, _BASE)
    for source, point in (("lower", "lower"), (".", "private")):
        syscalls.move_mount(unionfs.idmapped(source, userns), syscalls.AT_FDCWD, f"scratch/{point}")
    os.chdir("scratch")
    unionfs.Overlay("lower", "private/upper", "private/work").mount("root")
    os.close(os.open("root/file", os.O_WRONLY | os.O_CREAT, 0o644))


def cgroup2(ground: Ground) -> None:
    if not ground.cgroup:
        raise OSError(30, "no cgroup could be made")


def cgroup_kill(ground: Ground) -> None:
    os.stat(f"{ground.cgroup}/cgroup.kill")


def seccomp(ground: Ground) -> None:
    allow = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET, SECCOMP_RET_ALLOW
    syscalls.seccomp(syscalls.SECCOMP_SET_MODE_FILTER, allow)


def namespace_limits(ground: Ground) -> None:
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    namespaces.limit(user_namespaces=True)


def device_filter(ground: Ground) -> None:
    if not ground.cgroup:
        raise OSError(30, "no cgroup could be made")
    devices.allow(ground.cgroup, [])


def device_nodes(ground: Ground) -> None:
    _own_mounts()
    os.chdir(_directory(ground))
    syscalls.mount("ve", "scratch", "tmpfs", syscalls.MS_NOSUID)
    os.mknod("scratch/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.close(os.open("scratch/null", os.O_WRONLY))


def _namespace(flag: int) -> Callable[[Ground], None]:
    return lambda ground: syscalls.unshare(flag)


PROBES: dict[str, Callable[[Ground], None]] = {
    "root": root,
    **{f"{name} namespace": _namespace(flag) for name, flag, _, _ in namespaces.NAMESPACES},
    "CLONE_INTO_CGROUP": clone_into_cgroup,
    "pidfd": pidfd,
    "openat2": openat2,
    "mount API": mount_api,
    "idmapped mounts": idmapped_mounts,
    "overlayfs": overlayfs,
    "cgroup2": cgroup2,
    "cgroup.kill": cgroup_kill,
    "seccomp": seccomp,
    "namespace limits": namespace_limits,
    "device filter": device_filter,
    "device nodes": device_nodes,
}


def _own_mounts() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def _directory(ground: Ground) -> str:
    if not ground.directory:
        raise OSError(30, "the state directory cannot be written")
    return ground.directory


def _user_namespace() -> int:
    """A descriptor of a user namespace with a VE's id map."""
    unshared, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        with suppress(OSError):
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(say, b"x")
            signal.pause()
        os._exit(1)
    os.close(say)
    try:
        if not os.read(unshared, 1):
            raise OSError(1, "no user namespace")
        namespaces.map_ids(pid, _BASE, _COUNT)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def main(state_dir: str, cgroup_root: str) -> None:
    """Try everything and say what came of it."""
    ground = Ground(state_dir, cgroup_root)
    try:
        found = {name: _try(probe, ground) for name, probe in PROBES.items()}
    finally:
        ground.clear()
    sys.stdout.buffer.write(marshal.dumps(found))


def _try(probe: Callable[[Ground], None], ground: Ground) -> str:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        reason = ""
        try:
            probe(ground)
        except BaseException as error:
            reason = str(error) or type(error).__name__
        os.write(writing, reason.encode("utf-8", "replace"))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        reason = file.read().decode("utf-8", "replace")
    status = os.waitpid(pid, 0)[1]
    return reason if status == 0 else f"ended by signal {status}"
