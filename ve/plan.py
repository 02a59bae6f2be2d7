"""Planning, as arithmetic: what is one of N parts of a host, and is a host oversold.

Nothing here asks a kernel or a file: who calls brings the numbers.  split() is vzsplit(8) for what a stock kernel
limits; oversold() is vzmemcheck(8) and vzoversell in one, without low memory, which only 32-bit kernels have.  Is
one VE's configuration consistent?  That is ve/consistency.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ve.amounts import PAGE, UNLIMITED, Bound
from ve.consistency import BARRIER, GUARANTEES, limit_of
from ve.errors import InvalidValue
from ve.hardware import THREADS, Host
from ve.limits import Limits

# --- a part of a host -----------------------------------------------------------------------------------------------

_TENTH, _KEPT = 10, {"memory": 256 << 20, "disk": 1 << 30}  # the host keeps a tenth of each, and at least so many bytes
_LEAST = {"memory": 16 << 20, "processes": 30, "disk": 220 << 20}  # no VE can do with less; the last two are vzsplit's
_THREAD = 128 << 10  # bytes: by set_max_threads() in kernel/fork.c a host of 8 GB has 65536 threads
_INODE = 16 << 10  # bytes of disk for each, by mke2fs.conf(5)
_USEFUL_CPU = 0.1  # under a cap below this a VE stands still for more than 90 of each 100 ms, the period of cpu.max

# Why split() gives so much, each as a comment behind its number.
WHY = {
    "physpages": "an equal part of the RAM, of which the host keeps a tenth",
    "swappages": "an equal part of the swap, but no more than of the RAM: beyond that a VE only waits for its pages",
    "numproc": "a process for each 128 KB of its RAM, as the kernel has it, and no more than its part of all pids",
    "shmpages": "half of its RAM, as tmpfs has it",
    "numpty": "one for ten processes, 4 to 512, as vzsplit has it",
    "numsiginfo": "half as many as processes, as the kernel has it; 256 at least, as OpenVZ's samples have",
    "cpus": "an equal part, of which the host keeps a tenth; none is set where it would be less than a tenth of a CPU",
    "cpu_weight": "the same for all: who wants more than its part gets it when nobody else does",
    "disk": "an equal part, of which the host keeps a tenth for itself and the templates",
    "inodes": "one for each 16 KB of its disk, as mkfs.ext4 makes them",
}


def split(
    memory_bytes: int, swap_bytes: int, cpus: float, disk_bytes: int | None, n: int, threads: int = THREADS
) -> Limits:
    """What each of n equal VEs gets of a host with so much; WHY says why so much.  disk_bytes None: no disk limit.

    The parts come to no more than the host has, less what it keeps.  So nothing need be guaranteed: no VE can take from
    another.  InvalidValue says how many VEs fit if n do not.
    """
    if n < 1:
        raise InvalidValue(f"cannot split this host in {n}: it is not a number of VEs")
    whole = {"memory": _left(memory_bytes, "memory"), "processes": threads - threads // _TENTH}
    if disk_bytes is not None:
        whole["disk"] = _left(disk_bytes, "disk")
    fit = {name: max(0, whole[name] // _LEAST[name]) for name in whole}
    scarce = min(fit, key=lambda name: fit[name])
    if n > fit[scarce]:
        why = f"for want of {scarce} it takes {fit[scarce]} at most"
        raise InvalidValue(f"cannot split this host in {n}: {why}", _HINTS[scarce])
    pages = whole["memory"] // n // PAGE
    numproc = min(pages * PAGE // _THREAD, whole["processes"] // n)
    most = {
        "physpages": pages,
        "swappages": min(swap_bytes // n // PAGE, pages),
        "numproc": numproc,
        "shmpages": pages // 2,
        "numpty": min(max(numproc // 10, 4), 512),
        "numsiginfo": max(numproc // 2, 256),
    }
    bounds = {name: Bound(0 if name in ("physpages", "swappages") else value, value) for name, value in most.items()}
    return Limits(bounds, _others(cpus, whole.get("disk"), n))


_HINTS = {
    "memory": "a VE needs 16M, and the host a tenth or 256M",
    "processes": "a VE needs 30; sysctl kernel.pid_max and kernel.threads-max set how many the host has",
    "disk": "a VE needs 220M, and the host a tenth or 1G",
}


def _left(total: int, name: str) -> int:
    return total - max(total // _TENTH, _KEPT[name])


def _others(cpus: float, disk: int | None, n: int) -> dict[str, Any]:
    others: dict[str, Any] = {"cpu_weight": 100}
    part = int(cpus * 90 / n) / 100
    if part >= _USEFUL_CPU:
        others["cpus"] = part
    if disk is not None:
        others |= {"disk": disk // n, "inodes": disk // n // _INODE}
    return others


# --- is the host oversold -------------------------------------------------------------------------------------------

HELD, GUARANTEED, LIMITED = "held", "guaranteed", "limit"  # vzmemcheck's utilization, commitment and limit
_BUFFERS = ("kmemsize", "tcpsndbuf", "tcprcvbuf", "othersockbuf", "dgramrcvbuf")
Held = Mapping[str, int | None]  # by the names of bounds, in the same units, and disk in bytes; None is not known


@dataclass(frozen=True)
class Sum:
    """What all VEs hold, are guaranteed or may have of something, in its unit, and how much of it the host has.

    unlimited: the VEIDs of those that may have all; each is in total with all that the host has.  why: what happens
    when it is not ok.
    """

    kind: str
    what: str
    unit: str
    total: float
    of: float
    unlimited: tuple[int, ...]
    ok: bool
    why: str

    @property
    def ratio(self) -> float:
        """total / of; above 1 the host is oversold."""
        return self.total / self.of if self.of else float("inf") if self.total else 0.0


Amount = Callable[[Limits, Held, Host], float | None]


@dataclass(frozen=True)
class Check:
    """A row of CHECKS.

    of: how much the host has, None if it is not known.  amount: how much one VE holds, is guaranteed or may have, None
    if it may have all.  most: up to which share of it all is well.
    """

    kind: str
    what: str
    unit: str
    of: Callable[[Host], float | None]
    amount: Amount
    most: float
    why: str


def _holds(name: str, unit: int = 1) -> Amount:
    return lambda settings, held, host: (held.get(name) or 0) * unit


def _unreclaimable(settings: Limits, held: Held, host: Host) -> int:
    """What the kernel cannot take back without killing, by vzmemcheck's formula."""
    return (held.get("oomguarpages") or 0) * PAGE + sum(held.get(name) or 0 for name in _BUFFERS)


