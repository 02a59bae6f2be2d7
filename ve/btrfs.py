"""Disk space of a VE on btrfs: its private area is a subvolume, and the qgroup of that has a limit.

btrfs counts by subvolume where somebody has enabled its quotas (btrfs-quota(5)), simple ones or full ones.  sysfs tells
what is counted and what limits it, as of the last transaction, so up to half a minute late; what is to be written is
reserved beforehand, so the limit holds at once, and what is beyond is EDQUOT.  Tried on 6.1 and 6.18.

Weaker than a project quota: nothing counts or limits inodes, statfs(2) does not tell the limit, and a subvolume that is
made in this one is counted apart.  Only VEs in a VE (the profile nesting) have a directory there where they could make
one, as the root of a VE is an overlay, which passes no ioctl on.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager

from ve import mountinfo
from ve._linux import subvolumes
from ve._linux.subvolumes import NO_LIMIT
from ve.errors import Error, InUse, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ANOTHER = "create it with --area loop"
SPARE = 4 << 20  # bytes, of what the mount of an overlay makes for itself: each item reserves a node


class Group:
    """The qgroup of a subvolume, as sysfs has it."""

    def __init__(self, fd: int) -> None:
        self.path = f"{_groups(fd)}/0_{subvolumes.number(fd)}"

    @property
    def held(self) -> int:
        """Bytes."""
        return self._read("referenced")

    @property
    def limit(self) -> int:
        """Bytes, or NO_LIMIT."""
        limited = self._read("limit_flags") & subvolumes.BTRFS_QGROUP_LIMIT_MAX_RFER
        return self._read("max_referenced") if limited else NO_LIMIT

    def _read(self, name: str) -> int:
        with open(f"{self.path}/{name}", encoding="ascii") as file:
            return int(file.read(), 0)


def holds(fd: int) -> bool:
    """Is this directory on a btrfs?"""
    return bool(_groups(fd))


def apply(private: str, size: int | None, divided: bool) -> None:
    """Let a private area, in which nothing is yet if it is none, have size bytes or no limit.  divided: VEs are in it.

    NotSupported says why it cannot be limited.
    """
    with _opened(private) as fd:
        counted = os.path.isdir(_groups(fd))
    if counted and not divided and not os.listdir(private):
        _become_subvolume(private)
    whole = counted and _is_subvolume(private)
    if size is not None:
        _require(private, counted, whole, divided)
    if whole:
        with _opened(private) as fd:
            _set(fd, NO_LIMIT if size is None else size)


def group(private: str) -> Group | None:
    """What is counted of a private area; None if nothing is."""
    with _opened(private) as fd:
        return Group(fd) if os.path.isdir(_groups(fd)) and _is_subvolume(private) else None


@contextmanager
def headroom(private: str) -> Iterator[None]:
    """A little more than its limit meanwhile."""
    with _opened(private) as fd:
        found = group(private)
        limit = found.limit if found else NO_LIMIT
        if limit != NO_LIMIT:
            _set(fd, limit + SPARE)
        try:
            yield
        finally:
            if limit != NO_LIMIT:
                _set(fd, limit)


def remove(private: str) -> None:
    """Remove a private area that is a subvolume, and no other; InUse if somebody has made another in it.

    The kernel empties it later, and from 6.11 on removes its qgroup then; before, that stays and holds nothing (tried
    on 6.1: until it is emptied, removing that is EBUSY).
    """
    if not _is_subvolume(private):
        return
    above, name = os.path.split(private)
    with _opened(above) as fd:
        try:
            subvolumes.destroy(fd, name)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            hint = f"btrfs subvolume list {above}; btrfs subvolume delete"
            raise InUse(f"cannot remove {private}: another subvolume is in it", hint) from error


def _become_subvolume(private: str) -> None:
    """Of an empty directory; killed half way there is none, as in a VE that is not made to its end."""
    above, name = os.path.split(private)
    mode = os.stat(private).st_mode
    with _opened(above) as fd:
        os.rmdir(name, dir_fd=fd)
        subvolumes.create(fd, name)
        os.chmod(name, mode & 0o7777, dir_fd=fd)


def _require(private: str, counted: bool, whole: bool, divided: bool) -> None:
    if not counted:
        point = mountinfo.holding(os.path.realpath(private)).point
        raise NotSupported("its btrfs has no quotas enabled", f"btrfs quota enable {point}; or {_ANOTHER}")
    if divided:
        raise NotSupported("VEs in it can make subvolumes, which btrfs counts apart", _ANOTHER)
    if not whole:
        raise NotSupported("its private area is older than the quotas of its btrfs, and no subvolume", _ANOTHER)


def _set(fd: int, size: int) -> None:
    """And see that the kernel has taken it."""
    subvolumes.limit(fd, size)
    if (taken := Group(fd).limit) != size:
        raise Error(f"cannot limit a subvolume to {size} bytes: the kernel has {taken}")


def _is_subvolume(path: str) -> bool:
    """No other directory of a btrfs has this number."""
    with _opened(path) as fd:
        return bool(_groups(fd)) and os.fstat(fd).st_ino == subvolumes.BTRFS_FIRST_FREE_OBJECTID


def _groups(fd: int) -> str:
    """Where sysfs has the qgroups of a btrfs, if it has any; "" on another file system."""
    try:
        return f"/sys/fs/btrfs/{subvolumes.fsid(fd)}/qgroups"
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return ""


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
