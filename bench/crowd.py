"""Many containers that idle, of one kind, each with an address where that is asked for: started one after another.

What each start took and what the host's memory says is noted as the crowd grows, so one crowd serves several rows.  Its
end is that of the place where all is measured.
"""

import contextlib
import operator
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path

from bench import measure, ours
from bench.ours import Ours
from bench.peers import Peers

FIRST = 1001  # VEID of the first; below are those of other rows
LXC = "lxc-crowd"  # the directory that LXC has them in
_SETTLE = 2.0  # seconds in which the kernel does what it has put off


@dataclass(frozen=True)
class Memory:
    """Of the host, in KiB: what is not available, and what is known of that; the processes are those in the place."""

    gone: int
    slab: int
    stacks: int
    tables: int
    percpu: int
    pss: int
    processes: int

    @property
    def known(self) -> int:
        return self.slab + self.stacks + self.tables + self.percpu + self.pss

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(*map(operator.add, astuple(self), astuple(other)))

    def __sub__(self, other: "Memory") -> "Memory":
        return Memory(*map(operator.sub, astuple(self), astuple(other)))

    @classmethod
    def now(cls) -> "Memory":
        time.sleep(_SETTLE)
        fields = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+)", _text("/proc/meminfo"), re.M)}
        rollups = [_text(path / "smaps_rollup") for path in Path("/proc").iterdir() if path.name.isdecimal()]
        sizes = [int(found[1]) for text in rollups if (found := re.search(r"^Pss: +(\d+)", text, re.M))]
        slab, stacks, tables, percpu = (fields[name] for name in ("Slab", "KernelStack", "PageTables", "Percpu"))
        return cls(-fields["MemAvailable"], slab, stacks, tables, percpu, sum(sizes), len(sizes))


@dataclass
class Crowd:
    """start(number) starts one and gives the milliseconds; stop(number) ends it; the first number is 1."""

    start: Callable[[int], float]
    stop: Callable[[int], object]
    times: list[float] = field(default_factory=list)  # of each start, in their order
    memory: dict[int, Memory] = field(default_factory=dict)  # what so many have added
    size: int = 0

    def resize(self, size: int) -> None:
        if size > self.size:
            self._grow(size)
        for number in range(self.size, size, -1):
            self.stop(number)
        self.size = size

    def _grow(self, size: int) -> None:
        before = Memory.now()
        for number in range(self.size + 1, size + 1):
            self.times.append(self.start(number))
        self.memory[size] = self.memory.get(self.size, NONE) + (Memory.now() - before)


NONE = Memory(0, 0, 0, 0, 0, 0, 0)


@contextlib.contextmanager
def of_ve(which: Ours) -> Iterator[Crowd]:
    """VEs, each with an address, by one process that uses the library."""
    which.idle  # noqa: B018 - made before anything is timed
    with which.worker() as worker:

        def start(number: int) -> float:
            worker.do(f"create {FIRST + number} {ours.IDLE} {ours.address(number)}")
            return worker.do(f"start {FIRST + number}")

        def stop(number: int) -> None:
            worker.do(f"stop {FIRST + number}")
            worker.do(f"destroy {FIRST + number}")

        yield Crowd(start, stop)


def of_lxc(peers: Peers) -> Crowd:
    """LXC's containers, each with a veth pair on the bridge."""
    options: dict[int, list[str]] = {}

    def start(number: int) -> float:
        address = f"10.98.{1 + number // 250}.{number % 250 + 1}"
        options[number] = peers.lxc(f"crowd-{number}", "idle", address, LXC)
        return measure.run(["lxc-start", "--daemon", *options[number]])

    return Crowd(start, lambda number: measure.run(["lxc-stop", "--kill", *options[number]]))


def of_podman(peers: Peers) -> Crowd:
    """podman's containers, with a loopback alone."""
    peers.podman  # noqa: B018

    def stop(number: int) -> float:
        return measure.run([*peers.podman, "kill", f"crowd-{number}"])

    return Crowd(lambda number: peers.podman_start(f"crowd-{number}"), stop)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:  # it has ended
        return ""