def _guarantee(settings: Limits, held: Held, host: Host) -> int | None:
    """No more than it may have; memory.low and memory.min do not add up."""
    pages = max(settings.bounds.get(name, (0, UNLIMITED))[BARRIER] for name in GUARANTEES)
    pages = min(pages, limit_of(settings, "physpages"), limit_of(settings, "privvmpages"))
    return pages * PAGE if pages < UNLIMITED else None


def _memory(settings: Limits, held: Held, host: Host) -> int | None:
    pages = min(limit_of(settings, "physpages"), limit_of(settings, "privvmpages"))
    return pages * PAGE if pages < UNLIMITED else None


def _memory_and_swap(settings: Limits, held: Held, host: Host) -> int | None:
    memory = _memory(settings, held, host)
    if memory is None:
        return None
    swap = min(limit_of(settings, "swappages") * PAGE, host.swap)
    return min(memory + swap, limit_of(settings, "privvmpages") * PAGE)


def _processes(settings: Limits, held: Held, host: Host) -> int | None:
    most = limit_of(settings, "numproc")
    return most if most < UNLIMITED else None


def _disk(settings: Limits, held: Held, host: Host) -> int | None:
    most = int(settings.others.get("disk", UNLIMITED))
    return most if most < UNLIMITED else None


def _cap(settings: Limits, held: Held, host: Host) -> float:
    """One without a cap takes nothing from who has a weight."""
    return float(settings.others.get("cpus", 0))


_RAM = ("memory", "bytes", lambda host: host.memory)
_RAM_AND_SWAP = ("memory and swap", "bytes", lambda host: host.memory + host.swap)
_CPUS = ("cpus", "CPUs", lambda host: host.cpus)
_PROCESSES = ("processes", "items", lambda host: host.threads)
_DISK = ("disk", "bytes", lambda host: host.disk)

_CACHE = "page cache is in it, which the kernel takes back when it must: to be near all of it does no harm by itself"
_KILLS = "the host runs out of memory: the kernel kills, also in VEs that are within their limits"
_PROMISED = "not all can have what they were guaranteed: the kernel takes it from some, or kills"
_SLOW = "when all use what they may, all lose their page cache and wait for swap, whoever caused it"
_NO_PROMISE = "a cap is none: when all want theirs, each gets what its weight gives; who has no cap is not in the sum"
_NO_PROCESS = "when they use them nobody can start a process, on the host neither"
_NO_SPACE = "when they use it writes fail for lack of space, on the host too"

# What is held is well up to nine tenths, as the rest goes fast; it cannot be more than all.
CHECKS = (
    Check(HELD, *_RAM, _holds("physpages", PAGE), 1, _CACHE),
    Check(HELD, *_RAM_AND_SWAP, _unreclaimable, 0.9, _KILLS),
    Check(HELD, *_PROCESSES, _holds("numproc"), 0.9, _NO_PROCESS),
    Check(HELD, *_DISK, _holds("disk"), 0.9, _NO_SPACE),
    Check(GUARANTEED, *_RAM, _guarantee, 1, _PROMISED),
    Check(LIMITED, *_RAM, _memory, 1, _SLOW),
    Check(LIMITED, *_RAM_AND_SWAP, _memory_and_swap, 1, _KILLS),
    Check(LIMITED, *_CPUS, _cap, 1, _NO_PROMISE),
    Check(LIMITED, *_PROCESSES, _processes, 1, _NO_PROCESS),
    Check(LIMITED, *_DISK, _disk, 1, _NO_SPACE),
)


def oversold(host: Host, environments: Iterable[tuple[int, Limits, Held]]) -> list[Sum]:
    """Each of CHECKS for all VEs, given as (VEID, what was asked for, what it holds); a stopped VE holds nothing."""
    every = list(environments)
    return [_sum(check, of, host, every) for check in CHECKS if (of := check.of(host)) is not None]


def _sum(check: Check, of: float, host: Host, every: list[tuple[int, Limits, Held]]) -> Sum:
    amounts = [(veid, check.amount(settings, held, host)) for veid, settings, held in every]
    unlimited = tuple(veid for veid, amount in amounts if amount is None)
    total = sum(of if amount is None else amount for _, amount in amounts)
    ok = total <= check.most * of and not unlimited
    return Sum(check.kind, check.what, check.unit, total, of, unlimited, ok, check.why)
