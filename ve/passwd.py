"""Users and groups by a VE's own /etc/passwd and /etc/group, read by hand inside it.

Never by libc, whose name services would run what the VE's nsswitch.conf names.  The files may be anything, as they are
the VE's: a FIFO, endless, not text.
"""

from __future__ import annotations

import errno
import os
import stat

_FILE_MAX = 16 << 20


class Refused(Exception):
    """What was asked for is not there in the VE; the text says why."""


def user_entry(wanted: bytes) -> tuple[bytes, int, int, bytes, bytes]:
    """Name, uid, gid, home and shell; a number without an entry is a user too, of group 0, as in OCI images."""
    entries = [entry for entry in _entries("/etc/passwd", 7) if _is_id(entry[2]) and _is_id(entry[3])]
    for column in (0, 2):
        for entry in entries:
            if entry[column] == wanted:
                return entry[0], int(entry[2]), int(entry[3]), entry[5], entry[6]
    if _is_id(wanted):
        return b"", int(wanted), 0, b"", b""
    raise Refused("no such user")


def group_id(wanted: bytes) -> int:
    for name, number, _ in groups():
        if name == wanted:
            return number
    if _is_id(wanted):
        return int(wanted)
    raise Refused(f"no such group: {wanted.decode(errors='replace')}")


def groups() -> list[tuple[bytes, int, list[bytes]]]:
    """Name, gid and members of each group; an empty list has no member, not one without a name."""
    entries = (entry for entry in _entries("/etc/group", 4) if _is_id(entry[2]))
    return [(name, int(gid), list(filter(None, members.split(b",")))) for name, _, gid, members, *_ in entries]


def _entries(path: str, columns: int) -> list[list[bytes]]:
    try:
        lines = read(os.fsencode(path)).split(b"\n")
    except OSError:
        return []
    return [fields for line in lines if b"\0" not in line and len(fields := line.split(b":")) >= columns]


def _is_id(field: bytes) -> bool:
    """Not so all digits: 2^32-1 means "leave it" to setuid(2)."""
    return field.isdigit() and len(field) <= 10 and int(field) < 2**32 - 1


def read(path: bytes) -> bytes:
    """A regular file, its first 16 MiB at most."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = b""
        while len(data) < _FILE_MAX and (more := os.read(fd, 1 << 20)):
            data += more
        return data
    finally:
        os.close(fd)
