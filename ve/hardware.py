"""What this host has to give, so that a VE is not promised more."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ve import procfs
from ve.amounts import BYTES, ITEMS, PAGE, PAGES, UNLIMITED, size_text
from ve.beancounter import BY_NAME
from ve.errors import InvalidValue
from ve.limits import MEMORY, Limits, cpu_numbers

THREADS = 32768  # pid_max, where nobody has changed it: Documentation/admin-guide/sysctl/kernel.rst
_SIGNAL = 80  # bytes of a queued signal: struct sigqueue of include/linux/signal_types.h


@dataclass(frozen=True)
class Host:
    """What a host has: memory, swap and disk in bytes; disk None if nothing is to be said of it."""

    memory: int
    swap: int
    cpus: float
    disk: int | None = None
    threads: int = THREADS


def host(place: str = "") -> Host:
    """This one; its disk is the file system that holds the directory place."""
    return Host(memory(), swap(), len(cpus()), disk(place)["disk"] if place else None, procfs.threads())


def memory() -> int:
    """Bytes of RAM, as the kernel counts it."""
    return _meminfo("MemTotal")


def swap() -> int:
    """Bytes of swap space."""
    return _meminfo("SwapTotal")


def cpus() -> set[int]:
    """The numbers of the CPUs that are online."""
    with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
        return cpu_numbers(file.read().strip())


def disk(place: str) -> dict[str, int]:
    """Bytes ("disk") and inodes of the file system that holds place; UNLIMITED of what it does not count."""
    about = os.statvfs(place)
    return {"disk": about.f_blocks * about.f_frsize or UNLIMITED, "inodes": about.f_files or UNLIMITED}


def in_memory() -> dict[str, int]:
    """The same of a tmpfs."""
    return {"disk": memory() + swap(), "inodes": UNLIMITED}


def _pages() -> int:
    return memory() // PAGE


def _pages_with_swap() -> int:
    return (memory() + swap()) // PAGE


def _ptys() -> int:
    """drivers/tty/pty.c: the host's own devpts has a reserve that no other may take."""
    return _number("/proc/sys/kernel/pty/max") - _number("/proc/sys/kernel/pty/reserve")


# Of what the host has less than any number, by the names of ve/limits.py, each in its unit.
_MOST: dict[str, Callable[[], int]] = {
    "physpages": _pages,
    "lockedpages": _pages,
    "swappages": lambda: swap() // PAGE,
    **dict.fromkeys(("privvmpages", "shmpages", "vmguarpages", "oomguarpages"), _pages_with_swap),
    "numproc": procfs.threads,
    "numpty": _ptys,
    "numsiginfo": lambda: memory() // _SIGNAL,
    "nofile": lambda: _number("/proc/sys/fs/nr_open"),
    "cpus": lambda: len(cpus()),
}


# And what no VE does with less of: its init starts (a busybox, tried on 6.1), and one command comes in.
_LEAST = {**dict.fromkeys(MEMORY, (2 << 20) // PAGE), "numproc": 3}


def most(name: str) -> int:
    """What the host has of something, in its unit; UNLIMITED if that is not known."""
    return _MOST[name]() if name in _MOST else UNLIMITED


def refuse_beyond(limits: Limits) -> None:
    """InvalidValue if a barrier or limit is more than the host has, or a limit less than any VE needs.

    Unlimited never is.  Of disks: refuse_disk.
    """
    for name, least in _LEAST.items():
        if (limit := limits.limit(name)) < least:
            why = f"no VE does with less than {_text(name, least)}"
            raise InvalidValue(f"cannot limit {limits.word(name)} to {_text(name, limit)}: {why}", _text(name, least))
    for name in (each for each in _MOST if each in limits.bounds or each in limits.others):
        for asked in limits.bounds.get(name, (limits.others.get(name, 0),)):
            _refuse(limits, name, asked, most(name))
    cpuset = cpu_numbers(limits.others.get("cpuset", ""))
    if cpuset and (beyond := cpuset - cpus()):
        raise InvalidValue(f"cannot use cpuset {limits.others['cpuset']}: this host has no CPU {min(beyond)}")


def refuse_disk(limits: Limits, there: Mapping[str, int]) -> None:
    """The same of disk space and inodes, of which there are so many: disk() or in_memory()."""
    for name, number in there.items():
        _refuse(limits, name, limits.others.get(name, 0), number)


def _refuse(limits: Limits, name: str, asked: float, there: int) -> None:
    if there < asked < UNLIMITED:
        hint = "unlimited, or 0" if name == "swappages" else "unlimited"
        has = _text(name, there) if there else "none"
        raise InvalidValue(f"cannot limit {limits.word(name)} to {_text(name, asked)}: this host has {has}", hint)


def _text(name: str, number: float) -> str:
    unit = BYTES if name == "disk" else BY_NAME[name].unit if name in BY_NAME else ITEMS
    return f"{number:.12g}" if unit == ITEMS else size_text(int(number) * (PAGE if unit == PAGES else 1))


def _meminfo(key: str) -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        found = re.search(rf"^{key}: *([0-9]+) kB$", file.read(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())
