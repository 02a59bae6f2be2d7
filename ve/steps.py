"""How a launch goes, step by step: what the steps of setup and init have in common, and how one fails.

Each of the two is a list of steps over one Launch.  A step that fails is told to ve/launch.py by its name, with what
the kernel said, and that process ends.
"""

from __future__ import annotations

import _socket
import errno
import os
import signal

from ve import farside
from ve._linux import syscalls
from ve.errors import ActionFailed, Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ve.farside import Request

_HOME = (
    ("mnt", syscalls.CLONE_NEWNS),
    ("net", syscalls.CLONE_NEWNET),
    ("ipc", syscalls.CLONE_NEWIPC),
    ("time", syscalls.CLONE_NEWTIME),
)


class Launch:
    """What the steps of one launch hand on to each other."""

    def __init__(self, request: Request, near: int, line: int) -> None:
        self.request = request
        self.near = _socket.socket(fileno=near)  # setup's channel to launch
        self.line = _socket.socket(fileno=line)  # init's channel to launch
        self.private = request["private"]  # where its changes are; "" for what is kept in memory
        self.pid = 0  # of init, as setup sees it
        self.pidfd = -1
        self.userns = -1
        self.root_ready, self.go_on = os.pipe()
        self.limits_set, self.limited = os.pipe()
        self.home = [(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), flag) for name, flag in _HOME]
        self.console = -1
        self.lower = ""  # what is below its changes, as an Overlay has it
        self.root: os.stat_result  # the VE's


def go(steps: tuple[Callable[[Launch], None], ...], launch: Launch, channel: _socket.socket) -> NoReturn:
    """Take the steps, in their order, and end; or tell channel which of them failed and why."""
    step = steps[0]
    try:
        for step in steps:
            if step.__name__ in launch.request["left_out"]:
                continue
            fault(launch.request["fault"], step.__name__)
            step(launch)
        os._exit(0)
    except (OSError, Error) as error:
        farside.send(channel, "ERROR", step.__name__, *reason(error))
    except BaseException as error:  # nothing of ours may go on beyond here, and launch must hear of it
        farside.send(channel, "ERROR", step.__name__, f"unexpected {type(error).__name__}: {error}", "", 0)
    os._exit(1)


def fault(wanted: str, step: str) -> None:
    """What the tests of crashes break: VE_FAULT=STEP:error, or :kill before it."""
    name, _, how = wanted.partition(":")
    if name == step:
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
            os._exit(137)  # the PID 1 of a namespace is not to be killed from inside
        raise OSError(5, "Input/output error", f"(VE_FAULT={wanted})")


def reason(error: OSError | Error) -> tuple[str, str, int]:
    """What failed and the cure, as two lines of text, and the exit code of an error of ours, else 0."""
    if isinstance(error, Error):
        return str(error), error.hint, error.exit_code
    call = getattr(error, "syscall", "")
    what = error.strerror or str(error) or type(error).__name__  # some have a sentence alone, as socket.inet_pton's
    return " ".join(filter(None, (call, error.filename and f"{error.filename}:", what))), "", 0


def unrunnable(path: str, veid: int, error: OSError) -> ActionFailed:
    """What to say of an action script that execve(2) refuses."""
    cures = {
        errno.ENOEXEC: "its first line must name its interpreter, as #!/bin/sh does",
        errno.ENOENT: "the interpreter that its first line names is not there",
    }
    why = os.strerror(error.errno or 0)
    return ActionFailed(f"cannot run {path} of {veid}: {why}", cures.get(error.errno or 0, ""))


def tell(channel: _socket.socket, *message: str | int, fds: tuple[int, ...] = ()) -> None:
    """Send launch a message; where it is gone, end."""
    if not farside.send(channel, *message, fds=fds):
        os._exit(1)
