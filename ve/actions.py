"""Action scripts, which an administrator puts beside the conf files: what the host does at the turns of a VE's life.

Those of "mount" at a start run where the VE's root is already seen, in the middle of ve/setup.py.  What an event
starts (ve/events.py) is a program of the administrator's too, that nobody waits for.
"""

from __future__ import annotations

import contextlib
import os
import signal

from ve.errors import ActionFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ve.state import State

_ENDING = ("stop", "umount", "postumount")  # these stand between a VE and its end, which always comes
_PATIENCE, _KILLED = 60.0, 5.0  # seconds
_CURE = "mend it, or chmod -x it"


def run(state: State, veid: int, name: str, root: str) -> None:
    """Run those of this name; ActionFailed if one says no, or takes a minute where a VE is to end: it is killed."""
    if not (found := scripts(state, veid, name)):
        return
    import subprocess  # few VEs have any

    from ve import patience, steps

    cannot, seconds = f"cannot complete the {name} script of {veid}", _PATIENCE if name in _ENDING else None
    for path in found:
        environment = os.environ | {"VEID": str(veid), "VE_ROOT": root}
        try:
            process = subprocess.Popen([path], env=environment, stdin=subprocess.DEVNULL, stdout=2)
        except OSError as error:
            raise steps.unrunnable(path, veid, error) from error
        try:
            code = patience.wait(process, seconds, _KILLED)
        except subprocess.TimeoutExpired:
            raise ActionFailed(f"{cannot}: {path} had not ended after {seconds:.0f} seconds", _CURE) from None
        if code:
            raise ActionFailed(f"{cannot}: {path} ended with {code}", _CURE)


def scripts(state: State, veid: int, name: str) -> list[str]:
    """Those of this name that there are, an executable file each: that for all VEs first."""
    return [path for path in (state.action(None, name), state.action(veid, name)) if os.access(path, os.X_OK)]


def begin(path: str, veid: int, variables: Mapping[str, str]) -> int:
    """Start a program with these in its environment, in a session of its own; its pid, for ended().  ActionFailed."""
    from ve import steps

    environment = os.environ | {"VEID": str(veid), **variables}
    files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 2, 1)]
    try:  # not by subprocess, whose objects cannot be let go of before their process ends
        return os.posix_spawn(path, [path], environment, file_actions=files, setsid=True, setsigdef=[signal.SIGPIPE])
    except OSError as error:
        raise steps.unrunnable(path, veid, error) from error


def ended(pid: int, *, wait: bool = False) -> int | None:
    """The exit code of what was begun, as subprocess has it, 0 if nobody can tell; None if it runs and we do not wait.

    Once it is told, the pid is nobody's any more.
    """
    with contextlib.suppress(ChildProcessError):  # who called us ignores SIGCHLD
        done, status = os.waitpid(pid, 0 if wait else os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if done else None
    return 0
