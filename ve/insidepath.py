"""What is done to one path in a VE: the far side of ve/path.py, in the process of ve/inside.py.

No FIFO, device or socket is ever opened, whatever a VE puts there while we look: a file is found with O_PATH, which
opens nothing, and what was found is opened by its descriptor once it is known to be a regular file.

    path (ve/path.py)              read                    write
    request (a memfd)   ------->            ------------->
                        <-------   OPENED  <--------------
    the file, by a pipe <-------
                                           <--------------  the file, by a pipe, to its end
                        <-------   DONE    <--------------

The others say DONE and what was asked for; list says SOME names before, as often as it takes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat

from ve import farside, stall
from ve._linux import syscalls
from ve.beneath import DIRECTORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from ve.beneath import Root
    from ve.farside import Request

_CHUNK = 1 << 16
_AGAIN = 250  # milliseconds; of what is mounted on a directory, or is behind a link, inotify(7) does not tell
_NAMES = 64  # in a message, whose size is limited (ve/farside.py)
_TRIES = 1000
_REOPEN = os.O_NONBLOCK | os.O_NOCTTY
_HOW = {"w": os.O_TRUNC, "a": os.O_APPEND}  # what open(2) is told of a file that is there


def look(request: Request, root: Root, channel: _socket.socket) -> tuple[Any, ...]:
    """What stat(2) says of it, or of a link at its end, as the parts of a stat_result."""
    flags = os.O_PATH if request["follow"] else os.O_PATH | os.O_NOFOLLOW
    parts: tuple[Any, ...] = os.fstat(root.open(request["path"], flags)).__reduce__()[1]  # type: ignore[assignment]
    return parts


def list_names(request: Request, root: Root, channel: _socket.socket) -> None:
    names = os.listdir(root.open(request["path"], DIRECTORY))
    for first in range(0, len(names), _NAMES):
        stall.watch.step()
        farside.send(channel, "SOME", *names[first : first + _NAMES])


def link(request: Request, root: Root, channel: _socket.socket) -> tuple[str]:
    """Where the link at its end leads to."""
    directory, name = _parent(root, request["path"])
    return (os.readlink(name, dir_fd=directory),)


def mkdir(request: Request, root: Root, channel: _socket.socket) -> None:
    try:
        _mkdir(root, request["path"], request["mode"], request["parents"])
    except FileExistsError:
        if not request["exist_ok"]:
            raise
        root.open(request["path"], DIRECTORY)  # or NotADirectoryError


def _mkdir(root: Root, path: str, mode: int, parents: bool) -> None:
    try:
        directory, name = _parent(root, path, nameless=errno.EEXIST)
    except FileNotFoundError:
        if not parents:
            raise
        for end in (place for place, char in enumerate(path) if char == "/" and place):
            _make_one(root, path[:end])
        directory, name = _parent(root, path, nameless=errno.EEXIST)
    os.mkdir(name, mode, dir_fd=directory)


def _make_one(root: Root, path: str) -> None:
    """A directory on the way, with the mode that those have."""
    with contextlib.suppress(FileExistsError):
        directory, name = _parent(root, path, nameless=errno.EEXIST)
        os.mkdir(name, 0o755, dir_fd=directory)


def unlink(request: Request, root: Root, channel: _socket.socket) -> None:
    directory, name = _parent(root, request["path"])
    os.unlink(name, dir_fd=directory)


def rmdir(request: Request, root: Root, channel: _socket.socket) -> None:
    directory, name = _parent(root, request["path"])
    os.rmdir(name, dir_fd=directory)


def chmod(request: Request, root: Root, channel: _socket.socket) -> None:
    root.chmod(root.open(request["path"], os.O_PATH), request["mode"])


def _parent(root: Root, path: str, *, nameless: int = errno.EBUSY) -> tuple[int, str]:
    """A descriptor of the directory that it is in, and its name there; a link at the end is no other's name.

    nameless: the error of a path that ends in no name.
    """
    head, name = os.path.split(path)
    if name in ("", ".", ".."):
        raise OSError(nameless, "it is the root, or ends in ..", path)
    return root.open(head, DIRECTORY), name


# --- what is in a file --------------------------------------------------------------------------------------------


def read(request: Request, root: Root, channel: _socket.socket) -> None:
    """Send the file through the pipe, as far as somebody reads."""
    fd = root.reopen(_regular(root, request["path"]), os.O_RDONLY | _REOPEN)
    farside.send(channel, "OPENED")
    out = stall.Stream(request["data"], channel, stall.watch)
    while data := memoryview(os.read(fd, _CHUNK)):
        while data:
            data = data[out.write(data) :]


def write(request: Request, root: Root, channel: _socket.socket) -> None:
    """Write what comes through the pipe into the file, which is made if it is not there, for the VE's root."""
    fd = _writable(root, request["path"], request["how"])
    farside.send(channel, "OPENED")
    source, buffer = stall.Stream(request["data"], channel, stall.watch), bytearray(_CHUNK)
    while count := source.readinto(buffer):
        data = memoryview(buffer)[:count]
        while data:
            data = data[os.write(fd, data) :]


def _regular(root: Root, path: str) -> int:
    """A descriptor of the regular file there with O_PATH."""
    fd = root.open(path, os.O_PATH)
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a FIFO, a device or a socket", path)
    return fd


def _writable(root: Root, path: str, how: str) -> int:
    for _ in range(_TRIES):
        try:
            if how != "x":
                return root.reopen(_regular(root, path), os.O_WRONLY | _HOW[how] | _REOPEN)
        except FileNotFoundError:
            pass
        directory, name = _parent(root, path) if how == "x" else root.final(path)
        try:
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=directory)
        except FileExistsError:
            if how == "x":
                raise
        os.close(directory)  # somebody has made it meanwhile
    raise OSError(errno.EAGAIN, "something in the VE keeps making and removing it", path)


# --- waiting --------------------------------------------------------------------------------------------------------


def appear(request: Request, root: Root, channel: _socket.socket) -> None:
    """Wait until there is something at the path: a link is what it leads to."""
    changes = syscalls.inotify_init1(os.O_NONBLOCK)
    poll = select.poll()
    for fd, what in ((changes, select.POLLIN), (channel, select.POLLIN | select.POLLRDHUP)):
        poll.register(fd, what)
    while not (_is_there(root, request["path"]) or _comes_meanwhile(root, request["path"], changes)):
        stall.watch.rest()
        ready = dict(poll.poll(_AGAIN))
        stall.watch.step()
        if channel.fileno() in ready:
            os._exit(1)  # nobody waits any more
        if changes in ready:
            os.read(changes, 1 << 16)  # which change it was is of no use: the path says what is there


def _is_there(root: Root, path: str) -> bool:
    try:
        os.close(root.open(path, os.O_PATH))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _comes_meanwhile(root: Root, path: str, changes: int) -> bool:
    """Watch the nearest directory above that is there; is it there by then?"""
    head = path
    while True:
        head = os.path.dirname(head.rstrip("/")) or "/"
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            directory = root.open(head, DIRECTORY)
            break
    os.fchdir(directory)
    os.close(directory)
    with contextlib.suppress(
        OSError
    ):  # it is gone, or this host has no watches left: then it is looked at every now and then
        syscalls.inotify_add_watch(changes, ".", syscalls.IN_CREATE | syscalls.IN_MOVED_TO | syscalls.IN_ONLYDIR)
    return _is_there(root, path)


_ALL = (look, list_names, link, mkdir, unlink, rmdir, chmod, read, write, appear)
ACTIONS = {action.__name__: action for action in _ALL}
