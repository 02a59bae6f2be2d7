"""What may be a template's tree: a root file system without traps, whose /dev, /proc and /sys are free for a VE's own.

A tree comes from strangers.  It is walked by descriptors, no link in it is followed but by openat2 inside it, and names
from it are printed escaped.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ve._linux import syscalls
from ve.staging import Staging, shown

# Where an init may be, in the order in which they are tried.
INITS = ("/sbin/init", "/usr/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/bin/init", "/init")
# One of these makes a tree a root file system.
SYSTEM_DIRECTORIES = ("bin", "sbin", "usr")
# These a VE mounts over: what a tree has in them is left out.
API_DIRECTORIES = ("dev", "proc", "sys")

_STEERING = ("trusted.", "user.overlay.")
_DEPTH_MAX = 256  # levels; each one is an open descriptor while we walk
_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


def settle(staging: Staging) -> str:
    """Refuse a tree that cannot be a template's, empty its API directories, and return the path of its init, or ""."""
    tree = os.open(staging.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not any(_is(tree, name, stat.S_ISDIR) for name in SYSTEM_DIRECTORIES):
            raise staging.bad(
                "it is not a root file system: it has no /bin, /sbin or /usr",
                hint="are they in a directory of it? that directory is the source then",
            )
        _empty_api_directories(staging, tree)
        _check_inodes(staging, tree)
        return find_init(tree)
    finally:
        os.close(tree)


def find_init(tree: int) -> str:
    """The first of INITS that is an executable file when the tree is the root; empty if there is none."""
    return next((path for path in INITS if _is(tree, path, lambda mode: stat.S_ISREG(mode) and mode & 0o111)), "")


def write(tree: int, path: str, text: str, mode: int = 0o644) -> None:
    """Put a whole file into the tree, whatever was there under its name; its directory must exist."""
    directory, _, name = path.rpartition("/")
    with _opened(tree, directory) as parent:
        remove(parent, name)
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        with open(fd, "w") as file:
            file.write(text)
            os.fchmod(fd, mode)


def remove(parent: int, name: str) -> None:
    """Unlink a file if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def make_directory(tree: int, path: str, mode: int = 0o755) -> None:
    """Make a directory in the tree, if it is not there; its parent must exist."""
    directory, _, name = path.rpartition("/")
    with _opened(tree, directory) as parent, suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
        os.chmod(name, mode, dir_fd=parent)  # mkdir's mode is subject to the caller's umask


def remove_matching(tree: int, directory: str, pattern: str) -> None:
    """Unlink the files in a directory of the tree whose whole name matches; nothing if there is no such directory."""
    with suppress(FileNotFoundError), _opened(tree, directory) as parent:
        for name in os.listdir(parent):
            if re.fullmatch(pattern, name):
                remove(parent, name)


def has_file(tree: int, path: str) -> bool:
    return _is(tree, path, stat.S_ISREG)


def walk(directory: int, path: str = "", depth: int = 0) -> Iterator[tuple[int, str, str, os.stat_result]]:
    """All below directory: (descriptor of its parent, name, path from the top, status); RecursionError if too deep."""
    if depth > _DEPTH_MAX:
        raise RecursionError(path)
    with os.scandir(directory) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        yield directory, name, f"{path}/{name}", status
        if stat.S_ISDIR(status.st_mode):
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                yield from walk(fd, f"{path}/{name}", depth + 1)
            finally:
                os.close(fd)


@contextmanager
def _opened(tree: int, directory: str) -> Iterator[int]:
    try:
        fd = syscalls.openat2(tree, directory or "/", os.O_RDONLY | os.O_DIRECTORY, _IN_ROOT)
    except syscalls.SyscallError as error:
        raise OSError(error.errno, error.strerror, directory) from error  # as FileNotFoundError and the like
    try:
        yield fd
    finally:
        os.close(fd)


def _empty_api_directories(staging: Staging, tree: int) -> None:
    for name in API_DIRECTORIES:
        try:
            status = os.stat(name, dir_fd=tree, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            raise staging.bad(f"its /{name} is not a directory")
    staging.run("rm", "-rf", "--one-file-system", "--", *API_DIRECTORIES, cwd=staging.tree)
    for name in API_DIRECTORIES:
        make_directory(tree, name)


def _check_inodes(staging: Staging, tree: int) -> None:
    """No device nodes (0:0 is overlayfs's whiteout), no attributes that steer overlayfs, whichever it looks at."""
    _check_attributes(staging, f"/proc/self/fd/{tree}/.", "/")
    try:
        for parent, name, path, status in walk(tree):
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                raise staging.bad(f"it holds a device node outside /dev: {shown(path)}")
            _check_attributes(staging, f"/proc/self/fd/{parent}/{name}", path)
    except RecursionError as error:
        raise staging.bad(f"it is nested more than {_DEPTH_MAX} directories deep") from error


def _check_attributes(staging: Staging, path: str, path_inside: str) -> None:
    # listxattr has no dir_fd: the descriptor in this path is ours, and its last step does not follow.
    for attribute in os.listxattr(path, follow_symlinks=False):
        if attribute.startswith(_STEERING):
            raise staging.bad(
                f"{shown(path_inside)} has the extended attribute {shown(attribute)}, which overlayfs obeys"
            )


def _is(tree: int, path: str, kind: Callable[[int], object]) -> bool:
    """Whether path, with the tree as the root, is of that kind (a predicate of st_mode)."""
    try:
        fd = syscalls.openat2(tree, path, os.O_PATH, _IN_ROOT)
    except OSError:
        return False
    try:
        return bool(kind(os.fstat(fd).st_mode))
    finally:
        os.close(fd)
