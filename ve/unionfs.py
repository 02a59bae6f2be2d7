"""The union: a read-only template and a private area, combined by overlayfs into a VE's root.

On disk user ids are never shifted.  A running VE gets both layers through idmapped mounts, and the overlay is mounted
by its mapped root: overlayfs keeps its mounter's credentials, and those of the host's root would be nobody in an
idmapped work directory, where it cannot create and so goes read-only without an error (tried; looked for after each
mount here).  index=on makes the kernel itself refuse a second overlay on an upper that is in use, and keeps hard links
whole; redirect_dir=on lets a directory of the template be renamed.  What overlayfs notes in an upper are trusted.*
attributes, which the root of a user namespace may not have: a VE's own ve has user.* ones, and goes without
redirect_dir (rename(2) of such a directory is EXDEV, and mv copies it).  See the kernel's overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from functools import cache

from ve._linux import syscalls
from ve._linux.syscalls import SyscallError
from ve.errors import InUse, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PATIENCE = 3.0  # seconds for another overlay on the same upper to go; see _patiently
_VALUE_MAX = 255  # bytes of a string that fsconfig(2) takes
VIEWS = "view"  # in a state dir: the same directory, once for each range of ids
TRUSTED, USER = "trusted.overlay.", "user.overlay."  # what the names of overlayfs's own attributes begin with
OPTIONS: dict[str, dict[str, str | None]] = {
    TRUSTED: {"index": "on", "redirect_dir": "on", "xino": "auto"},
    USER: {"index": "on", "userxattr": None, "xino": "auto"},
}


_IN_A_VE = "in a VE, give it the profile nesting and use /var/lib/ve there"
_UNMAPPABLE = {  # what mount_setattr(2) answers, why, and the cure
    errno.EINVAL: (
        "its file system has no idmapped mounts",
        f"put it on ext4, xfs or btrfs (or tmpfs, from kernel 6.3); {_IN_A_VE}",
    ),
    errno.EPERM: ("its file system is another user namespace's", f"{_IN_A_VE}, or a tmpfs that was mounted there"),
}


class Overlay:
    """The layers of one root, as paths: what is below, what takes the changes, and overlayfs's own scratch.

    Below may be several, the topmost first, with a colon between them: for mount() alone.
    """

    def __init__(self, lower: str, upper: str, work: str) -> None:
        self.lower = lower
        self.upper = upper
        self.work = work

    def options(self) -> dict[str, str | None]:
        return {"lowerdir": self.lower, "upperdir": self.upper, "workdir": self.work} | OPTIONS[marks()]

    def mount(self, target: str) -> None:
        """Mount at target in the caller's mount namespace; paths without commas or colons, please: relative ones.

        InUse if the upper is in another overlay, NotSupported if overlayfs would be read-only or refuses these layers.
        """
        self._check_marks()
        data = ",".join(key if value is None else f"{key}={value}" for key, value in self.options().items())
        try:
            _patiently(lambda: syscalls.mount("overlay", target, "overlay", syscalls.MS_NODEV, data))
        except SyscallError as error:
            raise self._refused(error) from error
        if os.statvfs(target).f_flag & os.ST_RDONLY:
            syscalls.umount2(target, syscalls.MNT_DETACH)
            raise NotSupported(f"cannot write to {self.upper}: overlayfs went read-only")

    def detached(self) -> int:
        """The combined root as a mount that is in no mount table: a descriptor, gone when the caller closes it."""
        self._check_marks()
        try:
            root: int = _patiently(self._create)
        except SyscallError as error:
            raise self._refused(error) from error
        if os.fstatvfs(root).f_flag & os.ST_RDONLY:
            os.close(root)
            raise NotSupported(f"cannot write to {self.upper}: overlayfs went read-only")
        return root

    def _create(self) -> int:
        fs = syscalls.fsopen("overlay")
        held: list[int] = []
        try:
            for key, value in self._safe_options(held).items():
                kind = syscalls.FSCONFIG_SET_FLAG if value is None else syscalls.FSCONFIG_SET_STRING
                syscalls.fsconfig(fs, kind, key, value)
            syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_CREATE)
            return syscalls.fsmount(fs, syscalls.MOUNT_ATTR_NODEV)
        finally:
            for fd in (fs, *held):
                os.close(fd)

    def _safe_options(self, held: list[int]) -> dict[str, str | None]:
        """The options, with a descriptor, noted in held, for each path that overlayfs would take apart or not take."""
        found = {}
        for key, value in self.options().items():
            if key.endswith("dir") and value and (set(value) & set(":,\\") or len(os.fsencode(value)) > _VALUE_MAX):
                held.append(os.open(value, os.O_PATH | os.O_CLOEXEC))
                value = f"/proc/self/fd/{held[-1]}"
            found[key] = value
        return found

    def _check_marks(self) -> None:
        """NotSupported where overlayfs could not note what it must: it would go on, and fail in the middle."""
        name = f"{marks()}ve"
        try:
            os.setxattr(self.work, name, b"")
            os.removexattr(self.work, name)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise NotSupported(
                    f"cannot keep changes in {self.upper}: its file system has no {marks()}* attributes",
                    hint="put it on ext4, xfs or btrfs; tmpfs has trusted.* ones, and user.* ones from kernel 6.6 on",
                ) from error

    def _refused(self, error: SyscallError) -> Exception:
        if error.errno == errno.EBUSY:
            return InUse(
                f"cannot mount {self.upper}: another overlay still uses it",
                hint="it may be mounted in some other mount namespace: findmnt -N PID",
            )
        if error.errno == errno.ESTALE:
            return NotSupported(
                f"cannot mount {self.upper}: it belongs to another template or was copied without one",
                hint="restore the template that it was made on; of a copy of both: remove the private area's work, and "
                "`setfattr -x trusted.overlay.origin` its upper",
            )
        if error.errno == errno.EINVAL:
            return NotSupported(
                f"cannot mount {self.upper}: overlayfs does not take this file system as its upper layer",
                hint="put the state directory on ext4, xfs, btrfs or tmpfs: --state-dir",
            )
        return error


def _patiently(make: Callable[[], Any]) -> Any:
    """make(), and again while another overlay is still on the upper.

    The last of an overlay goes behind the back of who unmounted it or killed what was in it: a launch of another VE
    may just have copied the host's mounts, and the kernel writes the whole upper back first.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return make()
        except SyscallError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise
        time.sleep(0.01)


