"""Network namespaces of hosts: which one is ours, and whether another one, where a VE was started, is still there.

The number by which /proc calls one is given to another when it is gone; the cookie (Linux 5.14) to none in a boot.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator

from ve import mountinfo
from ve.errand import inside

_SO_NETNS_COOKIE = 71  # <asm-generic/socket.h>


def here() -> str:
    """What names that of the calling thread in this boot."""
    return f"{_number()} {_cookie()}"


def elsewhere(name: str) -> str:
    """A path by which the namespace of this name can be entered; "" if it is ours, or gone for all that can be seen.

    No two that are there have one number: so the first that can be entered answers for all, and if it is ours, we do.
    """
    number = name.partition(" ")[0]
    if number == _number():
        return ""
    for path in _known_as(number):
        with contextlib.suppress(OSError), open(path, "rb") as namespace:
            return path if inside(namespace.fileno(), here) == name else ""
    return ""


def _known_as(number: str) -> Iterator[str]:
    """Those of the processes that are there, and of mounts, as `ip netns add` makes them."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or is the kernel's
            if os.readlink(f"/proc/{pid}/ns/net") == number:
                yield f"/proc/{pid}/ns/net"
    yield from (line.point for line in mountinfo.lines(kind="nsfs") if line.root == number)


def _number() -> str:
    return os.readlink("/proc/thread-self/ns/net")


def _cookie() -> int:
    with socket.socket(socket.AF_UNIX) as any_one:
        return int.from_bytes(any_one.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
