"""The network of a VE: so far its loopback alone.

That takes one ioctl(2), so pyroute2, the library for all that will be more than that, is not imported here yet: the far
side of a launch would pay 200 ms for it at each start.
"""

from __future__ import annotations

import _socket  # the C part alone, as in each far side: see ve/farside.py
import fcntl
import os
import struct

from ve._linux import ioctls


def loopback_up() -> None:
    """Bring up lo in the caller's network namespace, which gives it 127.0.0.1 and ::1."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(sock.fileno(), ioctls.SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", ioctls.IFF_UP))
    finally:
        os.close(sock.detach())
