"""The loop area: a private area that is a file system of its own, for where the state dir's has no project quota.

    private/<VEID>/area.img     a sparse ext4 of the size of --disk: in it upper, work and inner

It is mounted where it is needed, in no mount namespace or in one of ours, so never in the host's mount table; with the
last of its mounts the kernel gives the loop device back (LO_FLAGS_AUTOCLEAR, loop(4)).  Attached twice it would be two
file systems on one disk, and destroy itself.  So the image is locked (flock(2)) through the very open file that the
loop device gets: the kernel keeps the lock for as long as the device has the image (tried on 6.1 and 6.18).  Whoever
comes second finds the device; a further mount of that is the same file system.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager, suppress

from ve._linux import loops, syscalls
from ve.amounts import UNLIMITED, size_text
from ve.errors import FULL, DiskFull, InUse, InvalidValue, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE, MIB = "area.img", 1 << 20
PATIENCE = 10.0  # seconds for a VE that has ended to be off the image
_LACKING = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EPERM, errno.EACCES)


def exists(private: str) -> bool:
    """Is this private area such a one?"""
    return os.path.exists(f"{private}/{IMAGE}")


def held(private: str) -> tuple[int, int]:
    """Bytes that an image takes of the disk below it, and its size."""
    about = os.stat(f"{private}/{IMAGE}")
    return about.st_blocks * 512, about.st_size


def make(private: str, content: str, size: int, inodes: int = 0) -> None:
    """Make an image of size bytes, with what is in the directory content; DiskFull, or InvalidValue with the reason.

    inodes is how many there can be, 0: as many as mkfs.ext4(8) thinks right for the size.
    """
    if size >= UNLIMITED:
        raise InvalidValue("cannot make a loop area without a size", "--disk 10G")
    with open(f"{private}/{IMAGE}", "xb") as file:
        os.fchmod(file.fileno(), 0o600)
        _truncate(file.fileno(), size)
    number = ["-N", str(inodes)] if inodes else []
    extended = "root_owner=0:0,nodiscard,lazy_itable_init=1,lazy_journal_init=1"  # a new file is all zeros already
    options = ["-q", "-F", "-m", "0", "-E", extended, *number, "-d", content]
    _run(f"cannot make a loop area of {size_text(size)}", "mkfs.ext4", *options, f"{private}/{IMAGE}")


def resize(private: str, size: int) -> None:
    """Give the file system of an image another size, while nobody uses it; InUse, or InvalidValue with the reason."""
    if size >= UNLIMITED:
        raise InvalidValue("cannot make a loop area without a size", "--disk 10G")
    image = f"{private}/{IMAGE}"
    with _alone(image) as fd:
        what, before = f"cannot make the loop area {size_text(size)} large", os.fstat(fd).st_size
        _run(what, "e2fsck", "-fp", image, well=(0, 1))
        if size > before:
            _truncate(fd, size)
        try:
            _run(what, "resize2fs", image, f"{size // 1024}K")
        except InvalidValue as error:
            _truncate(fd, before)
            if size >= before:
                raise
            least = _least(image)
            raise InvalidValue(
                f"{what}: what is in it needs {size_text(least)}", f"--disk {size_text(least)}"
            ) from error
        _truncate(fd, size)


def _least(image: str) -> int:
    """Bytes that its file system cannot do without: resize2fs(8), -P, which says it in blocks."""
    import re
    import subprocess

    def number(pattern: str, *command: str) -> int:
        done = subprocess.run(
            command, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, errors="replace", check=False
        )
        found = re.search(pattern, done.stdout + done.stderr)
        return int(found[1]) if found else 0

    size = number("Block size: +([0-9]+)", "dumpe2fs", "-h", image)
    return -(-number("minimum size of the filesystem: ([0-9]+)", "resize2fs", "-P", image) * size // MIB) * MIB


def mount(private: str) -> int:
    """The file system of an image as a detached mount: a descriptor, for the caller to close.

    NotSupported where there are no loop devices to be had, InUse if another holds the image.
    """
    image = f"{private}/{IMAGE}"
    try:
        device, fd = _device(image)
    except OSError as error:
        if error.errno not in _LACKING or not os.path.exists(image):
            raise
        raise NotSupported(
            f"cannot mount {image}: there is no loop device ({error.strerror})",
            "modprobe loop; in a container: --privileged, with the host's /dev; in a VE there are none",
        ) from error
    try:
        return _mount(device)
    finally:
        os.close(fd)  # a mount holds the device by itself


def _mount(device: str) -> int:
    fs = syscalls.fsopen("ext4")
    try:
        syscalls.fsconfig(fs, syscalls.FSCONFIG_SET_STRING, "source", device)
        syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(fs, syscalls.MOUNT_ATTR_NODEV)
    finally:
        os.close(fs)


def _device(image: str) -> tuple[str, int]:
    """The loop device that has the image, and a descriptor of it, without which it may go again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        if found := _attached(image) or _attach(image):
            return found
        if time.monotonic() >= deadline:
            raise InUse(f"cannot mount {image}: somebody has it locked", "lslocks")
        time.sleep(0.01)  # a device is just going, or coming


