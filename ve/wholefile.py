"""Files that are there whole or not at all: written aside, then renamed or linked to their name."""

import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ve.errors import FULL, SPENT, BrokenConfig, DiskFull, NotSupported

_ASIDE = r"\..+\.([1-9][0-9]*)"
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP)


def write_whole(path: str, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
    """Replace path by a file with this content: a reader sees the old one or the new, and after a crash too if durable.

    DiskFull, or the kernel's OSError, leaves the old one as it was.
    """
    _write_aside(path, data, mode, os.replace, durable)


def create_whole(path: str, data: bytes, mode: int = 0o600, *, durable: bool = True) -> None:
    """The same, but FileExistsError when there is a file."""
    _write_aside(path, data, mode, os.link, durable)


def remove_asides(path: str) -> None:
    """Remove what killed writers of path left beside it."""
    directory, name = os.path.split(path)
    with suppress(FileNotFoundError, NotADirectoryError):
        for left in os.listdir(directory):
            if left.startswith(f".{name}."):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, left))


def asides(directory: str) -> list[str]:
    """What killed writers of the files of this directory left in it."""
    return [path for path, writer in _asides(directory) if not os.path.exists(f"/proc/{writer}")]


def remove_all_asides(directory: str) -> None:
    """Remove that, for who writes there alone: also where another process has the number of one that was killed."""
    for path, _ in _asides(directory):
        with suppress(FileNotFoundError):
            os.unlink(path)


def _asides(directory: str) -> list[tuple[str, str]]:
    """What is half written, or was: its path and the number of its writer."""
    try:
        found = {name: re.fullmatch(_ASIDE, name) for name in sorted(os.listdir(directory)) if name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(os.path.join(directory, name), written[1]) for name, written in found.items() if written]


def _write_aside(path: str, data: bytes, mode: int, publish: Callable[[str, str], None], durable: bool) -> None:
    directory, name = os.path.split(path)
    aside = os.path.join(directory, f".{name}.{threading.get_native_id()}")  # of no other living writer of this host
    with suppress(FileNotFoundError):  # a killed one's, and perhaps a second link to what it made: never write to it
        os.unlink(aside)
    try:
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)
            _write(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        publish(aside, path)
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(f"cannot write {path}: {error.strerror}") from error
        raise
    finally:
        with suppress(FileNotFoundError):
            os.unlink(aside)
    if durable:
        sync(directory or ".")


def sync(directory: str) -> None:
    """What has been made, renamed or removed in a directory is so after a power cut too."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def read_small(path: str) -> bytes:
    """What is in a file; nothing when it cannot be read, as that of a process that has ended.

    OSError if that is for want of descriptors or memory: who is told that there is nothing kills what runs.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in SPENT:
            raise
        return b""
    try:
        return b"".join(iter(lambda: os.read(fd, 65536), b""))
    except OSError:
        return b""
    finally:
        os.close(fd)


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """What is in a file that somebody may have put another in place of: no FIFO makes us wait, no device is endless.

    BrokenConfig if it is not a regular file, or longer than most bytes; the kernel's OSError if it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BrokenConfig(f"cannot read {os.fspath(path)}: it is not a regular file")
        parts, left = list[bytes](), most + 1  # those of /proc say no size before they are read
        while left and (part := os.read(fd, min(left, 65536))):
            parts.append(part)
            left -= len(part)
        if not left:
            raise BrokenConfig(f"cannot read {os.fspath(path)}: it is longer than {most} bytes")
        return b"".join(parts)
    finally:
        os.close(fd)


@contextmanager
def writing(what: str, hint: str, read_only: str = "") -> Iterator[None]:
    """Say what it is that could not be written: DiskFull, or NotSupported with this hint.

    read_only: another hint, for where that is its file system.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(f"cannot write {what}: {error.strerror}") from error
        if error.errno in _UNWRITABLE:
            hint = read_only if read_only and error.errno == errno.EROFS else hint
            raise NotSupported(f"cannot write {what}: {error.strerror}", hint) from error
        raise
