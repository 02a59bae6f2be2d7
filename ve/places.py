"""What stands where in a VE's root, and who may write there: as a start plans it, and as the kernel has it.

planned() makes Places of the tables of a start, Running finds the mount and the file of a running VE.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ve import beneath, ids, mountinfo, mounts, nested, procfs, rights, unionfs
from ve.model import Config

WRITABLE, READ_ONLY, HIDDEN = "can be written", "can be read, not written", "hidden"
NOT_OURS = "cannot be written, as it belongs to the host and not to the VE"
EVERY = "every VE has it so"


@dataclass(frozen=True)
class Place:
    """A mount point of a VE: what can be done below it, what it is, and the setting that decides."""

    point: str
    access: str
    what: str
    setting: str


def planned(config: Config, boots: bool) -> dict[str, Place]:
    """What a start mounts, by mount point."""
    rows = [Place("/", WRITABLE, "template and private area, combined", EVERY)]
    for mount in config.mounts:
        access = READ_ONLY if mount.read_only else WRITABLE
        rows.append(Place(_plain(mount.target), access, f"{mount.source} of the host", f"--mount {mount}"))
    rows += [Place(f"/{point}", WRITABLE, f"a {kind} of its own", EVERY) for kind, point, _, _ in mounts.PROTECTED]
    rows.append(Place("/sys", READ_ONLY, "the host's devices and drivers", EVERY))
    rows += _of_proc(config.rights)
    rows += _of_inner(config.rights)
    rows += [Place(f"/{point}", WRITABLE, f"a {kind} of its own", EVERY) for kind, point, _, _ in mounts.own(boots)]
    if not boots:
        rows.append(Place(f"/{mounts.SMALL_INIT}", READ_ONLY, "the host's small init", "its template has no init"))
    return {row.point: row for row in rows}


def _of_proc(given: rights.Rights) -> Iterator[Place]:
    """What is masked and protected, mostly of /proc."""
    yield Place(f"/{mounts.BOOT_ID}", READ_ONLY, "the id of this start", EVERY)
    whole = [row.name for row in rights.PROFILES if row.proc == "whole"]
    if given.proc == "whole":
        setting = f"profile {next(name for name in given.profiles if name in whole)}"
        for point in ("/proc", "/dev/.proc"):
            yield Place(point, WRITABLE, "a proc of its own, with nothing masked", setting)
        return
    if given.proc == "read only":
        by = next(name for name in given.profiles if rights.profile(name).proc)
        yield Place("/proc", READ_ONLY, "a proc of its own", f"profile {by}")
    setting = f"every profile but {' and '.join(whole)} has it so"
    for path in mounts.READ_ONLY:
        yield Place(f"/{path}", READ_ONLY, f"most of /{path} is about the host", setting)
    for name in given.sysctls:
        yield Place(f"/proc/sys/{name}", WRITABLE, "it is of a namespace of the VE's own", "profile sysctl")
    for path in mounts.MASKED:
        yield Place(f"/{path}", HIDDEN, "it is about the host", setting)


def _of_inner(given: rights.Rights) -> Iterator[Place]:
    """What is shown for VEs in it."""
    if given.inner:
        setting = f"profile {next(name for name in given.profiles if rights.profile(name).inner)}"
        yield Place(nested.STATE_DIR, WRITABLE, "the state directory of VEs in it", setting)
        for number, _, _ in ids.inside((0,) * (1 + given.inner))[1:]:
            point = f"{nested.STATE_DIR}/{unionfs.VIEWS}/{number}"
            yield Place(point, WRITABLE, "the state directory, with the ids of a VE in it", setting)


def covering(path: str, places: dict[str, Place]) -> Place:
    """The one of these that a path is in, by its text alone."""
    while path not in places:
        path = os.path.dirname(path)
    return places[path]


def _plain(path: str) -> str:
    return "/" + os.path.normpath(path).lstrip("/")


@dataclass(frozen=True)
class Found:
    """What the kernel says of a path: the mount that it is in; and of the file, if it is there."""

    mount: mountinfo.Line
    at: os.stat_result | None
    why_not: int = 0  # errno

    @property
    def read_only(self) -> bool:
        return "ro" in self.mount.options


class Running:
    """A running VE, found by the host's pid of its init; to be closed."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.uids, self.gids = procfs.host_ids(pid, "uid"), procfs.host_ids(pid, "gid")
        status = procfs.status(pid)
        self.bounding = int(status["CapBnd"], 16)
        self.filtered = status["Seccomp"] == "2"
        self.root = beneath.Root(os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def close(self) -> None:
        os.close(self.root.fd)

    def has(self, capability: str) -> bool:
        return bool(self.bounding >> rights.CAPABILITIES.index(capability) & 1)

    def find(self, path: str) -> Found:
        """Of a path that is not there, or that we may not follow, the mount that holds its nearest parent."""
        failed = 0
        while True:
            try:
                fd = self.root.open(path, os.O_PATH)
            except OSError as error:
                if path == "/":
                    raise
                path, failed = os.path.dirname(path), failed or error.errno or errno.ENOENT
                continue
            try:
                number, at, real = procfs.mount_number(fd), os.fstat(fd), os.readlink(f"/proc/self/fd/{fd}")
            finally:
                os.close(fd)
            lines = list(mountinfo.lines(self.pid))
            # Whoever looks into /proc/sys finds there the sysctls of his own namespaces, with nothing mounted on them.
            found = _by_text(real, lines) if real.startswith("/proc/sys/") else _by_number(number, lines)
            if found:
                return Found(found, None if failed else at, failed)
            path, failed = os.path.dirname(path), errno.ESTALE  # it was unmounted while we looked

    def link(self, path: str) -> str:
        """Where the symbolic link at path leads to; nothing if there is none."""
        try:
            directory, name = self.root.open(os.path.dirname(path), os.O_PATH), os.path.basename(path)
        except OSError:
            return ""
        try:
            return beneath.read_link(directory, name) or ""
        finally:
            os.close(directory)

    def owns(self, at: os.stat_result) -> bool:
        """May its root write the file, as far as owner and mode go?  Those of its own ids obey it (capabilities(7))."""
        ours = any(at.st_uid in ids for ids in self.uids) and any(at.st_gid in ids for ids in self.gids)
        return ours or bool(at.st_mode & stat.S_IWOTH)


def _by_number(number: int, lines: list[mountinfo.Line]) -> mountinfo.Line | None:
    return next((line for line in lines if line.number == number), None)


def _by_text(path: str, lines: list[mountinfo.Line]) -> mountinfo.Line | None:
    above = [line for line in lines if f"{path}/".startswith(f"{line.point.rstrip('/')}/")]
    return max(reversed(above), key=lambda line: len(line.point), default=None)
