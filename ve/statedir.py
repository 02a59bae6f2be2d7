"""A state dir where the kernel takes what is in it for layers of a VE's root; see ve/substitute.py.

It is seen to before a template is made and before a VE is, under no lock of theirs: these may be files in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
from contextlib import ExitStack, contextmanager

from ve import check, descriptors, looparea, substitute
from ve._linux import syscalls
from ve.errors import Error, InvalidValue
from ve.wholefile import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ve.state import State

_NEW = ".area-new"  # an image in the making, in the state dir
_LARGEST = 1 << 40  # bytes of it, and what it cannot do without
_SMALLEST = 64 << 20


def provide(state: State) -> None:
    """Mount a file system on the state dir if no VE can be there without, and say so to the logger "ve".

    Where no way works, nothing is done: what needs the layers says what is missing.
    """
    if not substitute.unfit(state.path):
        return
    path = state.make_dir(state.path)
    with _alone(path):
        kind = substitute.unfit(path)
        if not kind or _again(path):  # somebody else was first
            return
        way = check.way(state)
        if way:
            _mount(way, path)
            where = substitute.told(way, path)
            _tell(f"the state directory {path} is now on {where}: nobody can map the ids of {kind}")


def again(state: State) -> None:
    """Mount what was made for this state dir before: its mount went with a container that has been started again.

    InvalidValue if others than root may have made it, or can change it: the kernel trusts what it mounts.
    """
    with _alone(state.path):
        _again(state.path)


def _again(path: str) -> bool:
    if not os.path.lexists(f"{path}/{substitute.IMAGE}"):
        return False
    _require_own(path)
    fd = looparea.mount(path)
    try:
        syscalls.move_mount(fd, syscalls.AT_FDCWD, path)
    finally:
        os.close(fd)
    return True


def _require_own(path: str) -> None:
    for name, is_right in ((path, stat.S_ISDIR), (f"{path}/{substitute.IMAGE}", stat.S_ISREG)):
        about = os.lstat(name)
        if about.st_uid or about.st_mode & 0o022 or not is_right(about.st_mode):
            why = f"{name} is not root's alone, and is to be mounted"
            raise InvalidValue(f"cannot use state dir {path}: {why}", f"if it is yours: chown root {name}, chmod go-w")


def _mount(way: str, path: str) -> None:
    """With all that the directory has."""
    new = f"{path}/{_NEW}"
    shutil.rmtree(new, ignore_errors=True)  # of who was killed
    with ExitStack() as undo:
        os.mkdir(new, 0o700)
        undo.callback(shutil.rmtree, new, ignore_errors=True)
        fd = substitute.WAYS[way](new, _size(path))
        undo.callback(os.close, fd)
        fd = descriptors.above_stdio(fd, undo)
        _copy(path, fd)
        image = f"{new}/{substitute.IMAGE}"
        if os.path.exists(image):
            subprocess.run(["sync", "--file-system", f"/proc/self/fd/{fd}"], pass_fds=(fd,), check=True)
            subprocess.run(["sync", image], check=True)
            os.rename(image, f"{path}/{substitute.IMAGE}")
            sync(path)
        os.rmdir(new)
        syscalls.move_mount(fd, syscalls.AT_FDCWD, path)


def _size(path: str) -> int:
    """Of an image, which is sparse: as much as is free, in whole MiB."""
    free = os.statvfs(path)
    return max(_SMALLEST, min(free.f_bavail * free.f_frsize >> 20 << 20, _LARGEST))


def _copy(path: str, fd: int) -> None:
    os.chmod(f"/proc/self/fd/{fd}", os.stat(path).st_mode & 0o7777)
    names = [f"{path}/{name}" for name in os.listdir(path) if name != _NEW]
    if not names:
        return
    done = subprocess.run(
        ["cp", "-a", "--", *names, f"/proc/self/fd/{fd}/"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        pass_fds=(fd,),
        check=False,
    )
    if done.returncode:
        raise Error(f"cannot give the state directory {path} a file system of its own: {done.stderr.strip()}")


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """The directory itself, not what is mounted on it, locked (flock(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _tell(text: str) -> None:
    import logging  # a program that does not care sees it on stderr

    logging.getLogger("ve").warning("%s; a volume mounted there is used as it is", text)
