"""Projects of files and their quotas, as the kernel's structs: ioctl_fs(2)'s struct fsxattr, quotactl(2)'s if_dqblk."""

from __future__ import annotations

import fcntl
import struct
from typing import NamedTuple

from ve._linux import syscalls

# <linux/fs.h>; of most architectures
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
FS_XFLAG_PROJINHERIT = 0x00000200

# <linux/quota.h>, <linux/dqblk_xfs.h>
PRJQUOTA = 2
Q_GETQUOTA = 0x800007
Q_SETQUOTA = 0x800008
Q_XGETQSTAT = 0x5805
QIF_BLIMITS, QIF_ILIMITS = 1, 4
FS_QUOTA_PDQ_ACCT, FS_QUOTA_PDQ_ENFD = 1 << 4, 1 << 5
QIF_DQBLKSIZE = 1024

_FSXATTR = struct.Struct("=5I8x")  # xflags, extsize, nextents, projid, cowextsize
_DQBLK = struct.Struct(
    "=8QI4x"
)  # bhardlimit, bsoftlimit, curspace, ihardlimit, isoftlimit, curinodes, two times, valid
_QSTAT = struct.Struct("=bxH")  # how struct fs_quota_stat begins: version, flags
_QSTAT_SIZE = 80


class Quota(NamedTuple):
    """Of one project: limits in blocks of QIF_DQBLKSIZE and in inodes, 0 being none; held is in bytes and inodes."""

    block_limit: int
    inode_limit: int
    space: int
    inodes: int


def get_project(fd: int) -> tuple[int, bool]:
    """The project of a file, and whether what is made in that directory gets it too."""
    xflags, _, _, projid, _ = _FSXATTR.unpack(_fsxattr(fd))
    return projid, bool(xflags & FS_XFLAG_PROJINHERIT)


def set_project(fd: int, projid: int, inherit: bool) -> None:
    """inherit is for a directory."""
    xflags, extsize, nextents, _, cowextsize = _FSXATTR.unpack(_fsxattr(fd))
    xflags = xflags & ~FS_XFLAG_PROJINHERIT | (FS_XFLAG_PROJINHERIT if inherit else 0)
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, _FSXATTR.pack(xflags, extsize, nextents, projid, cowextsize))


def _fsxattr(fd: int) -> bytes:
    return fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))


def state(fd: int) -> int:
    """FS_QUOTA_PDQ_* of the file system that a file is on."""
    answer = bytearray(_QSTAT_SIZE)
    syscalls.quotactl_fd(fd, Q_XGETQSTAT, PRJQUOTA, 0, answer)
    flags: int = _QSTAT.unpack_from(answer)[1]
    return flags


def get_quota(fd: int, projid: int) -> Quota:
    answer = bytearray(_DQBLK.size)
    syscalls.quotactl_fd(fd, Q_GETQUOTA, PRJQUOTA, projid, answer)
    blocks, _, space, inodes_most, _, inodes, *_ = _DQBLK.unpack(answer)
    return Quota(blocks, inodes_most, space, inodes)


def set_quota(fd: int, projid: int, block_limit: int, inode_limit: int) -> None:
    """The hard limits; there is no soft one then."""
    wanted = bytearray(_DQBLK.pack(block_limit, 0, 0, inode_limit, 0, 0, 0, 0, QIF_BLIMITS | QIF_ILIMITS))
    syscalls.quotactl_fd(fd, Q_SETQUOTA, PRJQUOTA, projid, wanted)
