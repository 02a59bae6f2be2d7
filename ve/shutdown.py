"""How a VE is taken down: each init has its own word for "halt", and whoever ignores it meets cgroup.kill."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

from ve import procfs
from ve.cgroups import WAITING, Cgroup
from ve.errors import StopFailed
from ve.facts import ended

# The end of PID 1's /proc/PID/exe, and what that init takes for "halt": a signal, or a command to run inside.
HALT: tuple[tuple[str, int | tuple[str, ...]], ...] = (
    ("systemd", signal.SIGRTMIN + 3),  # systemd(1), "Signals"
    ("busybox", signal.SIGUSR2),  # busybox init/init.c: poweroff, by way of the shutdown lines of inittab
    ("dev/init", signal.SIGTERM),  # the small init that we bring (ve/mounts.py) hands it on to its child
    ("catatonit", signal.SIGTERM),
    ("tini", signal.SIGTERM),
    ("tini-static", signal.SIGTERM),
    ("dumb-init", signal.SIGTERM),
    ("openrc-init", ("/sbin/openrc-shutdown", "-p", "now")),
    ("runit-init", ("/sbin/init", "0")),
    ("init", ("/sbin/init", "0")),  # sysvinit: its SIGPWR does whatever inittab says, often nothing
)
_OTHER = signal.SIGPWR  # what LXC sends, and so what an init of that world expects
_SOON, _AGAIN = 0.02, 1.0  # seconds between two signals, at first and in the end
_UNHEARD = 5.0  # seconds in which an init becomes ready
_KILLED = 10.0  # seconds for the kernel to end what it killed


Run = Callable[[tuple[str, ...]], object]


def shut_down(veid: int, pid: int, pidfd: int, group: Cgroup, timeout: float, run: Run) -> bool:
    """Ask the init to halt, wait timeout seconds, then kill all; did it halt by itself?

    timeout 0 kills at once.  run(command) executes in the VE.  StopFailed names what even SIGKILL does not end.
    """
    orderly = timeout > 0 and _halt(pid, pidfd, time.monotonic() + timeout, run)
    end(veid, group, pidfd)
    return orderly


def end(veid: int, group: Cgroup, pidfd: int | None = None) -> None:
    """SIGKILL to all in the cgroup, and wait until they and the process of pidfd are gone; StopFailed."""
    group.kill()
    if (pidfd is not None and not ended(pidfd, _KILLED)) or not group.wait_empty(_KILLED):
        left = tuple(group.pids())
        raise StopFailed(
            f"cannot stop {veid}: {len(left)} processes outlive SIGKILL: {' '.join(map(str, left[:8]))}",
            hint=f"{WAITING}; it is stopped once they are gone",
            pids=left,
        )


def ask(pid: int, pidfd: int, run: Run) -> bool:
    """Tell the init to halt, in its own way; True if once is enough, False if it may not have been ready to hear it.

    The kernel drops a signal that PID 1 neither catches nor blocks (pid_namespaces(7)).
    """
    halt = _word(pid)
    if isinstance(halt, tuple):
        run(halt)
        return True
    heard = _hears(pid, halt)  # before it is sent: what it catches afterwards it may have missed
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, halt)
    return heard


def ask_until_heard(pid: int, pidfd: int, run: Run) -> None:
    """The same, until it has heard or has ended, for some seconds at most."""
    _halt(pid, pidfd, time.monotonic() + _UNHEARD, run)


def _halt(pid: int, pidfd: int, deadline: float, run: Run) -> bool:
    """Ask until it has heard, at growing intervals, and wait until it has ended or the deadline has come."""
    heard, pause = False, _SOON
    while (left := deadline - time.monotonic()) > 0:
        if not heard:
            with contextlib.suppress(Exception):  # whatever kept the command from running, the deadline is the answer
                heard = ask(pid, pidfd, run)
        if ended(pidfd, left if heard else min(left, pause)):
            return True
        pause = min(2 * pause, _AGAIN)
    return False


def kind(pid: int) -> str:
    """Which init of HALT this is; empty for another."""
    try:
        path = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return ""
    return next((end for end, _ in HALT if path.endswith(f"/{end}")), "")


def _word(pid: int) -> int | tuple[str, ...]:
    return dict(HALT).get(kind(pid), _OTHER)


def _hears(pid: int, number: int) -> bool:
    """Does the process catch or block this signal?  SigCgt and SigBlk of proc_pid_status(5).

    One that waits in sigtimedwait(2), as busybox's init does, seems not to (signal.c unblocks meanwhile), yet hears.
    """
    try:
        masks = procfs.status(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(int(masks[key], 16) >> (number - 1) & 1 for key in ("SigCgt", "SigBlk"))
