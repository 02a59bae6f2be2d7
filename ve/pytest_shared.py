"""What the workers of one run of pytest share: made by the first that wants it, ended once nobody has it any more.

    <run dir>/pytest/<OWNER>/    of the process that gives the workers their tests
        <key>                    what its maker says of it, and who that is, as long as it may be taken
        <key>.lock               held while somebody makes it, takes it or lets it go
        <key>.users              held, shared, by who has taken it: its maker waits until nobody does

The kernel lets go of what a process held that was killed, and what a maker that was killed said is nobody's: the next
makes it anew.  A process lets go of all that it has taken before it waits for those that have taken what it made, so
that no two wait for each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from typing import TYPE_CHECKING

from ve import lock
from ve.facts import home, process_start_time
from ve.wholefile import read_small, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OWNER = r"[0-9]+(?:-[0-9]+){3}"  # what owner() gives
_MAKING = 3600.0  # seconds for another worker to make it


def owner(pid: int) -> str:
    """A process for ever, as a word: its pid, its start time and the namespaces that these are of."""
    return "-".join((str(pid), str(process_start_time(pid)), *re.findall(r"[0-9]+", home())))


def is_gone(word: str) -> bool:
    """Has the process of such a word ended?  False of what cannot be told from here."""
    pid, start, *where = word.split("-")
    return where == re.findall(r"[0-9]+", home()) and start != str(process_start_time(int(pid)))


class Shared:
    """The end of this process; close() lets go of everything."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._taken = contextlib.ExitStack()
        self._made = contextlib.ExitStack()

    def take(self, key: str, make: Callable[[contextlib.ExitStack], str]) -> str:
        """What its maker says of it, in one line; make() is called if that is us, and stacks what ends it."""
        path = os.path.join(self._directory, key)
        with self._locked(path):
            maker, _, said = read_small(path).decode().partition(" ")
            if said and not is_gone(maker):
                users = os.open(f"{path}.users", os.O_RDWR | os.O_CLOEXEC)
                self._taken.callback(os.close, users)
                fcntl.flock(users, fcntl.LOCK_SH)
                return said
            with contextlib.ExitStack() as made:
                said = make(made)
                with contextlib.suppress(FileNotFoundError):  # of a maker that was killed
                    os.unlink(f"{path}.users")
                users = os.open(f"{path}.users", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                made.callback(os.close, users)
                made.callback(self._let_go, path, users)
                write_whole(path, f"{owner(os.getpid())} {said}".encode(), durable=False)
                self._made.push(made.pop_all())
            return said

    def close(self) -> None:
        self._taken.close()
        self._made.close()
        with contextlib.suppress(OSError):  # others still have something in it, or there was nothing
            os.rmdir(self._directory)

    def _let_go(self, path: str, users: int) -> None:
        """Let nobody take it any more, and wait for those who have: who makes another has files of its own."""
        with self._locked(path):
            os.unlink(path)
            os.unlink(f"{path}.users")
        fcntl.flock(users, fcntl.LOCK_EX)

    @contextlib.contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        with lock.released(self._lock(path)):
            try:
                yield
            finally:
                if not os.path.exists(path):
                    os.unlink(f"{path}.lock")

    def _lock(self, path: str) -> int:
        while True:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # who let go of the last thing there removed it meanwhile
                return lock.acquire(f"{path}.lock", os.path.basename(path), _MAKING)


def remove_orphans(directory: str) -> None:
    """What runs have left there that were killed."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if re.fullmatch(OWNER, name) and is_gone(name):
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
