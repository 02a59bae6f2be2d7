"""Limits as the kernel takes them: written to the files of a VE's cgroup, and read back."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping

from ve import cgrouproot
from ve.amounts import UNLIMITED
from ve.beancounter import Files
from ve.cgroups import CONTROLLERS, PLACES, Cgroup, above, controllers
from ve.errors import Error, InvalidValue, NotSupported
from ve.limits import cpu_numbers

_GUARANTEES = ("memory.low", "memory.min")
_TRIES = 10  # others may be given theirs at the same time


def apply(group: Cgroup, files: Mapping[str, int | str], account_only: bool = False) -> None:
    """Write these files, and see that the kernel has taken what was written; account_only: those that it has.

    NotSupported names the file that it does not have, InvalidValue the value that it does not take.
    """
    lacking = missing({_controller(name) for name in files}) if account_only else []
    for name, value in files.items():
        if _controller(name) in lacking:
            continue
        try:
            _write(group, name, value)
        except OSError as error:
            if not os.path.exists(f"{group.path}/{name}"):  # cgroupspy would make it, and nobody can (EACCES)
                raise NotSupported(f"cannot set {name}: this kernel or cgroup does not have it", cure()) from error
            if error.errno in (errno.EINVAL, errno.ERANGE):
                raise InvalidValue(f"cannot set {name} to {value}: the kernel does not take it") from error
            raise
    if any(name in files for name in _GUARANTEES) and "memory" not in lacking:
        _guarantee(group, files)


def _guarantee(group: Cgroup, files: Mapping[str, int | str]) -> None:
    """Hand a guarantee down to where the VE's memory is counted, and give the cgroups above what those in them have.

    The kernel guarantees nobody more than his parent, and what is below only where it says so, unless cgroup2 is
    mounted with memory_recursiveprot.  Each sums up what it sees after it has written its own; who comes later sees
    all, so that at last it is right.
    """
    for place in PLACES:
        for name in _GUARANTEES:
            if name in files and os.path.exists(f"{group.path}/{place}/{name}"):
                _write(Cgroup(f"{group.path}/{place}"), name, files[name])
    for path in above(group):
        for name in _GUARANTEES:
            _sum_up(path, name.replace(".", "_"))


def _sum_up(path: str, attribute: str) -> None:
    parent = Files(Cgroup(path))
    for _ in range(_TRIES):
        total = min(sum(_guaranteed(path, attribute)), UNLIMITED)
        if getattr(parent, attribute) == total:
            break
        setattr(parent, attribute, total)


def _guaranteed(path: str, attribute: str) -> Iterator[int]:
    for name in os.listdir(path):
        if os.path.isdir(f"{path}/{name}"):
            with contextlib.suppress(OSError):  # one that is just going
                yield getattr(Files(Cgroup(f"{path}/{name}")), attribute)


def missing(wanted: Iterable[str]) -> list[str]:
    """The controllers among these that VEs cannot have here."""
    there = controllers(cgrouproot.find())
    return [name for name in CONTROLLERS if name in wanted and name not in there]


def _controller(name: str) -> str:
    """Which a file of a cgroup belongs to."""
    return name.partition(".")[0]


def cure() -> str:
    """How VEs get the controllers that they lack."""
    with open("/proc/cgroups", encoding="ascii") as file:
        rows = [line.split() for line in file if not line.startswith("#")]
    if any(hierarchy != "0" for _, hierarchy, *_ in rows):  # cgroups(7): of cgroup v1
        return "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all on the kernel command line"
    return "a service needs Delegate=yes, a container --privileged, a VE the profile nesting"


def _write(group: Cgroup, name: str, value: int | str) -> None:
    attribute = name.replace(".", "_")
    setattr(Files(group), attribute, value)
    taken = getattr(Files(group), attribute)
    if not _same(name, value, taken):
        raise Error(f"cannot set {name} to {value}: the kernel has made {taken} of it")


def _same(name: str, value: int | str, taken: int | str) -> bool:
    if name == "io.max":  # a line for each disk, none for one that is not limited
        words = str(value).split()
        return words in map(str.split, str(taken).splitlines()) or all(word.endswith("=max") for word in words[1:])
    if name in ("io.weight", "io.bfq.weight"):
        return str(taken).splitlines()[0].split()[-1] == str(value)
    if name == "cpuset.cpus" and value and taken:
        return cpu_numbers(str(value)) == cpu_numbers(str(taken))
    return value == taken
