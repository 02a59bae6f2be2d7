"""What a VE may use, as it is asked for: names and values, and what they come to.

Each beancounter can be asked for by its name, BARRIER:LIMIT; the words that most people need are ALIASES and OTHERS.
Both ways to say the same thing are one thing: to give both is refused.  What was asked for stays text, as the conf file
has it; it is checked here.  What it comes to are files of the VE's cgroup, resource limits, and what a start hands on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from ve import amounts
from ve.amounts import PAGE, UNLIMITED, Bound
from ve.beancounter import BY_NAME
from ve.errors import InvalidValue, nearest

CPU_PERIOD = 100_000  # microseconds, the kernel's own default of cpu.max
WEIGHT, WEIGHTS = 100, range(1, 10_001)  # cgroup-v2.rst: of cpu.weight and io.weight
OOM = ("process", "ve")


def _memory(name: str, text: str) -> Bound:
    if ":" in text:
        why = "a barrier and a limit go by the name of the beancounter"
        raise InvalidValue(f"cannot use {name} {text!r}: {why}", f"--{ALIASES[name][0]} {text}")
    size = amounts.size(name, text)
    return Bound(0, UNLIMITED if size >= UNLIMITED else -(-size // PAGE))


def _processes(name: str, text: str) -> Bound:
    if ":" in text:
        why = "a barrier and a limit go by the name of the beancounter"
        raise InvalidValue(f"cannot use {name} {text!r}: {why}", f"--{ALIASES[name][0]} {text}")
    number = amounts.count(name, text)
    return Bound(number, number)


def _cpus(name: str, text: str) -> float:
    """Of one CPU's time, how much: a share such as 0.5, 2, or vzctl's 50%; or UNLIMITED."""
    if text.lower() == "unlimited":
        return UNLIMITED
    found = re.fullmatch(r"([0-9]{1,5}(?:\.[0-9]{1,3})?)(%?)", text)
    cpus = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if cpus * CPU_PERIOD < 1000:  # the kernel takes no quota under a millisecond
        raise InvalidValue(f"cannot use {name} {text!r}: it is not a number of CPUs, 0.01 or more", hint="0.5, or 50%")
    return cpus


def _weight(name: str, text: str) -> int:
    weight = amounts.count(name, text)
    if weight not in WEIGHTS:
        raise InvalidValue(f"cannot use {name} {text!r}: it is not in {WEIGHTS.start}..{WEIGHTS.stop - 1}")
    return weight


def _cpuset(name: str, text: str) -> str:
    numbers = r"[0-9]{1,5}(-[0-9]{1,5})?"
    if not re.fullmatch(rf"{numbers}(,{numbers})*", text) or not cpu_numbers(text):
        raise InvalidValue(f"cannot use {name} {text!r}: it is not a list of CPUs", hint="0-1, or 0,2")
    return text


def _oom(name: str, text: str) -> str:
    if text not in OOM:
        raise InvalidValue(f"cannot use {name} {text!r}: it is not {' or '.join(OOM)}")
    return text


def _positive(parse: Callable[[str, str], int]) -> Callable[[str, str], int]:
    def parse_positive(name: str, text: str) -> int:
        number = parse(name, text)
        if not number:
            raise InvalidValue(f"cannot use {name} {text!r}: nothing can be done with none", hint="unlimited")
        return number

    return parse_positive


# What is another word for a beancounter, and what makes its bound.
ALIASES: dict[str, tuple[str, Callable[[str, str], Bound]]] = {
    "memory": ("physpages", _memory),
    "swap": ("swappages", _memory),
    "processes": ("numproc", _processes),
}
# What no beancounter is, and what makes its value.
OTHERS: dict[str, Callable[[str, str], Any]] = {
    "cpus": _cpus,
    "cpu_weight": _weight,
    "cpuset": _cpuset,
    "io_weight": _weight,
    "io_read": _positive(amounts.rate),
    "io_write": _positive(amounts.rate),
    "iops": _positive(amounts.count),
    "disk": _positive(amounts.size),
    "inodes": _positive(amounts.count),
    "nofile": _positive(amounts.count),
    "oom": _oom,
}
NAMES = (*ALIASES, *OTHERS, *BY_NAME)
MEMORY = ("physpages", "privvmpages")  # both are memory.high and memory.max, which have the lower one
_UNASKED = {row.name: Bound(0 if row.guaranteed else UNLIMITED, UNLIMITED) for row in BY_NAME.values()}
_NOT_NONE = ("physpages", "privvmpages", "numproc")  # without any of these no init runs


class Limits(NamedTuple):
    """What was asked for, checked; what was not is unlimited, or None."""

    bounds: Mapping[str, Bound] = {}  # those beancounters that were asked for
    others: Mapping[str, Any] = {}  # of OTHERS likewise
    said: Mapping[str, str] = {}  # the words that asked for them

    def word(self, name: str) -> str:
        """What it was asked for by, such as memory for physpages."""
        return self.said.get(name, name)

    def bound(self, name: str) -> Bound:
        return self.bounds.get(name) or _UNASKED[name]

    def limit(self, name: str) -> int:
        return self.bound(name).limit

    def warning(self, name: str) -> int:
        """Its barrier where that is one: UBC's 0 is none, nor is one at a limit that is a wall."""
        barrier, limit = self.bound(name)
        return barrier if 0 < barrier < (limit if BY_NAME[name].enforced else UNLIMITED) else UNLIMITED

    def is_met(self, name: str) -> bool:
        """Is it at its limit that more is refused?  Of MEMORY, only one is."""
        return name not in MEMORY or name == min(MEMORY, key=self.limit)

    def is_crossed(self, name: str) -> bool:
        """The same of its barrier."""
        return name not in MEMORY or name == min(MEMORY, key=self.warning)

    def warnings(self) -> dict[str, int]:
        """Of each beancounter that has such a barrier."""
        found = {name: self.warning(name) for name in self.bounds if not BY_NAME[name].guaranteed}
        return {name: barrier for name, barrier in found.items() if barrier < UNLIMITED}

    def files(self) -> dict[str, int | str]:
        """What the files of the VE's cgroup are to say, all of them: what was not asked for is the kernel's default."""
        memory = min(self.limit("physpages"), self.limit("privvmpages"))
        swap = self.limit("swappages")
        if self.limit("privvmpages") < UNLIMITED:  # what is private is in memory or swapped out
            swap = min(swap, self.limit("privvmpages") - memory)
        pages = {
            "memory.high": min(self.warning("physpages"), self.warning("privvmpages")),
            "memory.max": memory,
            "memory.swap.high": self.warning("swappages"),
            "memory.swap.max": swap,
            "memory.low": self.bound("vmguarpages").barrier,
            "memory.min": self.bound("oomguarpages").barrier,
        }
        cpus = self.others.get("cpus", UNLIMITED)
        return {
            **{name: UNLIMITED if count >= UNLIMITED else count * PAGE for name, count in pages.items()},
            "memory.oom.group": int(self.others.get("oom") == "ve"),
            "pids.max": self.limit("numproc"),
            "cpu.max": f"{int(cpus * CPU_PERIOD) if cpus < UNLIMITED else 'max'} {CPU_PERIOD}",
            "cpu.weight": self.others.get("cpu_weight", WEIGHT),
            "cpuset.cpus": self.others.get("cpuset", ""),
        }

    def words(self) -> dict[str, str]:
        """What would ask for the same: resolve's other direction."""
        return {name: text(name, value) for name, value in (*self.bounds.items(), *self.others.items())}

    def asked_files(self) -> dict[str, int | str]:
        """Those of files() that are not to say what they say anyway."""
        default = Limits().files()
        return {name: value for name, value in self.files().items() if value != default[name]}

    @property
    def on_disk(self) -> bool:
        """Is its disk traffic limited?"""
        return bool({"io_read", "io_write", "iops", "io_weight"} & self.others.keys())

    def without(self, missing: Collection[str]) -> Limits:
        """Less what would be kept by these controllers, which are not there (account only)."""
        bounds = {name: each for name, each in self.bounds.items() if not Limits({name: each}).controllers & {*missing}}
        others = {
            name: each for name, each in self.others.items() if not Limits({}, {name: each}).controllers & {*missing}
        }
        return Limits(bounds, others, self.said)

    @property
    def controllers(self) -> set[str]:
        """Those of cgroup v2 that keep a VE to what was asked for."""
        return {name.partition(".")[0] for name in self.asked_files()} | ({"io"} if self.on_disk else set())

    def rlimits(self) -> dict[str, int]:
        """Those of each process that were asked for, by the names of getrlimit(2)."""
        asked = {
            "RLIMIT_MEMLOCK": self.bounds["lockedpages"].limit * PAGE if "lockedpages" in self.bounds else UNLIMITED,
            "RLIMIT_SIGPENDING": self.limit("numsiginfo"),
            "RLIMIT_NOFILE": self.others.get("nofile", UNLIMITED),
        }
        return {name: value for name, value in asked.items() if value < UNLIMITED}


