"""The union: a read-only template and a private area, combined by overlayfs into a VE's root.

On disk user ids are never shifted.  A running VE gets both layers through idmapped mounts, and the overlay is mounted
by its mapped root: overlayfs keeps its mounter's credentials, and those of the host's root would be nobody in an
idmapped work directory, where it cannot create and so goes read-only without an error (tried; looked for after each
mount here).  index=on makes the kernel itself refuse a second overlay on an upper that is in use, and keeps hard links
whole; redirect_dir=on lets a directory of the template be renamed.  See the kernel's overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
import time

from ve._linux import syscalls
from ve._linux.syscalls import SyscallError
from ve.errors import InUse, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PATIENCE = 3.0  # seconds for another overlay on the same upper to go; see _patiently
_VALUE_MAX = 255  # bytes of a string that fsconfig(2) takes
OPTIONS = {"index": "on", "redirect_dir": "on", "xino": "auto"}


class Overlay:
    """The layers of one root, as paths: what is below, what takes the changes, and overlayfs's own scratch."""

    def __init__(self, lower: str, upper: str, work: str) -> None:
        self.lower = lower
        self.upper = upper
        self.work = work

    def options(self) -> dict[str, str]:
        return {"lowerdir": self.lower, "upperdir": self.upper, "workdir": self.work} | OPTIONS

    def mount(self, target: str) -> None:
        """Mount at target in the caller's mount namespace; paths without commas or colons, please: relative ones.

        InUse if the upper is in another overlay, NotSupported if overlayfs would be read-only or refuses these layers.
        """
        data = ",".join(f"{key}={value}" for key, value in self.options().items())
        try:
            _patiently(lambda: syscalls.mount("overlay", target, "overlay", syscalls.MS_NODEV, data))
        except SyscallError as error:
            raise self._refused(error) from error
        if os.statvfs(target).f_flag & os.ST_RDONLY:
            syscalls.umount2(target, syscalls.MNT_DETACH)
            raise NotSupported(f"cannot write to {self.upper}: overlayfs went read-only")

    def detached(self) -> int:
        """The combined root as a mount that is in no mount table: a descriptor, gone when the caller closes it."""
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
                syscalls.fsconfig(fs, syscalls.FSCONFIG_SET_STRING, key, value)
            syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_CREATE)
            return syscalls.fsmount(fs, syscalls.MOUNT_ATTR_NODEV)
        finally:
            for fd in (fs, *held):
                os.close(fd)

    def _safe_options(self, held: list[int]) -> dict[str, str]:
        """The options, with a descriptor, noted in held, for each path that overlayfs would take apart or not take."""
        found = {}
        for key, value in self.options().items():
            if key.endswith("dir") and (set(value) & set(":,\\") or len(os.fsencode(value)) > _VALUE_MAX):
                held.append(os.open(value, os.O_PATH | os.O_CLOEXEC))
                value = f"/proc/self/fd/{held[-1]}"
            found[key] = value
        return found

    def _refused(self, error: SyscallError) -> Exception:
        if error.errno == errno.EBUSY:
            return InUse(
                f"cannot mount {self.upper}: another overlay still uses it",
                hint="it may be mounted in some other mount namespace: findmnt -N PID",
            )
        if error.errno == errno.ESTALE:
            return NotSupported(
                f"cannot mount {self.upper}: it belongs to another template or was copied without one",
                hint="restore the template that it was made on",
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


def prepare(private: str, template: str) -> None:
    """Make upper and work in the directory private; the root of the VE gets the template's owner and mode."""
    root = os.stat(template)
    for name in ("upper", "work"):
        os.mkdir(f"{private}/{name}", 0o700)
    os.chown(f"{private}/upper", root.st_uid, root.st_gid)
    os.chmod(f"{private}/upper", root.st_mode & 0o7777)


def idmapped(path: str, userns: int) -> int:
    """A detached mount of the tree at path, seen through the id map of userns; a descriptor for the caller to close.

    NotSupported where the file system has no idmapped mounts: ext4, xfs, btrfs have them, tmpfs since 6.3, 9p and NFS
    never (mount_setattr(2)).
    """
    fd = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
    try:
        syscalls.mount_setattr(fd, syscalls.MOUNT_ATTR_IDMAP | syscalls.MOUNT_ATTR_NODEV, userns_fd=userns)
    except SyscallError as error:
        os.close(fd)
        if error.errno != errno.EINVAL:
            raise
        raise NotSupported(
            f"cannot map the ids of {path}: its file system has no idmapped mounts",
            hint="put it on ext4, xfs or btrfs (or tmpfs, from kernel 6.3)",
        ) from error
    return fd
