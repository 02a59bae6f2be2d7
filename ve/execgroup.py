"""The cgroups of commands that entered a VE: exec.PID.TIME.N, named after the process that asked.

A program's commands have theirs beside that of the VE's init, out of the VE's reach: its root cannot move a command out
of it, so the whole tree can be ended.  What logs in has it below that of the init: an init moves who logs in (su,
login) to where it counts sessions, and the kernel lets it do so only below its own root; systemd-logind makes a login
that it cannot move wait for 100 seconds (tried with Debian's 252).  There a tree is ended as far as nobody moved it.

So what a killed caller leaves can be found and told from what is in use: the process with this pid and start time is
alive or it is not.  What a command leaves in the background when it ends by itself goes on in exec.left; where its
caller was gone by then, or did not ask how it ended, an attribute of its cgroup says that it had (farside.ENDED).
"""

import contextlib
import itertools
import os
import re

from ve import farside
from ve.cgroups import Cgroup
from ve.facts import process_start_time

LEFT = "exec.left"
PATIENCE = 10.0  # seconds for the kernel to end what it killed, which takes long only where it hangs
_NAME = r"exec\.([0-9]{1,10})\.([0-9]{1,20})\.[0-9]+"
_serial = itertools.count()


def create(cgroup: str) -> Cgroup:
    """A new one in the directory cgroup."""
    pid = os.getpid()
    group = Cgroup(f"{cgroup}/exec.{pid}.{process_start_time(pid)}.{next(_serial)}")
    os.makedirs(group.path)
    return group


def set_free(group: Cgroup) -> None:
    """Remove it; what still runs in it goes on beside it, in exec.left."""
    left = f"{os.path.dirname(group.path)}/{LEFT}"
    for _ in range(1000):  # they may fork while we move them, but hardly for ever
        try:
            group.remove()
            return
        except OSError:
            with contextlib.suppress(OSError):  # gone meanwhile, or somebody just swept an empty exec.left
                os.makedirs(left, exist_ok=True)
                _move(group.path, left)


def _move(source: str, destination: str) -> None:
    with open(f"{source}/cgroup.procs", encoding="ascii") as file:
        pids = file.read().split()
    for pid in pids:
        with (
            contextlib.suppress(ProcessLookupError),
            open(f"{destination}/cgroup.procs", "w", encoding="ascii") as file,
        ):
            file.write(pid)


def sweep(cgroup: str, patience: float = PATIENCE) -> None:
    """Remove what callers that are gone have left in the directory cgroup: their commands' trees are ended.

    Commands of callers that live go on, and what those left that ended by themselves.  So does what somebody else made
    there: a VE's root may make cgroups beside those of logins, and call them as it likes.  patience: seconds for each
    tree to be gone; of one that is not, the next sweep finds the cgroup.
    """
    for name in _names(cgroup):
        group = Cgroup(f"{cgroup}/{name}")
        caller = re.fullmatch(_NAME, name)
        if not (caller or name == LEFT) or not _is_ours(group.path):
            continue
        if caller:
            pid, started = map(int, caller.groups())
            if process_start_time(pid) == started:
                continue
            if _has_ended(group.path):
                set_free(group)
                continue
            group.kill()
            group.wait_empty(patience)
        with contextlib.suppress(OSError):
            group.remove()


def _names(path: str) -> list[str]:
    """What is in it; nothing if it is gone, as of a VE that is just being stopped."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _has_ended(path: str) -> bool:
    """Has the command of this cgroup ended by itself?"""
    try:
        return farside.ENDED in os.listxattr(path)
    except FileNotFoundError:
        return False


def _is_ours(path: str) -> bool:
    try:
        return os.stat(path).st_uid == os.geteuid()
    except FileNotFoundError:
        return False