def resolve(asked: Mapping[str, str], account_only: bool = False) -> Limits:
    """InvalidValue names what is unknown, wrong or said twice, or what nothing would keep a VE to."""
    bounds: dict[str, Bound] = {}
    others: dict[str, Any] = {}
    words: dict[str, str] = {}
    for name, text in asked.items():
        if not isinstance(text, str):
            raise InvalidValue(f"cannot use {name} {text!r}: it is not a string")
        target = canonical(name)
        if target in words:
            raise InvalidValue(f"cannot use both {words[target]} and {name}: they are the same")
        words[target] = name
        if target in OTHERS:
            others[target] = OTHERS[target](name, text)
        else:
            bounds[target] = _bound(name, text)
    if not account_only:
        for name, bound in bounds.items():
            _refuse_unenforced(name, bound)
    return Limits(bounds, others, words)


def of_controller(asked: Mapping[str, str], controller: str) -> list[str]:
    """Those of what was asked for that this controller of cgroup v2 does."""
    return [name for name, text in asked.items() if controller in resolve({name: text}, account_only=True).controllers]


def canonical(name: str) -> str:
    """The beancounter that a word stands for, or the word itself; InvalidValue names the nearest one."""
    if name not in NAMES:
        raise InvalidValue(f"cannot limit {name}: there is no such resource", nearest(name, NAMES))
    return ALIASES[name][0] if name in ALIASES else name


