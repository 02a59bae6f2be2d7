"""Which VEs' cgroups change: one descriptor of inotify(7) for all of them.

The kernel reports a change of these files as IN_MODIFY (cgroup-v2.rst).  That VEs come and go is reported of the
directory above theirs, as of any directory: the mkdir and rmdir are ours.  Files that a controller brings later are
not, so they are looked for again whenever a process comes into the VE.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
from collections.abc import Iterator

from ve import cgroups
from ve._linux.syscalls import (
    IN_CREATE,
    IN_DELETE,
    IN_MODIFY,
    IN_ONLYDIR,
    IN_Q_OVERFLOW,
    SyscallError,
    inotify_add_watch,
    inotify_init1,
    inotify_rm_watch,
)
from ve.errors import NotSupported

FILES = (
    *("cgroup.events", "memory.events", "memory.events.local", "memory.swap.events"),
    *("pids.events", "pids.events.local"),
)
_HEAD = struct.Struct("iIII")  # struct inotify_event, and then the name
_DIRECTORY = IN_CREATE | IN_DELETE | IN_ONLYDIR


class Watch:
    """Of the VEs of one state dir, by the tag of their cgroups; close it."""

    def __init__(self, tag: str) -> None:
        """NotSupported if this host has no watches left, or no cgroup2."""
        self._tag, self._root = tag, cgroups.have_home()
        self._top = f"{self._root}/{tag}"
        self._veids: dict[int, int] = {}  # by watch descriptor of one of FILES
        self._above = self._there = -1
        try:
            self._fd = inotify_init1(os.O_NONBLOCK)
        except SyscallError as error:
            raise _out_of("instances") from error
        try:
            self._above = self._add(self._root, _DIRECTORY)
            self._enter()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def wait(self, timeout: float) -> set[int]:
        """The VEIDs of those that changed, came or went, once there are some; none after timeout seconds."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.poll(max(0.0, timeout) * 1000)
        changed: set[int] = set()
        for wd, mask, name in self._news():
            if mask & IN_Q_OVERFLOW or (wd == self._above and name == self._tag):
                before = {*self._veids.values()}
                self._enter()
                changed |= before | {*self._veids.values()}
            elif wd == self._there and name.isdecimal():
                changed.add(int(name))
                self._forget(int(name))
                self._look_at(int(name))
            elif wd in self._veids:
                changed.add(self._veids[wd])
        for veid in changed:
            self._look_at(veid)
        return changed

    def _news(self) -> Iterator[tuple[int, int, str]]:
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return
            while data:
                wd, mask, _, length = _HEAD.unpack_from(data)
                yield wd, mask, os.fsdecode(data[_HEAD.size : _HEAD.size + length].rstrip(b"\0"))
                data = data[_HEAD.size + length :]

    def _enter(self) -> None:
        """Watch the directory of the VEs' cgroups, which comes with the first and goes with the last of them."""
        for veid in {*self._veids.values()}:
            self._forget(veid)
        self._there = self._add(self._top, _DIRECTORY)
        if self._there >= 0:
            with contextlib.suppress(FileNotFoundError):  # it goes again just now
                for name in filter(str.isdecimal, os.listdir(self._top)):
                    self._look_at(int(name))

    def _look_at(self, veid: int) -> None:
        for file in FILES:
            wd = self._add(f"{self._top}/{veid}/{file}", IN_MODIFY)
            if wd >= 0:
                self._veids[wd] = veid

    def _forget(self, veid: int) -> None:
        """A watch holds the file that it is of, also one that is gone."""
        for wd in [wd for wd, each in self._veids.items() if each == veid]:
            del self._veids[wd]
            try:
                inotify_rm_watch(self._fd, wd)
            except SyscallError as error:
                if error.errno != errno.EINVAL:  # the kernel has done it
                    raise

    def _add(self, path: str, mask: int) -> int:
        """-1 if it is not there."""
        try:
            return inotify_add_watch(self._fd, path, mask)
        except SyscallError as error:
            if error.errno == errno.ENOSPC:
                raise _out_of("watches") from error
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            return -1


def _out_of(what: str) -> NotSupported:
    return NotSupported(f"cannot watch cgroups: no inotify {what} are left", f"raise sysctl fs.inotify.max_user_{what}")
