"""Loop devices, as loop(4) has them: files that are disks."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# <linux/loop.h>
LOOP_CONFIGURE = 0x4C0A
LOOP_GET_STATUS64 = 0x4C05
LOOP_CTL_GET_FREE = 0x4C82
LO_FLAGS_AUTOCLEAR = 4

_INFO = struct.Struct("=5Q4I")  # how struct loop_info64 begins: device, inode, three sizes, number, two types, flags
_INFO_SIZE = 232
_CONFIG_SIZE = 2 * 4 + _INFO_SIZE + 8 * 8  # fd, block size, struct loop_info64, eight that are reserved


def free() -> int:
    """The number of a device that has no file."""
    fd = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(fd, LOOP_CTL_GET_FREE)
    finally:
        os.close(fd)


def configure(device: int, file: int) -> bool:
    """Put an open file on a device, until nobody has that open or mounted; False if it has one already."""
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR)
    try:
        fcntl.ioctl(device, LOOP_CONFIGURE, (struct.pack("=2I", file, 0) + info).ljust(_CONFIG_SIZE, b"\0"))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def backing(device: int) -> tuple[int, int] | None:
    """st_dev and st_ino of the file that is on a device, None if there is none."""
    try:
        answer = fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(_INFO_SIZE))
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None
    st_dev, st_ino, *_ = _INFO.unpack_from(answer)
    return st_dev, st_ino
