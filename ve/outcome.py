"""How a command inside ended: subprocess's own types, and what stopped it and what it used.

stopped_by of each is None if the command ended by itself, and else what ended it:

    "timeout"                     that of run()
    "cpu"                         its cpu_time, or RLIMIT_CPU: SIGXCPU ended it
    "physpages", "privvmpages"    want of memory, by the beancounter whose limit the VE's memory has
    "numproc"                     it failed when the VE had all the processes that it may have
    "SIGTERM" and the like        a signal, be it of ours (Popen.kill)

Limits are told by counters that the kernel keeps of the VE, not of the command.  It counts each process of a cgroup
that it has killed for want of memory (memory.events: oom_kill), but does not say which one it was to who waits for it.
So a command was stopped by that if SIGKILL ended it, or a shell that tells of it (128+9), and the counter has grown
meanwhile: that of the commands where the VE's init has one of its own, so that what befell a service is not laid to a
command.  Of two commands at once, one killed by that and one by somebody, both are said to be.  Likewise by numproc if
it failed, or aborted, and somebody in the VE was refused a process meanwhile (pids.events: max).
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any, NamedTuple

from ve import amounts
from ve.amounts import BYTES, ITEMS, UNLIMITED
from ve.beancounter import BY_NAME, Files, Reading
from ve.cgroups import Cgroup

_LIMITS = {"cpu", *BY_NAME}
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
_OUT_OF_CPU = (-signal.SIGXCPU, 128 + signal.SIGXCPU)


class Usage(NamedTuple):
    """What a command and all that it started used until it ended, as the kernel counted (ve/usage.py)."""

    user: float  # seconds of CPU time as user
    system: float  # and in the kernel
    max_memory: int  # bytes

    @property
    def cpu(self) -> float:
        """Seconds of CPU time."""
        return self.user + self.system


class CompletedProcess(subprocess.CompletedProcess[Any]):
    """subprocess.CompletedProcess, with stopped_by, as above, and usage, None if nobody could tell."""

    def __init__(
        self, args: Any, returncode: int, stdout: Any, stderr: Any, stopped_by: str | None, usage: Usage | None = None
    ) -> None:
        super().__init__(args, returncode, stdout, stderr)
        self.stopped_by, self.usage = stopped_by, usage


class CalledProcessError(subprocess.CalledProcessError):
    """subprocess.CalledProcessError, with stopped_by and usage as in CompletedProcess."""

    def __init__(
        self, returncode: int, cmd: Any, output: Any, stderr: Any, stopped_by: str | None, usage: Usage | None = None
    ) -> None:
        super().__init__(returncode, cmd, output, stderr)
        self.stopped_by, self.usage = stopped_by, usage

    def __str__(self) -> str:
        what = "CPU time" if self.stopped_by == "cpu" else f"VE's {self.stopped_by}"
        return f"{super().__str__()} Its {what} was used up." if self.stopped_by in _LIMITS else super().__str__()


class TimeoutExpired(subprocess.TimeoutExpired):
    """subprocess.TimeoutExpired of run(), with stopped_by, and usage as in CompletedProcess."""

    stopped_by = "timeout"

    def __init__(self, cmd: Any, timeout: float, output: Any, stderr: Any, usage: Usage | None = None) -> None:
        super().__init__(cmd, timeout, output, stderr)
        self.usage = usage


class ExitCode(int):
    """A command's exit code, 0..255 or 128+N; with stopped_by and usage, and why: which limit, in words, or ""."""

    stopped_by: str | None = None
    why = ""
    usage: Usage | None = None

    @classmethod
    def of(cls, code: int, stopped_by: str | None, why: str, usage: Usage | None = None) -> ExitCode:
        made = cls(code)
        made.stopped_by, made.why, made.usage = stopped_by, why, usage
        return made


class Counters:
    """The kernel's counters of one VE, as they are when a command begins."""

    def __init__(self, cgroup: str, memory: str) -> None:
        """cgroup: the directory of the VE's commands, or of its init, below its own; memory: what limits that."""
        self._memory = memory
        self._ve = os.path.dirname(cgroup)
        self._place = next((place for place in (cgroup, self._ve) if os.path.exists(f"{place}/memory.events")), "")
        self._before = self._kills(), self._walls(), self._refusals()

    def stopped(self, returncode: int, overran: bool = False, killed: bool = False) -> tuple[str | None, str]:
        """What ended a command that has this returncode of subprocess, and that in words if it was a limit.

        overran: its cpu_time; killed: by us.  A cgroup that is gone tells nothing: ask before the VE is cleared away.
        """
        if overran or returncode in _OUT_OF_CPU:
            return "cpu", f"its CPU time ({'cpu_time' if overran else 'RLIMIT_CPU'}) was used up"
        if returncode in _KILLED and not killed and self._kills() > self._before[0]:
            return self._memory, self._why_killed()
        if returncode < 0 and returncode != -signal.SIGABRT:
            return signal_name(-returncode), ""
        if returncode and self._refusals() > self._before[2]:
            return "numproc", f"{_used_up(self._ve, 'numproc', 'pids.max', ITEMS)} when it failed"
        return (signal_name(-returncode) if returncode < 0 else None), ""

    def _why_killed(self) -> str:
        if self._walls() > self._before[1]:
            return _used_up(self._ve, self._memory, "memory.max", BYTES)
        return "memory of the host, or of a cgroup in the VE, was used up"

    def _kills(self) -> int:
        return _number(self._place, "memory.events:oom_kill") if self._place else 0

    def _walls(self) -> int:
        """How often no memory was left below the VE's own limit."""
        return _number(self._ve, "memory.events.local:oom") if self._place else 0

    def _refusals(self) -> int:
        """How often somebody in it was refused a process."""
        return _number(self._ve, BY_NAME["numproc"].failcnt)


def signal_name(number: int) -> str:
    """As signal(7) has it: SIGTERM, SIGRTMIN+3."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN{number - signal.SIGRTMIN:+}"


def no_process(cgroup: str) -> str:
    """Why the kernel starts no process for a command in the VE with EAGAIN, in words; "" if the VE's numproc is not it.

    cgroup: as for Counters.  Who says so may have been the last one that there was room for, and has ended since.
    """
    path = os.path.dirname(cgroup)
    limit = _number(path, "pids.max") or UNLIMITED
    taken = _number(path, "pids.current")
    return f"numproc {taken} of {limit} is used up" if taken + 1 >= limit else ""


def _used_up(path: str, name: str, source: str, unit: str) -> str:
    limit = _number(path, source, unit)
    size = [] if limit >= UNLIMITED else [amounts.size_text(limit) if unit == BYTES else str(limit)]
    return f"{' '.join([name, *size])} was used up"


def _number(path: str, source: str, unit: str = ITEMS) -> int:
    """Of a cgroup; 0 if that is not there or does not tell."""
    return Reading(Files(Cgroup(path))).number(source, unit) or 0
