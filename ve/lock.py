"""The lock of a VE: an flock(2), which the kernel ends with the last process that has its file open.

Who waits for it in vain is told who has it.  An action script that asks for the lock of its own VE would wait for the
very command that waits for the script, so it is refused at once.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ve.errors import Locked, printable
from ve.wholefile import read_small


def acquire(path: str, what: int | str, timeout: float, *, even_if_read_only: bool = False) -> int:
    """The descriptor that holds the lock at path; Locked names who has it after timeout seconds.

    even_if_read_only: its file system may be so by now, as who asks writes nothing there that must be written.

    There is no flock with a timeout: a blocking one in a thread could not be called off, and a timer's signal is the
    program's own.  So it asks again, after 1 ms at first and 50 ms later on.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        fd = _opened(path, even_if_read_only)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                kept, fd = fd, -1
                return kept
            continue  # its last holder removed it: the lock is another file now, or none
        except BlockingIOError:
            left = deadline - time.monotonic()
            own_script = os.environ.get("VEID") == str(what) and _holder(fd)[0] in _ancestors()
            if left <= 0 or own_script:
                raise _refused(fd, what, own_script) from None
        finally:
            if fd >= 0:
                os.close(fd)
        time.sleep(min(pause, left))
        pause = min(2 * pause, 0.05)


@contextmanager
def released(fd: int) -> Iterator[None]:
    """Let go of a lock at the end: a thread may have forked meanwhile, and the child has it open too."""
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def is_held(path: str) -> bool:
    """Does anybody hold the lock at path at this moment?"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _opened(path: str, even_if_read_only: bool) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if even_if_read_only and error.errno == errno.EROFS:
            with suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        raise


def _refused(fd: int, what: int | str, own_script: bool) -> Locked:
    pid, who = _holder(fd)
    if own_script:
        why = f"{who} works on it, and waits for this action script"
        hint = "what changes a VE does not work in its own action scripts"
    else:
        why, hint = f"{who} works on it", "wait for it, or end it"
    return Locked(f"cannot lock {what}: {why}", hint, holder=pid)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _holder(fd: int) -> tuple[int, str]:
    """Pid and description of who has this file locked, as /proc/locks has it; pid 0 when it names nobody."""
    at = os.fstat(fd)
    file = f"{os.major(at.st_dev):02x}:{os.minor(at.st_dev):02x}:{at.st_ino}"
    # N: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END; who waits for it has "->" behind N:
    fields = [line.split() for line in read_small("/proc/locks").decode().splitlines()]
    pids = [int(f[4]) for f in fields if f[1:2] == ["FLOCK"] and f[5] == file and int(f[4]) > 0]
    if not pids:
        return 0, "another process"
    if pids[0] == os.getpid():
        return pids[0], "another thread of this process"
    command = _command(pids[0])
    return pids[0], f"process {pids[0]} ({command})" if command else f"process {pids[0]}"


def _ancestors() -> Iterator[int]:
    """The pids of our parent, its parent, and so on."""
    pid = os.getppid()
    while pid > 0:
        yield pid
        fields = read_small(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        pid = int(fields[1]) if fields else 0


def _command(pid: int) -> str:
    """What a process was called with, for a message: one printable line, without its path or the interpreter."""
    words = os.fsdecode(read_small(f"/proc/{pid}/cmdline")).rstrip("\0").split("\0")
    if len(words) > 1 and os.path.basename(words[0]).startswith("python") and not words[1].startswith("-"):
        del words[0]
    line = " ".join([os.path.basename(words[0]), *words[1:]])
    shown = printable(line)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
