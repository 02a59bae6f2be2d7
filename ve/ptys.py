"""How many ptys a VE has: the entries of its devpts, reached without asking any file system of its own for anything.

A VE's root may put a file system in user space (FUSE) on any directory, also below an overlay, and never answer: who
looks up a name there waits for ever.  So each path is walked with RESOLVE_CACHED (openat2(2)): the kernel then goes by
what it has in memory, where a mount point always is, and gives up where a file system would have to be asked: for the
ACL of a directory, too, so that the walk is made as the VE's root, who owns "/" and "/dev".  What is found is only a
handle (O_PATH), listed once fdinfo and mountinfo, which ask nobody either, say that it is a devpts.
"""

import errno
import os
import re
from collections.abc import Mapping

from ve import procfs
from ve._linux import syscalls, visits
from ve.errand import in_a_thread
from ve.mountinfo import Line

_ANY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_SILENT = (
    syscalls.RESOLVE_CACHED | syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
)
_TRIES = 10  # a rename or a mount anywhere makes the kernel give up too
_MOST_INSTANCES = 64
MOST = 1 << 20  # NR_UNIX98_PTY_MAX of devpts, which is no limit


def count(directory: int, base: int) -> int:
    """Of the process whose /proc/PID is open as directory: the ptys of every devpts that it has mounted.

    base is the host's uid of the VE's root, which the calling thread, one of its own (ve/errand.py), has for a moment.
    OSError if it has none, or if one cannot be reached in this way: then nobody can tell, least of all from 0.
    """
    root = os.open("root", _ANY, dir_fd=directory)
    try:
        instances = _instances(directory)
        if not instances or len(instances) > _MOST_INSTANCES:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), "devpts")
        return sum(_of_any(root, base, mounts) for mounts in instances)
    finally:
        os.close(root)


def any_elsewhere() -> bool:
    """Is there a pty on this machine that is not in our own /dev/pts?  The kernel counts those of every devpts."""
    try:
        number = int(procfs.contents("/proc/sys/kernel/pty/nr", None))
        return number != sum(map(str.isdigit, os.listdir("/dev/pts")))
    except OSError:
        return True


def limit(pid: int, base: int, options: Mapping[str, str]) -> None:
    """Remount the devpts at /dev/pts of the VE whose init is pid with these options, all of them: max= is how many.

    OSError if it cannot be reached in this way, as when the VE's root has mounted something over it, or if the kernel
    makes something else of it.
    """
    in_a_thread(lambda: _limit(pid, base, options))


def _limit(pid: int, base: int, options: Mapping[str, str]) -> None:
    directory = os.open(f"/proc/{pid}", _ANY)
    try:
        root = os.open("root", _ANY, dir_fd=directory)
        try:
            mounts = [mount for each in _instances(directory) for mount in each if mount.point == "/dev/pts"]
            if not mounts:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), "/dev/pts")
            handle = _own_handle(root, base, mounts[-1])
        finally:
            os.close(root)
        try:
            _reconfigure(handle, options)
        finally:
            os.close(handle)
        if (taken := _most(directory, mounts[-1])) != int(options["max"]):
            raise OSError(errno.EINVAL, f"the kernel has made {taken} of {options['max']}", "/dev/pts")
    finally:
        os.close(directory)


def _most(directory: int, mount: Line) -> int:
    """How many ptys a devpts may have, as mountinfo shows it: not at all where that is as many as any."""
    for text in procfs.contents("mountinfo", directory).splitlines():
        if text.startswith(b"%d " % mount.number):
            found = re.search(rb",max=([0-9]+)(,|$)", text)
            return int(found[1]) if found else MOST
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), mount.point)


def _reconfigure(handle: int, options: Mapping[str, str]) -> None:
    fs = syscalls.fspick(handle, "", syscalls.FSPICK_EMPTY_PATH)
    try:
        for name, value in options.items():
            syscalls.fsconfig(fs, syscalls.FSCONFIG_SET_STRING, name, value)
        syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_RECONFIGURE)
    finally:
        os.close(fs)


def _instances(directory: int) -> list[list[Line]]:
    """The mounts of each devpts; not those of a single pty of another, such as the host's as a console."""
    found: dict[str, list[Line]] = {}
    for text in procfs.contents("mountinfo", directory).splitlines():
        if b" - devpts " in text and (line := Line(text)).root == "/" and line.kind == "devpts":
            found.setdefault(line.device, []).append(line)
    return list(found.values())


def _of_any(root: int, base: int, mounts: list[Line]) -> int:
    """By the first of its mounts that can be reached; the others may be covered."""
    for mount in mounts:
        try:
            return _entries(root, base, mount)
        except OSError as error:
            refused = error
    raise refused


def _entries(root: int, base: int, mount: Line) -> int:
    handle = _own_handle(root, base, mount)
    try:
        return sum(map(str.isdigit, os.listdir(f"/proc/self/fd/{handle}")))
    finally:
        os.close(handle)


def _own_handle(root: int, base: int, mount: Line) -> int:
    """Of this very mount, for the caller to close."""
    handle = _handle(root, base, mount.point.lstrip("/"))
    try:
        if procfs.mount_number(handle) != mount.number:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), mount.point)
        kept, handle = handle, -1
        return kept
    finally:
        if handle >= 0:
            os.close(handle)


def _handle(root: int, base: int, path: str) -> int:
    own = os.geteuid()
    visits.setfsuid(base)
    try:
        for _ in range(_TRIES):
            try:
                return syscalls.openat2(root, path, _ANY | os.O_NOFOLLOW, _SILENT)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
        raise OSError(errno.EAGAIN, "the way there is not in the kernel's memory", path)
    finally:
        visits.setfsuid(own)
