"""A file or a whole tree, sent through a pipe by one process and made anew by another.

    entry   length (u32), then marshalled: kind, name, what it links to, mode, owner, time, xattrs
    file    after its entry its data as chunks: offset (u64), length (u32), bytes; one of length 0 has the file's size

A name is never a path: a directory's entries follow it, then comes UP.  So nobody has to judge where a path leads, and
each side holds a descriptor of the directory it works in.  Holes stay holes and a file may grow or shrink meanwhile,
which a tar archive does not allow.  Devices and sockets are left out.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat
import struct
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO

DIRECTORY, FILE, SYMLINK, FIFO, LINK, UP, END = "directory", "file", "symlink", "fifo", "link", "up", "end"
ROOT = "new"  # the name of what was asked for; the receiver gives it another
_LINKS = "links"
_LENGTH = struct.Struct("<I")
_CHUNK = struct.Struct("<QI")
_CHUNK_MAX = 1 << 20
_ENTRY_MAX = 1 << 22  # xattrs are 64 KiB each
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHANGED = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)  # it became something else while we looked
_SET_IDS = stat.S_ISUID | stat.S_ISGID


class Sender:
    """archive: with owners, times, xattrs and hard links.  set_ids: with setuid bits.  left_out: names in a root.

    step is called before each of what is sent.
    """

    def __init__(
        self, out: BinaryIO, archive: bool, set_ids: bool, left_out: tuple[str, ...], step: Callable[[], None]
    ) -> None:
        self.out = out
        self.step = step
        self.name = ""  # of what is sent just now
        self.archive = archive
        self.mask = 0o7777 if archive or set_ids else 0o7777 & ~_SET_IDS
        self.left_out = left_out
        self.stack: list[tuple[int, str, Iterator[str]]] = []  # directories we are in: descriptor, name, names to come
        self.links: dict[tuple[int, int], int] = {}

    def send(self, directory: int, name: str) -> None:
        """Send what name is there; if it is empty, the directory itself.  OSError has the name that it is about."""
        if name:
            self._send(directory, name, ROOT)
        else:
            self._enter(os.dup(directory), ROOT)
        while self.stack:
            fd, _, names = self.stack[-1]
            child = next(names, None)
            if child is None:
                self.stack.pop()
                os.close(fd)
                self._entry(UP)
            else:
                self._send(fd, child, child)
        self._entry(END)
        self.out.flush()

    def where(self) -> str:
        """The path, below what was asked for, of what is sent just now; empty if it is that itself."""
        return "/".join([*(entry[1] for entry in self.stack[1:]), self.name]) if self.stack else ""

    def _send(self, directory: int, name: str, called: str) -> None:
        self.name = name
        self.step()
        try:
            about = os.stat(name, dir_fd=directory, follow_symlinks=False)
            kind = _KINDS.get(stat.S_IFMT(about.st_mode))
            if kind is None and not self.stack:
                raise OSError(errno.EINVAL, "it is a device or a socket")
            if kind is not None:
                kind(self, directory, name, called, about)
        except BrokenPipeError:
            raise
        except OSError as error:
            if not self.stack or error.errno not in _CHANGED:
                error.filename = self.where()
                raise

    def _directory(self, directory: int, name: str, called: str, about: os.stat_result) -> None:
        self._enter(os.open(name, os.O_RDONLY | os.O_DIRECTORY | _OPEN, dir_fd=directory), called)

    def _enter(self, fd: int, called: str) -> None:
        names = sorted(os.listdir(fd))
        if self.left_out and not self.stack and os.path.samestat(os.fstat(fd), os.stat("/")):
            names = [name for name in names if name not in self.left_out]
        self._entry(DIRECTORY, called, "", os.fstat(fd), fd)
        self.stack.append((fd, called, iter(names)))

    def _file(self, directory: int, name: str, called: str, about: os.stat_result) -> None:
        fd = os.open(name, os.O_RDONLY | _OPEN, dir_fd=directory)
        try:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                return
            number = 0
            if self.archive and about.st_nlink > 1:
                known = len(self.links) + 1
                number = self.links.setdefault((about.st_dev, about.st_ino), known)
                if number != known:
                    self._entry(LINK, called, str(number))
                    return
            self._entry(FILE, called, str(number or ""), about, fd)
            self._data(fd, about)
        finally:
            os.close(fd)

    def _data(self, fd: int, about: os.stat_result) -> None:
        has_holes = about.st_blocks * 512 < about.st_size
        offset = end = 0
        for start, stop in _extents(fd, about.st_size) if has_holes else ((0, 1 << 63),):
            offset = start
            while offset < stop and (data := os.pread(fd, min(_CHUNK_MAX, stop - offset), offset)):
                self.out.write(_CHUNK.pack(offset, len(data)))
                self.out.write(data)
                offset += len(data)
            end = offset
        self.out.write(_CHUNK.pack(max(end, about.st_size if has_holes else 0), 0))

    def _symlink(self, directory: int, name: str, called: str, about: os.stat_result) -> None:
        self._entry(SYMLINK, called, os.readlink(name, dir_fd=directory), about)

    def _fifo(self, directory: int, name: str, called: str, about: os.stat_result) -> None:
        self._entry(FIFO, called, "", about)

    def _entry(
        self, kind: str, name: str = "", link: str = "", about: os.stat_result | None = None, fd: int = -1
    ) -> None:
        keep = about is not None and self.archive
        data = marshal.dumps(
            (
                kind,
                name,
                link,
                about.st_mode & self.mask if about else 0,
                (about.st_uid, about.st_gid) if about and keep else None,
                about.st_mtime_ns if about and keep else None,
                _xattrs(fd) if keep and fd >= 0 else {},
            )
        )
        self.out.write(_LENGTH.pack(len(data)) + data)


_KINDS = {
    stat.S_IFDIR: Sender._directory,
    stat.S_IFREG: Sender._file,
    stat.S_IFLNK: Sender._symlink,
    stat.S_IFIFO: Sender._fifo,
}


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data: from, to."""
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole from here on
                raise
            return
        end = os.lseek(fd, offset, os.SEEK_HOLE)
        yield offset, end
        offset = end


