"""What each running VE makes the host do just now, from the files of its cgroup."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from ve.amounts import BYTES, ITEMS
from ve.beancounter import Files, Reading
from ve.cgroups import Cgroup
from ve.errors import SPENT

_AVERAGE = re.compile(r"^some avg10=([0-9.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """At one moment.  None is what this kernel or cgroup does not tell, or a newer ve has counted.

    cpu, read, written, sent, received: microseconds and bytes since the VE started, of which two moments make a rate;
    memory in bytes; the pressures are the percentage of the last 10 seconds in which something of the VE had to wait
    (psi.rst).
    """

    veid: int
    moment: float  # of time.monotonic()
    processes: int
    cpu: int | None
    memory: int | None
    read: int | None
    written: int | None
    cpu_pressure: float | None
    memory_pressure: float | None
    io_pressure: float | None
    sent: int | None = 0
    received: int | None = 0

    @property
    def traffic(self) -> int | None:
        return None if self.sent is None or self.received is None else self.sent + self.received


def of(veid: int, group: Cgroup) -> Load:
    """All but its network."""
    files = Files(group)
    reading = Reading(files)
    counted = reading.number("pids.current", ITEMS)
    return Load(
        veid,
        time.monotonic(),
        len(group.pids()) if counted is None else counted,
        reading.number("cpu.stat:usage_usec", ITEMS),
        reading.number("memory.current", BYTES),
        *_traffic(_text(files, "io.stat")),
        _pressure(_text(files, "cpu.pressure")),
        _pressure(_text(files, "memory.pressure")),
        _pressure(_text(files, "io.pressure")),
    )


def _text(files: Files, name: str) -> str | None:
    """What is in a file; None if it is not there, or the VE has just ended."""
    try:
        return str(files.get_property(name.encode()))
    except OSError as error:
        if error.errno in SPENT:
            raise
        return None


def _traffic(text: str | None) -> tuple[int | None, int | None]:
    """Of all disks together; io.stat has a line for each that was used."""
    if text is None:
        return None, None
    read, written = (sum(map(int, re.findall(rf"\b{key}=([0-9]+)", text))) for key in ("rbytes", "wbytes"))
    return read, written


def _pressure(text: str | None) -> float | None:
    found = _AVERAGE.search(text or "")
    return float(found[1]) if found else None
