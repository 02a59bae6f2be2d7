"""Opening what is in somebody else's root: openat2(2) does not let a path, or a link in it, lead out of there."""

from __future__ import annotations

import errno
import os

from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_LINKS_MAX = 40  # as the kernel has it: path_resolution(7)
_TRIES = 1000
_NAMES_A_CALL = 15  # with names of 255 bytes a path stays below PATH_MAX


class Root:
    """A directory that absolute paths, absolute links and ".." cannot leave; without one, the caller's own root.

    at is told where something is looked at from then on.  own is a descriptor of our own /proc/self/fd, which is not
    to be found in there.
    """

    def __init__(
        self, fd: int = syscalls.AT_FDCWD, at: Callable[[str], None] = lambda path: None, own: int = -1
    ) -> None:
        self.fd = fd
        self.at = at
        self.own = own
        confined = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        self.resolve = 0 if fd == syscalls.AT_FDCWD else confined

    def open(self, path: str, flags: int) -> int:
        """A descriptor; relative paths begin at the root as well."""
        self.at(path)
        for _ in range(_TRIES):
            try:
                return syscalls.openat2(self.fd, path, flags, self.resolve)
            except OSError as error:
                if error.errno != errno.EAGAIN:  # a rename was under way while the kernel followed a ".."
                    raise OSError(error.errno, error.strerror, path) from error  # as FileNotFoundError and the like
        raise OSError(errno.EAGAIN, "something in the VE keeps renaming directories on the way there", path)

    def reopen(self, fd: int, flags: int) -> int:
        """Open what a descriptor has with O_PATH: just that, whatever its name leads to now."""
        return os.open(str(fd), flags | os.O_CLOEXEC, dir_fd=self.own)

    def chmod(self, fd: int, mode: int) -> None:
        """Of what a descriptor has with O_PATH."""
        os.chmod(str(fd), mode, dir_fd=self.own)

    def final(self, path: str) -> tuple[int, str]:
        """Where the file at path is, or would be made: a descriptor of its directory, and its name there.

        A link at the end is followed, for who wants to rename something onto the file itself.
        """
        for _ in range(_LINKS_MAX):
            head, name = os.path.split(path.rstrip("/"))
            if name in ("", ".", ".."):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            directory = self.open(head or ".", DIRECTORY)
            self.at(path)
            link = read_link(directory, name)
            if link is None:
                return directory, name
            os.close(directory)
            path = os.path.join(head, link)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def read_link(directory: int, name: str) -> str | None:
    """Where the symbolic link points to; None if there is none of this name."""
    try:
        return os.readlink(name, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None


def look(directory: int, name: str) -> os.stat_result | None:
    """What is there under this name, a link being a link; None if nothing is."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def open_below(root: int, names: Sequence[str], flags: int) -> int:
    """A descriptor of what these names lead to, each being in the one before: without links, and at any depth."""
    fd = root
    try:
        for start in range(0, max(len(names), 1), _NAMES_A_CALL):
            piece = "/".join(names[start : start + _NAMES_A_CALL]) or "."
            last = start + _NAMES_A_CALL >= len(names)
            resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
            deeper = syscalls.openat2(fd, piece, flags if last else os.O_PATH, resolve)
            if fd != root:
                os.close(fd)
            fd = deeper
    except OSError:
        if fd != root:
            os.close(fd)
        raise
    return fd
