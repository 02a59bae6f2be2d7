"""The far side of everything that touches the files of a VE; it goes to where they are and keeps no way back.

A process of its own that serves one request.  For a running VE it enters the user and mount namespaces and so has the
rights of the VE's root and no others; nobody in there can see it (it stays out of the PID namespace) or trace it.  For
a stopped one it changes its root to the union of template and private area.  Paths are opened with openat2 all the
same, and from then on nothing can be imported, since the VE's files would be what is found.

    files (ve/files.py)            send                    receive
    request (a memfd)   ------->            ------------->
                        <-------   FOUND is_directory
    GO is_directory     --------------------------------->
                        <---------------------------------  READY
    GO                  ------->
                                   the tree, by a pipe -->
                        <-------   DONE
    GO                  --------------------------------->  puts it in place
                        <---------------------------------  DONE

What only edits (password, ssh_key, names) says DONE; what works on one path is in ve/insidepath.py.  Any answer may be
ERROR errno why where [hint] instead.  What is received is made aside, in a directory beside its place, and renamed:
nothing is there by half, and what was there before stays until then.  If files has gone, the directory goes too; if we
were killed, the next copy to there sees that nobody locks it and removes it.  What does not answer is an ERROR too: see
ve/stall.py.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import io
import marshal
import os
import resource
import stat
from contextlib import suppress

from ve import accounts, farside, insidepath, ownfiles, stall, tree
from ve._linux import syscalls
from ve.beneath import DIRECTORY, Root, look
from ve.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from ve.farside import Request

_STAGING = ".ve-cp-"
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Gone(Exception):
    """files wants no more of us."""


def main(request_fd: int, near: int) -> NoReturn:
    """Serve the request; never returns."""
    channel = _socket.socket(fileno=near)
    answer: tuple[Any, ...] = ("DONE",)
    try:
        with open(request_fd, "rb") as file:
            request: Request = marshal.load(file)
        _raise_descriptors()
        os.umask(0)
        root = _enter(request, channel)
        answer += tuple(_ACTIONS[request["action"]](request, root, channel) or ())
    except Gone:
        os._exit(1)
    except OSError as error:
        answer = ("ERROR", error.errno or 0, error.strerror or str(error), error.filename or "")
    except Error as error:
        number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
        answer = ("ERROR", number or errno.EINVAL, str(error), "", error.hint)
    except BaseException as error:  # files must hear of it
        answer = ("ERROR", 0, f"unexpected {type(error).__name__}: {error}", "")
    farside.send(channel, *answer)
    os._exit(0)


def _raise_descriptors() -> None:
    """A tree may be deep, and each level is a descriptor while we are below it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _enter(request: Request, channel: _socket.socket) -> Root:
    """Go to a running VE's root, or a stopped one's; or stay on the host, whose files have all the time they want."""
    pidfd, root = request["pidfd"], request["root"]
    if pidfd < 0 and root < 0:
        os.fchdir(request["here"])
        return Root()
    farside.forget_imports()
    own = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if pidfd >= 0:
        farside.hide()
        syscalls.setns(pidfd, syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        farside.become(0, 0)
    else:
        os.fchdir(root)
        os.chroot(".")
        os.close(root)
    stall.watch.begin(channel, request["patience"], pidfd)
    return Root(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), stall.watch.at, own)


# --- copying ------------------------------------------------------------------------------------------------------


def send(request: Request, root: Root, channel: _socket.socket) -> None:
    """Send what is at the path; one that ends in / or . is the directory that it leads to."""
    path = request["path"]
    directory, name = _source(root, path)
    about = os.stat(name, dir_fd=directory, follow_symlinks=False) if name else os.fstat(directory)
    _say(channel, "FOUND", stat.S_ISDIR(about.st_mode))
    _hear(channel)
    stall.watch.step()
    with io.BufferedWriter(stall.Stream(request["data"], channel, stall.watch)) as out:
        sender = tree.Sender(out, request["archive"], request["set_ids"], request["left_out"], stall.watch.step)
        stall.watch.where = sender.where
        sender.send(directory, name)


def _source(root: Root, path: str) -> tuple[int, str]:
    head, name = os.path.split(path)
    if name in ("", ".", ".."):
        return root.open(path, DIRECTORY), ""
    return root.open(head or ".", DIRECTORY), name


def receive(request: Request, root: Root, channel: _socket.socket) -> None:
    """Make what comes at the path: in the directory there, or under that name."""
    [is_directory] = _hear(channel)
    at, name = _destination(root, request["path"], request["name"], is_directory)
    staging_name, staging = make_staging(at)
    try:
        _say(channel, "READY")
        if not root.resolve:  # on the host: nothing that comes from a VE, whatever it is, can reach further
            os.fchdir(staging)
            os.chroot(".")
            farside.forget_imports()
        with io.BufferedReader(stall.Stream(request["data"], channel, stall.watch)) as source:
            tree.Receiver(source, staging, stall.watch.step).receive()
        _hear(channel)
        place(staging, tree.ROOT, at, name, request["archive"])
    except EOFError:
        raise Gone from None
    finally:
        os.close(staging)
        remove(at, staging_name)