def _attached(image: str) -> tuple[str, int] | None:
    about = os.stat(image)
    for name in os.listdir("/sys/block"):
        if os.path.exists(f"/sys/block/{name}/loop/backing_file"):
            try:
                fd = os.open(f"/dev/{name}", os.O_RDWR | os.O_CLOEXEC)
            except OSError:  # it is read only, or just going: not ours
                continue
            if loops.backing(fd) == (about.st_dev, about.st_ino):
                return f"/dev/{name}", fd
            os.close(fd)
    return None


def _attach(image: str) -> tuple[str, int] | None:
    """The image on another device; None if it is on one already, or if somebody took the device before us."""
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not _locked(fd):
            return None
        path = f"/dev/loop{loops.free()}"
        if not os.path.exists(path):
            _make_node(path)
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if loops.configure(device, fd):
            return path, device
        os.close(device)
        return None
    finally:
        os.close(fd)


def _make_node(path: str) -> None:
    """A privileged container's /dev has only those that the host had when it began."""
    with open(f"/sys/block/{os.path.basename(path)}/dev", encoding="ascii") as file:
        major, minor = map(int, file.read().split(":"))
    with suppress(FileExistsError):
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(major, minor))


def _locked(fd: int) -> bool:
    """Lock an open file for as long as it is open, be it in the kernel; False if another is."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _alone(image: str) -> Iterator[int]:
    """The image, while it is on no device."""
    fd = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _locked(fd):
            if time.monotonic() >= deadline:
                raise InUse(f"cannot use {image} alone: it is mounted", "lsblk shows where")
            time.sleep(0.01)
        yield fd
    finally:
        os.close(fd)


def _truncate(fd: int, size: int) -> None:
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(f"cannot make a file of {size} bytes: {error.strerror}") from error
        if error.errno in (errno.EFBIG, errno.EINVAL):
            raise InvalidValue(f"cannot make a file of {size} bytes: the file system has none so large") from error
        raise


def _run(what: str, program: str, *arguments: str, well: tuple[int, ...] = (0,)) -> None:
    """A program of e2fsprogs; InvalidValue says what it complains of."""
    import subprocess  # a start, which only mounts, does not pay for it

    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise NotSupported(f"{what}: there is no {program}", "apt-get install e2fsprogs") from error
    if done.returncode not in well:
        said = [
            line for line in done.stdout.splitlines() if line.startswith((f"{program}:", program.partition(".")[0]))
        ]
        why = (said or done.stdout.splitlines() or [f"it ended with {done.returncode}"])[-1].strip()
        raise InvalidValue(f"{what}: {why}")