def _xattrs(fd: int) -> dict[str, bytes]:
    found = {}
    with suppress(OSError):  # as cp -a has it: what the file system has none of is not missed
        for name in os.listxattr(fd):
            with suppress(OSError):
                found[name] = os.getxattr(fd, name)
    return found


class Receiver:
    """Makes what comes through the pipe below the directory staging, which must be empty and nobody else's.

    step is called before each of what is made.
    """

    def __init__(self, source: BinaryIO, staging: int, step: Callable[[], None]) -> None:
        self.source = source
        self.step = step
        self.staging = staging
        os.mkdir(_LINKS, 0o700, dir_fd=staging)
        self.links = os.open(_LINKS, os.O_RDONLY | os.O_DIRECTORY | _OPEN, dir_fd=staging)
        self.stack: list[tuple[int, tuple[Any, ...]]] = [(os.dup(staging), ())]

    def receive(self) -> None:
        """Return when all is there, under the name ROOT; EOFError if the pipe ended before."""
        while True:
            self.step()
            [length] = _LENGTH.unpack(self._read(_LENGTH.size))
            if length > _ENTRY_MAX:
                raise ValueError(f"an entry of {length} bytes")
            kind, name, *rest = marshal.loads(self._read(length))
            if kind == END:
                return
            if kind == UP:
                fd, attributes = self.stack.pop()
                _apply(fd, *attributes)
                os.close(fd)
                continue
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise ValueError(f"an entry named {name!r}")
            try:
                _MAKERS[kind](self, self.stack[-1][0], name, *rest)
            except OSError as error:
                error.filename = name if len(self.stack) > 1 else ""
                raise

    def _directory(self, at: int, name: str, link: str, *attributes: Any) -> None:
        os.mkdir(name, 0o700, dir_fd=at)
        self.stack.append((os.open(name, os.O_RDONLY | os.O_DIRECTORY | _OPEN, dir_fd=at), attributes))

    def _file(self, at: int, name: str, link: str, *attributes: Any) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=at)
        try:
            while True:
                offset, length = _CHUNK.unpack(self._read(_CHUNK.size))
                if not length:
                    os.ftruncate(fd, offset)
                    break
                if length > _CHUNK_MAX:
                    raise ValueError(f"a chunk of {length} bytes")
                _write(fd, self._read(length), offset)
            _apply(fd, *attributes)
        finally:
            os.close(fd)
        if link:
            os.link(name, str(int(link)), src_dir_fd=at, dst_dir_fd=self.links, follow_symlinks=False)

    def _link(self, at: int, name: str, link: str, *attributes: Any) -> None:
        os.link(str(int(link)), name, src_dir_fd=self.links, dst_dir_fd=at, follow_symlinks=False)

    def _symlink(self, at: int, name: str, link: str, mode: int, *rest: Any) -> None:
        os.symlink(link, name, dir_fd=at)
        self._owner_and_time(at, name, *rest)

    def _fifo(self, at: int, name: str, link: str, mode: int, *rest: Any) -> None:
        os.mkfifo(name, mode, dir_fd=at)
        self._owner_and_time(at, name, *rest)

    def _owner_and_time(self, at: int, name: str, owner: tuple[int, int] | None, time: int | None, _: Any) -> None:
        if owner is not None:
            os.chown(name, *owner, dir_fd=at, follow_symlinks=False)
        if time is not None:
            os.utime(name, ns=(time, time), dir_fd=at, follow_symlinks=False)

    def _read(self, length: int) -> bytes:
        data = self.source.read(length)
        if len(data) < length:
            raise EOFError("the other side has ended")
        return data


_MAKERS: dict[str, Any] = {
    DIRECTORY: Receiver._directory,
    FILE: Receiver._file,
    LINK: Receiver._link,
    SYMLINK: Receiver._symlink,
    FIFO: Receiver._fifo,
}


def _apply(fd: int, mode: int, owner: tuple[int, int] | None, time: int | None, xattrs: dict[str, bytes]) -> None:
    """In this order: a chown takes setuid bits and capabilities away."""
    if owner is not None:
        os.fchown(fd, *owner)
    os.fchmod(fd, mode)
    for name, value in xattrs.items():
        with suppress(OSError):  # as cp -a has it
            os.setxattr(fd, name, value)
    if time is not None:
        os.utime(fd, ns=(time, time))


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
