"""The far side of check: tries what a start does, so that what is missing shows itself.

A fresh interpreter forks a child for each probe: one that unshares, mounts or is refused changes nobody else, and the
kernel takes back what it made.  What would stay, directories and a cgroup, the parent removes (ve/ground.py).  The
answers go to stdout, marshalled: for each name why it is missing, as errno and text, both empty if it is there.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import resource
import signal
import stat
import struct
import sys
from contextlib import contextmanager

from ve import devices, farside, mounts, namespaces, procfs, rlimits, substitute, unionfs
from ve._linux import syscalls
from ve.ground import NAME, Ground

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Missing = tuple[int, str]  # errno and text

_POINT = "/proc"  # where to mount, in a mount namespace of our own: a directory that there always is
_PATIENCE = 30  # seconds for one probe; the kernel ends it then
_PR_SET_SECUREBITS, _NO_SETUID_FIXUP = 28, 1 << 2  # <linux/prctl.h>, <linux/securebits.h>
# What of the capabilities(7) of the host's root a start or an exec fails without, and no probe but this (each tried).
_CAPABILITIES = (
    *(("chown", 0), ("dac_override", 1), ("fowner", 3), ("setgid", 6), ("setuid", 7), ("setpcap", 8)),
    *(("sys_chroot", 18), ("sys_ptrace", 19), ("sys_admin", 21)),
)


# --- the probes: each returns if it is there, and raises if not ----------------------------------------------------


def root(ground: Ground) -> None:
    if os.geteuid():
        raise PermissionError(1, "not root")


def own_proc(ground: Ground) -> None:
    if os.readlink("/proc/self") != str(os.getpid()):
        raise ProcessLookupError(3, "/proc is that of another PID namespace")


def full_root(ground: Ground) -> None:
    effective = int(procfs.status("self")["CapEff"], 16)
    if lacking := [name for name, number in _CAPABILITIES if not effective >> number & 1]:
        raise PermissionError(1, f"it has no {', '.join(lacking)}")
    _become_mapped_root(ground.base())


def _become_mapped_root(base: int) -> None:
    syscalls.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP)
    farside.become(base, base)


def time_namespace(ground: Ground) -> None:
    namespaces.start_clocks_at_zero()


def host_ids(ground: Ground) -> None:
    ground.base()


def user_namespace(ground: Ground) -> None:
    ground.user_namespace()


def state_directory(ground: Ground) -> None:
    _can_be_written(ground.state())


def run_directory(ground: Ground) -> None:
    _can_be_written(ground.run())


def _can_be_written(directory: str) -> None:
    fd = os.open(f"{directory}/written", os.O_RDWR | os.O_CREAT, 0o600)
    os.fchown(fd, os.geteuid(), os.getegid())
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.fsync(fd)
    os.symlink("nowhere", f"{directory}/link")
    os.rename(f"{directory}/written", f"{directory}/renamed")


def memfd(ground: Ground) -> None:
    os.memfd_create("ve-check")


def pidfd(ground: Ground) -> None:
    """Open one, send by it, and enter namespaces by it."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        fd = os.pidfd_open(pid)
        syscalls.setns(fd, syscalls.CLONE_NEWUTS)
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def cgroup2(ground: Ground) -> None:
    below = f"{ground.cgroup()}/below"
    os.mkdir(below, 0o755)
    os.chown(f"{below}/cgroup.procs", ground.base(), ground.base())
    for name in ("cgroup.kill", "cgroup.freeze", "cgroup.max.descendants"):
        os.close(os.open(f"{below}/{name}", os.O_WRONLY))


def clone_into_cgroup(ground: Ground) -> None:
    cgroup = os.open(ground.cgroup(), os.O_PATH | os.O_DIRECTORY)
    pid = syscalls.clone3(0, signal.SIGCHLD, cgroup)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def mount_api(ground: Ground) -> None:
    _own_mounts()
    tree = syscalls.open_tree(syscalls.AT_FDCWD, _POINT, syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
    syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY)
    syscalls.move_mount(tree, syscalls.AT_FDCWD, _POINT)
    syscalls.umount2(_POINT, syscalls.MNT_DETACH)


