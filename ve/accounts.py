"""The accounts of a VE: passwords and ssh keys, by editing its own files inside its root.

A file is written anew beside the old one and renamed onto it, with owner, mode and xattrs of the old: a reader sees the
one or the other, and a full disk changes nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import time
from contextlib import suppress

from ve.beneath import DIRECTORY, Root, look

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

_SIZE_MAX = 16 << 20
_LOCK_TIMEOUT = 15  # seconds, as lckpwdf(3)
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DAY = 86400
NO_SUCH_USER = errno.EBADRQC  # which the kernel says of no file or process, as it does ENOENT and ESRCH
_NO_ID = 2**32 - 1
_ELSEWHERE = "x"  # in the second field of passwd(5): see shadow(5)


def set_password(root: Root, user: str, hashed: str, running: bool) -> None:
    """Give the user this password hash; OSError NO_SUCH_USER."""
    etc = root.open("etc", DIRECTORY)
    if running:
        _lock(etc)
    passwd = File(root, "etc/passwd")
    account = passwd.find(user)
    if account is None:
        raise OSError(NO_SUCH_USER, "no such user")
    shadow = File(root, "etc/shadow")
    if shadow.about is None:
        account[1] = hashed
        passwd.put(account)
        return
    entry = shadow.find(user) or [user, "", "", "0", "99999", "7", "", "", ""]
    entry[1:3] = [hashed, str(int(time.time()) // _DAY)]
    shadow.put(entry)
    if account[1] != _ELSEWHERE:
        account[1] = _ELSEWHERE
        passwd.put(account)


def add_ssh_key(root: Root, user: str, key: str) -> None:
    """Let the owner of this public key log in as the user; nothing happens if it may already.

    All below the home is done with the rights of the user, since whatever is there, links too, may be the user's doing.
    """
    account = File(root, "etc/passwd").find(user)
    if account is None:
        raise OSError(NO_SUCH_USER, "no such user")
    uid, gid, path = _id(account[2]), _id(account[3]), account[5]
    if "\0" in path:
        raise OSError(errno.EINVAL, "its home directory has no path")
    os.setegid(gid)
    os.seteuid(uid)
    home = root.open(path or "/", DIRECTORY)
    with suppress(FileExistsError):
        os.mkdir(".ssh", 0o700, dir_fd=home)
    directory = os.open(".ssh", os.O_RDONLY | os.O_DIRECTORY | _OPEN, dir_fd=home)
    old, about = read(directory, "authorized_keys")
    if about is not None and about.st_uid != uid:
        raise OSError(errno.EPERM, "the file belongs to another user", "authorized_keys")
    wanted = key.split()[:2]
    lines = _lines(old)
    if not any(_holds(line.split(), wanted) for line in lines):
        write(directory, "authorized_keys", "\n".join([*lines, key, ""]), about, 0o600)


def _id(field: str) -> int:
    """A user or group id; not all that int() takes is one, nor what setuid(2) takes for "leave it"."""
    if field.isascii() and field.isdecimal() and len(field) <= 10 and int(field) < _NO_ID:
        return int(field)
    raise OSError(errno.EINVAL, f"its id is {field[:20]!r}, which is none")


def _holds(words: list[str], wanted: list[str]) -> bool:
    """Whether a line of authorized_keys is for the key: options may come before, a comment after."""
    return any(words[place : place + 2] == wanted for place in range(len(words) - 1))


class File:
    """A file of lines with fields, as passwd(5) and shadow(5) are; about is None if there is none."""

    def __init__(self, root: Root, path: str) -> None:
        self.directory, self.name = root.final(path)
        text, self.about = read(self.directory, self.name)
        self.lines = [line.split(":") for line in _lines(text)]

    def find(self, user: str) -> list[str] | None:
        """The fields of this user."""
        return next((list(fields) for fields in self.lines if fields[0] == user and len(fields) >= 7), None)

    def put(self, entry: list[str]) -> None:
        """Replace the user's line, or add it, and write the file."""
        places = [place for place, fields in enumerate(self.lines) if fields[0] == entry[0]]
        if places:
            self.lines[places[0]] = entry
        else:
            self.lines.append(entry)
        write(self.directory, self.name, "".join(":".join(fields) + "\n" for fields in self.lines), self.about, 0o600)


def _lines(text: str) -> list[str]:
    """Only what libc takes for a line's end is one: splitlines() finds more, and a user's full name may hold them."""
    return text.removesuffix("\n").split("\n") if text else []


def read(directory: int, name: str) -> tuple[str, os.stat_result | None]:
    """The text of a regular file, and what it is; nothing and None if there is none."""
    if look(directory, name) is None:
        return "", None
    fd = os.open(name, os.O_RDONLY | _OPEN, dir_fd=directory)
    about = os.fstat(fd)
    if not stat.S_ISREG(about.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", name)
    with open(fd, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        if about.st_size > _SIZE_MAX:
            raise OSError(errno.EFBIG, "it is too big to be true", name)
        return file.read(_SIZE_MAX), about


def write(directory: int, name: str, text: str, old: os.stat_result | None, mode: int) -> None:
    """Replace the file whole; owner, mode and xattrs are those of the old one, if there is one."""
    aside = f".{name}.{os.urandom(8).hex()}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=directory)
    try:
        with open(fd, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            if old is not None:
                os.fchown(fd, old.st_uid, old.st_gid)
                _copy_xattrs(directory, name, fd)
            os.fchmod(fd, stat.S_IMODE(old.st_mode) if old else mode)
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside, dir_fd=directory)
        raise
    os.fsync(directory)


def _copy_xattrs(directory: int, name: str, to: int) -> None:
    with suppress(OSError):  # a file system without them has none to copy
        fd = os.open(name, os.O_RDONLY | _OPEN, dir_fd=directory)
        try:
            for key in os.listxattr(fd):
                with suppress(OSError):
                    os.setxattr(to, key, os.getxattr(fd, key))
        finally:
            os.close(fd)


def _lock(etc: int) -> None:
    """Keep the VE's own programs from changing accounts meanwhile, as lckpwdf(3) does; released when we end."""
    fd = os.open(".pwd.lock", os.O_WRONLY | os.O_CREAT | _OPEN, 0o600, dir_fd=etc)

    def give_up(signum: int, frame: FrameType | None) -> None:
        raise OSError(errno.EAGAIN, "a program of the VE keeps /etc/.pwd.lock locked")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_LOCK_TIMEOUT)
    fcntl.lockf(fd, fcntl.LOCK_EX)
    signal.alarm(0)
