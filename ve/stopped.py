"""The root of a stopped VE whose changes are in a loop area, or that has layers.

Before kernel 6.15 overlayfs takes no layer that is on a detached mount (EINVAL), and the area shall not be in the
host's mount table; and fsconfig(2) takes no string that is long enough for the paths of many layers.  So a process with
a mount namespace of its own attaches all there, under short names, and sends the overlay of it as a descriptor; with
the last one of that all is gone again.  Run as a program, this module is that process.
"""

from __future__ import annotations

import _socket
import marshal
import os
from contextlib import ExitStack

from ve import descriptors, farside, interpreter, looparea, mounts
from ve._linux import syscalls
from ve.errors import Error
from ve.unionfs import Overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def root(below: tuple[str, ...], private: str, scratch: str) -> int:
    """A detached mount of layers, template and private area, combined: a descriptor for the caller to close.

    scratch is an empty directory.  As Overlay.detached and looparea.mount; Error if the process was killed.
    """
    import socket
    import subprocess

    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near:
        with far, ExitStack() as held:
            request = interpreter.request({"below": below, "private": private, "scratch": scratch})
            held.callback(os.close, request)
            ours = [descriptors.above_stdio(fd, held) for fd in (request, far.fileno())]
            interpreter.FarSide("ve.stopped", *ours, stdin=subprocess.DEVNULL).wait()
        message, fds = farside.receive(near)
    if fds:
        return fds[0]
    why, hint, code = message or ("the process that mounts it was killed", "", Error.exit_code)
    failed = Error(f"cannot mount what is in {private}: {why}", hint)
    failed.exit_code = code
    raise failed


def main(request_fd: int, channel: int) -> NoReturn:
    """Mount and send it, or why not."""
    far = _socket.socket(fileno=channel)
    try:
        with open(request_fd, "rb") as file:
            request = marshal.load(file)
        farside.send(far, fds=(_mounted(**request),))
    except (OSError, Error) as error:
        code = error.exit_code if isinstance(error, Error) else Error.exit_code
        farside.send(far, str(error), getattr(error, "hint", ""), code)
    os._exit(0)


def _mounted(below: tuple[str, ...], private: str, scratch: str) -> int:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_slave()
    syscalls.mount("ve", scratch, "tmpfs", syscalls.MS_NODEV | syscalls.MS_NOSUID, "mode=700")
    os.chdir(scratch)
    os.mkdir("root")
    if looparea.exists(private):
        os.mkdir("private")
        syscalls.move_mount(looparea.mount(private), syscalls.AT_FDCWD, "private")
    else:
        os.symlink(private, "private")
    names = [str(number) for number, _ in enumerate(below)]
    for name, path in zip(names, below, strict=True):
        os.symlink(path, name)
    Overlay(":".join(names), "private/upper", "private/work").mount("root")
    return syscalls.open_tree(syscalls.AT_FDCWD, "root", syscalls.OPEN_TREE_CLONE)