@cache
def marks() -> str:
    """TRUSTED, or USER where the kernel says that we may have no trusted.* attributes, as in a user namespace."""
    return USER if _asked_of_a_tmpfs(TRUSTED) == errno.EPERM else TRUSTED


def memory_is_enough() -> bool:
    """Can a tmpfs be an upper layer here?  From kernel 6.6 on, where overlayfs has to note things in user.* ones."""
    return _asked_of_a_tmpfs(marks()) == 0


def _asked_of_a_tmpfs(marks: str) -> int:
    """The errno of setting such an attribute in memory, or 0."""
    fd = os.memfd_create("ve-marks")
    try:
        os.setxattr(fd, f"{marks}ve", b"")
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(fd)
    return 0


def prepare(private: str, below: str) -> None:
    """Make upper and work in the directory private; the root of the VE gets owner, mode and xattrs of what is below."""
    root, upper = os.stat(below), f"{private}/upper"
    for name in ("upper", "work"):
        os.mkdir(f"{private}/{name}", 0o700)
    os.chown(upper, root.st_uid, root.st_gid)
    os.chmod(upper, root.st_mode & 0o7777)
    with suppress(OSError):  # one that has none, or takes none
        for name in os.listxattr(below):
            if not name.startswith((TRUSTED, USER)):
                os.setxattr(upper, name, os.getxattr(below, name))


def layer(state_dir: str, path: str, base: int, userns: int) -> int:
    """A detached mount of path, below state_dir, seen through the id map of userns, whose root is base.

    The map is ours to set; or a host has set it, for a VE whose file systems are not its own: see ve/nested.py.
    """
    try:
        return idmapped(path, userns)
    except NotSupported:
        view = f"{state_dir}/{VIEWS}/{base}"
        with suppress(OSError):
            if os.stat(view).st_uid == base:
                return syscalls.open_tree(
                    syscalls.AT_FDCWD, view + path.removeprefix(state_dir), syscalls.OPEN_TREE_CLONE
                )
        raise


def idmapped(path: str, userns: int) -> int:
    """A detached mount of the tree at path, seen through the id map of userns; a descriptor for the caller to close.

    NotSupported where the file system has no idmapped mounts: ext4, xfs, btrfs have them, tmpfs since 6.3, 9p and NFS
    never (mount_setattr(2)); or where it was not mounted in our user namespace.
    """
    fd = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
    try:
        syscalls.mount_setattr(fd, syscalls.MOUNT_ATTR_IDMAP | syscalls.MOUNT_ATTR_NODEV, userns_fd=userns)
    except SyscallError as error:
        os.close(fd)
        if error.errno not in _UNMAPPABLE:
            raise
        why, hint = _UNMAPPABLE[error.errno]
        raise NotSupported(f"cannot map the ids of {path}: {why}", hint) from error
    return fd
