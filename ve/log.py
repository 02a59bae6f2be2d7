"""The log of a VE in the background: what its init writes to stdout and stderr, in a file beside the private area.

init holds it open O_APPEND and the VE's root owns it, so that /dev/stdout can be opened inside.  So the VE may write or
cut it at any time; its name is out of the VE's reach, and what is there must be a regular file.
"""

import contextlib
import errno
import fcntl
import math
import os
import stat
import time
from collections.abc import Callable, Iterator

from ve.errors import Error
from ve.polling import readable

KEEP = 1 << 20  # bytes
_CHUNK = 1 << 16
_ROUNDS = 8  # a trim follows a writer for so long; a VE that writes all the time shall not keep it
_MEMORY = 4096  # bytes by which a reader finds its place again after a cut
_CUT = "user.ve.cut"  # of the log: how many bytes trims have cut off its front; the VE may write there, too


def open_for_init(path: str, uid: int) -> int:
    """A descriptor for init's stdout and stderr, the log being made if need be; uid: the host's id of the VE's root."""
    fd = _open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.set_blocking(fd, True)
        os.fchown(fd, uid, uid)
        os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def trim(path: str, keep: int = KEEP) -> bool:
    """Cut a log longer than keep bytes to its last keep bytes, from the first line that begins there; whether it did.

    The file stays the same one, as init has it open: its end is copied to its front, what came meanwhile after it, and
    the rest is cut off.  What init writes in the microseconds between the last look at the size and the cut is lost;
    a reader in between may see the end twice.  Nothing is done while another trim, or the VE itself, has it locked.
    """
    try:
        if stat.S_ISREG((about := os.lstat(path)).st_mode) and about.st_size <= keep:
            return False
        fd = _open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = os.fstat(fd).st_size
        if size <= keep:
            return False
        tail = os.pread(fd, keep + 1, size - keep - 1)  # and the byte before: a line may begin just at the cut
        front = os.pwrite(fd, tail[tail.find(b"\n", 0, -1) + 1 :][-keep:], 0)
        for _ in range(_ROUNDS):
            more = os.pread(fd, _CHUNK, size)
            size += len(more)
            front += os.pwrite(fd, more, front)
        os.ftruncate(fd, front)
        with contextlib.suppress(OSError):  # its file system has none of these, or no room
            os.setxattr(fd, _CUT, str(_cut(fd) + size - front).encode())
        return True
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOSPC, errno.EDQUOT):  # no space: its front may be a hole
            raise
        return False
    finally:
        os.close(fd)


def written(path: str) -> int:
    """How many bytes have been written to it, with those that trims have cut off; 0 if there is none."""
    try:
        return os.stat(path).st_size + _cut(path)
    except FileNotFoundError:
        return 0


def _cut(file: str | int) -> int:
    try:
        said = os.getxattr(file, _CUT)
    except OSError:
        return 0
    return int(said) if said.isdigit() and len(said) < 19 else 0


def chunks(
    path: str,
    follow: bool = False,
    stop: int | Callable[[], bool] | None = None,
    pipe: int = -1,
    until: float = math.inf,
    since: int = 0,
) -> Iterator[bytes]:
    """The log, in pieces; with follow also what comes, and what comes first if there is none yet, until it is removed.

    stop ends following: a descriptor once it is readable, such as a pidfd, or a function that is asked at each change.
    What was written before is still given.  After a trim it goes on where it was, after a cut by the VE at the start.
    What comes out of pipe, a descriptor of the caller's, is given as well: after the log, with follow beside it.
    until ends all that, by the clock of time.monotonic().  since: begin where written() was so much, or as near as
    trims have left; at the start if the VE has cut it.
    """
    watch = _watch(os.path.dirname(path) or ".") if follow else -1
    reader = _Reader(path, since)
    try:
        ended = watch < 0
        yield from reader.new(until)
        while not (ended or reader.is_removed()):
            ready = _wait(until, stop, pipe, watch=watch)
            ended = not ready or (stop in ready if isinstance(stop, int) else bool(stop and stop()))
            if pipe in ready:
                data = os.read(pipe, _CHUNK)
                pipe = pipe if data else -1
                yield data
            yield from reader.new(until)
            ended = ended or time.monotonic() >= until  # though there always is more
        while pipe >= 0 and _wait(until, pipe) and (data := os.read(pipe, _CHUNK)):
            yield data
            if time.monotonic() >= until:
                return
    finally:
        reader.close()
        if watch >= 0:
            os.close(watch)


def _watch(directory: str) -> int:
    """A descriptor that tells what changes in a directory, for the caller to close; -1 if there is none."""
    from ve._linux import syscalls as linux  # every verb cuts a log, but only who follows one needs ctypes

    wanted = linux.IN_MODIFY | linux.IN_CREATE | linux.IN_MOVED_TO | linux.IN_DELETE | linux.IN_DELETE_SELF
    watch = linux.inotify_init1(os.O_NONBLOCK)
    try:
        linux.inotify_add_watch(watch, directory, wanted | linux.IN_ONLYDIR)
    except BaseException as error:
        os.close(watch)
        if isinstance(error, OSError) and error.errno == errno.ENOENT:
            return -1
        raise
    return watch


def _wait(until: float, *fds: object, watch: int = -1) -> list[int]:
    """Until one of the descriptors has something to say, as watch does of its directory; those that do."""
    ready = readable([fd for fd in (watch, *fds) if isinstance(fd, int) and fd >= 0], until - time.monotonic())
    if watch in ready:
        os.read(watch, _CHUNK)  # which change it was is of no use: the file says what is in it
    return ready


class _Reader:
    """Reads on in a file that may not be there yet, and may be cut."""

    def __init__(self, path: str, since: int) -> None:
        self.path = path
        self.since = since
        self.fd = -1
        self.position = 0
        self.last = b""

    def new(self, until: float = math.inf) -> Iterator[bytes]:
        """What has come; of one that is written to faster than it is read, what does until then."""
        if self.fd < 0:
            try:
                self.fd = _open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                return
            self._begin()
        if os.fstat(self.fd).st_size < self.position:
            self.position = self._place()
        while chunk := os.pread(self.fd, _CHUNK, self.position):
            self.position += len(chunk)
            self.last = (self.last + chunk)[-_MEMORY:]
            yield chunk
            if time.monotonic() >= until:
                return

    def _begin(self) -> None:
        position = max(0, self.since - _cut(self.fd))
        if position <= os.fstat(self.fd).st_size:
            self.position = position
            before = min(position, _MEMORY)
            self.last = os.pread(self.fd, before, position - before)

    def _place(self) -> int:
        """Behind what we gave last, if that is still there."""
        text = os.pread(self.fd, KEEP, 0)
        at = text.rfind(self.last)
        return at + len(self.last) if at >= 0 else 0

    def is_removed(self) -> bool:
        if self.fd < 0:
            return not os.path.isdir(os.path.dirname(self.path) or ".")
        return os.fstat(self.fd).st_nlink == 0

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _open(path: str, flags: int) -> int:
    """O_NONBLOCK lest a FIFO keep us."""
    fd = -1
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
    if fd >= 0:
        os.close(fd)
    raise Error(f"cannot open the log {path}: it is not a regular file", hint="remove it")
