"""What is mounted in a VE beside its root.

What hides or protects is mounted before the VE's own mount namespace exists, from the host's user namespace: the
kernel then locks it, and VE root can neither unmount nor remount it nor mount a fresh proc beside it
(mount_namespaces(7)).  What protects nothing is mounted by the VE's init itself, so the VE may do with it as it likes.

No function here trusts a name in a VE's root: a mount point of ours that is not a plain directory is an error, and a
target from outside is resolved by openat2(2) with RESOLVE_IN_ROOT.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from ve._linux import syscalls
from ve._linux.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, SyscallError
from ve.errors import InvalidValue, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypedDict

    from ve.model import Mount

    Binds = tuple[tuple[str, str], ...]  # the host's path, and where
    Row = tuple[str, str, int, str]  # file system, mount point relative to the VE's root, flags, options

    class Protection(TypedDict):
        """What protects the host in a VE, and what of the host it gets: paths are relative to its root."""

        mounts: tuple[Row, ...]
        read_only: tuple[str, ...]
        writable: tuple[str, ...]  # below these
        masked: tuple[str, ...]
        read_only_mounts: tuple[str, ...]
        another_proc: bool
        devices: tuple[str, ...]  # of the host
        binds: Binds


_DATA_ONLY = MS_NOSUID | MS_NODEV | MS_NOEXEC

PROTECTED: tuple[Row, ...] = (
    ("proc", "proc", _DATA_ONLY, ""),
    ("sysfs", "sys", _DATA_ONLY | MS_RDONLY, ""),
    ("tmpfs", "dev", MS_NOSUID, "mode=755,size=4m,uid={base},gid={base}"),
)
READ_ONLY = ("proc/sys", "proc/sysrq-trigger", "proc/irq", "proc/bus", "proc/fs", "proc/pressure")
MASKED = (
    "proc/kcore",
    "proc/keys",
    "proc/key-users",
    "proc/kallsyms",
    "proc/modules",  # with the addresses of kallsyms
    "proc/config.gz",
    "proc/timer_list",
    "proc/sched_debug",
    "proc/latency_stats",
    "proc/acpi",
    "proc/asound",
    "proc/scsi",
    "sys/firmware",
    "sys/devices/virtual/powercap",
)
OWN: tuple[Row, ...] = (
    ("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"),
    ("tmpfs", "dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("mqueue", "dev/mqueue", _DATA_ONLY, ""),
    ("cgroup2", "sys/fs/cgroup", _DATA_ONLY, ""),
)
RUN = ("tmpfs", "run", MS_NOSUID | MS_NODEV, "mode=755")  # only where an init boots: an image may keep things there

# In the VE's /dev: name, major, minor (the kernel's devices.txt); and the usual links.
DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
BOOT_ID = "proc/sys/kernel/random/boot_id"
SMALL_INIT = "dev/init"  # where the small init is bound for a template that has none
COUNTERS = "dev/beancounters"  # where the directory of ve/insidefile.py is bound
COUNTERS_LINK = (("run/user_beancounters", f"/{COUNTERS}/user_beancounters"),)


def make_slave() -> None:
    """What is mounted from now on in this mount namespace stays in it; the host's later mounts still arrive."""
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)


def make_private() -> None:
    """Nothing arrives from the host any more: a VE's mount table holds what its launch put there."""
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def make_own() -> None:
    """The same, and the VE's own mount namespaces share from then on, as those of a machine do.

    systemd would see to that itself, but leaves it to whoever has started it in a container, and brings credentials to
    services that way.
    """
    make_private()
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SHARED)


def protection(proc: str, sysctls: Iterable[str], devices: tuple[str, ...], binds: Binds) -> Protection:
    """What mount_protected shall do for a VE of these rights (ve/rights.py)."""
    whole = proc == "whole"
    return {
        "mounts": PROTECTED,
        "read_only": () if whole else READ_ONLY,
        "writable": () if whole else tuple(f"proc/sys/{name}" for name in sysctls),
        "masked": () if whole else MASKED,
        "read_only_mounts": ("proc",) if proc == "read only" else (),
        "another_proc": whole,
        "devices": devices,
        "binds": binds,
    }


