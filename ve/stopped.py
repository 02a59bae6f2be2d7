"""The root of a stopped VE whose changes are in a loop area.

Before kernel 6.15 overlayfs takes no layer that is on a detached mount (EINVAL), and the area shall not be in the
host's mount table.  So a process with a mount namespace of its own attaches it there, and sends the overlay of it as a
descriptor; with the last one of that all is gone again.  Run as a program, this module is that process.
"""

from __future__ import annotations

import _socket
import marshal
import os
from contextlib import ExitStack

from ve import farside, interpreter, looparea, mounts
from ve._linux import syscalls
from ve.errors import Error
from ve.unionfs import Overlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def root(template: str, private: str, scratch: str) -> int:
    """A detached mount of template and loop area, combined: a descriptor for the caller to close.

    scratch is an empty directory.  As Overlay.detached and looparea.mount; Error if the process was killed.
    """
    import socket
    import subprocess

    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near:
        with far, ExitStack() as held:
            request = interpreter.request({"template": template, "private": private, "scratch": scratch})
            held.callback(os.close, request)
            ours = [interpreter.above_stdio(fd, held) for fd in (request, far.fileno())]
            interpreter.FarSide("ve.stopped", *ours, stdin=subprocess.DEVNULL).wait()
        message, fds = farside.receive(near)
    if fds:
        return fds[0]
    why, hint, code = message or ("the process that mounts it was killed", "", Error.exit_code)
    failed = Error(f"cannot mount the loop area in {private}: {why}", hint)
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


def _mounted(template: str, private: str, scratch: str) -> int:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_slave()
    area = looparea.mount(private)
    syscalls.move_mount(area, syscalls.AT_FDCWD, scratch)
    return Overlay(template, f"{scratch}/upper", f"{scratch}/work").detached()
