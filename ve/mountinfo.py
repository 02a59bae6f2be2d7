"""What is mounted where, in the mount namespace of this process or of another: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Line:
    """A mount: its number, where it is, its own options (rw, ro, nodev, ...), its file system's type and source."""

    def __init__(self, line: bytes) -> None:
        mount, _, source = line.partition(b" - ")
        fields = mount.split(b" ")  # and nothing else: the kernel writes a carriage return or form feed as it is
        self.number = int(fields[0])
        self.device, self.root = os.fsdecode(fields[2]), _plain(fields[3])  # MAJOR:MINOR; what of it is mounted here
        self.point = _plain(fields[4])
        self.options = frozenset(os.fsdecode(fields[5]).split(","))
        kind, device, *_ = source.split(b" ")
        self.kind = os.fsdecode(kind)
        self.source = _plain(device)


def lines(pid: int | str = "self", kind: str = "") -> Iterator[Line]:
    """All mounts, or those of one file system type, in the order in which they were made."""
    mark = b" - " + os.fsencode(f"{kind} " if kind else "")  # no field before it is a hyphen alone
    for each in _with(mark, pid):
        if kind in ("", each.kind):
            yield each


def _with(mark: bytes, pid: int | str = "self") -> Iterator[Line]:
    """Those whose text has it somewhere: to take a line apart costs more than to read it."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        for line in file:
            if mark in line:
                yield Line(line)


def holding(path: str) -> Line:
    """The mount that path, without symbolic links, is in."""
    found = [line for line in lines() if os.path.commonpath((line.point, path)) == line.point]
    return max(reversed(found), key=lambda line: len(line.point))  # the last of equals is on top of the others


def is_point(path: str) -> bool:
    """Is anything mounted at path?"""
    return any(line.point == path for line in _with(_written(path)))


def below(path: str) -> list[str]:
    """The mount points at path and below."""
    found = [line.point for line in _with(_written(path))]
    return [point for point in found if point == path or point.startswith(f"{path}/")]


def _written(path: str) -> bytes:
    """As the kernel writes it."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else b"%c" % byte for byte in os.fsencode(path))


def _plain(word: bytes) -> str:
    """A path as it was before the kernel wrote space, tab, newline and backslash as \\NNN, in octal."""
    first, *rest = word.split(b"\\")
    return os.fsdecode(first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest))