def mount_protected(base: int, wanted: Protection) -> None:
    """In the VE's root as working directory and its pid, net and ipc namespaces, as the host's root."""
    for fstype, point, flags, options in wanted["mounts"]:
        directory(point)
        syscalls.mount(fstype, point, fstype, flags, options.format(base=base) or None)
    for name, major, minor in DEVICES:
        _node(f"dev/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor), f"/dev/{name}")
    for path in wanted["devices"]:
        add_device(path)
    for name, target in LINKS:
        os.symlink(target, f"dev/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"dev/{name}")
    if wanted["another_proc"]:
        _another_proc()
    for source, point in wanted["binds"]:
        _bind(source, point)
        _remount_read_only(point, MS_NOSUID | MS_NODEV)
    _protect(wanted)
    _boot_id()


def _protect(wanted: Protection) -> None:
    """What is about the host is masked or read only, but for the sysctls that are the VE's namespaces' own."""
    writable = [(point, _clone(point)) for point in wanted["writable"]]
    for path in wanted["read_only"]:
        _read_only(path)
    for point, fd in writable:
        syscalls.move_mount(fd, syscalls.AT_FDCWD, point)
        os.close(fd)
    for path in wanted["masked"]:
        _mask(path)
    for point in wanted["read_only_mounts"]:
        _remount_read_only(point)


def _clone(path: str) -> int:
    return syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)


def own(boots: bool, ptys: int | None = None) -> tuple[Row, ...]:
    """What mount_own shall mount in a VE; ptys: how many it may have at once, None for as many as the host."""
    terminals, *others = OWN
    if ptys is not None:
        terminals = (*terminals[:3], f"{terminals[3]},max={ptys}")
    return (terminals, *others, RUN) if boots else (terminals, *others)


def mount_own(rows: Iterable[Row]) -> None:
    """As init, in the VE's own mount namespace and root: what the VE may unmount again."""
    for fstype, point, flags, options in rows:
        if point == "run":
            directory(point)
        syscalls.mount(fstype, f"/{point}", fstype, flags, options or None)


def link_own(links: Iterable[tuple[str, str]]) -> None:
    """As mount_own: symbolic links to what is in /dev, in the place of what an earlier start left there."""
    for point, target in links:
        directory(os.path.dirname(point))
        with suppress(FileNotFoundError):
            os.unlink(point)
        os.symlink(target, point)


def pivot(old_root: str) -> None:
    """Make the working directory, a mount, the root of every process of this mount namespace.

    The old root goes, unless it shall stay at old_root, for selftest to find it there.
    """
    syscalls.pivot_root(".", old_root or ".")
    if not old_root:
        syscalls.umount2(".", syscalls.MNT_DETACH)


def directory(path: str) -> None:
    """A directory at path, made if it is missing; never a symbolic link (runc's CVE-2025-31133 was one)."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        os.mkdir(path, 0o755)
        return
    if not stat.S_ISDIR(mode):
        raise InvalidValue(f"cannot mount on /{path} of the VE: it is not a directory there")


def buried(boots: bool) -> tuple[str, ...]:
    """The directories of a VE's root that later mounts of a launch hide."""
    return (*(point for _, point, _, _ in PROTECTED), *(("run",) if boots else ()))


def check_given(mounts: Iterable[Mount], devices: Iterable[str]) -> None:
    """InvalidValue for a source or device that this host lacks now; a start looks again."""
    for mount in mounts:
        try:
            os.stat(mount.source)
        except OSError as error:
            raise _no_source(mount.source, mount.target, error) from error
    for path in devices:
        host_device(path)


def bind_from_host(source: str, target: str, read_only: bool, userns: int, buried: tuple[str, ...]) -> None:
    """Show source, of the host, at target below the working directory, the VE's root, its ids mapped by userns.

    One file system only, without what is mounted below source; never setuid or with devices.  A missing target is made.
    InvalidValue where it would be hidden again, NotSupported where ids cannot be mapped.
    """
    what = f"cannot mount {source} at {target} in the VE"
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_IDMAP
    if read_only:
        attributes |= syscalls.MOUNT_ATTR_RDONLY
    try:
        fd = _clone(source)
    except SyscallError as error:
        raise _no_source(source, target, error) from error
    try:
        syscalls.mount_setattr(fd, attributes, userns_fd=userns)
        point = _target(target, stat.S_ISDIR(os.fstat(fd).st_mode))
        try:
            top, _, _ = os.path.relpath(os.readlink(f"/proc/self/fd/{point}"), os.getcwd()).partition("/")
            if top in buried:
                raise InvalidValue(f"{what}: /{top} is mounted anew at each start, and would hide it")
            syscalls.move_mount(fd, point)
        finally:
            os.close(point)
    except SyscallError as error:
        if error.syscall == "mount_setattr" and error.errno == errno.EINVAL:
            raise NotSupported(
                f"{what}: its file system has no idmapped mounts",
                hint="ext4, xfs and btrfs have them (and tmpfs, from kernel 6.3)",
            ) from error
        kind = "one is a directory and the other a file" if error.syscall == "move_mount" else error.strerror
        raise InvalidValue(f"{what}: {kind}") from error
    except OSError as error:
        raise InvalidValue(f"{what}: {error.strerror}") from error
    finally:
        os.close(fd)


def add_device(path: str) -> None:
    """The host's device at path, under the same name in the VE's /dev (the working directory is its root)."""
    host = host_device(path)
    name = path.removeprefix("/dev/")
    if os.path.lexists(f"dev/{name}"):
        return  # one that every VE has
    parts = name.split("/")
    for depth in range(1, len(parts)):
        directory("dev/" + "/".join(parts[:depth]))
    _node(f"dev/{name}", host.st_mode, host.st_rdev, path)


def _no_source(source: str, target: str, error: OSError) -> InvalidValue:
    return InvalidValue(
        f"cannot mount {source} at {target} in the VE: {error.strerror}",
        hint="make it on the host, or give another --mount",
    )


def host_device(path: str) -> os.stat_result:
    """What is at path on the host; InvalidValue if that is no device."""
    try:
        host = os.stat(path)
        why = "" if stat.S_ISCHR(host.st_mode) or stat.S_ISBLK(host.st_mode) else "it is not a device"
    except OSError as error:
        why = error.strerror or ""
    if why:
        raise InvalidValue(f"cannot give device {path} to the VE: {why}", device_hint(path))
    return host


def device_hint(path: str) -> str:
    """What to do about a path below /dev that is no device of this host."""
    from ve import rights  # not for the far side, which never needs it and pays for each import

    known = {device for row in rights.PROFILES for device in row.devices}
    if path not in known:
        with suppress(OSError):
            known.update(entry.path for entry in os.scandir(os.path.dirname(path)) if not entry.is_dir())
        if near := rights.nearest(path.removeprefix("/dev/"), {each.removeprefix("/dev/") for each in known} - {path}):
            return f"did you mean /dev/{near}?"
    return "load its driver on the host, or give another --device"


def console(terminal: str) -> None:
    """The pty at terminal becomes the VE's /dev/console; in the VE's own mount namespace."""
    os.close(os.open("/dev/console", os.O_CREAT | os.O_CLOEXEC, 0o600))
    syscalls.mount(terminal, "/dev/console", None, syscalls.MS_BIND)


def _node(point: str, mode: int, device: int, host_path: str) -> None:
    """A node of the VE's own, owned by its root; where we may not make one (in a VE), the host's is bound instead."""
    try:
        os.mknod(point, mode, device)
    except PermissionError:
        _bind(host_path, point)
    else:
        os.chmod(point, stat.S_IMODE(mode))  # mknod went through the umask


def _bind(source: str, point: str) -> None:
    """The point is made, if it is not there."""
    if os.path.isdir(source):
        directory(point)
    else:
        os.close(os.open(point, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755))
    syscalls.mount(source, point, None, syscalls.MS_BIND)


def _boot_id() -> None:
    """A new one for each start, as a machine has: a journal tells boots apart by it, and the host's would not."""
    with open("proc/sys/kernel/random/uuid", encoding="utf-8") as fresh:
        uuid = fresh.read()
    with open("dev/boot_id", "x", encoding="utf-8") as file:
        file.write(uuid)
    syscalls.mount("dev/boot_id", BOOT_ID, None, syscalls.MS_BIND)
    os.unlink("dev/boot_id")
    _remount_read_only(BOOT_ID)


def _another_proc() -> None:
    """One with nothing mounted on it, not even a boot id: who sees none may not mount a fresh one (mount_too_revealing
    in the kernel's fs/namespace.c)."""
    os.mkdir("dev/.proc")
    syscalls.mount("proc", "dev/.proc", "proc", _DATA_ONLY)


def _read_only(path: str) -> None:
    if not os.path.lexists(path):
        return
    syscalls.mount(path, path, None, syscalls.MS_BIND | syscalls.MS_REC)
    _remount_read_only(path)


def _remount_read_only(path: str, flags: int = _DATA_ONLY) -> None:
    syscalls.mount(None, path, None, syscalls.MS_BIND | syscalls.MS_REMOUNT | MS_RDONLY | flags)


def _mask(path: str) -> None:
    """Hide path: a file behind the VE's own /dev/null, a directory behind an empty read-only tmpfs.

    The host's /dev/null would be one inode for all VEs and the host, to watch, touch and lock.
    """
    if not os.path.lexists(path):
        return
    if stat.S_ISDIR(os.lstat(path).st_mode):
        syscalls.mount("tmpfs", path, "tmpfs", MS_RDONLY | _DATA_ONLY, "size=0,mode=555")
    else:
        syscalls.mount("dev/null", path, None, syscalls.MS_BIND)


def _target(path: str, is_directory: bool) -> int:
    """An O_PATH descriptor of path below the working directory, made if it is missing, however hostile the links."""
    root = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    parts = [part for part in path.split("/") if part]
    try:
        for depth in range(1, len(parts) + 1):
            _make(root, parts[:depth], is_directory or depth < len(parts))
        return syscalls.openat2(root, "/".join(parts), os.O_PATH, syscalls.RESOLVE_IN_ROOT)
    finally:
        os.close(root)


def _make(root: int, parts: list[str], is_directory: bool) -> None:
    parent = syscalls.openat2(root, "/".join(parts[:-1]) or ".", os.O_PATH | os.O_DIRECTORY, syscalls.RESOLVE_IN_ROOT)
    try:
        if is_directory:
            os.mkdir(parts[-1], 0o755, dir_fd=parent)
        else:
            os.close(os.open(parts[-1], os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
    except FileExistsError:
        pass
    finally:
        os.close(parent)
