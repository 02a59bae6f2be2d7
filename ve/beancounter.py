"""User Beancounters on a stock kernel: each resource, where its numbers come from, and what keeps a VE to its limit.

RESOURCES is the whole of it; code everywhere else loops over the rows.  A source is a file of cgroup v2 (FILE, or
FILE:KEY for one line of it; A + B, or `A or B` where older kernels have B only) or, where cgroup v2 does not count, the
name of what ve/sample.py looks at.  Semantics and order are those of OpenVZ's kernel/bc; cgroup files are those of
Documentation/admin-guide/cgroup-v2.rst.

A barrier is a warning: to cross it is an event.  A limit is a wall where the row names what enforces it; where none
does, a limit is only accepted for counting who is above it (account only).
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any, NamedTuple

from cgroupspy.controllers import Controller
from cgroupspy.interfaces import BaseFileInterface

from ve.amounts import BYTES, ITEMS, PAGE, PAGES, UNLIMITED
from ve.errors import SPENT

EXACT, CLOSE, ACCOUNTING = "exact", "close", "accounting only"


class Resource(NamedTuple):
    """A row of RESOURCES.

    held, maxheld, failcnt: sources; no maxheld is one that can only be sampled, no failcnt one that nothing counts.
    crossed: what counts how often it was over its barrier; where nothing does, who looks often enough sees it.
    barrier, limit: what the kernel does at them; none where it does nothing: unenforced says why nothing can.
    live: can it change while the VE runs?
    """

    name: str
    unit: str
    grade: str
    held: str
    maxheld: str = ""
    failcnt: str = ""
    barrier: str = ""
    limit: str = ""
    crossed: str = ""
    live: bool = True
    unenforced: str = "no kernel without OpenVZ's patch limits it"

    @property
    def enforced(self) -> bool:
        return bool(self.limit)

    @property
    def guaranteed(self) -> bool:
        """Is its barrier what the VE is guaranteed?  Then its limit means nothing."""
        return self.name in ("vmguarpages", "oomguarpages")


class Beancounter(NamedTuple):
    """What one VE has of one resource, in the resource's unit; UNLIMITED is 2**63-1.

    None is what nothing here tells, and held of a VE that does not run.  maxheld and failcnt are since the last reset;
    sampled: maxheld is only the most that somebody saw.  barrier and limit are what the kernel has taken, where the
    kernel has them, and of a VE that does not run what its next start gives.

    looked: when somebody looked before, in seconds of the epoch: a VE that does not run was counted until then.
    gap: of the looks since the reset, the last one before the host crashed: what came in between is not counted.
    """

    name: str
    unit: str
    grade: str
    held: int | None
    maxheld: int | None
    sampled: bool
    barrier: int
    limit: int
    failcnt: int | None
    looked: float | None = None
    gap: float | None = None


# In the order of /proc/user_beancounters.
RESOURCES = (
    Resource(
        *("kmemsize", BYTES, ACCOUNTING, "memory.stat:kernel"),
        unenforced="cgroup v2 limits it only as a part of physpages",
    ),
    # mlock(2) is charged to a process, so the limit is each process's.
    Resource(*("lockedpages", PAGES, CLOSE, "VmLck of its processes"), limit="RLIMIT_MEMLOCK", live=False),
    # The kernel limits what is used, not what is allocated: so that is what is held here, page cache included.
    Resource(
        *("privvmpages", PAGES, CLOSE, "memory.current + memory.swap.current or memory.current"),
        failcnt="memory.events.local:max",
        barrier="memory.high",
        limit="memory.max + memory.swap.max",
        crossed="memory.events.local:high",
    ),
    # Of its own IPC namespace: who makes another in it, as any of its users may, has a shmall of his own, and what is
    # there is not held here; both are memory, and so in physpages.
    Resource(*("shmpages", PAGES, CLOSE, "System V shared memory"), limit="kernel.shmall"),  # ENOSPC
    Resource(
        *("numproc", ITEMS, EXACT, "pids.current", "pids.peak", "pids.events.local:max or pids.events:max"),
        limit="pids.max",
    ),
    # Page cache included; at the limit the kernel first takes that back, which is counted as a failure too.
    Resource(
        *("physpages", PAGES, EXACT, "memory.current", "memory.peak", "memory.events.local:max"),
        barrier="memory.high",
        limit="memory.max",
        crossed="memory.events.local:high",
    ),
    # Its barrier is memory that the kernel takes from others first.
    Resource(*("vmguarpages", PAGES, CLOSE, ""), failcnt="memory.events.local:low", barrier="memory.low"),
    # Its barrier is memory that the kernel never takes.
    Resource(
        *("oomguarpages", PAGES, CLOSE, "memory.stat:anon + memory.stat:shmem + memory.swap.current"),
        failcnt="memory.events:oom_kill",
        barrier="memory.min",
    ),
    Resource("numtcpsock", ITEMS, ACCOUNTING, "TCP sockets"),
    Resource("numflock", ITEMS, ACCOUNTING, "file locks"),
    # Of each devpts: one that its root mounts besides has a max= of its own, and only the host's kernel.pty.max bounds
    # all of them.  What is held is of all.
    Resource("numpty", ITEMS, CLOSE, "ptys", limit="max= of its devpts"),  # ENOSPC
    Resource(*("numsiginfo", ITEMS, EXACT, "SigQ"), limit="RLIMIT_SIGPENDING", live=False),  # EAGAIN
    Resource("tcpsndbuf", BYTES, ACCOUNTING, "send buffers of TCP sockets"),
    Resource("tcprcvbuf", BYTES, ACCOUNTING, "receive buffers of TCP sockets"),
    Resource("othersockbuf", BYTES, ACCOUNTING, "send buffers of other sockets"),
    Resource("dgramrcvbuf", BYTES, ACCOUNTING, "receive buffers of other sockets"),
    Resource("numothersock", ITEMS, ACCOUNTING, "other sockets"),
    # All slabs that can be reclaimed, not only dentries and inodes.
    Resource("dcachesize", BYTES, ACCOUNTING, "memory.stat:slab_reclaimable"),
    # A file that several processes share counts for each.
    Resource(
        *("numfile", ITEMS, ACCOUNTING, "open descriptors of its processes"),
        unenforced="no stock kernel counts the open files of a group of processes; --nofile limits one process",
    ),
    Resource("numiptent", ITEMS, ACCOUNTING, "rules of nftables and iptables"),
    Resource(
        *("swappages", PAGES, EXACT, "memory.swap.current", "memory.swap.peak", "memory.swap.events:max"),
        barrier="memory.swap.high",
        limit="memory.swap.max",
        crossed="memory.swap.events:high",
    ),
)
BY_NAME = {row.name: row for row in RESOURCES}

# No beancounters of OpenVZ's, but shown beside them by vzlist's names.  Its soft limit is the hard one here.
DISK = (
    Resource(*("diskspace", BYTES, EXACT, "project quota, or the file of its loop area"), limit="the same"),
    Resource(*("diskinodes", ITEMS, EXACT, "project quota"), limit="the same"),
)


# --- the kernel's files ---------------------------------------------------------------------------------------------


class Amount(BaseFileInterface):  # type: ignore[misc]
    """A file with one number; `max` is UNLIMITED."""

    def sanitize_get(self, value: str) -> int:
        return UNLIMITED if value == "max" else int(value)

    def sanitize_set(self, value: int) -> str:
        return "max" if value >= UNLIMITED else str(value)


class Lines(BaseFileInterface):  # type: ignore[misc]
    """A file with a number on each line, behind its name."""

    readonly = True

    def sanitize_get(self, value: str) -> dict[str, int]:
        pairs = (line.split() for line in value.splitlines())
        return {name: int(number) for name, number in pairs}


class Files(Controller):  # type: ignore[misc]
    """Of a cgroup: FILE is the attribute, with _ for each dot.  What a kernel lacks is an OSError when it is asked."""

    def get_property(self, filename: bytes) -> str:
        """cgroupspy's own opens a text file, which takes three times as long; who looks at all VEs reads thousands."""
        fd = os.open(self.node.full_path + b"/" + filename, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return b"".join(iter(lambda: os.read(fd, 1 << 16), b"")).decode().strip()
        finally:
            os.close(fd)

    memory_current = Amount("memory.current", readonly=True)
    memory_peak = Amount("memory.peak", readonly=True)
    memory_low = Amount("memory.low")
    memory_min = Amount("memory.min")
    memory_high = Amount("memory.high")
    memory_max = Amount("memory.max")
    memory_oom_group = Amount("memory.oom.group")
    memory_stat = Lines("memory.stat")
    memory_events = Lines("memory.events")
    memory_events_local = Lines("memory.events.local")
    memory_swap_current = Amount("memory.swap.current", readonly=True)
    memory_swap_peak = Amount("memory.swap.peak", readonly=True)
    memory_swap_high = Amount("memory.swap.high")
    memory_swap_max = Amount("memory.swap.max")
    memory_swap_events = Lines("memory.swap.events")
    pids_current = Amount("pids.current", readonly=True)
    pids_peak = Amount("pids.peak", readonly=True)
    pids_max = Amount("pids.max")
    pids_events = Lines("pids.events")
    pids_events_local = Lines("pids.events.local")
    cpu_weight = Amount("cpu.weight")
    cpu_max = BaseFileInterface("cpu.max")
    cpu_stat = Lines("cpu.stat")
    cpuset_cpus = BaseFileInterface("cpuset.cpus")
    io_weight = BaseFileInterface("io.weight")
    io_bfq_weight = BaseFileInterface("io.bfq.weight")
    io_max = BaseFileInterface("io.max")


@cache
def is_file(source: str) -> bool:
    """Is it a file of cgroup v2, and not something to look at?"""
    return source.startswith(("memory.", "pids."))


_CURRENT = {"memory": "memory_current", "pids": "pids_current"}  # by controller, what it has in every cgroup


class Reading:
    """The numbers of one cgroup, each file being read once; None for what its kernel does not tell."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._read: dict[str, Any] = {}
        self._numbers: dict[tuple[str, str], int | None] = {}

    def number(self, source: str, unit: str) -> int | None:
        """What a source says, in this unit."""
        if (source, unit) not in self._numbers:
            self._numbers[source, unit] = self._number(source, unit)
        return self._numbers[source, unit]

    def _number(self, source: str, unit: str) -> int | None:
        for parts in _parsed(source):
            whole = 0
            for name, key in parts:
                told = self._read[name] if name in self._read else self._file(name)
                if (number := told.get(key) if key and told is not None else told) is None:
                    break
                whole += number
            else:
                return -(-whole // PAGE) if unit == PAGES and whole < UNLIMITED else whole
        return None

    def _file(self, name: str) -> Any:
        """Where a controller turned out not to count, none of its files is there: no more of them is looked for."""
        told = None
        if self._read.get(_CURRENT.get(name.partition("_")[0], name), name) is not None:
            try:
                told = getattr(self._files, name)
            except OSError as error:
                if error.errno in SPENT:
                    raise
        self._read[name] = told
        return told


@cache
def _parsed(source: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Of a source each way to say it, as attributes of Files and keys in them that add up."""
    ways = (one.split(" + ") for one in source.split(" or ") if one)
    return tuple(tuple((p.partition(":")[0].replace(".", "_"), p.partition(":")[2]) for p in way) for way in ways)
