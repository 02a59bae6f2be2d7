"""A VE's root shown to the host, at root/<VEID>: `ve mount` and `ve umount`, and who still looks at it.

Of a stopped VE that is an overlay of its own, with the ids as they are on disk.  A running VE's upper may not be in a
second overlay, so its own mounts are cloned: they carry the ids that its processes have on the host, and are read only,
as overlayfs would refuse most writes of a root that it cannot map.  Run as a program, this module is the process that
fetches that clone from the VE's mount namespace.
"""

from __future__ import annotations

import _socket
import errno
import os
from contextlib import ExitStack, suppress

from ve import descriptors, farside, interpreter, mountinfo, procfs
from ve._linux import syscalls
from ve.errors import Error, InUse, NotRunning
from ve.facts import GOING, ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

_LOOKS = ("cwd", "root", "exe")
_FOREIGN = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV  # a VE's setuid programs are none of the host's


def stopped(root: int, point: str) -> None:
    """Mount the root of a stopped VE, a detached mount that is closed then, at point, a directory."""
    try:
        syscalls.mount_setattr(root, _FOREIGN)
        syscalls.move_mount(root, syscalls.AT_FDCWD, point)
    finally:
        os.close(root)


def running(pidfd: int, point: str) -> None:
    """Mount a read-only clone of what is mounted in the VE whose init that is at point; NotRunning if it has ended."""
    import socket
    import subprocess

    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near:
        with far, ExitStack() as held:
            ours = [descriptors.above_stdio(fd, held) for fd in (pidfd, far.fileno())]
            interpreter.FarSide("ve.show", *ours, stdin=subprocess.DEVNULL).wait()
        message, fds = farside.receive(near)
    if not fds:
        if ended(pidfd, GOING):
            raise NotRunning(f"cannot show a VE at {point}: it is not running")
        why = "".join(message) or "the process that clones it was killed"
        raise Error(f"cannot show a running VE at {point}: {why}")
    try:
        syscalls.move_mount(fds[0], syscalls.AT_FDCWD, point)
    finally:
        os.close(fds[0])


def main(pidfd: int, channel: int) -> NoReturn:
    """In a process of its own: clone the mounts of that process's namespace and send them as one descriptor.

    It is the host's root, and its root becomes the VE's: so it imports nothing there, not even by a traceback, which
    looks for the lines of our source, finds the VE's, and would import the codec that these name.
    """
    far = _socket.socket(fileno=channel)
    farside.forget_imports()
    try:
        syscalls.setns(pidfd, syscalls.CLONE_NEWNS)
        tree = syscalls.open_tree(syscalls.AT_FDCWD, "/", syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
        ours = _FOREIGN | syscalls.MOUNT_ATTR_RDONLY  # and what the VE mounts later is not for the host's table
        syscalls.mount_setattr(tree, ours, flags=syscalls.AT_RECURSIVE, propagation=syscalls.MS_PRIVATE)
        farside.send(far, fds=(tree,))
    except BaseException as error:
        farside.send(far, str(getattr(error, "strerror", None) or error))
    os._exit(0)


def is_clone(point: str) -> bool:
    """Is what is mounted at point what running() put there, whose VE may have ended since?"""
    return ["ro" in line.options for line in mountinfo.lines() if line.point == point][-1:] == [True]


def hide(veid: int, point: str) -> None:
    """Unmount what is shown at point; InUse names who looks at it."""
    if users := looking_at(point):
        others = [f"process {pid} ({command})" for pid, command in users if pid != os.getpid()]
        who = ", ".join(others[:4]) or "this process itself"  # which has that from whoever called it
        raise InUse(f"cannot unmount {veid}: {who} uses {point}", hint="let it leave that directory, or end it")
    try:
        # What a running VE has mounted came along, locked; nobody looks at it, so it may go as a whole.
        syscalls.umount2(point, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.EINVAL:  # somebody else has unmounted it
            raise


def looking_at(point: str) -> list[tuple[int, str]]:
    """Pid and command of every process of this host that has a file or directory below point in use.

    A path alone says little: a process of a VE can be in a directory that is called so there.
    """
    shown = {line.number for line in mountinfo.lines() if _is_below(line.point, point)}
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and any(_is_in(name, link, shown) for link in _links(name, point)):
            with suppress(OSError), open(f"/proc/{name}/comm", encoding="utf-8", errors="replace") as file:  # it ended
                found.append((int(name), file.read().strip()))
    return found


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(f"{point}/")


def _links(pid: str, point: str) -> Iterator[str]:
    """Those of /proc/PID whose paths are at point or below."""
    try:
        links = [*_LOOKS, *(f"fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd"))]
    except OSError:
        return
    for link in links:
        with suppress(OSError):
            if _is_below(os.readlink(f"/proc/{pid}/{link}"), point):
                yield link


def _is_in(pid: str, link: str, shown: set[int]) -> bool:
    """Does it lead into one of these mounts, or a copy in another mount namespace of the host's root?"""
    try:
        if os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/")):
            return True
        fd = os.open(f"/proc/{pid}/{link}", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return procfs.mount_number(fd) in shown
    finally:
        os.close(fd)
