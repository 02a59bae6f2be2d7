"""The facts of this boot about one running VE, and whether the process that they name still lives.

A pid is never kept alone: with the start time it names one process for ever, and a pidfd holds it.
"""

import errno
import os
import re
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from ve import descriptors
from ve.errors import UPGRADE, BrokenConfig, newer
from ve.polling import readable
from ve.wholefile import read_small

VERSION = 1
_SUM_SIZE = len("sum=00000000\n")
_EXTRA = "[a-z][a-z0-9_]*"


class Facts(NamedTuple):
    """What this boot's start left for exec and list: only what the kernel cannot be asked for."""

    pid: int  # of init, as the host counts; with start_time it names one process for ever
    start_time: int  # field 22 of /proc/PID/stat
    boot_id: str
    base: int  # the host id of the VE's root
    template: str  # NAME:VERSION
    init: str  # its path inside, or the word for the small one we bring
    ephemeral: bool = False
    maker_pid: int = 0  # the process that an ephemeral VE lives for, 0 when it is not one
    maker_start: int = 0
    extra: Mapping[str, str] = MappingProxyType({})


_NUMBERS = ("pid", "start_time", "base", "ephemeral", "maker_pid", "maker_start")
_WORDS = ("boot_id", "template", "init")


def dump_facts(facts: Facts) -> bytes:
    lines = [f"{key}={int(getattr(facts, key))}" for key in _NUMBERS]
    words = [(key, getattr(facts, key)) for key in _WORDS] + [(f"extra.{key}", facts.extra[key]) for key in facts.extra]
    if bad := [key for key in facts.extra if not re.fullmatch(_EXTRA, key)]:
        raise ValueError(f"no key for facts: {bad[0]!r}")
    lines += [f"{key}={value.encode('unicode_escape').decode()}" for key, value in words]
    lines.insert(0, f"version={VERSION}")
    text = "".join(f"{line}\n" for line in lines).encode()
    return text + _sum(text)


def parse_facts(data: bytes) -> Facts | None:
    """None if that is not what dump_facts gave, to the letter: what stands in there is read without another look."""
    try:
        found = _lines(data)
        if int(found.pop("version", "0")) > VERSION:
            return None
        words = {key: _plain(value) for key, value in found.items() if key not in _NUMBERS}
        numbers = {key: int(found[key]) for key in _NUMBERS}
        fields: dict[str, Any] = {**numbers, **{key: words[key] for key in _WORDS}}  # a test holds these tables
        fields["ephemeral"] = bool(numbers["ephemeral"])
        extra = {key[6:]: words[key] for key in words if key.startswith("extra.")}
        return Facts(**fields, extra=extra)
    except (KeyError, ValueError):
        return None


def check_facts(path: str, data: bytes) -> None:
    """BrokenConfig, which says why, if parse_facts takes that for none."""
    if parse_facts(data) is None:
        version = re.match(rb"version=([0-9]{1,9})\n", data)
        why = newer(int(version[1]), VERSION) if version else ""
        raise BrokenConfig(f"cannot read {path}: {why or 'no start wrote that'}", UPGRADE if why else "")


def _lines(data: bytes) -> dict[str, str]:
    """By their keys, as summed up; those without a version, of an older ve, may be without a sum.  ValueError."""
    text, total = data[:-_SUM_SIZE], data[-_SUM_SIZE:]
    is_whole = total == _sum(text)
    found = dict(line.split("=", 1) for line in (text if is_whole else data).decode("ascii").splitlines())
    if not is_whole and (found.keys() & {"version", "sum"} or not data.endswith(b"\n")):
        raise ValueError("half of it, or changed")
    return found


def _sum(text: bytes) -> bytes:
    return b"sum=%08x\n" % zlib.crc32(text)


def _plain(word: str) -> str:
    return word.encode().decode("unicode_escape") if "\\" in word else word


def init_pidfd(facts: Facts) -> int | None:
    """A pidfd of the VE's init, for the caller to close; None when that very process has ended, a zombie included."""
    try:
        pidfd = os.pidfd_open(facts.pid)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):  # no such process, or the number is a thread now
            return None
        raise
    # In this order: what has that start time now had this pid when we opened it.
    try:
        if process_start_time(facts.pid) == facts.start_time and not ended(pidfd):
            kept, pidfd = pidfd, -1
            return kept
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    return None


def namespace(facts: Facts, pidfd: int, name: str, held: ExitStack) -> int | None:
    """A namespace of that very init, as a descriptor above the standard ones which held closes; None when it has ended.

    Its number may be another's then, and the namespace one of the host.
    """
    try:
        fd = os.open(f"/proc/{facts.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    held.callback(os.close, fd)
    return None if ended(pidfd) else descriptors.above_stdio(fd, held)


def lives(facts: Facts) -> bool:
    """Does the maker of an ephemeral VE live, or its init?  Yes, too, where we cannot see those: elsewhere (home)."""
    if facts.extra.get("home", home()) != home() or process_start_time(facts.maker_pid) == facts.maker_start:
        return True
    pidfd = init_pidfd(facts)
    if pidfd is not None:
        os.close(pidfd)
    return pidfd is not None


GOING = 1.0  # seconds for an init to have ended whose VE can be entered no more, which is so a little before


def ended(pidfd: int, timeout: float = 0.0) -> bool:
    """Has the whole process ended, or does it within timeout seconds?  It has also before anybody has waited for it."""
    return bool(readable([pidfd], timeout))


def process_start_time(pid: int) -> int | None:
    """In clock ticks since boot; None: no such process.  In a VE's time namespace the same process shows another."""
    data = read_small(f"/proc/{pid}/stat")
    try:  # the command stands in parentheses, and may hold spaces and parentheses itself
        return int(data[data.rindex(b")") + 1 :].split()[19])
    except (ValueError, IndexError):
        return None


def home() -> str:
    """The namespaces whose pids and start times we see; those of the same process are others elsewhere."""
    return " ".join(os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "time"))


@cache
def boot_id() -> str:
    return read_small("/proc/sys/kernel/random/boot_id").decode().strip()
