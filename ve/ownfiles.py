"""The files that a start writes into the VE itself: names in /etc, and in /run that its programs leave its link alone.

init does it, as the VE's root, once that root is its own: so nothing in there leads out, and a disk limit counts it.
What changes while it runs is written by a process that enters as its root (ve/inside.py), in the same way.
But what lies there may be anything.  A file that is to be read is opened without following or waiting for anybody, and
one that is to change is written aside and renamed, so that what was at its name is never opened.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from contextlib import suppress

from ve.errors import FULL, DiskFull, Error, InvalidValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypedDict

    class Names(TypedDict):
        """What a VE with addresses is told of names; computed on the near side (ve/names.py)."""

        resolv_conf: str  # the whole file
        hosts: str  # lines about itself
        link: str  # where /etc/hosts is a link to instead; "" for none
        unmanaged: str  # the interface that the VE's own programs are to leave alone; "" if none will look for one


MARK = b"# ve"  # ends the lines of /etc/hosts that are ours, and may go at the next start
_LOCALHOST = ((b"127.0.0.1", b"localhost"), (b"::1", b"localhost ip6-localhost ip6-loopback"))
_MOST = 1 << 24  # bytes of an /etc/hosts
# systemd.network(5), NetworkManager.conf(5).  Of systemd-networkd's files the first to match an interface counts, in
# the order of their names, wherever they are: so ours comes before letters and digits.
_UNMANAGED = (
    ("run/systemd/network/!ve.network", "[Match]\nName={0}\n\n[Link]\nUnmanaged=yes\n"),
    (
        "run/NetworkManager/conf.d/00-ve.conf",
        "[keyfile]\nunmanaged-devices+=interface-name:{0}\n\n[device-ve]\nmatch-device=interface-name:{0}\nmanaged=0\n",
    ),
)


def write(wanted: Names) -> None:
    """In the VE's root and mount namespace, as its root.  Only what would change is written; Error names the file."""
    etc = _open_etc()
    try:
        _write(etc, "resolv.conf", wanted["resolv_conf"].encode())
        if wanted["link"]:
            _link(etc, "hosts", wanted["link"])
        else:
            _merge(etc, wanted["hosts"].encode())
    finally:
        os.close(etc)
    if wanted["unmanaged"]:
        for path, text in _UNMANAGED:
            _new(path, text.format(wanted["unmanaged"]))


def rewrite(wanted: Mapping[str, str]) -> None:
    """The same in a VE that runs, of what is in wanted; an /etc/hosts that is a link to its pool's stays one."""
    etc = _open_etc()
    try:
        if "resolv_conf" in wanted:
            _write(etc, "resolv.conf", wanted["resolv_conf"].encode())
        if "hosts" in wanted and not _is_link(etc, "hosts", wanted["link"]):
            _merge(etc, wanted["hosts"].encode())
    finally:
        os.close(etc)


def _merge(etc: int, own: bytes) -> None:
    before = _read(etc, "hosts")
    _write(etc, "hosts", merged(before or b"", own), before)


def merged(before: bytes, own: bytes) -> bytes:
    """A hosts file that has these lines first, localhost where nobody has said what that is, and others' lines."""
    kept, known = bytearray(), set()
    for line in io.BytesIO(before):  # and no list of them: the VE says how many there are, and the host pays
        if line.rstrip().endswith(MARK):
            continue
        kept += line
        if b"localhost" in line:
            address, _, names = line.partition(b"#")[0].replace(b"\t", b" ").strip().partition(b" ")
            known |= {address}.intersection(dict(_LOCALHOST)) if b" localhost " in b" %s " % names else set()
    kept += b"\n"
    end = kept.find(b"\n", len(kept.rstrip())) + 1 if kept.strip() else 0
    ours = [b"\t".join(pair) for pair in _LOCALHOST if pair[0] not in known] + own.splitlines()
    return b"".join(b"%s\t%s\n" % (line, MARK) for line in ours) + kept[:end]


def _open_etc() -> int:
    try:
        os.mkdir("/etc", 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        raise _cannot("make", "", error) from error
    try:
        return os.open("/etc", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise InvalidValue("cannot write to /etc of the VE: it is not a directory there") from error
        raise _cannot("open", "", error) from error


def _read(etc: int, name: str) -> bytes | None:
    """What is in a file; None if that is no file, or if it is somebody's special one."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=etc)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EPERM, errno.EACCES):
            return None
        raise _cannot("read", name, error) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        text = b""
        while part := os.read(fd, 1 << 16):
            text += part
            if len(text) > _MOST:
                raise InvalidValue(f"cannot read /etc/{name} of the VE: it is larger than {_MOST >> 20} MiB")
        return text
    except OSError as error:
        raise _cannot("read", name, error) from error
    finally:
        os.close(fd)


def _write(etc: int, name: str, data: bytes, before: bytes | None = None) -> None:
    if data == (_read(etc, name) if before is None else before):
        return
    aside = f".{name}.ve"

    def make() -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(aside, flags, 0o644, dir_fd=etc)
        try:
            os.fchmod(fd, 0o644)
            rest = data
            while rest:
                rest = rest[os.write(fd, rest) :]
            if before:  # somebody's lines, which no power cut may take
                os.fsync(fd)
        finally:
            os.close(fd)

    _replace(etc, name, aside, make)


def _is_link(etc: int, name: str, target: str) -> bool:
    with suppress(OSError):
        return os.readlink(name, dir_fd=etc) == target
    return False


def _link(etc: int, name: str, target: str) -> None:
    if _is_link(etc, name, target):
        return
    aside = f".{name}.ve"
    _replace(etc, name, aside, lambda: os.symlink(target, aside, dir_fd=etc))


def _replace(etc: int, name: str, aside: str, make: Callable[[], None]) -> None:
    """Have what is made aside under this name.  What was mounted there, by --mount or an action, stays."""
    try:
        _unlink(etc, aside)  # a killed start's
        make()
        os.rename(aside, name, src_dir_fd=etc, dst_dir_fd=etc)
    except OSError as error:
        _unlink(etc, aside, quietly=True)
        if error.errno != errno.EBUSY:
            raise _cannot("write", name, error) from error


def _unlink(etc: int, name: str, *, quietly: bool = False) -> None:
    with suppress(OSError if quietly else FileNotFoundError):
        os.unlink(name, dir_fd=etc)


def _new(path: str, text: str) -> None:
    """In /run, which is a fresh one: nobody has been there."""
    parts = path.split("/")
    try:
        for depth in range(2, len(parts)):
            with suppress(FileExistsError):
                os.mkdir("/" + "/".join(parts[:depth]), 0o755)
        fd = os.open(f"/{path}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise Error(f"cannot write /{path} of the VE: {error.strerror}") from error


def _cannot(verb: str, name: str, error: OSError) -> Error:
    hints = {
        errno.EROFS: "it is on a read-only mount: mount another over it, or give the VE no addresses",
        errno.EISDIR: "a directory is there: remove it, or mount a file over it",
    }
    path = f"/etc/{name}".rstrip("/")
    kind = DiskFull if error.errno in FULL else Error
    return kind(f"cannot {verb} {path} of the VE: {error.strerror}", hints.get(error.errno or 0, ""))
