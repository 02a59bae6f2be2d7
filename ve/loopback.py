"""The loopback of a VE, which its init brings up itself: all that a VE without addresses has.

By one ioctl(2): what ve/rtnetlink.py needs would cost the far side of a launch 30 ms at each start.
"""

from __future__ import annotations

import _socket  # the C part alone, as in each far side: see ve/farside.py
import fcntl
import os
import struct

from ve._linux import ioctls


def up() -> None:
    """Bring up lo in the caller's network namespace, which gives it 127.0.0.1 and ::1."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(sock.fileno(), ioctls.SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", ioctls.IFF_UP))
    finally:
        os.close(sock.detach())
