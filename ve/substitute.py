"""A file system for a state dir whose own nobody can make layers of: overlay, as a container's root has it, 9p, NFS.

    <state dir>/               where it is mounted, in the caller's mount namespace: until umount or its container's end
    <state dir>/area.img       loop: what is mounted there, an ext4; below the mount, and found again when that is gone

Which of WAYS the kernel takes is tried before (ve/probes.py), not guessed.
"""

from __future__ import annotations

import os

from ve import ground, looparea, mountinfo
from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = looparea.IMAGE
TRIAL = 16 << 20  # bytes that are enough to see whether it works
# Their st_dev is no disk's, and they have idmapped mounts (tmpfs: from kernel 6.3 on; on an older one a start says so).
_FIT = ("btrfs", "tmpfs")


def unfit(path: str) -> str:
    """The kind of the file system that path is on, or is to be made on, if it may be unfit for layers; else nothing.

    What is on a disk of the kernel's is not asked.
    """
    near = ground.nearest(path)
    if os.major(os.stat(near).st_dev):
        return ""
    kind = mountinfo.holding(os.path.realpath(near)).kind
    return "" if kind in _FIT else kind


def _loop(directory: str, size: int) -> int:
    content = f"{directory}/content"
    os.mkdir(content)
    looparea.make(directory, content, size)
    os.rmdir(content)
    return looparea.mount(directory)


def _tmpfs(directory: str, size: int) -> int:
    fs = syscalls.fsopen("tmpfs")
    try:
        syscalls.fsconfig(fs, syscalls.FSCONFIG_SET_STRING, "source", "ve")
        syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(fs, syscalls.MOUNT_ATTR_NODEV)
    finally:
        os.close(fs)


# In this order, by name: make(directory, size) gives it as a detached mount, for the caller to close.
WAYS: dict[str, Callable[[str, int], int]] = {"loop": _loop, "tmpfs": _tmpfs}
TOLD = {  # what a state dir is on then
    "loop": "an ext4 in {path}/" + IMAGE,
    "tmpfs": "a tmpfs: in memory, and gone when it is unmounted or its container ends",
}


def told(way: str, path: str) -> str:
    return TOLD[way].format(path=path)


def present(path: str) -> str:
    """Which of WAYS is mounted at path, or nothing."""
    if not os.path.ismount(path):
        return ""
    line = mountinfo.holding(os.path.realpath(path))
    if (line.kind, line.source) == ("tmpfs", "ve"):
        return "tmpfs"
    backing = f"/sys/block/{os.path.basename(line.source)}/loop/backing_file"
    try:
        with open(backing, "rb") as file:
            return "loop" if os.path.basename(file.read().strip()) == os.fsencode(IMAGE) else ""
    except OSError:
        return ""
