"""Disk space and inodes of a VE: its private area is a project of its file system, and a project has a quota.

    private/<VEID>           project N, chosen anew for it; inherits: all below is of that project
    private/<VEID>/...       project N, inherits

The kernel is the database.  The directory itself says which project it is, and that is only there once everything
below is of it (xflags, ioctl_fs(2)).  A project is free while nothing is counted for it and nothing limits it: so it is
taken by giving it to the empty claim of one directory and then seeing that just that one is counted, and no two VEs
have the same one, whatever state dirs there are on the file system.  What is made below or moved there is of the
project too, or the kernel refuses it with EXDEV; overlayfs, which gives up CAP_SYS_RESOURCE, obeys the quota on behalf
of everybody, and statfs(2) of the VE's root shows it.  Nobody in a user namespace can change a file's project or a
quota (tried on 6.1: EINVAL, EPERM).  Beyond the quota ext4 says EDQUOT, xfs ENOSPC.

ext4 and xfs have such quotas, where they are made and mounted for it; btrfs has others, ve/btrfs.py; for the rest there
is ve/looparea.py.  A VE that is kept in memory has the limits of its tmpfs instead.  See quotactl(2), and
Documentation/filesystems/quota.rst.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress

from ve import btrfs, mountinfo
from ve._linux import quotas
from ve._linux.quotas import QIF_DQBLKSIZE, Quota
from ve.amounts import UNLIMITED
from ve.errors import Error, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ve.limits import Limits

WORDS = ("disk", "inodes")  # of ve/limits.py
# Not where administrators number from 1 on (projid(5)), nor Kubernetes from 1048577 on.
PROJECTS = range(1 << 30, 1 << 31)
_TRIES = 1000
_SPARE_BLOCKS, _SPARE_INODES = 1024, 64  # what overlayfs makes while it is mounted, and removes again
_NONE = (errno.ENOSYS, errno.ESRCH, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)
_REMADE = "remade"  # in a private area, while it becomes a project
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_EITHER = "put the state directory on xfs (mount -o prjquota) or ext4 (mkfs.ext4 -O project,quota; mount -o prjquota)"
_UNCOUNTED = {
    "ext4": (
        "its ext4 has no project quota",
        "unmount it, tune2fs -O project -Q prjquota DEVICE, and mount it with -o prjquota",
    ),
    "xfs": (
        "its xfs is mounted without project quota",
        "unmount it and mount it with -o prjquota; a root file system: rootflags=prjquota on the kernel command line",
    ),
}
_UNENFORCED = "unmount it and mount it with -o prjquota, which a remount does not take"


class Held:
    """What a VE has on disk, in bytes and inodes, None being not known; and what it may have, or UNLIMITED."""

    def __init__(self, space: int | None, inodes: int | None, space_limit: int, inodes_limit: int) -> None:
        self.space, self.inodes = space, inodes
        self.space_limit, self.inodes_limit = space_limit, inodes_limit


def apply(
    private: str, limits: Limits, account_only: bool = False, running: bool = False, divided: bool = False
) -> None:
    """Let a private area have what these limits allow, or no limit; under the VE's lock.

    It becomes a project where it was none, even one that is restored from a backup, with all that is in it; but not
    while it is in use.  Below what it holds already a limit is accepted, as vzquota has it: then nothing is added until
    enough has gone.  divided: there will be VEs in it.  NotSupported names what was asked for where the file system
    does not limit, or with account_only not even count.
    """
    wanted = {name: limits.others[name] for name in WORDS if limits.others.get(name, UNLIMITED) < UNLIMITED}
    try:
        with _opened(private) as fd:
            divisible = _has_qgroups(fd)
        if divisible:
            if "inodes" in wanted:
                raise NotSupported("btrfs has no limit for inodes", "create it with --area loop")
            btrfs.apply(private, wanted.get("disk"), divided)
        else:
            _apply(private, wanted, account_only, running)
    except NotSupported as error:
        raise NotSupported(f"cannot limit {' and '.join(wanted)}: {error}", error.hint) from error


def _apply(private: str, wanted: dict[str, int], account_only: bool, running: bool) -> None:
    with _opened(private) as fd:
        if wanted:
            _require(fd, private, account_only, running)
        elif not _state(fd) & quotas.FS_QUOTA_PDQ_ACCT or _outer(fd) or (running and not _project(fd)):
            return
        blocks = -(-wanted.get("disk", 0) // QIF_DQBLKSIZE)
        _set(fd, _project(fd) or _become_project(fd), blocks, wanted.get("inodes", 0))


def lacking(directory: str) -> str:
    """Why nothing below a directory can be limited; "" if it can."""
    try:
        with _opened(directory) as fd:
            state = _state(fd)
    except OSError as error:
        return error.strerror or str(error)
    if state & quotas.FS_QUOTA_PDQ_ENFD:
        return ""
    mount = mountinfo.holding(os.path.realpath(directory))
    if state & quotas.FS_QUOTA_PDQ_ACCT:
        return f"{mount.point} counts projects but does not limit them"
    return (
        "only the host's own root can do that" if _in_user_namespace() else _UNCOUNTED.get(mount.kind, _none(mount))[0]
    )


def held(private: str) -> Held | None:
    """What is counted of a private area; None where nothing is, or where there is none."""
    with suppress(FileNotFoundError, NotADirectoryError), _opened(private) as fd:
        if _has_qgroups(fd):
            group = btrfs.group(private)  # which counts no inodes
            return Held(group.held, None, min(group.limit, UNLIMITED), UNLIMITED) if group else None
        project = _counted(fd)
        if project:
            blocks, inodes_most, space, inodes = quotas.get_quota(fd, project)
            return Held(space, inodes, blocks * QIF_DQBLKSIZE or UNLIMITED, inodes_most or UNLIMITED)
    return None


def enforces(place: str) -> bool:
    """Are private areas limited, in space and in inodes, where this directory is?"""
    with suppress(FileNotFoundError, NotADirectoryError), _opened(place) as fd:
        return bool(_state(fd) & quotas.FS_QUOTA_PDQ_ENFD)
    return False


def release(private: str) -> None:
    """Limit its project no more, before the private area is removed: with its last file the project is free.

    A subvolume is removed with all that is in it, which is one thing.
    """
    with suppress(FileNotFoundError, NotADirectoryError), _opened(private) as fd:
        if _has_qgroups(fd):
            btrfs.remove(private)
        elif project := _counted(fd):
            _set(fd, project, 0, 0)


@contextmanager
def headroom(private: str) -> Iterator[None]:
    """A little more than its limits, for the mount of an overlay: of a full VE xfs would refuse that (tried)."""
    with _opened(private) as fd:
        if _has_qgroups(fd):
            with btrfs.headroom(private):
                yield
            return
        project = _counted(fd)
        before = quotas.get_quota(fd, project) if project else Quota(0, 0, 0, 0)
        blocks, inodes = before[:2]
        if blocks or inodes:
            _set(fd, project, blocks and blocks + _SPARE_BLOCKS, inodes and inodes + _SPARE_INODES)
        try:
            yield
        finally:
            if blocks or inodes:
                _set(fd, project, blocks, inodes)


def of_tmpfs(limits: Limits) -> str:
    """The same limits as mount options of a tmpfs(5), each after a comma."""
    options = {"size": limits.others.get("disk", UNLIMITED), "nr_inodes": limits.others.get("inodes", UNLIMITED)}
    return "".join(f",{key}={value}" for key, value in options.items() if value < UNLIMITED)


# --- the file system ------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _has_qgroups(fd: int) -> bool:
    """Is it on a btrfs, of which we may say who may have what?"""
    return btrfs.holds(fd) and not _in_user_namespace()


def _state(fd: int) -> int:
    """FS_QUOTA_PDQ_*; 0 where there is no such thing, or it is not ours to use: a VE may ask, and no more."""
    try:
        state = quotas.state(fd)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return 0
    return 0 if state and _in_user_namespace() else state


def _require(fd: int, private: str, account_only: bool, running: bool) -> None:
    """NotSupported says why its file system does not limit projects, or does not count them, and the cure."""
    state = _state(fd)
    if state & quotas.FS_QUOTA_PDQ_ENFD or (account_only and state & quotas.FS_QUOTA_PDQ_ACCT):
        if outer := _outer(fd):
            why = f"its state directory is in project {outer} already, which would count it no more"
            raise NotSupported(why, "use another: --state-dir")
        if running and not _project(fd):
            raise NotSupported("its private area was made without a project", "add --save, and restart it")
        return
    mount = mountinfo.holding(os.path.realpath(private))
    if state & quotas.FS_QUOTA_PDQ_ACCT:
        why = f"{mount.point} counts projects but does not limit them"
        raise NotSupported(why, f"{_UNENFORCED}; --account-only counts")
    if _in_user_namespace():
        raise NotSupported("only the host's own root can do that", "limit the VE that this is")
    why, cure = _UNCOUNTED.get(mount.kind, _none(mount))
    raise NotSupported(why, f"create it with --area loop, or {cure}")


def _none(mount: mountinfo.Line) -> tuple[str, str]:
    return f"{mount.kind} has no project quotas", _EITHER


def _in_user_namespace() -> bool:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != ["0", "0", str(2**32 - 1)]


def _counted(fd: int) -> int:
    """The project of a private area, where it is counted; 0 where not."""
    return _project(fd) if _state(fd) & quotas.FS_QUOTA_PDQ_ACCT else 0


def _set(fd: int, project: int, blocks: int, inodes: int) -> None:
    """Set both limits, and see that the kernel has taken them."""
    quotas.set_quota(fd, project, blocks, inodes)
    taken = quotas.get_quota(fd, project)[:2] if blocks or inodes else (0, 0)  # of nothing at all xfs says ENOENT
    if taken != (blocks, inodes):
        raise Error(f"cannot limit project {project} to {blocks} blocks and {inodes} inodes: the kernel has {taken}")


# --- which project --------------------------------------------------------------------------------------------------


def _project(fd: int) -> int:
    """The project that a private area is as a whole; 0 if it is none of its own yet."""
    project, whole = quotas.get_project(fd)
    return project if whole and project in PROJECTS and project != _outer(fd) else 0


def _outer(fd: int) -> int:
    """The project that all private areas of this state dir are in, as somebody made it one; 0 if none."""
    above = os.open("..", _DIRECTORY, dir_fd=fd)
    try:
        project, inherited = quotas.get_project(above)
    finally:
        os.close(above)
    return project if inherited else 0


def _become_project(fd: int) -> int:
    """Take a free project for a private area and all that is in it; killed half way, the next call begins anew."""
    project = _take(fd)
    _join(fd, project)
    quotas.set_project(fd, project, True)
    return project


def _take(fd: int) -> int:
    for _ in range(_TRIES):
        project = PROJECTS.start + int.from_bytes(os.urandom(4)) % len(PROJECTS)
        quotas.set_project(fd, project, False)
        blocks, inodes_most, _, inodes = quotas.get_quota(fd, project)
        if (blocks, inodes_most, inodes) == (0, 0, 1):
            return project
    quotas.set_project(fd, 0, False)
    raise Error("cannot find a free project for a private area", "repquota -P shows which are in use")


def _join(top: int, project: int) -> None:
    """Put everything below a directory into the project.  Nobody changes it meanwhile, but a VE has made it.

    By one descriptor, which goes down and up again, since no depth is too much for who means ill.
    """
    with suppress(FileExistsError):
        os.mkdir(_REMADE, 0o700, dir_fd=top)
    remade = os.open(_REMADE, _DIRECTORY, dir_fd=top)
    try:
        with suppress(FileNotFoundError):  # of a call that was killed
            os.unlink("new", dir_fd=remade)
        quotas.set_project(remade, project, True)
        at, left = os.dup(top), [_join_names(top, project, remade)]
        while True:
            name = left[-1].pop() if left[-1] else ".."
            if name == "..":
                left.pop()
            if not left:
                break
            before, at = at, os.open(name, _DIRECTORY, dir_fd=at)
            os.close(before)
            if name != "..":
                quotas.set_project(at, project, True)
                left.append(_join_names(at, project, remade))
        os.close(at)
    finally:
        os.close(remade)
    os.rmdir(_REMADE, dir_fd=top)


def _join_names(directory: int, project: int, remade: int) -> list[str]:
    """Put what is in a directory into the project, but for the directories in it, which are returned."""
    deeper = []
    for name in os.listdir(directory):
        about = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode):
            deeper.append(name)
        elif stat.S_ISREG(about.st_mode):
            fd = os.open(name, _FILE, dir_fd=directory)
            try:
                quotas.set_project(fd, project, False)
            finally:
                os.close(fd)
        elif about.st_nlink == 1 or _is_whiteout(about):  # of others, with several names, the kernel moves none
            _remake(directory, name, about, remade)
    return deeper


def _is_whiteout(about: os.stat_result) -> bool:
    """overlayfs.rst: what a VE has deleted of its template; several may be links to the same."""
    return stat.S_ISCHR(about.st_mode) and about.st_rdev == 0


def _remake(directory: int, name: str, about: os.stat_result, remade: int) -> None:
    """Put another of its kind, made in the project, in the place of what cannot be opened for ioctl(2).

    Left as it is, overlayfs could not replace it: rename(2) from another project is EXDEV.
    """
    if stat.S_ISLNK(about.st_mode):
        os.symlink(os.readlink(name, dir_fd=directory), "new", dir_fd=remade)
    else:
        os.mknod("new", about.st_mode, about.st_rdev, dir_fd=remade)
    os.chown("new", about.st_uid, about.st_gid, dir_fd=remade, follow_symlinks=False)
    if not stat.S_ISLNK(about.st_mode):
        os.chmod("new", stat.S_IMODE(about.st_mode), dir_fd=remade)
    old, new = f"/proc/self/fd/{directory}/{name}", f"/proc/self/fd/{remade}/new"
    for key in os.listxattr(old, follow_symlinks=False):
        os.setxattr(new, key, os.getxattr(old, key, follow_symlinks=False), follow_symlinks=False)
    os.utime("new", ns=(about.st_atime_ns, about.st_mtime_ns), dir_fd=remade, follow_symlinks=False)
    os.rename("new", name, src_dir_fd=remade, dst_dir_fd=directory)
