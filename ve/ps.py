"""The processes of a running VE, as `ve ps` shows them: from its cgroup and /proc."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from ve import procfs
from ve.cgroups import Cgroup
from ve.facts import Facts

_MOST = 1 << 17  # bytes of a command line; a process may say that it has gigabytes (prctl(2), PR_SET_MM_MAP)


@dataclass(frozen=True)
class Process:
    """A process of a VE: its number inside and on the host, its user inside, and its command line."""

    veid: int
    pid: int
    host_pid: int
    uid: int
    command: str


def processes(veid: int, facts: Facts, group: Cgroup) -> Iterator[Process]:
    """Those that live while we look."""
    for host_pid in group.pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError):
            status = procfs.status(host_pid)
            pids = status["NSpid"].split()
            if len(pids) > 1:  # one of ours on its way in has no number inside yet
                uid = int(status["Uid"].split()[1]) - facts.base
                yield Process(veid, int(pids[-1]), host_pid, uid, _command(host_pid, status["Name"]))


def _command(pid: int, name: str) -> str:
    """The beginning of its command line, or its name in brackets when it shows none, as ps does."""
    with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
        words = file.read(_MOST).rstrip(b"\0").split(b"\0")
    return os.fsdecode(b" ".join(words)) or f"[{name}]"