def _destination(root: Root, path: str, called: str, is_directory: bool) -> tuple[int, str]:
    """The directory where it goes, and the name it gets there: empty if only what is in it goes there, as for cp."""
    try:
        directory = root.open(path, DIRECTORY)
    except FileNotFoundError:
        if path.endswith("/") and not is_directory:
            raise
        return root.final(path)
    except NotADirectoryError:
        if path.endswith("/"):
            raise
        if is_directory:
            raise OSError(errno.ENOTDIR, "it is not a directory there") from None
        return root.final(path)
    there = look(directory, called) if called else None
    if there is not None:
        _may_replace(is_directory, there, called)
    return directory, called


def place(source: int, name: str, at: int, called: str, archive: bool) -> None:
    """Move it there: a file replaces a file, a directory's contents join a directory's, links are never followed.

    A directory that was there keeps its owner and mode, unless archive.
    """
    stall.watch.step()
    here = os.stat(name, dir_fd=source, follow_symlinks=False)
    there = look(at, called) if called else os.fstat(at)
    if there is None:
        return os.rename(name, called, src_dir_fd=source, dst_dir_fd=at)
    _may_replace(stat.S_ISDIR(here.st_mode), there, called)
    if stat.S_IFMT(there.st_mode) not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFMT(here.st_mode)):  # such as /dev/null
        raise OSError(errno.EEXIST, "what is there is a device, a FIFO or a socket", called)
    if not stat.S_ISDIR(here.st_mode):
        return os.rename(name, called, src_dir_fd=source, dst_dir_fd=at)
    inner = os.open(name, _OPEN, dir_fd=source)
    outer = os.open(called, _OPEN, dir_fd=at) if called else os.dup(at)
    try:
        for child in os.listdir(inner):
            place(inner, child, outer, child, archive)
        if archive:
            os.fchown(outer, here.st_uid, here.st_gid)
            os.fchmod(outer, stat.S_IMODE(here.st_mode))
            os.utime(outer, ns=(here.st_mtime_ns, here.st_mtime_ns))
    finally:
        os.close(inner)
        os.close(outer)
    return None


def _may_replace(is_directory: bool, there: os.stat_result, name: str) -> None:
    if is_directory and not stat.S_ISDIR(there.st_mode):
        raise OSError(errno.ENOTDIR, "a directory cannot replace what is no directory", name)
    if not is_directory and stat.S_ISDIR(there.st_mode):
        raise OSError(errno.EISDIR, "only a directory can replace a directory", name)


# --- aside --------------------------------------------------------------------------------------------------------


def make_staging(parent: int) -> tuple[str, int]:
    """A new directory that is ours as long as we live: its name, and a descriptor with the lock that says so."""
    for name in os.listdir(parent):
        if name.startswith(_STAGING):
            _remove_stale(parent, name)
    while True:
        name = _STAGING + os.urandom(8).hex()
        os.mkdir(name, 0o700, dir_fd=parent)
        with suppress(FileNotFoundError, BlockingIOError):  # another's _remove_stale came in between
            fd = os.open(name, _OPEN, dir_fd=parent)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return name, fd


def _remove_stale(parent: int, name: str) -> None:
    """Remove what a killed one of us left; not what is locked, another's, or a mount."""
    with suppress(OSError):
        fd = os.open(name, _OPEN, dir_fd=parent)
        try:
            about = os.fstat(fd)
            if about.st_uid == os.geteuid() and about.st_dev == os.fstat(parent).st_dev:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(parent, name)
        finally:
            os.close(fd)


def remove(parent: int, name: str) -> None:
    """Remove a directory and all below, however deep; no link is followed."""
    stack: list[tuple[int, str, int, Iterator[str]]] = []

    def enter(above: int, directory: str) -> None:
        fd = os.open(directory, _OPEN, dir_fd=above)
        stack.append((above, directory, fd, iter(os.listdir(fd))))

    enter(parent, name)
    while stack:
        above, directory, fd, names = stack[-1]
        child = next(names, None)
        stall.watch.step()
        if child is None:
            stack.pop()
            os.close(fd)
            os.rmdir(directory, dir_fd=above)
            continue
        try:
            os.unlink(child, dir_fd=fd)
        except IsADirectoryError:
            enter(fd, child)


# --- editing ------------------------------------------------------------------------------------------------------


def password(request: Request, root: Root, channel: _socket.socket) -> None:
    accounts.set_password(root, request["user"], request["hash"], request["pidfd"] >= 0)


def ssh_key(request: Request, root: Root, channel: _socket.socket) -> None:
    accounts.add_ssh_key(root, request["user"], request["key"])


def names(request: Request, root: Root, channel: _socket.socket) -> None:
    stall.watch.at("/etc")
    ownfiles.rewrite(request["wanted"])


_ACTIONS: dict[str, Callable[[Request, Root, _socket.socket], tuple[Any, ...] | None]] = {
    **{action.__name__: action for action in (send, receive, password, ssh_key, names)},
    **insidepath.ACTIONS,
}


def _say(channel: _socket.socket, *message: Any) -> None:
    if not farside.send(channel, *message):
        raise Gone


def _hear(channel: _socket.socket) -> tuple[Any, ...]:
    stall.watch.rest()
    message, _ = farside.receive(channel)
    stall.watch.step()
    if not message:
        raise Gone
    return message[1:]