def pivot_root(ground: Ground) -> None:
    _own_mounts()
    _scratch()
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)


def idmapped_mounts(ground: Ground) -> None:
    _own_mounts()
    _layer(ground, ground.state(), ground.user_namespace())


def _layer(ground: Ground, path: str, userns: int) -> int:
    """As a start has it, also where its host has mapped the ids of the state dir."""
    return unionfs.layer(os.path.dirname(ground.state()), path, ground.base(), userns)


def idmapped_tmpfs(ground: Ground) -> None:
    _own_mounts()
    userns = ground.user_namespace()
    _scratch()
    unionfs.idmapped(".", userns)


def overlayfs(ground: Ground) -> None:
    """The way of a start: its layers idmapped, its mounter the mapped root; and what a VE does to its template."""
    _own_mounts()
    userns, base = ground.user_namespace(), ground.base()
    for name in ("lower", "lower/removed", "lower/renamed", "upper", "work"):
        os.mkdir(f"{ground.state()}/{name}", 0o755)
    layers = {name: _layer(ground, f"{ground.state()}/{name}".rstrip("/"), userns) for name in ("lower", "")}
    _scratch(f"mode=755,uid={base},gid={base}")
    _become_mapped_root(base)
    for name, layer in layers.items():
        os.mkdir(name or "private")
        syscalls.move_mount(layer, syscalls.AT_FDCWD, name or "private")
    os.mkdir("root")
    unionfs.Overlay("lower", "private/upper", "private/work").mount("root")
    os.rmdir("root/removed")
    os.mkdir("root/removed")
    if unionfs.marks() == unionfs.TRUSTED:
        os.rename("root/renamed", "root/moved")


def seccomp(ground: Ground) -> None:
    allow = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET, SECCOMP_RET_ALLOW
    syscalls.seccomp(syscalls.SECCOMP_SET_MODE_FILTER, allow)


def session_keyring(ground: Ground) -> None:
    try:
        syscalls.keyctl(syscalls.KEYCTL_JOIN_SESSION_KEYRING)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # where there are no keys, none can be shared
            raise


def namespace_limits(ground: Ground) -> None:
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    namespaces.limit(user_namespaces=True)


def device_filter(ground: Ground) -> None:
    devices.allow(ground.cgroup(), [])


def openat2(ground: Ground) -> None:
    top = os.open("/", os.O_PATH | os.O_DIRECTORY)
    syscalls.openat2(top, "/../..", os.O_PATH, syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS)


def fsopen(ground: Ground) -> None:
    fs = syscalls.fsopen("tmpfs")
    syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_CREATE)
    syscalls.fsmount(fs)


def inotify(ground: Ground) -> None:
    syscalls.inotify_add_watch(syscalls.inotify_init1(), "/", syscalls.IN_CREATE)


def xattrs(ground: Ground) -> None:
    with open(f"{ground.state()}/attributes", "xb") as file:
        os.setxattr(file.fileno(), f"{unionfs.marks()}ve", b"")
        os.setxattr(file.fileno(), "security.capability", struct.pack("<5I", 0x02000000, 0, 0, 0, 0))


def device_nodes(ground: Ground) -> None:
    _own_mounts()
    _scratch()
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.close(os.open("null", os.O_WRONLY))


def raised_limits(ground: Ground) -> None:
    for number, limits in rlimits.RLIMITS.items():
        resource.setrlimit(number, limits)


def _namespace(flag: int) -> Callable[[Ground], None]:
    return lambda ground: syscalls.unshare(flag)


def _protected(kind: str, flags: int, options: str) -> Callable[[Ground], None]:
    """One of the mounts that a VE's own mount namespace comes to lock: in its PID, network and IPC namespaces."""

    def mount(ground: Ground) -> None:
        syscalls.mount(kind, _POINT, kind, flags, options.format(base=ground.base()) or None)

    def probe(ground: Ground) -> None:
        _own_mounts()
        syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC)
        number, text = attempt(mount, ground)  # by a child, since only that is in the PID namespace
        if text:
            raise OSError(number, text)

    return probe


