"""Files of a VE from outside: copying in and out, passwords, ssh keys.

A VE's files are hostile, so nothing here touches one: another process does, which goes to where they are.  What it may
do there, and the conversation with it, is in ve/inside.py.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import fcntl
import os
import re
import secrets
import select
import socket
import string
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ve import accounts, cgroups, descriptors, errors, farside, interpreter
from ve._linux import libcrypt
from ve.facts import GOING, ended
from ve.rootfs import API_DIRECTORIES

_PIPE = 1 << 20  # bytes, what fs.pipe-max-size allows everybody
_PATIENCE = 20.0  # seconds for one file of a VE's: longer than who changes accounts waits for its lock
_LIVE_PATIENCE = 5.0  # to write into a running VE's /etc, which takes some hundredths
_ENDS = 1.0  # seconds for a process that was killed, before nobody waits for it any more
_SALT = string.ascii_letters + string.digits + "./"
_KEY_TYPE = re.compile(r"(sk-)?(ssh|ecdsa)-[a-z0-9-]+(@openssh\.com)?")  # sshd(8), "authorized_keys file format"
_KILLED = ("ERROR", 0, "the process that works there was killed", "")


@dataclass(frozen=True)
class Place:
    """Whose files, and where they are.  The descriptor stays its owner's.

    pidfd: of the init of a running VE; rootfd: of a stopped one's root, a detached overlay or where it is mounted.
    Neither: the host's own files.
    """

    veid: int = 0
    pidfd: int = -1
    rootfd: int = -1

    def descriptors(self) -> dict[str, int]:
        return {"pidfd": self.pidfd, "root": self.rootfd}

    def show(self, path: str) -> str:
        return f"{self.veid}:{path}" if self.veid else path


HOST = Place()


def copy_in(place: Place, source: str, target: str, archive: bool = False) -> None:
    """Copy source, of the host, to target in the VE, with the meaning of cp: into it where target is a directory.

    Directories are copied whole, links as links; of a source that ends in /. only what is in it.  What is made belongs
    to the VE's root and has the source's modes; archive keeps owners, times, xattrs and hard links too.
    """
    _copy(HOST, source, place, target, archive)


def copy_out(place: Place, source: str, target: str, archive: bool = False) -> None:
    """Copy source, in the VE, to target on the host, with the meaning of cp: into it where target is a directory.

    What is made belongs to the caller, and no file is setuid or setgid; archive keeps both, and times, xattrs and hard
    links.  Devices and sockets are left out, and of a whole root what is in /dev, /proc and /sys.
    """
    _copy(place, source, HOST, target, archive)


def set_password(place: Place, user: str, password: str) -> None:
    """Set the password of a user of the VE, in its shadow file or, when it has none, its passwd file."""
    what = f"cannot set the password of {user!r} in {place.veid}"
    if not password or set(password) & set("\0\n\r") or not _is_name(user):
        why = "it has line ends" if password else "it is empty"
        raise errors.InvalidValue(f"{what}: {why if _is_name(user) else 'that is no name of a user'}")
    salt = "".join(secrets.choice(_SALT) for _ in range(16))
    try:
        hashed = libcrypt.crypt(password, f"$6${salt}")
    except OSError as error:
        raise errors.InvalidValue(f"{what}: crypt(3) refuses it: {error.strerror}") from error
    _edit(place, what.replace(repr(user), user), {"action": "password", "user": user, "hash": hashed})


def add_ssh_key(place: Place, key: str, user: str = "root") -> None:
    """Let the owner of a public key, a line of OpenSSH's, log in as the user; nothing happens if it may already."""
    what = f"cannot add an ssh key for {user!r} in {place.veid}"
    if not _is_name(user):
        raise errors.InvalidValue(f"{what}: that is no name of a user")
    line = key.strip()
    if not _is_public_key(line):
        hint = "it is what is in a file such as id_ed25519.pub"
        raise errors.InvalidValue(f"{what}: it is not a public key", hint)
    _edit(place, what.replace(repr(user), user), {"action": "ssh_key", "user": user, "key": line})


def tell_names(place: Place, wanted: Mapping[str, str]) -> None:
    """Write into a running VE what ownfiles.rewrite is to; the Error that this raises says only why not.

    In seconds: its root may have mounted there what never answers, and we have the VE's lock.
    """
    _edit(place, "", {"action": "names", "wanted": dict(wanted), "patience": _LIVE_PATIENCE})


def _is_name(user: str) -> bool:
    return bool(user) and user.isprintable() and ":" not in user


def _is_public_key(line: str) -> bool:
    """Whether it is a type, a key whose own type is the same (RFC 4253, 6.6), and perhaps a comment."""
    words = line.split(" ", 2)
    if len(words) < 2 or not line.isprintable() or not _KEY_TYPE.fullmatch(words[0]):
        return False
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (binascii.Error, ValueError):
        return False
    name = words[0].encode()
    return blob.startswith(len(name).to_bytes(4, "big") + name) and len(blob) > len(name) + 4


# --- the far sides ------------------------------------------------------------------------------------------------


