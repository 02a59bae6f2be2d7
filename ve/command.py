"""From the host to a program inside a VE: the joiner, which enters, and the command, until exec.

Their place in the conversation is drawn in ve/enter.py, whose child the joiner is.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import select
import stat
import struct

from ve import farside, namespaces, passwd, usage
from ve._linux import ioctls, syscalls
from ve.confinement import confine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from ve.farside import Request


def join(request: Request, pidfd: int, channel: _socket.socket) -> NoReturn:
    """Enter all namespaces of the VE, start the command there as a child of our parent, and end."""
    step = "setns"
    try:
        syscalls.setns(pidfd, namespaces.flags())
        step = "become root"
        farside.become(0, 0)  # here, where no process of the VE sees us: fs.suid_dumpable=1 opens us for a moment
        step = "clone3"
        pid = syscalls.clone3(syscalls.CLONE_PARENT, 0)
        if pid == 0:
            _become(Command(request, channel))
        farside.send(channel, "JOINED", pid)
    except OSError as error:
        farside.send(channel, "FAILED", step, error.errno, os.strerror(error.errno or 0))
    os._exit(0)


# --- the command --------------------------------------------------------------------------------------------------


class Command:
    """What the steps below hand on to each other."""

    def __init__(self, request: Request, channel: _socket.socket) -> None:
        self.request = request
        self.channel = channel
        self.env: dict[bytes, bytes] = request["env"]
        self.uid = self.gid = 0
        self.groups: list[int] = []


def session(command: Command) -> None:
    """a session of its own, with nothing of the host's open"""
    farside.close_all_but(command.channel.fileno())
    os.setsid()


def confinement(command: Command) -> None:
    """what the VE's init may not do, it may not either"""
    confine(command.request["confinement"])


def user(command: Command) -> None:
    """who to be, by the VE's own passwd and group"""
    request = command.request
    entry = passwd.user_entry(request["user"]) if request["user"] else None
    if entry:
        name, command.uid, command.gid, home, shell = entry
        command.groups = [command.gid, *(number for _, number, members in passwd.groups() if name in members)]
        if request["login"]:
            who = {b"USER": name, b"LOGNAME": name} if name else {}
            command.env |= who | {b"HOME": home or b"/", b"SHELL": shell or b"/bin/sh"}
    command.env |= request["added"]
    if request["group"]:
        command.gid = passwd.group_id(request["group"])
        command.groups[:1] = [command.gid]
    if request["extra_groups"] is not None:
        command.groups = [passwd.group_id(group) for group in request["extra_groups"]]


def terminal(command: Command) -> None:
    """a new pty of the VE's own as controlling terminal and standard descriptors"""
    fds: tuple[int, ...] = ()
    if command.request["pty"]:
        master = _open_ptmx()
        fds = (master,)
        fcntl.ioctl(master, ioctls.TIOCSPTLCK, b"\0\0\0\0")
        slave = fcntl.ioctl(master, ioctls.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        _set_modes(slave, command.request["window"])
        os.fchown(slave, command.uid, -1)
        fcntl.ioctl(slave, ioctls.TIOCSCTTY, 0)
        for fd in command.request["pty"]:
            os.dup2(slave, fd)
        os.close(slave)
    farside.send(command.channel, "INSIDE", os.getpid(), usage.of_self(), fds=fds)
    for fd in fds:
        os.close(fd)


def directory(command: Command) -> None:
    """the working directory and the umask"""
    os.chdir(command.request["cwd"])
    os.umask(command.request["umask"])


def identity(command: Command) -> None:
    """user, group and supplementary groups"""
    farside.become(command.uid, command.gid, command.groups)


def signals(command: Command) -> None:
    """all at their default, as the interpreter ignores some and a program must not; and dying with the middle"""
    farside.reset_signals()
    farside.die_with_parent()  # after setresuid, which clears it
    poll = select.poll()
    poll.register(command.channel.fileno(), 0)
    if poll.poll(0):
        os._exit(1)  # the middle died before we asked for its signal


def execute(command: Command) -> None:
    """the program, looked for along PATH inside the VE"""
    name: bytes = command.request["executable"]
    places = [b""] if b"/" in name else command.request["path"].split(b":")
    if not command.request["argv"][0]:
        raise PermissionError(errno.EACCES, "")  # os.execve has another answer than execve(2) would
    failure: OSError = FileNotFoundError(errno.ENOENT, "")
    for place in places:
        try:
            os.execve(os.path.join(place, name), command.request["argv"], command.env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # go on as execvp does, but it is this that we tell
            if failure.errno == errno.ENOENT:
                failure = error
    raise failure


COMMAND = (session, confinement, user, terminal, directory, identity, signals, execute)


def _become(command: Command) -> NoReturn:
    step = session
    try:
        for step in COMMAND:
            step(command)
    except OSError as error:
        farside.send(command.channel, "FAILED", step.__name__, error.errno or 0, os.strerror(error.errno or 0))
    except passwd.Refused as error:
        farside.send(command.channel, "FAILED", step.__name__, 0, str(error))
    except BaseException as error:  # nothing of ours may go on beyond here
        farside.send(command.channel, "FAILED", step.__name__, 0, f"unexpected {type(error).__name__}: {error}")
    os._exit(1)


def _open_ptmx() -> int:
    for path in ("/dev/pts/ptmx", "/dev/ptmx"):
        try:
            master = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        status = os.fstat(master)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == ioctls.PTMX:
            os.set_blocking(master, True)
            return master
        os.close(master)
    raise passwd.Refused("the VE has no /dev/ptmx")


def _set_modes(slave: int, window: bytes) -> None:
    """The caller's window size, and that erasing takes whole UTF-8 characters, as in every terminal of today."""
    if window:
        fcntl.ioctl(slave, ioctls.TIOCSWINSZ, window)
    modes = fcntl.ioctl(slave, ioctls.TCGETS, bytes(64))
    [input_modes] = struct.unpack_from("I", modes)
    fcntl.ioctl(slave, ioctls.TCSETS, struct.pack("I", input_modes | ioctls.IUTF8) + modes[4:])