def _own(kind: str, flags: int, options: str) -> Callable[[Ground], None]:
    """One that the root of a VE mounts itself."""

    def probe(ground: Ground) -> None:
        syscalls.setns(ground.user_namespace(), syscalls.CLONE_NEWUSER)
        farside.become(0, 0)
        syscalls.unshare(namespaces.flags() & ~(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWTIME))
        mounts.make_private()
        syscalls.mount(kind, _POINT, kind, flags, options or None)

    return probe


PROBES: dict[str, Callable[[Ground], None]] = {
    "root": root,
    "own /proc": own_proc,
    "full root": full_root,
    **{f"{name} namespace": _namespace(flag) for name, flag, _, _ in namespaces.NAMESPACES},
    "time namespace": time_namespace,
    "user namespace": user_namespace,
    "host ids": host_ids,
    "state directory": state_directory,
    "run directory": run_directory,
    "memfd": memfd,
    "pidfd": pidfd,
    "cgroup2": cgroup2,
    "CLONE_INTO_CGROUP": clone_into_cgroup,
    "mount API": mount_api,
    "pivot_root": pivot_root,
    "idmapped mounts": idmapped_mounts,
    "overlayfs": overlayfs,
    **{f"mount of {kind}": _own(kind, flags, options) for kind, _, flags, options in mounts.OWN},
    **{f"mount of {kind}": _protected(kind, flags, options) for kind, _, flags, options in mounts.PROTECTED},
    "seccomp": seccomp,
    "session keyring": session_keyring,
    "namespace limits": namespace_limits,
    "device filter": device_filter,
    "openat2": openat2,
    "fsopen": fsopen,
    "idmapped tmpfs": idmapped_tmpfs,
    "inotify": inotify,
    "xattrs": xattrs,
    "device nodes": device_nodes,
    "rlimits": raised_limits,
}


def _own_mounts() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_private()


def _scratch(options: str = "") -> None:
    """Into a new tmpfs, in a mount namespace of our own."""
    syscalls.mount("ve", _POINT, "tmpfs", syscalls.MS_NOSUID, options or None)
    os.chdir(_POINT)


def main(state_dir: str, run_dir: str, cgroup_root: str, way: str, *names: str) -> None:
    """Try these and say what came of it; way: in a state dir on one of substitute.WAYS, "" is one as it is."""
    ground = Ground(state_dir, run_dir, cgroup_root)
    try:
        with _on(way, ground):
            found = {name: attempt(PROBES[name], ground) for name in names}
    finally:
        ground.clear()
    sys.stdout.buffer.write(marshal.dumps(found))


@contextmanager
def _on(way: str, ground: Ground) -> Iterator[None]:
    if not way:
        yield
        return
    _own_mounts()
    fd = substitute.WAYS[way](ground.state(), substitute.TRIAL)
    syscalls.move_mount(fd, syscalls.AT_FDCWD, ground.state())
    os.close(fd)
    try:
        yield
    finally:
        syscalls.umount2(ground.state(), syscalls.MNT_DETACH)


def attempt(probe: Callable[[Ground], None], ground: Ground) -> Missing:
    """What a child that tries it says of it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(_PATIENCE)
        missing: Missing = (0, "")
        try:
            probe(ground)
        except BaseException as error:
            missing = _missing(error)
        os.write(writing, marshal.dumps(missing))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        said = file.read()
    status = os.waitpid(pid, 0)[1]
    return marshal.loads(said) if status == 0 and said else (0, f"ended by signal {status & 127}")


def _missing(error: BaseException) -> Missing:
    if not isinstance(error, OSError):
        cause = error.__cause__
        return cause.errno or 0 if isinstance(cause, OSError) else 0, str(error) or type(error).__name__
    path = error.filename if isinstance(error.filename, str) else ""
    named = f"{path}:" if NAME not in path and path not in ("", ".", _POINT) else ""  # not what it is only tried on
    return error.errno or 0, " ".join(filter(None, (getattr(error, "syscall", ""), named, error.strerror)))
