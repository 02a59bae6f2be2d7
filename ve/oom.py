"""Whom the kernel killed for want of memory: its log tells, while it still has the record.

/dev/kmsg (Documentation/ABI/testing/dev-kmsg) gives one record at each read: PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT,
where what is not printable is escaped.  mm/oom_kill.c writes one for each process that it kills, which ends in numbers
of its own.  Whose process it was its uid tells, as no two VEs have the same: the record that has the cgroup's path has
names in it that the VE's root may choose, and so may lie.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import re
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass

PATH = "/dev/kmsg"
PATIENCE = 0.5  # seconds in which the log follows the counter: the kernel counts first, then kills, then writes
_SIZE = 8192  # of a record, at most: CONSOLE_EXT_LOG_MAX
_MOST = 1000  # records that are remembered
_RECORD = re.compile(rb"([0-9]{1,20}),([0-9]{1,20}),([0-9]{1,20}),[^;]*;([^\n]*)")
_KILLED = re.compile(
    r"(?:Memory cgroup out|Out) of memory[^:]*: Killed process ([0-9]{1,20}) \((.{0,60})\) total-vm:[0-9]+kB,"
    r" anon-rss:([0-9]{1,20})kB, file-rss:([0-9]{1,20})kB, shmem-rss:([0-9]{1,20})kB,"
    r" UID:([0-9]{1,20}) .*"
)


@dataclass(frozen=True)
class Kill:
    """A process that is no more.  time: seconds of the epoch; memory: bytes that it had; pid, uid: the host's."""

    sequence: int
    time: float
    pid: int
    name: str
    uid: int
    memory: int


def parse(record: bytes, booted: float) -> Kill | None:
    """Of one read of /dev/kmsg; None if it is about something else, or not the kernel's own word."""
    found = _RECORD.match(record)
    if found is None or int(found[1]) >> 3:  # its facility: of what user space writes there it is never 0
        return None
    killed = _KILLED.fullmatch(found[4].decode("ascii", "replace"))
    if killed is None:
        return None
    memory = sum(int(killed[part]) for part in (3, 4, 5)) * 1024
    when = booted + int(found[3]) / 1e6
    return Kill(int(found[2]), when, int(killed[1]), killed[2], int(killed[6]), memory)


class KernelLog:
    """What the kernel log has of such, from its beginning on."""

    def __init__(self) -> None:
        """Where it cannot be read, as in a container, it has nothing."""
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._kills: collections.deque[Kill] = collections.deque(maxlen=_MOST)
        self._told: dict[range, int] = {}  # the last sequence number, by first uid

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def last(self, ids: Iterable[range], count: int) -> list[Kill]:
        """The last so many kills of processes with these uids that were not told before; fewer if it has no more."""
        ids = tuple(ids)
        deadline = time.monotonic() + PATIENCE
        while True:
            self._read()
            found = [kill for kill in self._kills if any(self._is_news(kill, each) for each in ids)][-count:]
            left = deadline - time.monotonic()
            if self._fd < 0 or not ids or len(found) >= count or left <= 0:
                break
            select.select([self._fd], [], [], left)
        for kill in found:
            self._told |= dict.fromkeys((each for each in ids if kill.uid in each), kill.sequence)
        return found

    def _is_news(self, kill: Kill, ids: range) -> bool:
        return kill.uid in ids and kill.sequence > self._told.get(ids, -1)

    def _read(self) -> None:
        booted = time.time() - time.monotonic()  # the log's clock stands still in suspend, as that one does
        while self._fd >= 0:
            try:
                record = os.read(self._fd, _SIZE)
            except OSError as error:
                if error.errno == errno.EPIPE:  # what was next has been overwritten: the read after this goes on
                    continue
                break
            if not record:  # it is something else, which has an end
                self.close()
            if kill := parse(record, booted):
                self._kills.append(kill)
