"""How a command inside ended: subprocess's own types, and which limit of the VE stopped it.

The kernel counts each process of a cgroup that it has killed for want of memory (memory.events: oom_kill), but does not
say which one it was to who waits for it.  So a command was stopped by that if SIGKILL ended it, or a shell that tells
of it (128+9), and the counter has grown meanwhile: that of the commands where the VE's init has one of its own, so that
what befell a service is not laid to a command.  Of two commands at once, one killed by that and one by somebody, both
are said to be.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

from ve import amounts
from ve.amounts import BYTES, ITEMS, UNLIMITED
from ve.beancounter import Files, Reading
from ve.cgroups import Cgroup

_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)


class CompletedProcess(subprocess.CompletedProcess[Any]):
    """subprocess.CompletedProcess, with stopped_by: None, or the beancounter that ended the command.

    That is "physpages", or "privvmpages" where memory is limited by that, if want of memory did.
    """

    def __init__(self, args: Any, returncode: int, stdout: Any, stderr: Any, stopped_by: str | None) -> None:
        super().__init__(args, returncode, stdout, stderr)
        self.stopped_by = stopped_by


class CalledProcessError(subprocess.CalledProcessError):
    """subprocess.CalledProcessError, with stopped_by as in CompletedProcess."""

    def __init__(self, returncode: int, cmd: Any, output: Any, stderr: Any, stopped_by: str | None) -> None:
        super().__init__(returncode, cmd, output, stderr)
        self.stopped_by = stopped_by

    def __str__(self) -> str:
        why = f" Its VE's {self.stopped_by} was used up." if self.stopped_by else ""
        return f"{super().__str__()}{why}"


class ExitCode(int):
    """A command's exit code, 0..255 or 128+N; stopped_by as in CompletedProcess, and why: that in words, or ""."""

    stopped_by: str | None = None
    why = ""

    @classmethod
    def of(cls, code: int, stopped_by: str | None, why: str) -> ExitCode:
        made = cls(code)
        made.stopped_by, made.why = stopped_by, why
        return made


class Kills:
    """The kernel's counters of one VE, as they are when a command begins."""

    def __init__(self, cgroup: str, memory: str) -> None:
        """cgroup: the directory of the VE's commands, or of its init, below its own; memory: what limits that."""
        self._memory = memory
        self._ve = os.path.dirname(cgroup)
        self._place = next((place for place in (cgroup, self._ve) if os.path.exists(f"{place}/memory.events")), "")
        self._before = self._kills(), self._walls()

    def stopped(self, returncode: int) -> tuple[str | None, str]:
        """Which limit ended a command that has this returncode of subprocess, and that in words; None and "" if none.

        A cgroup that is gone tells nothing: ask before the VE is cleared away.
        """
        if returncode not in _KILLED or self._kills() <= self._before[0]:
            return None, ""
        if self._walls() > self._before[1]:
            limit = _number(self._ve, "memory.max", BYTES)
            words = [self._memory, *([amounts.size_text(limit)] if limit < UNLIMITED else [])]
            return self._memory, f"{' '.join(words)} was used up"
        return self._memory, "memory of the host, or of a cgroup in the VE, was used up"

    def _kills(self) -> int:
        return _number(self._place, "memory.events:oom_kill") if self._place else 0

    def _walls(self) -> int:
        """How often no memory was left below the VE's own limit."""
        return _number(self._ve, "memory.events.local:oom") if self._place else 0


def no_process(cgroup: str) -> str:
    """Why the kernel starts no process for a command in the VE with EAGAIN, in words; "" if the VE's numproc is not it.

    cgroup: as for Kills.  Who says so may have been the last one that there was room for, and has ended since.
    """
    path = os.path.dirname(cgroup)
    limit = _number(path, "pids.max") or UNLIMITED
    taken = _number(path, "pids.current")
    return f"numproc {taken} of {limit} is used up" if taken + 1 >= limit else ""


def _number(path: str, source: str, unit: str = ITEMS) -> int:
    """Of a cgroup; 0 if that is not there or does not tell."""
    return Reading(Files(Cgroup(path))).number(source, unit) or 0