def merged(before: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, str]:
    """What was asked for before, with what is asked for now in its place; "" takes one away."""
    changed = {canonical(name) for name in asked}
    kept = {name: text for name, text in before.items() if canonical(name) not in changed}
    return kept | {name: text for name, text in asked.items() if text}


def words(given: Mapping[str, Any]) -> dict[str, str]:
    """Limits as a conf file has them, from such as a program may give; InvalidValue names what is none."""
    for name in given:
        canonical(name)
    return {name: text(name, value) for name, value in given.items()}


def text(name: str, value: object) -> str:
    """A limit as a conf file has it, from a number, a pair of them or a text; InvalidValue."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | tuple):
        raise InvalidValue(f"cannot use {name} {value!r}: it is no number, pair of numbers or text")
    if isinstance(value, tuple):
        return ":".join(text(name, each) for each in value)
    return amounts.number_text(value) if isinstance(value, int) else str(value)


def cpu_numbers(text: str) -> set[int]:
    """The CPUs of a list such as 0-1,4; none if a range in it is upside down."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        span = range(int(first), int(last or first) + 1)
        if not span:
            return set()
        numbers |= {*span}
    return numbers


def _bound(name: str, text: str) -> Bound:
    if name in ALIASES:
        target, parse = ALIASES[name]
        bound = parse(name, text)
    else:
        target = name
        row = BY_NAME[name]
        bound = amounts.bound(name, text, row.unit)
        if row.guaranteed:  # whatever it says: OpenVZ leaves that undefined
            bound = Bound(bound.barrier, UNLIMITED)
    if target in _NOT_NONE and not bound.limit:
        raise InvalidValue(f"cannot use {name} {text!r}: no VE runs with none", hint="unlimited")
    return bound


def _refuse_unenforced(name: str, bound: Bound) -> None:
    row = BY_NAME[name]
    if bound.limit < UNLIMITED and not row.enforced and not row.guaranteed:
        raise InvalidValue(
            f"cannot limit {name}: it is only counted; {row.unenforced}",
            hint=f"--account-only counts who is above it; a barrier alone is a warning: {bound.barrier}:unlimited",
        )
