"""Subvolumes of btrfs and their qgroups: the ioctls, as btrfs-ioctl(2) has them.  OSError is the kernel's word."""

from __future__ import annotations

import fcntl
import struct

# <linux/btrfs.h>; of most architectures
BTRFS_IOC_SUBVOL_CREATE = 0x5000940E
BTRFS_IOC_SNAP_DESTROY = 0x5000940F
BTRFS_IOC_INO_LOOKUP = 0xD0009412
BTRFS_IOC_FS_INFO = 0x8400941F
BTRFS_IOC_QGROUP_LIMIT = 0x8030942B
BTRFS_QGROUP_LIMIT_MAX_RFER = 1
BTRFS_FIRST_FREE_OBJECTID = 256  # the inode that the root of each subvolume has
NO_LIMIT = 2**64 - 1  # takes a limit away (fs/btrfs/qgroup.c, CLEAR_VALUE)

_VOL_ARGS = struct.Struct("=q4088s")
_LOOKUP_SIZE, _FS_INFO_SIZE, _FSID = 4096, 1024, slice(16, 32)


def fsid(fd: int) -> str:
    """The UUID of the btrfs that a file is on, as sysfs has it; ENOTTY if it is on another file system."""
    text = fcntl.ioctl(fd, BTRFS_IOC_FS_INFO, bytes(_FS_INFO_SIZE))[_FSID].hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def number(fd: int) -> int:
    """Of the subvolume that a directory is in."""
    answer = bytearray(_LOOKUP_SIZE)  # ioctl takes no more than 1024 bytes that cannot be written to
    struct.pack_into("=QQ", answer, 0, 0, BTRFS_FIRST_FREE_OBJECTID)
    fcntl.ioctl(fd, BTRFS_IOC_INO_LOOKUP, answer)
    found: int = struct.unpack_from("=Q", answer)[0]
    return found


def create(directory: int, name: str) -> None:
    """Make an empty one in a directory, as mkdir(2)."""
    fcntl.ioctl(directory, BTRFS_IOC_SUBVOL_CREATE, bytearray(_VOL_ARGS.pack(0, name.encode())))


def destroy(directory: int, name: str) -> None:
    """Remove one with all that is in it; ENOTEMPTY if another is in it."""
    fcntl.ioctl(directory, BTRFS_IOC_SNAP_DESTROY, bytearray(_VOL_ARGS.pack(0, name.encode())))


def limit(fd: int, size: int) -> None:
    """Let the subvolume that a directory is in refer to so many bytes, or NO_LIMIT."""
    asked = struct.pack("=6Q", 0, BTRFS_QGROUP_LIMIT_MAX_RFER, size, 0, 0, 0)  # qgroup 0: its own
    fcntl.ioctl(fd, BTRFS_IOC_QGROUP_LIMIT, asked)
