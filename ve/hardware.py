"""What this host has to give, so that a VE is not promised more."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ve import procfs
from ve.amounts import PAGE, UNLIMITED, size_text
from ve.errors import InvalidValue
from ve.limits import Limits, cpu_numbers

THREADS = 32768  # pid_max, where nobody has changed it: Documentation/admin-guide/sysctl/kernel.rst


@dataclass(frozen=True)
class Host:
    """What a host has: memory, swap and disk in bytes; disk None if nothing is to be said of it."""

    memory: int
    swap: int
    cpus: float
    disk: int | None = None
    threads: int = THREADS


def host() -> Host:
    """This one; of its disks nothing is said."""
    return Host(memory(), swap(), len(cpus()), None, procfs.threads())


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


def most(name: str) -> int:
    """Of a beancounter, in its unit, what the host has; UNLIMITED if that is not known."""
    there = {"physpages": (memory,), "swappages": (swap,), "privvmpages": (memory, swap)}
    if name in there:
        return sum(look() for look in there[name]) // PAGE
    return procfs.threads() if name == "numproc" else UNLIMITED


def refuse_beyond(limits: Limits) -> None:
    """InvalidValue if one of these is more than the host has; unlimited never is."""
    pages = {"physpages": memory() // PAGE, "swappages": swap() // PAGE}
    for name, most in pages.items():
        if most < limits.limit(name) < UNLIMITED:
            asked, there = size_text(limits.limit(name) * PAGE), size_text(most * PAGE) if most else "none"
            raise InvalidValue(f"cannot limit {name} to {asked}: this host has {there}", "unlimited, or 0")
    for name, asked_for, most in (
        ("numproc", limits.limit("numproc"), procfs.threads()),
        ("nofile", limits.others.get("nofile", 0), _number("/proc/sys/fs/nr_open")),
        ("cpus", limits.others.get("cpus", 0), len(cpus())),
    ):
        if most < asked_for < UNLIMITED:
            raise InvalidValue(f"cannot limit {name} to {asked_for:.12g}: this host has {most}", "unlimited")
    if beyond := cpu_numbers(limits.others.get("cpuset", "")) - cpus():
        raise InvalidValue(f"cannot use cpuset {limits.others['cpuset']}: this host has no CPU {min(beyond)}")


def _meminfo(key: str) -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        found = re.search(rf"^{key}: *([0-9]+) kB$", file.read(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())
