"""What a VE changed: its upper, and the layers below that, compared with its template.

The kernel's own marks in an upper (Documentation/filesystems/overlayfs.rst): a character device 0:0 hides what the
template has; a directory with the xattr trusted.overlay.opaque "y" hides all that the template has in it; one with
trusted.overlay.redirect was moved here, and goes on with the template's directory at that place.  Without CAP_SYS_ADMIN
these xattrs cannot be seen.  In a VE they are user.overlay.*, as ve/unionfs.py has it.

The VE wrote the upper and may be writing now: every name is opened beneath the layer's root, without symlinks, a
directory at a time, so that neither a link nor any depth leads out.  What vanishes meanwhile is left out.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ve._linux.syscalls import SyscallError
from ve.beneath import open_below
from ve.unionfs import marks

_VANISHED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True)
class Change:
    """One name: kind is "A" added, "C" changed or "D" deleted; path begins at the VE's root, os.fsdecode made it."""

    kind: str
    path: str


_Place: TypeAlias = tuple[str, ...] | None  # names from a root; None: it is not there


class _Pair(NamedTuple):
    """A directory of the VE, and the template's that it is compared with."""

    name: tuple[str, ...]
    parts: tuple[_Place, ...]  # where each layer, the topmost first, and the template have what the VE sees in it
    lower: _Place

    @property
    def cut(self) -> bool:
        """The VE sees nothing of the template's: it, or one above it, is opaque."""
        return self.parts[-1] is None


def changes(uppers: Sequence[str], template: str) -> list[Change]:
    """What the VE changed, by path; a directory that is gone stands for all that was in it.  uppers: topmost first.

    Changed is what differs in type, mode, owner, xattrs or, unless it is a directory, in size, time of change, device
    or link target: a copy that overlayfs made and that nobody changed has all of them the same.  A directory that was
    moved is added where it is, and what is in it is compared with what it was.  Of a file with several names only those
    that were written through are listed.
    """
    found: list[Change] = []
    with ExitStack() as stack:
        roots = []
        for path in (*uppers, template):
            roots.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, roots[-1])
        if not _same(roots[0], roots[-1], "."):
            found.append(Change("C", "/"))
        left = [_Pair((), ((),) * len(roots), ())]
        while left:
            left += _directory(roots, left.pop(), found)
    return sorted(found, key=lambda change: change.path)


def _directory(roots: Sequence[int], pair: _Pair, found: list[Change]) -> list[_Pair]:
    """Compare one directory name by name, add what differs to found, and give the directories in it."""
    deeper = []
    with ExitStack() as stack:
        lower = stack.enter_context(_opened(roots[-1], pair.lower))
        names: dict[str, int] = {}  # and the topmost layer that has it
        for root, part in zip(roots[:-1], pair.parts[:-1], strict=True):
            fd = stack.enter_context(_opened(root, part))
            names = dict.fromkeys(os.listdir(fd), fd) | names if fd is not None else names
        for name, upper in names.items():
            here, there = _stat(upper, name), _stat(lower, name)
            if here is None:
                continue
            same = (*pair.lower, name) if pair.lower is not None and there else None
            parts = _parts(roots, pair.parts, name) if stat.S_ISDIR(here.st_mode) else ()
            moved = parts and parts[-1] not in (None, same)
            kind = "C" if moved and there else _kind(upper, lower, name, here, there)
            if kind:
                found.append(Change(kind, _path(pair.name, name)))
            if parts:
                deeper.append(_Pair((*pair.name, name), parts, parts[-1] or same))
        if lower is not None and pair.cut:
            found += [Change("D", _path(pair.name, name)) for name in set(os.listdir(lower)) - set(names)]
    return deeper


def _parts(roots: Sequence[int], above: Sequence[_Place], name: str) -> tuple[_Place, ...]:
    """Where each of roots has its part of a directory, of which one is above that has its parts there.

    As overlayfs looks it up: what is no directory, or opaque, hides all below; a redirect says where it goes on, by the
    name beside it or by a path from the root.
    """
    found: list[_Place] = [None] * len(roots)
    for number, (root, place) in enumerate(zip(roots, above, strict=True)):
        with _opened(root, place) as fd:
            here = _stat(fd, name)
            if fd is None or place is None or here is None:
                continue
            if not stat.S_ISDIR(here.st_mode):
                break
            found[number] = (*place, name)
            if number + 1 == len(roots) or _xattr(fd, name, "opaque") == b"y":
                break
            redirect = os.fsdecode(_xattr(fd, name, "redirect"))
        if redirect.startswith("/"):
            rest: tuple[_Place, ...] = ((),) * (len(roots) - number - 1)
            for part in filter(None, redirect.split("/")):
                rest = _parts(roots[number + 1 :], rest, part)
            return (*found[: number + 1], *rest)
        name = redirect or name
    return tuple(found)


def _kind(upper: int, lower: int | None, name: str, here: os.stat_result, there: os.stat_result | None) -> str:
    """What became of one name; empty: nothing that counts."""
    if stat.S_ISCHR(here.st_mode) and here.st_rdev == 0:
        return "D" if there else ""
    if lower is None or there is None:
        return "A"
    return "" if _same(upper, lower, name) else "C"


def _same(upper: int, lower: int, name: str) -> bool:
    here, there = _stat(upper, name), _stat(lower, name)
    if here is None or there is None or _look(here) != _look(there):
        return False
    if stat.S_ISLNK(here.st_mode) and _link(upper, name) != _link(lower, name):
        return False
    return _xattrs(upper, name) == _xattrs(lower, name)


def _look(at: os.stat_result) -> tuple[int, ...]:
    own = (at.st_mode, at.st_uid, at.st_gid)
    return own if stat.S_ISDIR(at.st_mode) else (*own, at.st_size, at.st_mtime_ns, at.st_rdev)


def _stat(directory: int | None, name: str) -> os.stat_result | None:
    if directory is not None:
        with suppress(FileNotFoundError):
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
    return None


def _link(directory: int, name: str) -> str:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:  # gone, or something else by now
        return ""


def _xattrs(directory: int, name: str) -> dict[str, bytes]:
    """All but overlayfs's own."""
    with _opened(directory, (name,), os.O_PATH | os.O_NOFOLLOW) as fd:
        if fd is None:
            return {}
        path = f"/proc/self/fd/{fd}"  # of what the descriptor holds, be it a symlink
        try:
            return {key: os.getxattr(path, key) for key in os.listxattr(path) if not key.startswith(marks())}
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENODATA):  # a file system without any; removed meanwhile
                raise
            return {}


def _xattr(directory: int, name: str, key: str) -> bytes:
    """The value of one of overlayfs's own, or nothing."""
    with _opened(directory, (name,), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) as fd, suppress(OSError):
        return b"" if fd is None else os.getxattr(fd, marks() + key)
    return b""


def _path(directory: tuple[str, ...], name: str) -> str:
    return "/" + "/".join((*directory, name))


@contextmanager
def _opened(
    root: int, names: tuple[str, ...] | None, flags: int = os.O_RDONLY | os.O_DIRECTORY
) -> Iterator[int | None]:
    """A descriptor of what is there beneath root; None when nothing is, or something else."""
    fd = None if names is None else _open(root, names, flags)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


def _open(root: int, names: tuple[str, ...], flags: int) -> int | None:
    try:
        return open_below(root, names, flags)
    except SyscallError as error:
        if error.errno not in _VANISHED:
            raise
        return None