class Hand:
    """A process that serves one request in a place; what begins the messages of its errors.

    It says itself where it hangs in the kernel (ve/stall.py); nobody waits then for its end.
    """

    def __init__(self, place: Place, what: str, request: Mapping[str, Any], data: int = -1) -> None:
        self.what = what
        self.hangs = False
        self.pidfd = place.pidfd
        self.channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far, contextlib.ExitStack() as held:
            given = {**place.descriptors(), "here": -1, "data": data}
            if place == HOST:  # a path may begin where we are
                given["here"] = os.open(".", os.O_PATH | os.O_CLOEXEC)
                held.callback(os.close, given["here"])
            given = {name: descriptors.above_stdio(fd, held) for name, fd in given.items()}
            memory = interpreter.request({"patience": _PATIENCE, **request, **given})
            held.callback(os.close, memory)
            ours = [descriptors.above_stdio(fd, held) for fd in (memory, far.fileno())]
            null, passed = subprocess.DEVNULL, [fd for fd in given.values() if fd >= 0]
            self.process = interpreter.FarSide("ve.inside", *ours, passed=passed, stdin=null, stdout=null, stderr=null)

    def __enter__(self) -> Hand:
        return self

    def __exit__(self, *_: object) -> None:
        """It ends when nobody listens any more, once it has cleaned up."""
        with self.channel:
            self.channel.shutdown(socket.SHUT_WR)
            while not self.hangs and self.hear() != _KILLED:
                pass
        if self.hangs:
            self.process.kill()
        try:
            self.process.wait(_ENDS if self.hangs else None)
        except subprocess.TimeoutExpired:
            threading.Thread(target=self.process.wait, name="ve-reaper", daemon=True).start()

    def tell(self, *message: Any) -> None:
        farside.send(self.channel, "GO", *message)  # or it has ended, and left its reason

    def hear(self) -> tuple[Any, ...]:
        message, _ = farside.receive(self.channel)
        self.hangs |= message[:2] == ("ERROR", errno.ETIMEDOUT)
        return message or _KILLED

    def has_spoken(self, before: Hand) -> bool:
        """Which of the two speaks first, or both?"""
        poll = select.poll()
        for hand in (self, before):
            poll.register(hand.channel, select.POLLIN)
        return self.channel.fileno() in dict(poll.poll())

    def give_up(self) -> None:
        """Have it do nothing more, and wait for nothing that it does."""
        self.hangs = True

    def expect(self, kind: str) -> tuple[Any, ...]:
        """The rest of the answer if it is of this kind; else the error that it is."""
        answer = self.hear()
        return answer[1:] if answer[0] == kind else self.fail(*answer[1:])

    def fail(self, number: int, why: str, where: str, hint: str = "") -> NoReturn:
        message = ": ".join(filter(None, (self.what, "" if self.what.endswith(where) else where, why)))
        if number in errors.FULL:
            raise errors.DiskFull(message, hint="what was there before still is")
        if number == errno.EXDEV:
            raise errors.NotSupported(message, hint="copy what is on another file system into its own directory")
        if number == errno.ETIMEDOUT:
            raise errors.FileError(message, cgroups.WAITING, number=number)
        if number == errno.ESRCH and self.pidfd >= 0 and ended(self.pidfd, GOING):
            raise errors.NotRunning(f"{self.what}: the VE has stopped")
        if number == accounts.NO_SUCH_USER:
            raise errors.InvalidValue(message, hint="its users are those in its /etc/passwd")
        raise (errors.NoSuchFile if number == errno.ENOENT else errors.FileError)(message, hint, number)


def _copy(source: Place, from_path: str, target: Place, to_path: str, archive: bool) -> None:
    name = os.path.basename(from_path.rstrip("/"))
    show = f"cannot copy {source.show(from_path)}", f"cannot copy {source.show(from_path)} to {target.show(to_path)}"
    for path in (from_path, to_path):
        if not path or "\0" in path:
            raise errors.InvalidValue(f"{show[1]}: {path!r} is no path")
    sending = {"action": "send", "path": from_path, "archive": archive, "set_ids": source == HOST}
    sending["left_out"] = () if source == HOST else API_DIRECTORIES
    receiving = {"action": "receive", "path": to_path, "archive": archive, "name": "" if _is_dots(name) else name}
    with contextlib.ExitStack() as stack:
        reading, writing = os.pipe()
        with open(reading, "rb"), open(writing, "wb"):
            receiver = stack.enter_context(Hand(target, show[1], receiving, reading))
            sender = stack.enter_context(Hand(source, show[0], sending, writing))
            stack.callback(sender.give_up)  # so that nobody waits for what it would still send
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
        receiver.tell(*sender.expect("FOUND"))
        receiver.expect("READY")
        sender.tell()
        if receiver.has_spoken(before=sender):
            receiver.expect("DONE")  # which it cannot be yet: it has a reason why it takes no more
        answer = sender.hear()
        if answer[:2] == ("ERROR", errno.EPIPE):
            receiver.expect("DONE")  # it has a reason why it ended
        if answer != ("DONE",):
            sender.fail(*answer[1:])
        receiver.tell()
        receiver.expect("DONE")


def _is_dots(name: str) -> bool:
    """Whether a path with this last part means what is in a directory, as "dir/." does."""
    return name in ("", ".", "..")


def _edit(place: Place, what: str, request: Mapping[str, Any]) -> None:
    with Hand(place, what, request) as hand:
        hand.expect("DONE")
